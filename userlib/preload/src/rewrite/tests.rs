// SPDX-License-Identifier: MIT OR Apache-2.0

//! Vectors S01 to S19 of the protocol's test rows, compounds, and damage of every kind.

use super::*;
use crate::smb2::{at, put, Header, ReadRequest, ReadResponse, WriteRequest};
use proptest::prelude::*;
use zerocopy::IntoBytes;

const TOKEN: u32 = 0xABCD;
const MAX: u32 = 8 << 20;

/// S01: a READ of 65536 bytes, Channel 2, one descriptor.
fn s01() -> Vec<u8> {
    hex(
        "FE534D4240000100000000000800400000000000000000000500000000000000
         00000000010000001900000000 1C0000 00000000000000000000000000000000
         3100000000000100000000000000000011000000000000002200000000000000
         000000000200000000000000700010000050341 2007F0000CDAB000000000100",
    )
}

/// S02: its answer, with the data placed.
fn s02() -> Vec<u8> {
    hex(
        "FE534D4240000100000000000800400001000000000000000500000000000000
         000000000100000019000000001C000000000000000000000000000000000000
         11005000000000000000010000000000",
    )
}

/// S03: a WRITE of 65536 bytes, Channel 2, one descriptor.
fn s03() -> Vec<u8> {
    hex(
        "FE534D4240000100000000000900400000000000000000000500000000000000
         000000000100000019000000001C000000000000000000000000000000000000
         3100000000000000000000000000000011000000000000002200000000000000
         0200000000000100700010000000000000503412007F0000CDAB000000000100",
    )
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter_map(|digit| char::from(digit).to_digit(16).map(|digit| digit as u8))
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn with<T: zerocopy::FromBytes + IntoBytes + zerocopy::Immutable>(
    mut message: Vec<u8>,
    offset: usize,
    change: impl FnOnce(&mut T),
) -> Vec<u8> {
    let mut value = at::<T>(&message, offset).unwrap();
    change(&mut value);
    put(&mut message, offset, &value);
    message
}

fn rewriter() -> Rewriter {
    Rewriter::new(MAX)
}

/// smbd's inline answer to the READ `request`, `data` long.
fn inline_answer(request: &[u8], data: &[u8]) -> Vec<u8> {
    let mut header: Header = at(request, 0).unwrap();
    header.flags = smb2::FLAG_RESPONSE.into();
    let body = ReadResponse {
        structure_size: 17.into(),
        data_offset: 80,
        reserved: 0,
        data_length: (data.len() as u32).into(),
        data_remaining: 0.into(),
        flags: 0.into(),
    };
    [header.as_bytes(), body.as_bytes(), data].concat()
}

fn error_answer(request: &[u8], status: u32, flags: u32) -> Vec<u8> {
    let mut header: Header = at(request, 0).unwrap();
    header.flags = (smb2::FLAG_RESPONSE | flags).into();
    header.status = status.into();
    [header.as_bytes(), &[9, 0, 0, 0, 0, 0, 0, 0, 0]].concat()
}

fn flatten(segments: &[Segment], original: &[u8], data: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in segments {
        match segment {
            Segment::Original(range) => bytes.extend_from_slice(&original[range.clone()]),
            Segment::Bytes(more) => bytes.extend_from_slice(more),
            Segment::Data(index) => bytes.extend_from_slice(data[*index]),
            Segment::Zeros(count) => bytes.resize(bytes.len() + count, 0),
        }
    }
    bytes
}

fn reply(rewriter: &mut Rewriter, message: &[u8]) -> (Reply, Vec<u8>) {
    let reply = rewriter.reply(&Gather::new([message])).unwrap();
    rewriter.answered(&reply);
    let bytes = flatten(&reply.segments, message, &[]);
    assert_eq!(bytes.len(), reply.length);
    (reply, bytes)
}

fn is_invalid(request: &Request, message: &[u8]) -> bool {
    request.invalid == 1 && request.fetches.is_empty() && message[64..66] == [0, 0]
}

#[test]
fn s01_read_is_remembered_and_s02_answers_it() {
    let mut rewriter = rewriter();
    let mut message = s01();
    let request = rewriter.request(&mut message).unwrap();
    assert!(request.is_original());
    assert_eq!((message.clone(), request.reads), (s01(), 1));
    let data = vec![0x5A; 65536];
    let (reply, bytes) = reply(&mut rewriter, &inline_answer(&message, &data));
    assert_eq!(bytes, s02());
    assert_eq!(reply.invalidate, Some(TOKEN));
    assert_eq!(reply.placements.len(), 1);
    assert_eq!(reply.placements[0].data, 80..80 + 65536);
    assert_eq!(reply.placements[0].descriptors[0].token.get(), TOKEN);
    assert_eq!(rewriter.pending(), 0);
}

#[test]
fn s03_write_is_fetched_and_made_inline() {
    let mut rewriter = rewriter();
    let mut message = s03();
    let request = rewriter.request(&mut message).unwrap();
    assert_eq!(request.fetches.len(), 1);
    assert_eq!(request.fetches[0].length, 65536);
    assert_eq!(request.fetches[0].descriptors.len(), 1);
    let data = vec![7; 65536];
    let bytes = flatten(&request.segments, &message, &[&data]);
    assert_eq!(bytes.len(), 112 + 65536);
    assert_eq!(bytes.len(), request.length);
    let body: WriteRequest = at(&bytes, 64).unwrap();
    assert_eq!(body.data_offset.get(), 112);
    assert_eq!(body.length.get(), 65536);
    assert_eq!(body.channel.get(), 0);
    assert_eq!(body.remaining_bytes.get(), 0);
    assert_eq!(body.channel_info_offset.get(), 0);
    assert_eq!(body.channel_info_length.get(), 0);
    assert_eq!(&bytes[112..], &data[..]);
    // Its answer needs no change, but invalidates.
    let answer = error_answer(&message, 0, 0);
    let (reply, bytes) = reply(&mut rewriter, &answer);
    assert_eq!((bytes, reply.invalidate), (answer, Some(TOKEN)));
    assert_eq!(rewriter.pending(), 0);
}

#[test]
fn s04_channel_2_is_invalid_under_dialect_3_0() {
    for (dialect, is_valid) in [(0x0300u16, false), (0x0302, true), (0x0311, true)] {
        let mut rewriter = rewriter();
        let mut negotiate = error_answer(&s01(), 0, 0);
        negotiate[12] = 0;
        negotiate[68..70].copy_from_slice(&dialect.to_le_bytes());
        reply(&mut rewriter, &negotiate);
        assert_eq!(rewriter.dialect(), dialect);
        for mut message in [s01(), s03()] {
            let request = rewriter.request(&mut message).unwrap();
            assert_eq!(is_invalid(&request, &message), !is_valid);
        }
    }
}

#[test]
fn s06_wrong_channel_information_is_invalid() {
    let wrong: [fn(&mut ReadRequest); 8] = [
        |read| read.channel_info_length = 0.into(),
        |read| read.channel_info_offset = 0.into(),
        |read| read.length = 0.into(),
        |read| read.channel_info_length = 15.into(),
        |read| read.channel_info_length = 32.into(),
        |read| read.channel_info_offset = 113.into(),
        |read| read.length = 65537.into(),
        |read| read.channel = 3.into(),
    ];
    for change in wrong {
        let mut rewriter = rewriter();
        let mut message = with(s01(), 64, change);
        let request = rewriter.request(&mut message).unwrap();
        assert!(is_invalid(&request, &message));
        // smbd answers with an error, which passes.
        let answer = error_answer(&message, 0xC000_000D, 0);
        assert_eq!(reply(&mut rewriter, &answer).1, answer);
        assert_eq!(rewriter.pending(), 0);
    }
}

#[test]
fn s09_short_read_places_what_there_is() {
    let mut rewriter = rewriter();
    let mut message = s01();
    rewriter.request(&mut message).unwrap();
    let (reply, bytes) = reply(&mut rewriter, &inline_answer(&message, &[1; 1000]));
    assert_eq!(reply.placements[0].data.len(), 1000);
    let body: ReadResponse = at(&bytes, 64).unwrap();
    assert_eq!(
        (body.data_length.get(), body.data_remaining.get()),
        (0, 1000)
    );
    assert_eq!(bytes.len(), 80);
}

#[test]
fn s10_end_of_file_places_nothing_and_still_invalidates() {
    let mut rewriter = rewriter();
    let mut message = s01();
    rewriter.request(&mut message).unwrap();
    let answer = error_answer(&message, 0xC000_0011, 0);
    let (reply, bytes) = reply(&mut rewriter, &answer);
    assert!(reply.placements.is_empty());
    assert_eq!((bytes, reply.invalidate), (answer, Some(TOKEN)));
}

#[test]
fn s11_channel_1_does_not_invalidate() {
    let mut rewriter = rewriter();
    let mut message = with::<ReadRequest>(s01(), 64, |read| read.channel = 1.into());
    rewriter.request(&mut message).unwrap();
    let (reply, bytes) = reply(&mut rewriter, &inline_answer(&message, &[1; 65536]));
    assert_eq!((bytes, reply.invalidate), (s02(), None));
    let mut message = with::<WriteRequest>(s03(), 64, |write| write.channel = 1.into());
    assert_eq!(rewriter.request(&mut message).unwrap().fetches.len(), 1);
    assert_eq!(rewriter.pending(), 0);
}

#[test]
fn s14_s15_wrong_writes_are_invalid() {
    let wrong: [fn(&mut WriteRequest); 5] = [
        |write| write.length = 65536.into(),
        |write| write.data_offset = 112.into(),
        |write| write.remaining_bytes = 65537.into(),
        |write| write.remaining_bytes = 0.into(),
        |write| write.channel = 7.into(),
    ];
    for change in wrong {
        let mut rewriter = rewriter();
        let mut message = with(s03(), 64, change);
        let request = rewriter.request(&mut message).unwrap();
        assert!(is_invalid(&request, &message));
    }
    let mut message = s03();
    message[124..128].copy_from_slice(&65535u32.to_le_bytes());
    let request = rewriter().request(&mut message).unwrap();
    assert!(is_invalid(&request, &message));
}

#[test]
fn s18_interim_answer_keeps_the_request() {
    let mut rewriter = rewriter();
    let mut message = s01();
    rewriter.request(&mut message).unwrap();
    let interim = error_answer(&message, smb2::STATUS_PENDING, smb2::FLAG_ASYNC);
    let (first, bytes) = reply(&mut rewriter, &interim);
    assert_eq!((bytes, first.invalidate), (interim, None));
    assert_eq!(rewriter.pending(), 1);
    let mut answer = inline_answer(&message, &[1; 65536]);
    answer[16] |= smb2::FLAG_ASYNC as u8;
    let (last, bytes) = reply(&mut rewriter, &answer);
    assert_eq!((bytes.len(), last.invalidate), (80, Some(TOKEN)));
    assert_eq!(rewriter.pending(), 0);
}

#[test]
fn a_plan_that_did_not_go_is_made_again() {
    let mut rewriter = rewriter();
    let mut message = s01();
    rewriter.request(&mut message).unwrap();
    let answer = inline_answer(&message, &[1; 65536]);
    for _ in 0..3 {
        let plan = rewriter.reply(&Gather::new([&answer[..]])).unwrap();
        assert_eq!(plan.placements.len(), 1);
    }
    assert_eq!(rewriter.pending(), 1);
}

#[test]
fn signed_and_encrypted_messages_pass() {
    let signed = |message| {
        with::<Header>(message, 0, |header| {
            header.flags = (header.flags.get() | smb2::FLAG_SIGNED).into();
        })
    };
    let mut rewriter = rewriter();
    let mut write = signed(s03());
    assert!(rewriter.request(&mut write).unwrap().is_original());
    assert_eq!(write, signed(s03()));
    assert_eq!(
        rewriter.request(&mut signed(s01())).unwrap_err(),
        Refused::SignedRead
    );
    for first in [0xFD, 0xFC] {
        let mut message = s03();
        message[0] = first;
        let before = message.clone();
        assert!(rewriter.request(&mut message).unwrap().is_original());
        assert_eq!(message, before);
    }
    assert_eq!(rewriter.pending(), 0);
    rewriter.request(&mut s01()).unwrap();
    let answer = signed(inline_answer(&s01(), &[1; 10]));
    assert_eq!(
        rewriter.reply(&Gather::new([&answer[..]])).unwrap_err(),
        Refused::SignedReply
    );
}

/// READ and WRITE in one chain, the WRITE of an odd length in the middle.
#[test]
fn compounds_are_rewritten_element_by_element() {
    let chain = |message: Vec<u8>, id: u8, next: u32| {
        with::<Header>(message, 0, |header| {
            header.message_id = u64::from(id).into();
            header.next_command = next.into();
        })
    };
    let write = with::<WriteRequest>(s03(), 64, |write| write.remaining_bytes = 1001.into());
    let mut message = [
        chain(write, 1, 128),
        chain(s01(), 2, 128),
        chain(s03(), 3, 0),
    ]
    .concat();
    let mut rewriter = rewriter();
    let request = rewriter.request(&mut message).unwrap();
    assert_eq!((request.fetches.len(), request.reads), (2, 1));
    let data: [&[u8]; 2] = [&[1; 1001], &[2; 65536]];
    let bytes = flatten(&request.segments, &message, &data);
    assert_eq!(bytes.len(), request.length);
    let second = (112_usize + 1001).next_multiple_of(8);
    assert_eq!(
        at::<Header>(&bytes, 0).unwrap().next_command.get(),
        second as u32
    );
    assert_eq!(at::<Header>(&bytes, second).unwrap().message_id.get(), 2);
    assert_eq!(
        at::<Header>(&bytes, second + 128).unwrap().message_id.get(),
        3
    );
    assert_eq!(bytes.len(), second + 128 + 112 + 65536);
    assert_eq!(rewriter.pending(), 3);

    // smbd pads every element of its answer, the last one too.
    let mut first = inline_answer(&chain(s01(), 2, 0), &[9; 13]);
    first.resize(96, 0);
    let first = with::<Header>(first, 0, |header| header.next_command = 96.into());
    let mut last = error_answer(&chain(s03(), 3, 0), 0, 0);
    last.resize(80, 0);
    let answer = [first, last].concat();
    let (reply, bytes) = reply(&mut rewriter, &answer);
    assert_eq!(reply.placements[0].data, 80..93);
    assert_eq!(bytes.len(), 160);
    assert_eq!(at::<Header>(&bytes, 0).unwrap().next_command.get(), 80);
    assert_eq!(at::<Header>(&bytes, 80).unwrap().message_id.get(), 3);
    assert_eq!(rewriter.pending(), 1);
}

#[test]
fn a_compound_with_more_writes_than_there_is_room_for_is_refused() {
    let compound = |count: usize| {
        let write = with(s03(), 64, |body: &mut WriteRequest| {
            body.remaining_bytes = 1.into();
        });
        let first = with(write.clone(), 0, |header: &mut Header| {
            header.next_command = 128.into();
        });
        [first.repeat(count - 1), write].concat()
    };
    let most = MAX_ROOM / UNIT;
    let request = rewriter().request(&mut compound(most)).unwrap();
    assert_eq!(request.fetches.len(), most);
    let refused = rewriter().request(&mut compound(most + 1)).err();
    assert_eq!(refused, Some(Refused::TooManyWrites));
}

#[test]
fn the_last_of_a_chain_has_no_padding() {
    let mut rewriter = rewriter();
    rewriter.request(&mut s01()).unwrap();
    let mut answer = inline_answer(&s01(), &[9; 13]);
    answer.resize(96, 0);
    assert_eq!(reply(&mut rewriter, &answer).1.len(), 80);
}

#[test]
fn too_many_pending_requests_are_refused() {
    let mut rewriter = rewriter();
    let mut last = Ok(());
    for id in 0..=MAX_PENDING as u64 {
        let mut message = with::<Header>(s01(), 0, |header| header.message_id = id.into());
        last = rewriter.request(&mut message).map(|_| ());
    }
    assert_eq!(last, Err(Refused::TooManyRequests));
}

#[test]
fn gather_crosses_its_parts() {
    let parts: [&[u8]; 5] = [b"ab", b"", b"cde", b"f", b"gh"];
    let gather = Gather::new(parts);
    assert_eq!(gather.len(), 8);
    assert_eq!(gather.copy(1..7), b"bcdefg");
    assert_eq!(gather.copy(3..3), b"");
    assert_eq!(gather.copy(6..100), b"gh");
}

proptest! {
    /// Whatever a client sends: no panic, and what smbd gets is as long as was said.
    #[test]
    fn any_request(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        changes in proptest::collection::vec((0usize..400, any::<u8>()), 0..12),
        base in 0..4,
    ) {
        let mut message = match base {
            0 => bytes,
            1 => s01(),
            2 => s03(),
            _ => [with::<Header>(s03(), 0, |h| h.next_command = 128.into()), s01()].concat(),
        };
        for (offset, value) in changes {
            if let Some(byte) = message.get_mut(offset) {
                *byte = value;
            }
        }
        let before = message.len();
        let mut rewriter = rewriter();
        if let Ok(request) = rewriter.request(&mut message) {
            prop_assert_eq!(message.len(), before);
            let data: Vec<Vec<u8>> =
                request.fetches.iter().map(|fetch| vec![0; fetch.length as usize]).collect();
            let data: Vec<&[u8]> = data.iter().map(|data| &data[..]).collect();
            if request.segments.is_empty() {
                prop_assert_eq!(request.length, before);
            } else {
                let bytes = flatten(&request.segments, &message, &data);
                prop_assert_eq!(bytes.len(), request.length);
            }
            for fetch in &request.fetches {
                let described: u64 =
                    fetch.descriptors.iter().map(|d| u64::from(d.length.get())).sum();
                prop_assert!(fetch.length > 0 && fetch.length <= MAX);
                prop_assert!(described >= u64::from(fetch.length));
            }
        }
    }

    /// Whatever smbd sends, cut into whatever pieces: no panic, and the plan fits the message.
    #[test]
    fn any_reply(
        changes in proptest::collection::vec((0usize..300, any::<u8>()), 0..12),
        data in 0usize..200,
        cuts in proptest::collection::vec(0usize..300, 0..6),
    ) {
        let mut rewriter = rewriter();
        rewriter.request(&mut s01()).unwrap();
        let mut message = inline_answer(&s01(), &vec![3; data]);
        for (offset, value) in changes {
            if let Some(byte) = message.get_mut(offset) {
                *byte = value;
            }
        }
        let mut parts = Vec::new();
        let mut rest = &message[..];
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            parts.push(now);
            rest = later;
        }
        parts.push(rest);
        if let Ok(reply) = rewriter.reply(&Gather::new(parts)) {
            prop_assert_eq!(flatten(&reply.segments, &message, &[]).len(), reply.length);
            for placement in &reply.placements {
                prop_assert!(placement.data.end <= message.len());
                prop_assert!(placement.data.len() <= 65536);
            }
        }
    }
}
