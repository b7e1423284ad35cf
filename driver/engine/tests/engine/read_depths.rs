// SPDX-License-Identifier: GPL-2.0-only

//! How many RDMA reads, on which fabric, and what iWARP peers say of it.

use crate::side::hex;
use usmbd_engine::read_depth::{AcceptedDepths, Fabric, NoReads, ReadDepths};
use Fabric::{InfiniBandOrRoce, Iwarp};

const fn depths(initiator_depth: u8, responder_resources: u8) -> ReadDepths {
    ReadDepths {
        initiator_depth,
        responder_resources,
    }
}

/// What an acceptor can do.
const ACCEPTOR: ReadDepths = depths(8, 1);

/// What an initiator can do.
const INITIATOR: ReadDepths = depths(1, 32);

/// Name, fabric, private data, the CM event's values, and the depths and the
/// private data of the answer.
type Request = (
    &'static str,
    Fabric,
    &'static str,
    ReadDepths,
    Result<(ReadDepths, &'static str), NoReads>,
);

#[rustfmt::skip]
const REQUESTS: &[Request] = &[
    ("W01 legacy", Iwarp, "00 00 00 20 00 00 00 01", depths(16, 16), Ok((depths(8, 1), "00 00 00 08 00 00 00 01"))),
    ("W02 little-endian", Iwarp, "20 00 00 00 01 00 00 00", depths(16, 16), Ok((depths(8, 1), "00 00 00 08 00 00 00 01"))),
    ("W03 MPA v2 with the header", Iwarp, "00 00 00 20 00 00 00 01", depths(32, 1), Ok((depths(8, 1), ""))),
    ("W04 no header", Iwarp, "", depths(32, 1), Ok((depths(8, 1), ""))),
    ("W04 CM values alone", Iwarp, "", depths(4, 0), Ok((depths(4, 1), ""))),
    ("W06 RoCE", InfiniBandOrRoce, "00 00 00 20 00 00 00 01", depths(2, 16), Ok((depths(2, 1), ""))),
    ("W06 zeros on RoCE", InfiniBandOrRoce, "00 00 00 00 00 00 00 00", depths(16, 16), Ok((depths(8, 1), ""))),
    ("legacy with less than we have", Iwarp, "00 00 00 03 00 00 00 01", depths(16, 16), Ok((depths(3, 1), "00 00 00 03 00 00 00 01"))),
    ("legacy, one number as in the event", Iwarp, "00 00 00 20 00 00 00 01", depths(32, 16), Ok((depths(8, 1), "00 00 00 08 00 00 00 01"))),
    ("legacy, 256 is not 0", Iwarp, "00 00 01 00 00 00 01 00", depths(16, 16), Ok((depths(8, 1), "00 00 00 08 00 00 00 01"))),
    ("legacy IRD 0", Iwarp, "00 00 00 00 00 00 00 01", depths(16, 16), Err(NoReads)),
    ("legacy ORD 0", Iwarp, "00 00 00 20 00 00 00 00", depths(16, 16), Err(NoReads)),
    ("zeros in the event too", Iwarp, "00 00 00 00 00 00 00 00", depths(0, 0), Ok((depths(8, 1), ""))),
    ("7 bytes are no header", Iwarp, "00 00 00 20 00 00 00", depths(5, 1), Ok((depths(5, 1), ""))),
    ("9 bytes are no header", Iwarp, "00 00 00 20 00 00 00 01 00", depths(5, 1), Ok((depths(5, 1), ""))),
    ("the peer does not say", InfiniBandOrRoce, "", depths(0, 0), Ok((depths(8, 1), ""))),
];

#[test]
fn w01_to_w06_connect_requests() {
    for (name, fabric, private_data, event, outcome) in REQUESTS {
        let accepted = ACCEPTOR.accept(*event, *fabric, &hex(private_data));
        let expected = outcome.map(|(depths, answer)| AcceptedDepths {
            depths,
            private_data: hex(answer).try_into().ok(),
        });
        assert_eq!(accepted, expected, "{name}");
    }
}

#[test]
fn w01_trap_11_answers_of_both_kinds_are_safe_for_an_initiator() {
    // One acceptor, which posts 8 reads at most and serves 4, in both orders.
    let own = depths(16, 32);
    for answer in ["00 00 00 08 00 00 00 04", "00 00 00 04 00 00 00 08"] {
        let concluded = own.conclude(depths(16, 16), Iwarp, &hex(answer));
        assert!(concluded.initiator_depth <= 4, "{answer}");
        assert!(concluded.responder_resources >= 8, "{answer}");
    }
}

#[test]
fn w02_trap_11_little_endian_answer_is_cut_down() {
    let concluded = INITIATOR.conclude(depths(9, 9), Iwarp, &hex("08 00 00 00 01 00 00 00"));
    assert_eq!(concluded, depths(1, 32));
}

#[test]
fn w03_trap_11_header_with_the_event_s_values_is_ignored() {
    // The event of an iWARP provider has the peer's view: it posts 8, serves 2.
    let own = depths(16, 32);
    let event = depths(8, 2);
    let concluded = own.conclude(event, Iwarp, &hex("00 00 00 08 00 00 00 02"));
    assert_eq!(concluded, depths(2, 8));
}

#[test]
fn w04_trap_11_event_is_turned_round_on_iwarp_only() {
    let own = depths(16, 32);
    assert_eq!(own.conclude(depths(8, 2), Iwarp, &[]), depths(2, 8));
    assert_eq!(
        own.conclude(depths(8, 2), InfiniBandOrRoce, &[]),
        depths(8, 2)
    );
    assert_eq!(own.conclude(depths(0, 0), Iwarp, &[]), own);
}

#[test]
fn w06_private_data_is_for_iwarp() {
    assert_eq!(INITIATOR.request(InfiniBandOrRoce), None);
    let request = hex("00 00 00 20 00 00 00 01");
    assert_eq!(INITIATOR.request(Iwarp).map(Vec::from), Some(request));
    // The header must not say zero, and some providers do not take it.
    let request = hex("00 00 00 01 00 00 00 01");
    assert_eq!(depths(0, 0).request(Iwarp).map(Vec::from), Some(request));
    let zeros = hex("00 00 00 00 00 00 00 00");
    let concluded = INITIATOR.conclude(depths(1, 8), InfiniBandOrRoce, &zeros);
    assert_eq!(concluded, depths(1, 8));
}

#[test]
fn w_initiator_and_acceptor_agree() {
    for (ird, ord) in [(1, 1), (32, 1), (4, 16), (255, 255)] {
        let initiator = depths(ord, ird);
        let request = initiator.request(Iwarp).unwrap();
        // MPA version 1: the events tell the providers' own limits.
        let accepted = ACCEPTOR.accept(depths(16, 16), Iwarp, &request).unwrap();
        let answer = accepted.private_data.unwrap();
        let concluded = initiator.conclude(depths(16, 16), Iwarp, &answer);
        assert!(concluded.initiator_depth <= accepted.depths.responder_resources);
        assert!(concluded.responder_resources >= accepted.depths.initiator_depth);
        // Version 2: they tell the peer's.
        let accepted = ACCEPTOR.accept(depths(ird, ord), Iwarp, &request).unwrap();
        assert_eq!(accepted.private_data, None);
        let event = accepted.depths;
        assert_eq!(
            initiator.conclude(event, Iwarp, &[]),
            depths(event.responder_resources.min(ord), event.initiator_depth)
        );
    }
}
