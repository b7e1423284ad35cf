// SPDX-License-Identifier: GPL-2.0-only

//! Content made from a seed; its twin is `pattern()` in tests/raw/serve.py.

use sha2::{Digest, Sha256};

/// A prime, so that no page or segment looks like another.
const PERIOD: usize = 65521;

/// `length` bytes that both sides can make from `seed`.
pub fn pattern(seed: u32, length: usize) -> Vec<u8> {
    let mut base = Vec::with_capacity(PERIOD + 32);
    let mut counter = 0u32;
    while base.len() < PERIOD.min(length) {
        let input = [seed.to_le_bytes(), counter.to_le_bytes()].concat();
        base.extend(Sha256::digest(input));
        counter += 1;
    }
    base.truncate(PERIOD.min(length));
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        bytes.extend_from_slice(&base[..base.len().min(length - bytes.len())]);
    }
    bytes
}

/// SHA-256 of `bytes`.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Where two contents part, in words; `None` if they are the same.
pub fn difference(expected: &[u8], actual: &[u8]) -> Option<String> {
    if expected == actual {
        return None;
    }
    if expected.len() != actual.len() {
        return Some(format!(
            "{} bytes, expected {}",
            actual.len(),
            expected.len()
        ));
    }
    let at = expected.iter().zip(actual).position(|(a, b)| a != b)?;
    let count = expected.iter().zip(actual).filter(|(a, b)| a != b).count();
    Some(format!(
        "{count} of {} bytes differ, the first at {at}: {:#04x}, expected {:#04x}",
        expected.len(),
        actual[at],
        expected[at]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_is_its_python_twins() {
        // pattern(7, 70000) of tests/raw/serve.py.
        let bytes = pattern(7, 70000);
        let hex: String = digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "6c6a96be4d1ec041120e35850e23772d35d8e063e35af8b4e4c012be98ce5196"
        );
        assert_eq!(bytes[..8], bytes[PERIOD..PERIOD + 8]);
    }

    #[test]
    fn difference_names_the_first_byte() {
        assert_eq!(difference(b"same", b"same"), None);
        assert_eq!(difference(b"abc", b"ab").unwrap(), "2 bytes, expected 3");
        assert_eq!(
            difference(b"abc", b"axx").unwrap(),
            "2 of 3 bytes differ, the first at 1: 0x78, expected 0x62"
        );
    }
}
