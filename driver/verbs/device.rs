// SPDX-License-Identifier: GPL-2.0-only

//! RDMA devices as they come and go.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{ffi, Net, NodeKind};
use kernel::{
    error::{from_err_ptr, to_result},
    global_lock, new_condvar, new_spinlock,
    prelude::*,
    str::{CStrExt, CString},
    sync::{Arc, CondVar, SpinLock},
    types::Opaque,
};

use core::ptr::NonNull;

/// The kind of network below a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fabric {
    /// InfiniBand proper.
    InfiniBand,
    /// RDMA over converged Ethernet.
    Roce,
    /// RDMA over TCP.
    Iwarp,
}

/// What a device can do at most.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// SGEs of one send or RDMA write.
    pub(crate) max_send_sge: u32,
    /// SGEs of one RDMA read.
    pub(crate) max_sge_rd: u32,
    /// Work requests of one queue.
    pub(crate) max_qp_wr: u32,
    /// Entries of one completion queue.
    pub(crate) max_cqe: u32,
    /// RDMA reads that one queue pair has under way at a time.
    pub(crate) max_qp_init_rd_atom: u32,
    /// Pages of one memory region.
    pub(crate) max_fast_reg_pages: u32,
}

/// One RDMA device and the driver's protection domain on it.
///
/// # Invariants
///
/// - While `state.uses` is not zero, or inside the device's `add` and `remove` callbacks, `ib` and
///   `pd` are valid.
/// - Once `state.removing` is set, `state.uses` only falls.
#[pin_data]
pub(crate) struct Device {
    ib: NonNull<ffi::ib_device>,
    pd: NonNull<ffi::ib_pd>,
    lkey: u32,
    name: CString,
    limits: Limits,
    fabrics: KVec<Fabric>,
    #[pin]
    state: SpinLock<State>,
    #[pin]
    unused: CondVar,
}

struct State {
    removing: bool,
    uses: usize,
}

// SAFETY: The pointers are only handed to functions of the RDMA core, which may be called from any
// thread; all else is `Send`.
unsafe impl Send for Device {}
// SAFETY: As above; what changes is behind a lock.
unsafe impl Sync for Device {}

impl Device {
    /// The device's name when it came.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// What it can do at most.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The fabric of `port`, which counts from 1.
    pub(crate) fn fabric(&self, port: u32) -> Fabric {
        usize::try_from(port)
            .ok()
            .and_then(|port| port.checked_sub(1))
            .and_then(|index| self.fabrics.get(index))
            .or_else(|| self.fabrics.first())
            .copied()
            .unwrap_or(Fabric::InfiniBand)
    }

    /// Which listeners it is for.
    pub(crate) fn kind(&self) -> NodeKind {
        if self.fabrics.iter().any(|fabric| *fabric == Fabric::Iwarp) {
            NodeKind::Iwarp
        } else {
            NodeKind::InfiniBandOrRoce
        }
    }

    /// Whether it is there to stay, and one of its ports is in this network namespace.
    fn is_in(self: &Arc<Self>, net: &Net) -> bool {
        let Ok(device) = self.hold() else {
            return false;
        };
        (1..).zip(self.fabrics.iter()).any(|(port, _)| {
            // SAFETY: The device is held, and has this port; the namespace is valid.
            unsafe { ffi::usmbd_port_is_in_net(device.ib(), port, net.as_ptr()) }
        })
    }

    /// How many devices of one kind are in a network namespace.
    pub(crate) fn count_in(net: &Net, kind: NodeKind) -> usize {
        let registry = REGISTRY.lock();
        let devices = registry.devices.iter();
        devices
            .filter(|device| device.kind() == kind && device.is_in(net))
            .count()
    }

    /// Whether the sink of an RDMA read needs a key that the peer may write by.
    pub(crate) fn reads_need_remote_write(&self) -> bool {
        self.fabrics.iter().any(|fabric| *fabric == Fabric::Iwarp)
    }

    /// Scatter/gather entries that one RDMA read or write can have.
    pub(crate) fn max_rdma_sge(&self, write: bool) -> usize {
        let iwarp = self.fabrics.iter().any(|fabric| *fabric == Fabric::Iwarp);
        let most = match write {
            // siw keeps its place in a region's page list from one entry to the next, which may be
            // of another region (siw_tx_hdt() in drivers/infiniband/sw/siw/siw_qp_tx.c, pbl_idx).
            true if iwarp => 1,
            true => self.limits.max_send_sge,
            false => self.limits.max_sge_rd,
        };
        usize::try_from(most.max(1)).unwrap_or(1)
    }

