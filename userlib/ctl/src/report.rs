// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is shown: tables for people, values for programs.

use serde_json::{json, Map, Value};
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use usmbd::abi::event::Counters;
use usmbd::{ConnectionInfo, Fabric, Phase};

/// A counter: its name, and its value in a set of counters.
type Counter = (&'static str, fn(&Counters) -> u64);

/// All counters, in the order in which they are shown.
const COUNTERS: [Counter; 11] = [
    ("pdus_sent", |c| c.pdus_sent.get()),
    ("pdus_received", |c| c.pdus_received.get()),
    ("messages_sent", |c| c.messages_sent.get()),
    ("messages_received", |c| c.messages_received.get()),
    ("message_bytes_sent", |c| c.message_bytes_sent.get()),
    ("message_bytes_received", |c| c.message_bytes_received.get()),
    ("rdma_reads", |c| c.rdma_reads.get()),
    ("rdma_read_bytes", |c| c.rdma_read_bytes.get()),
    ("rdma_writes", |c| c.rdma_writes.get()),
    ("rdma_write_bytes", |c| c.rdma_write_bytes.get()),
    ("remote_invalidations", |c| c.remote_invalidations.get()),
];

/// The sums of both.
pub(crate) fn sum(a: &Counters, b: &Counters) -> Counters {
    let add = |value: fn(&Counters) -> u64| value(a).wrapping_add(value(b)).into();
    Counters {
        pdus_sent: add(|c| c.pdus_sent.get()),
        pdus_received: add(|c| c.pdus_received.get()),
        messages_sent: add(|c| c.messages_sent.get()),
        messages_received: add(|c| c.messages_received.get()),
        message_bytes_sent: add(|c| c.message_bytes_sent.get()),
        message_bytes_received: add(|c| c.message_bytes_received.get()),
        rdma_reads: add(|c| c.rdma_reads.get()),
        rdma_read_bytes: add(|c| c.rdma_read_bytes.get()),
        rdma_writes: add(|c| c.rdma_writes.get()),
        rdma_write_bytes: add(|c| c.rdma_write_bytes.get()),
        remote_invalidations: add(|c| c.remote_invalidations.get()),
    }
}

pub(crate) fn counters(counters: &Counters) -> Map<String, Value> {
    let member = |(name, value): Counter| (name.to_owned(), json!(value(counters)));
    COUNTERS.map(member).into_iter().collect()
}

pub(crate) fn connection(info: &ConnectionInfo) -> Value {
    let address = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    json!({
        "connection": info.connection.number(),
        "phase": phase(info.phase),
        "fabric": fabric(info.fabric),
        "device": info.device,
        "local": address(info.local),
        "peer": address(info.peer),
        "uid": info.uid,
        "send_credits": info.send_credits,
        "receive_credits": info.receive_credits,
        "memory": info.memory,
        "counters": counters(&info.counters),
    })
}

fn phase(phase: Phase) -> String {
    match phase {
        Phase::Negotiating => "negotiating".to_owned(),
        Phase::Routing => "routing".to_owned(),
        Phase::Offered => "offered".to_owned(),
        Phase::Serving => "serving".to_owned(),
        Phase::Lingering => "lingering".to_owned(),
        Phase::Draining => "draining".to_owned(),
        Phase::Connecting => "connecting".to_owned(),
        Phase::Unknown(number) => number.to_string(),
        // One that a newer library knows.
        _ => "unknown".to_owned(),
    }
}

fn fabric(fabric: Fabric) -> String {
    match fabric {
        Fabric::InfiniBand => "InfiniBand".to_owned(),
        Fabric::RoCE => "RoCE".to_owned(),
        Fabric::IWarp => "iWARP".to_owned(),
        Fabric::Unknown(number) => number.to_string(),
        _ => "unknown".to_owned(),
    }
}

/// Lines of cells, which are padded to columns.
pub(crate) struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn of_connections(connections: &[ConnectionInfo]) -> Self {
        let mut lines = vec![[
            "NUMBER", "PHASE", "FABRIC", "DEVICE", "LOCAL", "PEER", "UID", "CREDITS", "MEMORY",
            "RECEIVED", "SENT", "READ", "WRITTEN",
        ]
        .map(str::to_owned)
        .to_vec()];
        let address = |address: Option<SocketAddr>| match address {
            Some(address) => address.to_string(),
            None => "-".to_owned(),
        };
        for info in connections {
            lines.push(vec![
                info.connection.number().to_string(),
                phase(info.phase),
                fabric(info.fabric),
                info.device.clone(),
                address(info.local),
                address(info.peer),
                info.uid.to_string(),
                format!("{}/{}", info.send_credits, info.receive_credits),
                size(info.memory),
                size(info.counters.message_bytes_received.get()),
                size(info.counters.message_bytes_sent.get()),
                size(info.counters.rdma_read_bytes.get()),
                size(info.counters.rdma_write_bytes.get()),
            ]);
        }
        Self { lines }
    }

    /// One line for each member: its name and its value.
    pub(crate) fn of_members(members: &Map<String, Value>) -> Self {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Self {
            lines: members
                .iter()
                .map(|(name, value)| vec![name.clone(), text(value)])
                .collect(),
        }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (at, line) in self.lines.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            let mut text = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                text.push_str(&format!("{cell:width$}  "));
            }
            f.write_str(text.trim_end())?;
        }
        Ok(())
    }
}

/// Bytes with three digits or so.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    let mut shown = bytes.to_string();
    let mut tenths = u128::from(bytes) * 10;
    for unit in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        shown = if tenths < 100 {
            format!("{}.{}{unit}", tenths / 10, tenths % 10)
        } else {
            format!("{}{unit}", (tenths + 5) / 10)
        };
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{counters, size, sum, Counters, Table, COUNTERS};

    #[test]
    fn sizes_have_three_digits_or_so() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (110 << 10, "110K"),
            (1 << 20, "1.0M"),
            (9_961_472, "9.5M"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines = [["NUMBER", "PHASE"], ["1", "serving"], ["1234567", "x"]];
        let lines = lines.map(|line| line.map(str::to_owned).to_vec()).to_vec();
        let expected = "NUMBER   PHASE\n1        serving\n1234567  x";
        assert_eq!(Table { lines }.to_string(), expected);
    }

    #[test]
    fn every_counter_is_shown_and_summed() {
        // Each field gets another number.
        let mut bytes = [0u8; size_of::<Counters>()];
        for (at, field) in bytes.chunks_mut(8).enumerate() {
            field[0] = u8::try_from(at).unwrap() + 1;
        }
        let one: Counters = counters_from(&bytes);
        let twice = sum(&one, &one);
        for (at, (name, value)) in COUNTERS.iter().enumerate() {
            let number = u64::try_from(at).unwrap() + 1;
            assert_eq!((value(&one), value(&twice)), (number, 2 * number), "{name}");
        }
        assert_eq!(COUNTERS.len() * 8, bytes.len());
        assert_eq!(counters(&one)["rdma_reads"], 7);
        assert!(counters(&one).keys().eq(COUNTERS.map(|(name, _)| name)));
    }

    fn counters_from(bytes: &[u8; size_of::<Counters>()]) -> Counters {
        use zerocopy::FromBytes;
        Counters::read_from_bytes(bytes).unwrap()
    }
}
