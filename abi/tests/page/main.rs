// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT

//! `docs/abi.md` against the crate, so that neither drifts: numbers of records, flags, statuses and
//! reasons, every field's place, limits, and the examples.

mod structures;

use std::collections::BTreeMap;
use std::fmt::Debug;
use structures::structures;
use usmbd_abi::command::{self, Body as _, Command, Layout};
use usmbd_abi::event::{self, Body as _, Event};
use usmbd_abi::record::{Header, SocketAddress};
use usmbd_abi::status::{Reason, Status};
use usmbd_abi::{memory, record};
use zerocopy::FromBytes;

/// Headings and what stands below each, up to the next one of any level.
fn sections() -> BTreeMap<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/abi.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut sections = BTreeMap::new();
    let mut heading = String::new();
    let mut in_code = false;
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        match line.strip_prefix('#').filter(|_| !in_code) {
            Some(rest) => heading = rest.trim_start_matches('#').trim().to_owned(),
            None => {
                let section: &mut String = sections.entry(heading.clone()).or_default();
                section.push_str(line);
                section.push('\n');
            }
        }
    }
    sections
}

/// Rows of the tables of a section whose first column is headed `first`, cells without blanks and
/// backticks.
fn rows(section: &str, first: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut is_wanted = false;
    let mut before = "";
    for line in section.lines() {
        let cells: Vec<String> = line
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        if !line.starts_with('|') {
            is_wanted = false;
        } else if !before.starts_with('|') {
            is_wanted = cells[0] == first;
        } else if is_wanted && !line.starts_with("|--") {
            rows.push(cells);
        }
        before = line;
    }
    assert!(!rows.is_empty(), "no table headed {first}");
    rows
}

/// The text of a Markdown link, or the text itself.
fn unlinked(cell: &str) -> &str {
    cell.strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map_or(cell, |(text, _)| text)
}

fn number<T: TryFrom<u64, Error: Debug>>(cell: &str) -> T {
    let value = match cell.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => cell.parse(),
    };
    value
        .unwrap_or_else(|_| panic!("not a number: {cell}"))
        .try_into()
        .unwrap()
}

#[test]
fn every_field_stands_where_the_page_says() {
    let sections = sections();
    let structures = structures();
    for structure in &structures {
        let heading = structure.heading;
        // A tail has no size of its own.
        let page: Vec<(String, usize, usize)> = rows(&sections[heading], "Offset")
            .iter()
            .filter(|row| !row[1].is_empty() && !row[1].ends_with("each"))
            .map(|row| (row[2].clone(), number(&row[0]), number(&row[1])))
            .collect();
        let fields = structure.fields.iter();
        let crates: Vec<(String, usize, usize)> = fields
            .map(|(name, offset, size)| ((*name).to_owned(), offset + structure.base, *size))
            .collect();
        assert_eq!(page, crates, "{heading}");
        let filled: usize = crates.iter().map(|field| field.2).sum();
        assert_eq!(filled, structure.size, "all fields of {heading} are named");
    }
    let tables = sections
        .values()
        .filter(|section| section.lines().any(|line| line.starts_with("| Offset |")));
    assert_eq!(tables.count(), structures.len(), "every layout is compared");
}

