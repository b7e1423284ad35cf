// SPDX-License-Identifier: GPL-2.0-only

//! The trace events of `trace.h`, for Rust.

// SAFETY: The functions of trace.c take plain values of these types and may be called from any
// context.
unsafe extern "C" {
    #[link_name = "usmbd_trace_command"]
    pub(crate) safe fn command(opcode: u16, flags: u16, user_data: u64, length: u32, error: i32);
    #[link_name = "usmbd_trace_event"]
    pub(crate) safe fn event(opcode: u16, flags: u16, user_data: u64, length: u32);
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
}
