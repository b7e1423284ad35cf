// SPDX-License-Identifier: GPL-2.0-only

//! The codec against bytes written by hand, not against itself.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

const CIFS_REQUEST: &str = "00 01 00 01 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00";
const KSMBD_RESPONSE: &str = "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 \
                              00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00";

#[test]
fn request_of_cifs() {
    let request = NegotiateRequest {
        credits_requested: 255,
        preferred_send_size: 1364,
        max_receive_size: 1364,
        max_fragmented_size: 173910,
    };
    assert_eq!(request.encode(), hex(CIFS_REQUEST));
    assert_eq!(
        NegotiateRequest::decode(&hex(CIFS_REQUEST)).unwrap(),
        request
    );
    let padded = [hex(CIFS_REQUEST), vec![0xaa; 492]].concat();
    assert_eq!(NegotiateRequest::decode(&padded).unwrap(), request);
}

#[test]
fn requests_that_end_the_connection() {
    for (what, text) in [
        (
            "too new",
            "00 02 00 03 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00",
        ),
        (
            "too old",
            "00 00 FF 00 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02 00",
        ),
        (
            "19 bytes",
            "00 01 00 01 00 00 FF 00 54 05 00 00 54 05 00 00 56 A7 02",
        ),
        (
            "no credits",
            "00 01 00 01 00 00 00 00 54 05 00 00 54 05 00 00 56 A7 02 00",
        ),
        (
            "receive size",
            "00 01 00 01 00 00 FF 00 54 05 00 00 7F 00 00 00 56 A7 02 00",
        ),
        (
            "fragmented size",
            "00 01 00 01 00 00 FF 00 54 05 00 00 54 05 00 00 FF FF 01 00",
        ),
    ] {
        assert!(NegotiateRequest::decode(&hex(text)).is_err(), "{what}");
    }
}

#[test]
fn response_of_ksmbd() {
    let response = NegotiateResponse {
        credits_requested: 255,
        credits_granted: 255,
        max_read_write_size: 8 << 20,
        preferred_send_size: 1364,
        max_receive_size: 1364,
        max_fragmented_size: 173910,
    };
    assert_eq!(response.encode(), hex(KSMBD_RESPONSE));
    assert_eq!(
        NegotiateResponse::decode(&hex(KSMBD_RESPONSE), 1364).unwrap(),
        response
    );
}

#[test]
fn responses_that_end_the_connection() {
    for (what, at, bytes) in [
        ("version", 4, &[0, 0][..]),
        ("credits requested", 8, &[0, 0]),
        ("credits granted", 10, &[0, 0]),
        ("status", 12, &[0x9a, 0, 0, 0xc0]),
        ("receive size", 24, &[0x7f, 0, 0, 0]),
        ("fragmented size", 28, &[0xff, 0xff, 1, 0]),
        ("send size", 20, &[0x55, 5, 0, 0]),
    ] {
        let mut response = hex(KSMBD_RESPONSE);
        response[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(
            NegotiateResponse::decode(&response, 1364).is_err(),
            "{what}"
        );
    }
    assert!(NegotiateResponse::decode(&hex(KSMBD_RESPONSE)[..31], 1364).is_err());
}

#[test]
fn data_transfer_with_and_without_payload() {
    let header = DataHeader {
        credits_requested: 255,
        credits_granted: 1,
        ..DataHeader::default()
    };
    let empty = header.encode(&[]);
    assert_eq!(
        empty,
        hex("FF 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00")
    );
    assert_eq!(
        DataHeader::decode(&empty, 1 << 20).unwrap(),
        (header, &[][..])
    );

    let header = DataHeader {
        remaining: 98660,
        length: 2,
        ..header
    };
    let full = header.encode(b"ab");
    let bytes = "FF 00 01 00 00 00 00 00 64 81 01 00 18 00 00 00 02 00 00 00 00 00 00 00 61 62";
    assert_eq!(full, hex(bytes));
    assert_eq!(
        DataHeader::decode(&full, 1 << 20).unwrap(),
        (header, &b"ab"[..])
    );
}

#[test]
fn data_transfers_that_end_the_connection() {
    for (what, text) in [
        (
            "19 bytes",
            "FF 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        ),
        (
            "no credits",
            "00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        ),
        (
            "offset 23",
            "FF 00 00 00 00 00 00 00 00 00 00 00 17 00 00 00 01 00 00 00 00 00 00 41",
        ),
        (
            "offset 16",
            "FF 00 00 00 00 00 00 00 00 00 00 00 10 00 00 00 04 00 00 00 00 00 00 41",
        ),
        (
            "past the end",
            "FF 00 00 00 00 00 00 00 00 00 00 00 18 00 00 00 02 00 00 00 00 00 00 00 41",
        ),
        (
            "wraps",
            "FF 00 00 00 00 00 00 00 00 00 00 00 18 00 00 00 FF FF FF FF 00 00 00 00 41",
        ),
        (
            "too long",
            "FF 00 00 00 00 00 00 00 00 00 10 00 18 00 00 00 01 00 00 00 00 00 00 00 41",
        ),
        (
            "offset of nothing",
            "FF 00 00 00 00 00 00 00 00 00 00 00 18 00 00 00 00 00 00 00",
        ),
    ] {
        assert!(DataHeader::decode(&hex(text), 1 << 20).is_err(), "{what}");
    }
}

#[test]
fn descriptor_is_little_endian() {
    let descriptor = BufferDescriptor {
        offset: 0x7f00_1234_5000,
        token: 0xabcd,
        length: 65536,
    };
    let bytes = "00 50 34 12 00 7F 00 00 CD AB 00 00 00 00 01 00";
    assert_eq!(descriptor.encode().to_vec(), hex(bytes));
}