#[test]
fn numbers_and_lengths_of_commands() {
    let flags = [
        ("QUIET", command::QUIET),
        ("INVALIDATE", command::INVALIDATE),
        ("RANGES", command::RANGES),
    ];
    let sections = sections();
    let structures = structures();
    let mut opcodes = Vec::new();
    for row in rows(&sections["Commands"], "Opcode") {
        let (opcode, name, length) = (number(&row[0]), unlinked(&row[1]), number::<usize>(&row[2]));
        let known = flags
            .iter()
            .filter(|(flag, _)| row[4].split(", ").any(|cell| cell == *flag))
            .fold(0, |sum, (_, bit)| sum | bit);
        for bit in 0..16 {
            let header = Header {
                length: (1 << 12).into(),
                opcode: u16::into(opcode),
                flags: (1 << bit).into(),
                user_data: 0.into(),
            };
            let is_known = Layout::of(&header).is_ok();
            assert_eq!(is_known, known >> bit & 1 != 0, "{name}, flag bit {bit}");
        }
        let header = Header {
            length: (1 << 12).into(),
            opcode: opcode.into(),
            ..Default::default()
        };
        assert_eq!(Layout::of(&header).unwrap().body_length, length, "{name}");
        let structure = structures
            .iter()
            .find(|row| row.heading.split(" and ").any(|part| part == name));
        assert_eq!(structure.map_or(0, |row| row.size), length, "{name}");
        opcodes.push(opcode);
    }
    for (name, bit) in flags {
        let row = rows(&sections["Commands"], "Flag");
        let row = row.iter().find(|row| row[0] == name).unwrap();
        assert_eq!(1 << number::<u16>(&row[1]), bit, "{name}");
    }
    let known: Vec<u16> = (0..=u16::MAX)
        .filter(|opcode| {
            let header = Header {
                length: (1 << 12).into(),
                opcode: (*opcode).into(),
                ..Default::default()
            };
            Layout::of(&header).is_ok()
        })
        .collect();
    assert_eq!(opcodes, known, "every command is listed, in order");
    assert_eq!(command::Drop::OPCODE, 0x52);
}

#[test]
fn numbers_and_lengths_of_events() {
    let sections = sections();
    let structures = structures();
    let mut opcodes = Vec::new();
    for row in rows(&sections["Events"], "Opcode") {
        let (opcode, name, length) = (number(&row[0]), unlinked(&row[1]), number::<usize>(&row[2]));
        let header = Header {
            opcode: u16::into(opcode),
            ..Default::default()
        };
        let enough = vec![0; length];
        assert!(Event::decode(&header, &enough).is_some(), "{name}");
        if let Some((_, short)) = enough.split_first() {
            assert!(Event::decode(&header, short).is_none(), "{name}");
        }
        let structure = structures.iter().find(|row| row.heading == name);
        assert_eq!(structure.map_or(0, |row| row.size), length, "{name}");
        opcodes.push(opcode);
    }
    let known: Vec<u16> = (0..=u16::MAX)
        .filter(|opcode| {
            let header = Header {
                opcode: (*opcode).into(),
                ..Default::default()
            };
            !matches!(Event::decode(&header, &[0; 4096]), Some(Event::Unknown))
        })
        .collect();
    assert_eq!(opcodes, known, "every event is listed, in order");
    let flag = &rows(&sections["Events"], "Flag")[0];
    assert_eq!(flag[0], "INVALIDATED");
    assert_eq!(1 << number::<u16>(&flag[1]), event::INVALIDATED);
    assert_eq!(event::Connections::OPCODE, 0x8051);
}

#[test]
fn statuses_and_reasons() {
    let section = &sections()["Statuses and reasons"];
    let listed = |first| -> Vec<u32> {
        rows(section, first)
            .iter()
            .map(|row| number(&row[0]))
            .collect()
    };
    let known =
        |is_known: fn(u32) -> bool| (0..10_000).filter(|n| is_known(*n)).collect::<Vec<_>>();
    assert_eq!(
        listed("Status"),
        known(|n| Status::from_number(n).is_some())
    );
    assert_eq!(
        listed("Reason"),
        known(|n| Reason::from_number(n).is_some())
    );
}

