// SPDX-License-Identifier: MIT OR Apache-2.0

//! Addresses and prefixes, as an operator writes them.

use std::net::IpAddr;
use std::str::FromStr;

/// All addresses that begin as this one does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    /// Bits that count.
    bits: u32,
}

impl Network {
    /// Whether an address is among these.
    pub fn contains(&self, other: IpAddr) -> bool {
        let (ours, theirs) = match (self.address, other) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (left(ours), left(theirs)),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (u128::from(ours), u128::from(theirs)),
            _ => return false,
        };
        // Nothing is left of a number that is shifted by all its bits.
        (ours ^ theirs)
            .checked_shr(u128::BITS - self.bits)
            .unwrap_or(0)
            == 0
    }
}

/// An IPv4 address at the upper end of a number.
fn left(address: std::net::Ipv4Addr) -> u128 {
    u128::from(u32::from(address)) << (u128::BITS - u32::BITS)
}

/// What is no address, nor a prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotNetwork;

impl FromStr for Network {
    type Err = NotNetwork;

    fn from_str(text: &str) -> Result<Self, NotNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| NotNetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.trim().parse().map_err(|_| NotNetwork)?,
            None => most,
        };
        if bits > most {
            return Err(NotNetwork);
        }
        Ok(Self { address, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        let network: Network = network.parse().unwrap();
        network.contains(address.parse().unwrap())
    }

    #[test]
    fn a_prefix_is_all_that_begins_like_it() {
        assert!(contains("10.9.0.1", "10.9.0.1") && !contains("10.9.0.1", "10.9.0.2"));
        assert!(contains("10.9.0.1/24", "10.9.0.255") && !contains("10.9.0.1/24", "10.9.1.0"));
        assert!(contains("10.9.0.0/31", "10.9.0.1") && !contains("10.9.0.0/31", "10.9.0.2"));
        assert!(contains("fd00::/64", "fd00::1:2") && !contains("fd00::/64", "fd00:0:0:1::"));
        assert!(contains("fd00::1", "fd00::1") && !contains("fd00::1", "fd00::"));
        assert!(contains("0.0.0.0/0", "10.9.0.1") && contains("::/0", "fd00::1"));
        assert!(!contains("0.0.0.0/0", "::1") && !contains("::/0", "10.9.0.1"));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "host",
            "10.9.0",
            "10.9.0.1/33",
            "fd00::/129",
            "10.9.0.1/",
            "1/2/3",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NotNetwork), "{text}");
        }
    }
}
