// SPDX-License-Identifier: MIT OR Apache-2.0

//! Addresses of records as addresses of the standard library.

use crate::abi::record::SocketAddress;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// An address as it stands in a record.
pub(crate) fn to_record(address: SocketAddr) -> SocketAddress {
    let mut record = SocketAddress {
        port: address.port().into(),
        ..SocketAddress::default()
    };
    match address {
        SocketAddr::V4(address) => {
            record.family = SocketAddress::IPV4.into();
            record.address[..4].copy_from_slice(&address.ip().octets());
        }
        SocketAddr::V6(address) => {
            record.family = SocketAddress::IPV6.into();
            record.flow = address.flowinfo().into();
            record.scope = address.scope_id().into();
            record.address = address.ip().octets();
        }
    }
    record
}

/// An address from a record; `None` for a family that is zero or not known.
pub(crate) fn from_record(record: &SocketAddress) -> Option<SocketAddr> {
    let port = record.port.get();
    match record.family.get() {
        SocketAddress::IPV4 => {
            let [a, b, c, d, ..] = record.address;
            Some((IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port).into())
        }
        SocketAddress::IPV6 => Some(SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::from(record.address),
            port,
            record.flow.get(),
            record.scope.get(),
        ))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["10.9.0.1:445", "[fe80::1%3]:5445", "[::]:0", "0.0.0.0:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let record = to_record(address);
            assert!(record.is_valid());
            assert_eq!(from_record(&record), Some(address));
        }
        assert_eq!(from_record(&SocketAddress::default()), None);
    }
}