    /// Pages of one region, if `most` are wanted.
    pub(crate) fn region_pages(&self, most: usize) -> usize {
        usize::try_from(self.limits.max_fast_reg_pages)
            .unwrap_or(most)
            .clamp(1, most)
    }

    /// The key for memory that was mapped for DMA, and needs no registration.
    pub(crate) fn local_dma_lkey(&self) -> u32 {
        self.lkey
    }

    /// Whether the device is going away: nothing new starts on it.
    pub(crate) fn removing(&self) -> bool {
        self.state.lock().removing
    }

    /// The device behind a raw pointer, which is only compared; `None` when it is gone, or was
    /// refused.
    pub(crate) fn of(ib: *mut ffi::ib_device) -> Option<Arc<Device>> {
        let registry = REGISTRY.lock();
        let found = registry
            .devices
            .iter()
            .find(|device| device.ib.as_ptr() == ib);
        found.cloned()
    }

    /// Keeps the device from going away.
    ///
    /// # Errors
    ///
    /// `ENODEV` when it is already going away.
    pub(crate) fn hold(self: &Arc<Self>) -> Result<DeviceUse> {
        let mut state = self.state.lock();
        if state.removing {
            return Err(ENODEV);
        }
        state.uses = state.uses.checked_add(1).ok_or(EOVERFLOW)?;
        // INVARIANT: Counted just now.
        Ok(DeviceUse(self.clone()))
    }

    fn new(ib: NonNull<ffi::ib_device>) -> Result<Arc<Self>> {
        let mut raw = ffi::usmbd_limits::default();
        // SAFETY: Called from `add`, so the device is valid; `raw` is ours to write.
        unsafe { ffi::usmbd_device_limits(ib.as_ptr(), &mut raw) };
        if raw.fast_registration == 0 {
            return Err(crate::compat::EOPNOTSUPP);
        }

        let mut fabrics = KVec::new();
        for port in 1..=raw.ports {
            // SAFETY: The device is valid, and has this port.
            let fabric = if unsafe { ffi::usmbd_protocol_iwarp(ib.as_ptr(), port) } {
                Fabric::Iwarp
            // SAFETY: As above.
            } else if unsafe { ffi::usmbd_protocol_roce(ib.as_ptr(), port) } {
                Fabric::Roce
            } else {
                Fabric::InfiniBand
            };
            fabrics.push(fabric, GFP_KERNEL)?;
        }

        // SAFETY: The name is a C string inside the device, which is valid.
        let name = unsafe { CStr::from_char_ptr((&raw const (*ib.as_ptr()).name).cast()) };
        let name = CString::try_from(name)?;

        // SAFETY: The device is valid, and its clients are told before it goes.
        let pd = unsafe { ffi::__ib_alloc_pd(ib.as_ptr(), 0, c"usmbd".as_char_ptr()) };
        let pd = from_err_ptr(pd)?;
        let pd = NonNull::new(pd).ok_or(ENOMEM)?;
        // SAFETY: The protection domain is valid.
        let lkey = unsafe { (*pd.as_ptr()).local_dma_lkey };

        let device = Arc::pin_init(
            // INVARIANT: Both pointers are valid until `remove`.
            pin_init!(Self {
                ib,
                pd,
                lkey,
                name,
                limits: Limits {
                    max_send_sge: raw.max_send_sge,
                    max_sge_rd: raw.max_sge_rd,
                    max_qp_wr: raw.max_qp_wr,
                    max_cqe: raw.max_cqe,
                    max_qp_init_rd_atom: raw.max_qp_init_rd_atom,
                    max_fast_reg_pages: raw.max_fast_reg_pages,
                },
                fabrics,
                state <- new_spinlock!(State { removing: false, uses: 0 }, "usmbd::Device::state"),
                unused <- new_condvar!("usmbd::Device::unused"),
            }),
            GFP_KERNEL,
        );
        if device.is_err() {
            // SAFETY: Nothing uses the protection domain.
            unsafe { ffi::ib_dealloc_pd_user(pd.as_ptr(), core::ptr::null_mut()) };
        }
        device
    }

    /// Waits until nobody uses the device, and frees the protection domain.
    fn retire(&self) {
        let mut state = self.state.lock();
        while state.uses != 0 {
            self.unused.wait(&mut state);
        }
        drop(state);
        // SAFETY: No user is left, and by the type invariants none can come; called once, from
        // `remove`, so the domain is still valid.
        let error = unsafe { ffi::ib_dealloc_pd_user(self.pd.as_ptr(), core::ptr::null_mut()) };
        if error != 0 {
            pr_warn!(
                "{}: protection domain still in use: {}\n",
                &*self.name,
                error
            );
        }
    }
}

