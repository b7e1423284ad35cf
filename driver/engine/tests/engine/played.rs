// SPDX-License-Identifier: GPL-2.0-only

//! The vectors of `tests/peer/vectors/`, which a peer plays over the wire, here without one: against
//! the engine, on a clock that needs no waiting. What needs a device is left out.

use crate::side::*;
use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use usmbd_engine::{Event, Parameters, Reason, Role};

/// What the steps name that is not the engine's.
const DEVICES: [&str; 6] = [
    "private",
    "depths",
    "refused",
    "memory",
    "smb2",
    "expect-end",
];

struct Vector {
    name: String,
    steps: Vec<String>,
}

struct Group {
    conditions: Vec<(String, String)>,
    vectors: Vec<Vector>,
}

fn groups() -> Vec<Group> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peer/vectors");
    let mut groups: Vec<Group> = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for line in text.lines() {
            let line = line.split('#').next().unwrap().trim_end();
            if let Some(rest) = line.strip_prefix("group ") {
                let pairs = rest.split(' ').filter_map(|word| word.split_once('='));
                groups.push(Group {
                    conditions: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                    vectors: Vec::new(),
                });
            } else if let Some(step) = line.strip_prefix("  ") {
                let group = groups.last_mut().unwrap();
                group
                    .vectors
                    .last_mut()
                    .unwrap()
                    .steps
                    .push(step.to_owned());
            } else if !line.is_empty() {
                groups.last_mut().unwrap().vectors.push(Vector {
                    name: line.split(' ').next().unwrap().to_owned(),
                    steps: Vec::new(),
                });
            }
        }
    }
    groups
}

impl Group {
    fn value(&self, name: &str) -> Option<&str> {
        let found = self.conditions.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str, default: u32) -> u32 {
        self.value(name)
            .map_or(default, |text| text.parse().unwrap())
    }

    fn parameters(&self) -> Parameters {
        Parameters {
            receive_credit_max: self.number("receive_credit_max", 255) as u16,
            max_fragmented_recv_size: self.number("max_fragmented_recv_size", 1 << 20),
            keepalive_interval_ms: self.number("keepalive_interval", 120_000),
            ..linux_server()
        }
    }
}

/// The peer that plays, and the side it plays to.
struct Play<'a> {
    what: String,
    group: &'a Group,
    role: Role,
    side: Side,
    /// What came and was not looked at.
    inbox: VecDeque<Vec<u8>>,
    granted: u32,
    /// Milliseconds since the peer last sent something.
    elapsed: u64,
}

/// "HEX" or "HEX+N".
fn bytes_of(text: &str) -> Vec<u8> {
    let (digits, more) = text.split_once('+').unwrap_or((text, "0"));
    let mut bytes = hex(digits);
    bytes.resize(bytes.len() + more.parse::<usize>().unwrap(), b'A');
    bytes
}

fn window(text: &str) -> (u64, u64) {
    let (from, to) = text.split_once('-').unwrap();
    (from.parse().unwrap(), to.parse().unwrap())
}

impl<'a> Play<'a> {
    fn new(group: &'a Group, role: Role, name: &str) -> Self {
        let parameters = group.parameters();
        let mut play = Play {
            what: format!("{name}, {role:?}"),
            group,
            role,
            side: match role {
                Role::Passive => Side::passive(&parameters),
                Role::Active => Side::active(&parameters),
            },
            inbox: VecDeque::new(),
            granted: 0,
            elapsed: 0,
        };
        play.collect();
        play
    }

    fn collect(&mut self) {
        let sent = self.side.take_sent();
        let data = sent.iter().filter(|pdu| {
            pdu.len() == 20 && u32_at(pdu, 8) == 0 || pdu.len() > 24 && u32_at(pdu, 12) == 24
        });
        self.granted += data.map(|pdu| u32::from(u16_at(pdu, 2))).sum::<u32>();
        self.inbox.extend(sent);
    }

    /// What the upper layer does about what came.
    fn serve(&mut self) {
        if self.side.events.contains(&Event::NegotiateReceived) {
            let parameters = self.group.parameters();
            self.side
                .connection
                .accept(&parameters, self.side.now)
                .unwrap();
            self.side.drive();
            let greeting = self.group.number("greet", 0);
            if greeting > 0 {
                self.side.send(vec![b'A'; greeting as usize]);
            }
        }
        self.side
            .events
            .retain(|event| matches!(event, Event::Disconnected(_)));
        for (message, _) in std::mem::take(&mut self.side.messages) {
            let answer = match message[0] {
                b'N' => continue,
                b'D' => {
                    self.side.connection.disconnect(self.side.now);
                    self.side.drive();
                    continue;
                }
                b'G' => vec![b'A'; u32_at(&message, 1) as usize],
                _ => message,
            };
            if self
                .side
                .connection
                .check_message(answer.len() as u32)
                .is_ok()
            {
                self.side.send(answer);
            }
        }
        self.collect();
    }

    fn send(&mut self, pdu: &[u8]) {
        self.elapsed = 0;
        if self.side.connection.end().is_none() {
            self.side.receive(pdu);
            self.serve();
        }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.side.pass(milliseconds);
        self.elapsed += milliseconds;
        self.serve();
    }

    fn next(&mut self) -> Vec<u8> {
        let what = &self.what;
        self.inbox
            .pop_front()
            .unwrap_or_else(|| panic!("{what}: nothing came"))
    }

