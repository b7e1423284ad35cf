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
mod memory;
mod module;
mod trace;
mod verbs;
mod workqueue;

use chardev::CharDevice;
use context::{listener, pending, registry, route, stats};
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
}

/// What the module owns, in the order in which it must go: no new contexts, no debugfs, no devices,
/// then the queue on which the last work of all of them runs.
struct Usmbd {
    _device: CharDevice,
    _statistics: Pin<KBox<debugfs::File<()>>>,
    _connections: Pin<KBox<debugfs::File<()>>>,
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

impl kernel::Module for Usmbd {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: Init runs once, and before anything that uses them.
        unsafe {
            listener::init();
            pending::init();
            registry::init();
            route::init();
            memory::init();
        }
        let queue = Workqueue::create()?;
        // SAFETY: Init runs once; the client is dropped before the module goes.
        let client = unsafe { Client::register(&CLIENT_EVENTS) }?;
        let directory = debugfs::Dir::new(c"usmbd");
        let statistics = directory.read_callback_file(c"statistics", (), &stats::show);
        let connections = directory.read_callback_file(c"connections", (), &registry::show);
        let device = CharDevice::register()?;
        Ok(Self {
            _device: device,
            _statistics: KBox::pin_init(statistics, GFP_KERNEL)?,
            _connections: KBox::pin_init(connections, GFP_KERNEL)?,
            _client: client,
            _queue: queue,
        })
    }
}
