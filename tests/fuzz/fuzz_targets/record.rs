// SPDX-License-Identifier: GPL-2.0-only

//! Any bytes as what a `write()` carries, and as what a `read()` returns.

#![no_main]

use libfuzzer_sys::fuzz_target;
use usmbd_abi::command::{Command, Layout, MAX_BODY_LENGTH};
use usmbd_abi::event::Event;
use usmbd_abi::record::{Header, ALIGNMENT, HEADER_LENGTH};
use zerocopy::FromBytes;

fuzz_target!(|data: &[u8]| {
    commands(data);
    events(data);
});

/// Takes records off `data` as the driver does, up to the first that it refuses.
fn commands(mut data: &[u8]) {
    while let Ok((header, rest)) = Header::read_from_prefix(data) {
        let Ok(layout) = Layout::of(&header) else {
            return;
        };
        assert!(layout.body_length <= MAX_BODY_LENGTH);
        let length = header.length.get();
        let body_length = u32::try_from(layout.body_length).expect("checked above");
        assert_eq!(HEADER_LENGTH + body_length + layout.tail_length, length);
        assert_eq!(length % ALIGNMENT, 0);
        let Some((body, rest)) = rest.split_at_checked(layout.body_length) else {
            return;
        };
        let Ok(command) = Command::decode(&header, body) else {
            return;
        };
        // Only what stands in the record decides, and only a whole body will do.
        let again = Command::decode(&header, body).map(|again| format!("{again:?}"));
        assert_eq!(again, Ok(format!("{command:?}")));
        if let Some((_, short)) = body.split_first() {
            assert!(Command::decode(&header, short).is_err());
        }
        let tail_length = usize::try_from(layout.tail_length).expect("32 bits fit");
        let Some(rest) = rest.get(tail_length..) else {
            return;
        };
        data = rest;
    }
}

/// Takes events off `data` as a reader does.
fn events(mut data: &[u8]) {
    while let Ok((header, _)) = Header::read_from_prefix(data) {
        let length = usize::try_from(header.length.get()).expect("32 bits fit");
        let Some((record, rest)) = data.split_at_checked(length) else {
            return;
        };
        let Some(behind) = record.get(size_of::<Header>()..) else {
            return;
        };
        let Some(event) = Event::decode(&header, behind) else {
            return;
        };
        if let Event::PduReceived(_, tail) = event {
            assert!(tail.len() <= behind.len());
            assert!(behind.ends_with(tail));
        }
        data = rest;
    }
}
