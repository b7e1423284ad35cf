// SPDX-License-Identifier: MIT OR Apache-2.0

//! Socket addresses, as C has them.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Reads what a program passed to bind(); `None` if it is no IP address.
///
/// # Safety
///
/// `address` is null or valid for reads of `length` bytes.
pub unsafe fn read(address: *const libc::sockaddr, length: libc::socklen_t) -> Option<SocketAddr> {
    let length = length as usize;
    if address.is_null() || length < size_of::<libc::sa_family_t>() {
        return None;
    }
    // SAFETY: by the contract, there are enough bytes for the family; it need not be aligned.
    let family = unsafe { (&raw const (*address).sa_family).read_unaligned() };
    match i32::from(family) {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: by the contract and the check.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: by the contract and the check.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Answers a getpeername() and the like: as much of the address as there is room for, and how long
/// it is. An IPv4 address in IPv6 clothes becomes IPv4: smbd's `hosts allow` would not know it.
///
/// # Safety
///
/// If neither is null, `length` is valid for reads and writes, and `to` for writes of as many bytes.
pub unsafe fn write(address: SocketAddr, to: *mut libc::sockaddr, length: *mut libc::socklen_t) {
    if to.is_null() || length.is_null() {
        return;
    }
    let mut room = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let size = match SocketAddr::new(address.ip().to_canonical(), address.port()) {
        SocketAddr::V4(v4) => {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*v4.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage has room for every address.
            unsafe { room.as_mut_ptr().cast::<libc::sockaddr_in>().write(value) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let scope = match address {
                SocketAddr::V6(full) => full.scope_id(),
                SocketAddr::V4(_) => 0,
            };
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: scope,
            };
            // SAFETY: a sockaddr_storage has room for every address.
            unsafe { room.as_mut_ptr().cast::<libc::sockaddr_in6>().write(value) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    // SAFETY: by the contract.
    unsafe {
        let there = (*length as usize).min(size);
        std::ptr::copy_nonoverlapping(room.as_ptr().cast::<u8>(), to.cast::<u8>(), there);
        *length = size as libc::socklen_t;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(address: &str) -> String {
        let mut room = MaybeUninit::<libc::sockaddr_storage>::zeroed();
        let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let to = room.as_mut_ptr().cast();
        // SAFETY: there is room for every address.
        unsafe {
            write(address.parse().unwrap(), to, &raw mut length);
            read(to, length).unwrap().to_string()
        }
    }

    #[test]
    fn addresses_come_back() {
        for address in ["10.9.0.1:445", "[fe80::1%3]:445", "[2001:db8::1]:5445"] {
            assert_eq!(there_and_back(address), address);
        }
        assert_eq!(there_and_back("[::ffff:10.9.0.2]:445"), "10.9.0.2:445");
    }

    #[test]
    fn a_small_room_gets_a_part() {
        let mut room = [0xEEu8; 16];
        let mut length = 4;
        let address = "1.2.3.4:445".parse().unwrap();
        // SAFETY: `length` is smaller than the room.
        unsafe { write(address, room.as_mut_ptr().cast(), &raw mut length) };
        assert_eq!((length, room[4]), (16, 0xEE));
    }
}
