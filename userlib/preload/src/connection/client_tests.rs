// SPDX-License-Identifier: MIT OR Apache-2.0

//! The client's side of a connection whose device is a script: what Samba's client library needs.

use super::fake::{self, receive, Script, Seen};
use super::*;
use usmbd::abi::event;

fn pair() -> (Script, Connection<Script>) {
    fake::pair(Side::Client)
}

/// Whether epoll would say that there is something.
fn is_readable(script: &Script) -> bool {
    !script.0.events.borrow().is_empty()
}

#[test]
fn the_device_is_readable_exactly_while_recv_gives_bytes() {
    let (script, mut connection) = pair();
    let messages: [Vec<u8>; 3] = [vec![1; 3000], vec![2; 10], vec![3; 1340]];
    for message in &messages {
        script.message(message, 1340);
    }
    for message in &messages {
        let mut wanted = 4;
        let mut got = Vec::new();
        while got.len() < 4 + message.len() {
            assert!(is_readable(&script), "after {} bytes", got.len());
            let bytes = receive(&mut connection, wanted).unwrap();
            assert!(!bytes.is_empty());
            got.extend(bytes);
            wanted = 4 + message.len() - got.len();
        }
        assert_eq!(got[..4], (message.len() as u32).to_be_bytes());
        assert_eq!(got[4..], message[..]);
    }
    assert!(!is_readable(&script));
    let again = receive(&mut connection, 4).unwrap_err();
    assert_eq!(again.raw_os_error(), Some(libc::EAGAIN));
}

#[test]
fn the_end_comes_behind_all_that_was_received() {
    let (script, mut connection) = pair();
    script.message(b"last", 4);
    let end = event::Disconnected {
        connection: 7.into(),
        reason: 2.into(),
        reserved: 0.into(),
    };
    script.event(0, end, &[]);
    assert_eq!(receive(&mut connection, 4).unwrap(), b"\0\0\0\x04");
    assert!(is_readable(&script));
    assert_eq!(receive(&mut connection, 100).unwrap(), b"last");
    assert_eq!(receive(&mut connection, 4).unwrap(), b"");
    assert_eq!(connection.error(), 0);
}

#[test]
fn nothing_is_rewritten() {
    let (script, mut connection) = pair();
    // A READ with a channel, which a server would have to remember.
    let mut request = vec![0; 128];
    request[..4].copy_from_slice(b"\xfeSMB");
    (request[4], request[12], request[64], request[100]) = (64, 8, 49, 2);
    let prefix = (request.len() as u32).to_be_bytes();
    assert_eq!(connection.send(&[&prefix, &request], false).unwrap(), 132);
    connection.settle();
    let sent = Seen::Send {
        message: request,
        invalidate: 0,
    };
    assert_eq!(script.seen(), [sent]);
    assert_eq!(connection.side(), Side::Client);
}

#[test]
fn a_send_that_had_to_wait_leaves_nothing_to_read() {
    let (script, mut connection) = pair();
    // The first attempt finds no room; the event that says when to try again is there by then.
    script.0.room.set(0);
    script.event(
        0,
        event::SendReady {
            connection: 7.into(),
        },
        &[],
    );
    assert_eq!(connection.send(&[b"\0\0\0\x05hello"], false).unwrap(), 9);
    connection.settle();
    assert!(!is_readable(&script));
}

#[test]
fn an_event_that_comes_after_the_retry_does_not_end_the_connection() {
    let (script, mut connection) = pair();
    assert_eq!(connection.send(&[b"\0\0\0\x05hello"], false).unwrap(), 9);
    connection.settle();
    let ready = event::SendReady {
        connection: 7.into(),
    };
    script.event(0, ready, &[]);
    let error = receive(&mut connection, 4).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINTR));
    assert!(!is_readable(&script));
    // In front of bytes it does not show.
    script.event(0, ready, &[]);
    script.message(b"hello", 1340);
    assert_eq!(receive(&mut connection, 4).unwrap(), b"\0\0\0\x05");
}