    /// Lengths and what remains of the fragments of the next message.
    fn message(&mut self) -> Vec<(u32, u32)> {
        let mut fragments = Vec::new();
        loop {
            let pdu = self.next();
            let (remaining, length) = (u32_at(&pdu, 8), u32_at(&pdu, 16));
            if length == 0 {
                assert!(fragments.is_empty(), "{}: between fragments", self.what);
                continue;
            }
            assert_eq!(pdu.len(), 24 + length as usize, "{}", self.what);
            fragments.push((length, remaining));
            if remaining == 0 {
                return fragments;
            }
        }
    }

    fn only_empty_ones_came(&mut self) {
        let data = self.inbox.iter().find(|pdu| pdu.len() != 20);
        assert_eq!(data, None, "{}", self.what);
        self.inbox.clear();
    }

    fn ended(&self) -> Option<Reason> {
        self.side.connection.end()
    }

    fn step(&mut self, step: &str) {
        let (name, value) = step.split_once(' ').unwrap_or((step, ""));
        let what = format!("{}: {name}", self.what);
        let (times, name) = name.split_once('*').unwrap_or(("1", name));
        match name {
            "send" => (0..times.parse().unwrap()).for_each(|_| self.send(&bytes_of(value))),
            "negotiate" if self.role == Role::Passive => {
                let mut request = hex(LINUX_REQUEST);
                request[16..].copy_from_slice(&(1u32 << 20).to_le_bytes());
                self.send(&request);
                assert_eq!(self.next().len(), 32, "{what}");
            }
            "negotiate" => {
                assert_eq!(self.next().len(), 20, "{what}");
                let mut response = hex(LINUX_RESPONSE);
                response[28..].copy_from_slice(&(1u32 << 20).to_le_bytes());
                self.send(&response);
            }
            "credit" => self.send(&transfer(255, value.parse().unwrap(), 0, 0, &[])),
            "alive" => {
                self.send(&transfer(255, 2, 0, 0, &[b'A'; 64]));
                assert_eq!(self.message(), [(64, 0)], "{what}");
            }
            "leave" => self.side.assert_alive(&what),
            "wait" => self.pass(value.parse().unwrap()),
            "expect" => {
                let (digits, is_open) = match value.strip_suffix('*') {
                    Some(digits) => (digits, true),
                    None => (value, false),
                };
                let (wanted, pdu) = (hex(digits), self.next());
                assert!(pdu.starts_with(&wanted), "{what}: {pdu:02x?}");
                assert!(is_open || pdu.len() == wanted.len(), "{what}: {pdu:02x?}");
            }
            "expect-messages" => {
                (0..value.parse().unwrap()).for_each(|_| drop(self.next()));
            }
            "message" => {
                let sum: u32 = self.message().iter().map(|(length, _)| length).sum();
                assert_eq!(sum.to_string(), value, "{what}");
            }
            "fragments" => {
                let text: Vec<_> = self
                    .message()
                    .iter()
                    .map(|(l, r)| format!("{l}/{r}"))
                    .collect();
                assert_eq!(text.join(" "), value, "{what}");
            }
            "answer" => {
                let pdu = self.next();
                assert_eq!((pdu.len(), u16_at(&pdu, 4)), (20, 0), "{what}: {pdu:02x?}");
                assert_ne!(u16_at(&pdu, 2), 0, "{what}: {pdu:02x?}");
            }
            "granted" => {
                self.inbox.retain(|pdu| pdu.len() != 20);
                assert!(
                    self.granted >= value.parse().unwrap(),
                    "{what}: {}",
                    self.granted
                );
            }
            "expect-silence" => {
                self.pass(value.parse().unwrap());
                self.side.assert_alive(&what);
                self.only_empty_ones_came();
            }
            "probe" => {
                let (from, to) = window(value);
                self.pass(from - self.elapsed);
                self.only_empty_ones_came();
                self.pass(to - from);
                let pdu = self.inbox.pop_back();
                let pdu = pdu.unwrap_or_else(|| panic!("{what}: none"));
                assert_eq!((pdu.len(), u16_at(&pdu, 4)), (20, 1), "{what}: {pdu:02x?}");
                self.inbox.clear();
                self.elapsed = 0;
            }
            "expect-disconnect" => {
                if !value.is_empty() {
                    let (from, to) = window(value);
                    // A probe was seen at the end of its window, so this clock is late by that much.
                    self.pass((from - self.elapsed).saturating_sub(4_000));
                    self.side.assert_alive(&what);
                    self.pass(to);
                }
                assert!(self.ended().is_some(), "{what}: goes on");
                self.only_empty_ones_came();
            }
            _ => panic!("{what}: not known here"),
        }
    }
}

/// Whether a vector can be played without a device, and without an upper layer that sleeps.
fn is_playable(vector: &Vector) -> bool {
    let mut steps = vector.steps.iter();
    !steps.any(|step| {
        DEVICES.iter().any(|name| step.starts_with(name)) || step.ends_with("00 00 00 00 51")
    })
}

#[test]
fn what_is_played_over_the_wire_holds_without_one() {
    let mut count = 0;
    for group in groups() {
        for role in group.value("roles").unwrap().split(',') {
            let role = match role {
                "connect" => Role::Passive,
                _ => Role::Active,
            };
            for vector in group.vectors.iter().filter(|vector| is_playable(vector)) {
                let mut play = Play::new(&group, role, &vector.name);
                vector.steps.iter().for_each(|step| play.step(step));
                count += 1;
            }
        }
    }
    assert!(count > 130, "only {count} were played");
}