/// What a field may be, as the page says, where the crate has a name for the limit.
#[test]
fn limits() {
    let sections = sections();
    let values = |heading: &str, field: &str| {
        let rows = rows(&sections[heading], "Offset");
        rows.iter().find(|row| row[2] == field).unwrap()[3].clone()
    };
    let at_least_one = |most: u64| format!("1..={most}");
    let transfer = "RDMA_READ and RDMA_WRITE";
    let length = |name: &str| values(name, "length");
    assert_eq!(
        values(transfer, "range_count"),
        at_least_one(command::MAX_RANGES.into())
    );
    assert_eq!(
        values(transfer, "descriptor_count"),
        at_least_one(command::MAX_DESCRIPTORS.into())
    );
    assert_eq!(
        values("SEND_PDU", "payload_length"),
        at_least_one(command::MAX_PAYLOAD_LENGTH.into())
    );
    assert_eq!(
        length("REGISTER_MEMORY"),
        at_least_one(command::MAX_REGISTRATION_LENGTH)
    );
    assert_eq!(
        length("MEMORY_REGISTERED"),
        at_least_one(command::MAX_REGISTRATION_LENGTH)
    );
    assert_eq!(
        values("LISTEN", "backlog"),
        format!("0..={}", command::MAX_BACKLOG)
    );
    assert_eq!(
        values("LISTEN", "mode"),
        format!("0..={}", command::MODE_ROUTE)
    );
    let template = "SET_NEGOTIATE_TEMPLATE";
    let bytes = format!(
        "{}..={}",
        command::MIN_TEMPLATE_LENGTH,
        command::MAX_TEMPLATE_LENGTH
    );
    assert_eq!(
        values(template, "template"),
        format!("0..={}", command::MAX_TEMPLATES - 1)
    );
    assert_eq!(values(template, "response_length"), format!("0, {bytes}"));
    assert_eq!(values("NEGOTIATE_ANSWERED", "payload_length"), bytes);
    assert_eq!(
        values(template, "presumption_count"),
        format!("0..={}", command::MAX_PRESUMPTIONS)
    );
    assert_eq!(
        values("CONNECTIONS", "count"),
        format!("0..={}", event::MAX_LISTED)
    );
    assert_eq!(
        values("Connection info", "phase"),
        format!("{}..={}", event::PHASE_NEGOTIATING, event::PHASE_CONNECTING)
    );
    assert_eq!(
        values("CONNECTION_ROUTED", "claim"),
        format!("{}..={}", event::CLAIM_CLIENT_GUID, event::CLAIM_SESSION_ID)
    );
    assert_eq!(
        values("ACCEPTED", "fabric"),
        format!("{}..={}", record::FABRIC_INFINIBAND, record::FABRIC_IWARP)
    );
    assert_eq!(
        values("Status page", "state"),
        format!("{}..={}", memory::STATE_NONE, memory::STATE_DISCONNECTED)
    );
    assert_eq!(
        values("Address", "family"),
        format!("0, {}, {}", SocketAddress::IPV4, SocketAddress::IPV6)
    );
}

#[test]
fn the_newest_version() {
    let versions = rows(&sections()["Versions"], "Version");
    let newest = versions.last().unwrap()[0].clone();
    let version = usmbd_abi::VERSION;
    assert_eq!(newest, format!("{}.{}", version >> 16, version & 0xffff));
}

/// Each record's section has an example that is such a record.
#[test]
fn examples() {
    let sections = sections();
    let names = ["Commands", "Events"].map(|heading| {
        rows(&sections[heading], "Opcode")
            .iter()
            .map(|row| (unlinked(&row[1]).to_owned(), number::<u16>(&row[0])))
            .collect::<Vec<_>>()
    });
    for (name, opcode) in names.concat() {
        let (heading, section) = sections
            .iter()
            .find(|(heading, _)| heading.split(" and ").any(|part| part == name))
            .unwrap_or_else(|| panic!("{name} has no section"));
        let blocks: Vec<&str> = section.split("```").skip(1).step_by(2).collect();
        assert!(!blocks.is_empty(), "{name} has no example");
        for block in blocks {
            // What is said about the bytes follows after two spaces.
            let digits: String = block
                .lines()
                .filter_map(|line| line.split("  ").next())
                .flat_map(str::chars)
                .filter(|c| !c.is_whitespace())
                .collect();
            let bytes: Vec<u8> = (0..digits.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                .collect();
            let (header, rest) = Header::read_from_prefix(&bytes).unwrap();
            assert_eq!(header.length.get() as usize, bytes.len(), "{block}");
            // RDMA_READ is RDMA_WRITE with another opcode.
            if !heading.contains(" and ") {
                assert_eq!(header.opcode.get(), opcode, "{block}");
            }
            if opcode & 0x8000 == 0 {
                let body = &rest[..Layout::of(&header).unwrap().body_length];
                assert!(Command::decode(&header, body).is_ok(), "{block}");
            } else {
                assert!(Event::decode(&header, rest).is_some(), "{block}");
            }
        }
    }
}
