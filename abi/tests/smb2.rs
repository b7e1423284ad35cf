// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! What the driver reads of SMB2, on messages written by hand from [MS-SMB2].

use proptest::prelude::*;
use usmbd_abi::command::{Presumption, ANY_ID};
use usmbd_abi::smb2::{self, Malformed, NegotiateRequest};

const GUID: [u8; 16] = *b"a client's guid!";

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// [MS-SMB2] 2.2.1.2.
fn header(command: u16, flags: u32, message_id: u64, session_id: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    put(&mut bytes, 0, b"\xfeSMB");
    put(&mut bytes, 4, &64u16.to_le_bytes());
    put(&mut bytes, 12, &command.to_le_bytes());
    put(&mut bytes, 14, &31u16.to_le_bytes());
    put(&mut bytes, 16, &flags.to_le_bytes());
    put(&mut bytes, 24, &message_id.to_le_bytes());
    put(&mut bytes, 40, &session_id.to_le_bytes());
    bytes
}

fn context(context_type: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = context_type.to_le_bytes().to_vec();
    bytes.extend((data.len() as u16).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(data);
    bytes
}

fn halves(values: &[u16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// [MS-SMB2] 2.2.3: the contexts start behind the dialects, each on a multiple of 8.
fn negotiate(dialects: &[u16], contexts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = header(0, 0, 7, 0);
    bytes.resize(100, 0);
    put(&mut bytes, 64, &36u16.to_le_bytes());
    put(&mut bytes, 66, &(dialects.len() as u16).to_le_bytes());
    put(&mut bytes, 76, &GUID);
    bytes.extend(halves(dialects));
    if !contexts.is_empty() {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let start = bytes.len() as u32;
        put(&mut bytes, 92, &start.to_le_bytes());
        put(&mut bytes, 96, &(contexts.len() as u16).to_le_bytes());
        for context in contexts {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes.extend(context);
        }
    }
    bytes
}

fn contexts_311() -> Vec<Vec<u8>> {
    let salt = [0x5a; 32];
    vec![
        context(1, &[halves(&[1, 32, 1]), salt.to_vec()].concat()),
        context(2, &halves(&[2, 2, 1])),
        context(3, &halves(&[1, 0, 0, 0, 4])),
        context(7, &halves(&[2, 0, 0, 0, 1, 2])),
        context(8, &halves(&[3, 2, 1, 0])),
        context(5, &halves(&[0x73, 0x76])),
    ]
}

/// [MS-SMB2] 2.2.4.
fn response(dialect: u16) -> Vec<u8> {
    let mut bytes = header(0, 1, 0, 0);
    bytes.resize(128, 0);
    put(&mut bytes, 64, &65u16.to_le_bytes());
    put(&mut bytes, 68, &dialect.to_le_bytes());
    bytes.extend([0x42; 20]);
    bytes
}

fn session_setup(session_id: u64, token: &[u8]) -> Vec<u8> {
    let mut bytes = header(1, 0, 1, session_id);
    bytes.resize(88, 0);
    put(&mut bytes, 64, &25u16.to_le_bytes());
    put(&mut bytes, 76, &88u16.to_le_bytes());
    put(&mut bytes, 78, &(token.len() as u16).to_le_bytes());
    bytes.extend(token);
    bytes
}

fn presumption(context_type: u16, id: u16) -> Presumption {
    Presumption {
        context_type: context_type.into(),
        id: id.into(),
        reserved: 0.into(),
    }
}

fn is_malformed(message: &[u8]) -> bool {
    NegotiateRequest::parse(message).is_err()
}

#[test]
fn a_negotiate_request_tells_guid_and_dialects() {
    let message = negotiate(&[0x0300, 0x0302], &[]);
    let request = NegotiateRequest::parse(&message).unwrap();
    assert_eq!(request.body.client_guid, GUID);
    assert_eq!(request.header.message_id.get(), 7);
    assert!(request.offers(0x0302) && request.offers(0x0300));
    assert!(!request.offers(0x0311) && !request.offers(0));
    assert!(!request.fulfils(&presumption(1, ANY_ID)));
}

#[test]
fn presumptions_are_looked_up_in_the_lists_of_their_contexts() {
    let message = negotiate(&[0x0302, 0x0311], &contexts_311());
    let request = NegotiateRequest::parse(&message).unwrap();
    for (context_type, listed, not_listed) in [
        (1, &[1][..], &[2, 32, 0x5a5a][..]),
        (2, &[1, 2], &[3, 4]),
        (3, &[4], &[0, 1]),
        (7, &[1, 2], &[0]),
        (8, &[0, 1, 2], &[3]),
    ] {
        for id in listed {
            assert!(
                request.fulfils(&presumption(context_type, *id)),
                "{context_type} {id}"
            );
        }
        for id in not_listed {
            assert!(
                !request.fulfils(&presumption(context_type, *id)),
                "{context_type} {id}"
            );
        }
        assert!(request.fulfils(&presumption(context_type, ANY_ID)));
    }
    // A name is no list.
    assert!(!request.fulfils(&presumption(5, 0x73)));
    assert!(request.fulfils(&presumption(5, ANY_ID)));
    assert!(!request.fulfils(&presumption(6, ANY_ID)));
}

#[test]
fn contexts_count_only_with_dialect_311() {
    // The same fields are ClientStartTime then.
    let message = negotiate(&[0x0302], &contexts_311());
    let request = NegotiateRequest::parse(&message).unwrap();
    assert!(!request.fulfils(&presumption(1, 1)));
}

#[test]
fn a_context_that_promises_more_than_it_has_lists_nothing() {
    let message = negotiate(
        &[0x0311],
        &[context(2, &halves(&[3, 1, 2])), context(8, &[1])],
    );
    let request = NegotiateRequest::parse(&message).unwrap();
    assert!(!request.fulfils(&presumption(2, 1)));
    assert!(!request.fulfils(&presumption(8, 0)));
    assert!(request.fulfils(&presumption(2, ANY_ID)));
}

#[test]
fn what_is_not_a_negotiate_request_is_refused() {
    let good = negotiate(&[0x0302], &[]);
    assert!(!is_malformed(&good));
    for (what, at, value) in [
        ("SMB1", 0, &b"\xffSMB"[..]),
        ("encrypted", 0, b"\xfdSMB"),
        ("header size", 4, &[63, 0]),
        ("another command", 12, &[1, 0]),
        ("a response", 16, &[1]),
        ("asynchronous", 16, &[2]),
        ("a compound", 20, &[104]),
        ("body size", 64, &[35, 0]),
        ("no dialects", 66, &[0, 0]),
        ("more dialects than there are", 66, &[2, 0]),
        ("many more", 66, &[255, 255]),
    ] {
        let mut message = good.clone();
        put(&mut message, at, value);
        assert!(is_malformed(&message), "{what}");
    }
    for length in 0..good.len() {
        assert!(is_malformed(&good[..length]), "{length} bytes");
    }
}

#[test]
fn contexts_must_lie_inside() {
    let good = negotiate(&[0x0311], &contexts_311());
    assert!(!is_malformed(&good));
    for (what, at, value) in [
        ("no contexts", 96, &[0, 0][..]),
        ("one too many", 96, &[7, 0]),
        ("many too many", 96, &[255, 255]),
        ("offset zero", 92, &[0, 0, 0, 0]),
        ("offset among the dialects", 92, &[96, 0, 0, 0]),
        ("offset no multiple of 8", 92, &[108, 0, 0, 0]),
        (
            "offset at the end",
            92,
            &(good.len().next_multiple_of(8) as u32).to_le_bytes(),
        ),
        ("offset far beyond", 92, &[248, 255, 255, 255]),
        ("the first one too long", 106, &[255, 255]),
    ] {
        let mut message = good.clone();
        put(&mut message, at, value);
        assert!(is_malformed(&message), "{what}");
    }
    for length in 0..good.len() {
        assert!(is_malformed(&good[..length]), "{length} bytes");
    }
}

#[test]
fn a_session_setup_tells_its_session() {
    assert_eq!(
        smb2::session_id(&session_setup(0x1122334455667788, b"token")),
        Ok(0x1122334455667788)
    );
    assert_eq!(smb2::session_id(&session_setup(0, b"")), Ok(0));
    let good = session_setup(5, b"token");
    for (what, at, value) in [
        ("SMB1", 0, &b"\xffSMB"[..]),
        ("another command", 12, &[0, 0]),
        ("a response", 16, &[1]),
        ("a compound", 20, &[96]),
        ("body size", 64, &[24, 0]),
        ("a token past the end", 78, &[6, 0]),
        ("a token far past the end", 76, &[255, 255]),
    ] {
        let mut message = good.clone();
        put(&mut message, at, value);
        assert_eq!(smb2::session_id(&message), Err(Malformed), "{what}");
    }
    for length in 0..good.len() {
        assert_eq!(
            smb2::session_id(&good[..length]),
            Err(Malformed),
            "{length} bytes"
        );
    }
}

#[test]
fn templates_are_responses_of_success() {
    for dialect in [0x0300, 0x0302, 0x0311] {
        assert_eq!(smb2::template_dialect(&response(dialect)), Ok(dialect));
    }
    for dialect in [0, 0x0202, 0x0210, 0x02ff] {
        assert_eq!(smb2::template_dialect(&response(dialect)), Err(Malformed));
    }
    for (what, at, value) in [
        ("a request", 16, &[0][..]),
        ("a status", 8, &[0x0d, 0, 0, 0xc0]),
        ("another command", 12, &[1, 0]),
        ("a compound", 20, &[8]),
        ("body size", 64, &[64, 0]),
    ] {
        let mut message = response(0x0311);
        put(&mut message, at, value);
        assert_eq!(smb2::template_dialect(&message), Err(Malformed), "{what}");
    }
    assert_eq!(
        smb2::template_dialect(&response(0x0311)[..127]),
        Err(Malformed)
    );
}

#[test]
fn an_answer_differs_from_its_template_in_three_fields() {
    let message = negotiate(&[0x0302], &[]);
    let request = NegotiateRequest::parse(&message).unwrap();
    let template = response(0x0302);
    let mut bytes = template.clone();
    smb2::answer(&mut bytes, &request, 0x0102030405060708).unwrap();
    let mut expected = template;
    put(&mut expected, 24, &7u64.to_le_bytes());
    put(&mut expected, 104, &0x0102030405060708u64.to_le_bytes());
    assert_eq!(bytes, expected);
}

#[test]
fn an_answer_grants_what_is_asked_within_the_template_and_at_least_one() {
    for (asked, most, granted) in [
        (31, 31, 31),
        (0, 31, 1),
        (500, 31, 31),
        (5, 31, 5),
        (5, 0, 1),
    ] {
        let mut message = negotiate(&[0x0302], &[]);
        put(&mut message, 14, &u16::to_le_bytes(asked));
        let request = NegotiateRequest::parse(&message).unwrap();
        let mut bytes = response(0x0302);
        put(&mut bytes, 14, &u16::to_le_bytes(most));
        smb2::answer(&mut bytes, &request, 0).unwrap();
        assert_eq!(
            bytes[14..16],
            u16::to_le_bytes(granted),
            "{asked} of {most}"
        );
    }
}

proptest! {
    /// No bytes make it panic, and what is cut off or flipped is refused or read inside its bounds.
    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = smb2::session_id(&bytes);
        let _ = smb2::template_dialect(&bytes);
        if let Ok(request) = NegotiateRequest::parse(&bytes) {
            let _ = request.fulfils(&presumption(1, 1));
        }
    }

    #[test]
    fn any_change_of_a_good_one_is_taken_or_refused(
        at in 0usize..300,
        value in any::<[u8; 4]>(),
        cut in 0usize..300,
        context_type in 0u16..10,
        id in any::<u16>(),
    ) {
        let mut message = negotiate(&[0x0300, 0x0302, 0x0311], &contexts_311());
        for (place, byte) in message.iter_mut().skip(at).zip(value) {
            *place = byte;
        }
        message.truncate(message.len().saturating_sub(cut));
        if let Ok(request) = NegotiateRequest::parse(&message) {
            let _ = request.fulfils(&presumption(context_type, id));
            let mut bytes = response(0x0311);
            prop_assert!(smb2::answer(&mut bytes, &request, 1).is_ok());
        }
        let mut message = session_setup(9, &[1; 200]);
        for (place, byte) in message.iter_mut().skip(at).zip(value) {
            *place = byte;
        }
        let _ = smb2::session_id(&message);
    }
}