/// Keeps a [`Device`] from going away, for as long as it lives. Every object on a device has one.
///
/// # Invariants
///
/// Counted in the device's `state.uses`.
pub(crate) struct DeviceUse(Arc<Device>);

impl DeviceUse {
    /// The valid device.
    pub(super) fn ib(&self) -> *mut ffi::ib_device {
        self.0.ib.as_ptr()
    }

    /// The valid protection domain.
    pub(super) fn pd(&self) -> *mut ffi::ib_pd {
        self.0.pd.as_ptr()
    }

    /// The device itself.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.0
    }
}

impl Clone for DeviceUse {
    fn clone(&self) -> Self {
        let mut state = self.0.state.lock();
        // By the type invariants one use is counted, so the device is not retired yet. The count
        // cannot overflow: each use takes memory.
        state.uses = state.uses.saturating_add(1);
        // INVARIANT: Counted just now.
        Self(self.0.clone())
    }
}

impl Drop for DeviceUse {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.uses = state.uses.saturating_sub(1);
        if state.uses == 0 && state.removing {
            self.0.unused.notify_all();
        }
    }
}

/// What the driver does when devices come and go.
pub(crate) struct ClientEvents {
    /// A device came.
    pub(crate) added: fn(&Arc<Device>),
    /// A device goes: everything on it is to be dropped. Runs in the context of whoever removes
    /// the device, which waits afterwards until the last [`DeviceUse`] is gone.
    pub(crate) removing: fn(&Arc<Device>),
}

struct Registry {
    devices: KVec<Arc<Device>>,
    events: Option<&'static ClientEvents>,
}

global_lock! {
    // SAFETY: `Client::register` initializes it before any use, and is called once, from the
    // module's init.
    unsafe(uninit) static REGISTRY: Mutex<Registry> = Registry {
        devices: KVec::new(),
        events: None,
    };
}

/// The driver's registration with the RDMA core; dropping it removes every device.
///
/// # Invariants
///
/// The client is registered.
pub(crate) struct Client(KBox<Opaque<ffi::ib_client>>);

// SAFETY: A client may be unregistered by any thread.
unsafe impl Send for Client {}
// SAFETY: There is nothing to do with a `&Client`.
unsafe impl Sync for Client {}

impl Client {
    /// Registers; `added` is called for each device there is before this returns.
    ///
    /// # Safety
    ///
    /// Called at most once in the life of the module.
    pub(crate) unsafe fn register(events: &'static ClientEvents) -> Result<Self> {
        // SAFETY: Once, by the safety requirements, and before any use: all uses come from devices
        // and connections, which come after.
        unsafe { REGISTRY.init() };
        REGISTRY.lock().events = Some(events);

        let client = KBox::new(
            Opaque::new(ffi::ib_client {
                name: c"usmbd".as_char_ptr(),
                add: Some(add),
                remove: Some(remove),
                ..Default::default()
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The client does not move, and stays until `drop`.
        to_result(unsafe { ffi::ib_register_client(client.get()) })?;
        // INVARIANT: Registered just now.
        Ok(Self(client))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: Registered, by the type invariants.
        unsafe { ffi::ib_unregister_client(self.0.get()) };
    }
}

/// # Safety
///
/// Called by the RDMA core with a valid device.
unsafe extern "C" fn add(ib: *mut ffi::ib_device) -> kernel::ffi::c_int {
    let added = || -> Result {
        let device = Device::new(NonNull::new(ib).ok_or(EINVAL)?)?;
        let mut registry = REGISTRY.lock();
        if let Err(error) = registry.devices.push(device.clone(), GFP_KERNEL) {
            drop(registry);
            device.state.lock().removing = true;
            device.retire();
            return Err(error.into());
        }
        let events = registry.events;
        drop(registry);
        if let Some(events) = events {
            (events.added)(&device);
        }
        Ok(())
    };
    match added() {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// Called by the RDMA core with a device for which `add` succeeded, and that stays valid until this
/// returns.
unsafe extern "C" fn remove(ib: *mut ffi::ib_device, _data: *mut kernel::ffi::c_void) {
    let Some(device) = Device::of(ib) else { return };
    device.state.lock().removing = true;
    let events = REGISTRY.lock().events;
    if let Some(events) = events {
        (events.removing)(&device);
    }
    device.retire();
    let mut registry = REGISTRY.lock();
    let devices = &mut registry.devices;
    devices.retain(|other| !Arc::ptr_eq(other, &device));
    if devices.is_empty() {
        // A static is never dropped: its memory goes here, or leaks with the module.
        *devices = KVec::new();
    }
}
