// SPDX-License-Identifier: GPL-2.0-only

//! The trace events of `trace.h` and the limit of the log, for Rust.

use kernel::error::Result;
use usmbd_abi::record::Header;

// The functions of trace.c take plain values of these types and may be called from any context.
unsafe extern "C" {
    safe fn usmbd_trace_command(opcode: u16, flags: u16, user_data: u64, length: u32, error: i32);
    safe fn usmbd_trace_event(opcode: u16, flags: u16, user_data: u64, length: u32);
    #[link_name = "usmbd_trace_pdu"]
    pub(crate) safe fn pdu(
        connection: u64,
        sent: bool,
        length: u32,
        payload_length: u32,
        send_credits: u32,
        receive_credits: u32,
    );
    #[link_name = "usmbd_trace_post"]
    pub(crate) safe fn post(connection: u64, requests: u32, signalled: u32);
    #[link_name = "usmbd_trace_rdma"]
    pub(crate) safe fn rdma(connection: u64, write: bool, length: u32, status: u32);
    /// Whether the kernel log may have one more line about peers: ten in five seconds.
    #[link_name = "usmbd_may_log"]
    pub(crate) safe fn may_log() -> bool;
}

/// What became of a command.
pub(crate) fn command(header: &Header, result: &Result) {
    usmbd_trace_command(
        header.opcode.get(),
        header.flags.get(),
        header.user_data.get(),
        header.length.get(),
        result.as_ref().err().map_or(0, |error| error.to_errno()),
    );
}

/// An event that is returned.
pub(crate) fn event(header: &Header) {
    usmbd_trace_event(
        header.opcode.get(),
        header.flags.get(),
        header.user_data.get(),
        header.length.get(),
    );
}
