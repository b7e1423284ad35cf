// SPDX-License-Identifier: GPL-2.0-only

//! usmbd: SMB Direct for user space, through `/dev/usmbd`.
//!
//! The only file that names every layer. Data flows one way each:
//!
//! ```text
//! write() -> chardev -> abi decode -> dispatch -> engine -> action -> verbs -> NIC
//! NIC -> verbs completion -> engine -> event -> event_queue -> abi encode -> chardev -> read()
//! ```

mod chardev;
mod compat;
mod context;
mod few;
#[cfg(usmbd_ioctl)]
mod ioctl;
mod memory;
mod module;
mod trace;
mod verbs;
mod workqueue;

use chardev::CharDevice;
use context::{limits, listener, pending, registry, route, stats};
use kernel::debugfs;
use kernel::prelude::*;
use kernel::sync::Arc;
use verbs::{Client, ClientEvents, Device};
use workqueue::Workqueue;

module! {
    type: Usmbd,
    name: "usmbd",
    authors: ["the usmbd authors"],
    description: "SMB Direct for user space",
    license: "GPL v2",
    params: {
        idle_seconds: u32 {
            default: 60,
            description: "Seconds after which an unused buffer of an area is given back",
        },
        memory_mib: u32 {
            default: 0,
            description: "MiB of all areas and registrations (0: 1/8 of memory)",
        },
        user_memory_mib: u32 {
            default: 0,
            description: "MiB of one user's areas and registrations (0: half of all)",
        },
        process_memory_mib: u32 {
            default: 0,
            description: "MiB of one process's area and registrations (0: as one user's)",
        },
        listener_connections: u32 {
            default: 0,
            description: "Connections of one listener (0: one for each MiB of memory)",
        },
        context_events: u32 {
            default: 1048576,
            description: "Events of one context's connections that are queued or due",
        },
        context_commands: u32 {
            default: 65536,
            description: "Commands of one context whose event was not read",
        },
        context_command_kib: u32 {
            default: 4096,
            description: "KiB of lists of one context's transfers under way",
        },
    },
}

/// What the module owns, in the order in which it must go: no new contexts, no debugfs, no devices,
/// then the queue on which the last work of all of them runs.
struct Usmbd {
    _device: CharDevice,
    #[cfg(usmbd_ioctl)]
    _ioctl_device: CharDevice,
    _statistics: Pin<KBox<debugfs::File<()>>>,
    _connections: Pin<KBox<debugfs::File<()>>>,
    _memory: Pin<KBox<debugfs::File<()>>>,
    _client: Client,
    _queue: Workqueue,
}

static CLIENT_EVENTS: ClientEvents = ClientEvents {
    added: device_added,
    removing: device_removing,
};

/// Listeners with an address listen on it; others need only tell (rdma_cm binds wildcard ids to new
/// devices).
fn device_added(_: &Arc<Device>) {
    listener::devices_changed();
}

/// Returns when neither a connection nor a registered buffer is left on the device.
fn device_removing(device: &Arc<Device>) {
    listener::devices_changed();
    registry::remove_device(device);
    memory::remove_device(device);
}

/// What the operator set when the module was loaded.
fn memory_settings() -> memory::Settings {
    memory::Settings {
        idle_seconds: compat::parameter(&module_parameters::idle_seconds),
        limits: memory::Limits {
            driver: compat::parameter(&module_parameters::memory_mib),
            user: compat::parameter(&module_parameters::user_memory_mib),
            process: compat::parameter(&module_parameters::process_memory_mib),
        },
    }
}

/// As [`memory_settings`].
fn context_settings() -> limits::Settings {
    limits::Settings {
        connections: compat::parameter(&module_parameters::listener_connections),
        events: compat::parameter(&module_parameters::context_events),
        commands: compat::parameter(&module_parameters::context_commands),
        command_kib: compat::parameter(&module_parameters::context_command_kib),
    }
}

impl kernel::Module for Usmbd {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        limits::set(&context_settings());
        // SAFETY: Init runs once, and before anything that uses them.
        unsafe {
            listener::init();
            pending::init();
            registry::init();
            route::init();
            memory::init(&memory_settings());
        }
        let queue = Workqueue::create()?;
        // SAFETY: Init runs once; the client is dropped before the module goes.
        let client = unsafe { Client::register(&CLIENT_EVENTS) }?;
        let directory = debugfs::Dir::new(c"usmbd");
        let statistics = directory.read_callback_file(c"statistics", (), &stats::show);
        let connections = directory.read_callback_file(c"connections", (), &registry::show);
        let memory = directory.read_callback_file(c"memory", (), &memory::show);
        let statistics = KBox::pin_init(statistics, GFP_KERNEL)?;
        let connections = KBox::pin_init(connections, GFP_KERNEL)?;
        let memory = KBox::pin_init(memory, GFP_KERNEL)?;
        // Last: it can be opened at once, and a module whose init fails goes in spite of that.
        #[cfg(usmbd_ioctl)]
        let ioctl_device = CharDevice::register_as(c"usmbd_ioctl", Some(ioctl::ioctl))?;
        let device = CharDevice::register()?;
        Ok(Self {
            _device: device,
            #[cfg(usmbd_ioctl)]
            _ioctl_device: ioctl_device,
            _statistics: statistics,
            _connections: connections,
            _memory: memory,
            _client: client,
            _queue: queue,
        })
    }
}
