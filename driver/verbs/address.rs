// SPDX-License-Identifier: GPL-2.0-only

//! Socket addresses.

use super::ffi;

/// An IPv4 or IPv6 address with port, IPv6 flow information and scope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketAddr {
    family: u16,
    port: u16,
    flow: u32,
    scope: u32,
    address: [u8; 16],
}

/// `struct sockaddr_in6`, and `sockaddr_in` in its first 16 bytes: both start with the family and
/// the port in network order.
const LENGTH: usize = 28;

/// A `struct sockaddr_storage` to hand to the CM.
#[repr(C, align(8))]
pub(super) struct Storage([u8; 128]);

impl Storage {
    pub(super) fn as_mut_ptr(&mut self) -> *mut ffi::sockaddr {
        self.0.as_mut_ptr().cast()
    }
}

impl SocketAddr {
    /// `AF_INET`.
    pub(crate) const IPV4: u16 = 2;
    /// `AF_INET6`.
    pub(crate) const IPV6: u16 = 10;

    /// An IPv4 address; `[0; 4]` is any.
    pub(crate) fn v4(address: [u8; 4], port: u16) -> Self {
        let [a, b, c, d] = address;
        Self {
            family: Self::IPV4,
            port,
            flow: 0,
            scope: 0,
            address: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }

    /// An IPv6 address; `[0; 16]` is any. `flow` is as in [`SocketAddr::flow`].
    pub(crate) fn v6(address: [u8; 16], port: u16, flow: u32, scope: u32) -> Self {
        Self {
            family: Self::IPV6,
            port,
            flow,
            scope,
            address,
        }
    }

    /// `AF_INET` or `AF_INET6`, zero when there is no address (yet).
    pub(crate) fn family(&self) -> u16 {
        self.family
    }

    /// The port as a number.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The same address with another port.
    pub(crate) fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// IPv6 flow information as a number.
    pub(crate) fn flow(&self) -> u32 {
        self.flow
    }

    /// IPv6 scope: the interface of a link-local address.
    pub(crate) fn scope(&self) -> u32 {
        self.scope
    }

    /// The address in network order; an IPv4 address stands in the first four bytes.
    pub(crate) fn address(&self) -> &[u8; 16] {
        &self.address
    }

    /// Whether it stands for every address of its family.
    pub(crate) fn is_any(&self) -> bool {
        self.address().iter().all(|byte| *byte == 0)
    }

    pub(super) fn to_storage(self) -> Storage {
        let family = self.family.to_ne_bytes().into_iter();
        let start = Iterator::chain(family, self.port.to_be_bytes());
        let mut storage = Storage([0; 128]);
        let to = storage.0.iter_mut();
        if self.family == Self::IPV4 {
            let bytes = Iterator::chain(start, self.address.into_iter().take(4));
            to.zip(bytes).for_each(|(to, from)| *to = from);
        } else {
            let start = Iterator::chain(start, self.flow.to_be_bytes());
            let end = Iterator::chain(self.address.into_iter(), self.scope.to_ne_bytes());
            to.zip(Iterator::chain(start, end))
                .for_each(|(to, from)| *to = from);
        }
        storage
    }

    /// Reads what the CM stored.
    ///
    /// # Safety
    ///
    /// `storage` points to a `struct sockaddr_storage` that does not change.
    pub(super) unsafe fn from_storage(storage: *const ffi::__kernel_sockaddr_storage) -> Self {
        // SAFETY: A storage has 128 bytes, so the first `LENGTH` can be read; bytes need no
        // alignment.
        let bytes = unsafe { storage.cast::<[u8; LENGTH]>().read() };
        let [f0, f1, p0, p1, a0, a1, a2, a3, rest @ ..] = bytes;
        let port = u16::from_be_bytes([p0, p1]);
        match u16::from_ne_bytes([f0, f1]) {
            Self::IPV4 => Self::v4([a0, a1, a2, a3], port),
            Self::IPV6 => {
                let mut address = [0; 16];
                for (to, from) in address.iter_mut().zip(rest) {
                    *to = from;
                }
                let [.., s0, s1, s2, s3] = rest;
                let flow = u32::from_be_bytes([a0, a1, a2, a3]);
                Self::v6(address, port, flow, u32::from_ne_bytes([s0, s1, s2, s3]))
            }
            _ => Self {
                family: 0,
                port: 0,
                flow: 0,
                scope: 0,
                address: [0; 16],
            },
        }
    }
}

impl kernel::fmt::Display for SocketAddr {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        if self.family() == Self::IPV4 {
            let [a, b, c, d, ..] = *self.address();
            return write!(f, "{a}.{b}.{c}.{d}:{}", self.port());
        }
        f.write_str("[")?;
        for (number, pair) in self.address().chunks_exact(2).enumerate() {
            let [high, low] = *pair else { continue };
            let separator = if number == 0 { "" } else { ":" };
            write!(f, "{separator}{:x}", u16::from_be_bytes([high, low]))?;
        }
        match self.scope() {
            0 => write!(f, "]:{}", self.port()),
            scope => write!(f, "%{scope}]:{}", self.port()),
        }
    }
}
