// SPDX-License-Identifier: GPL-2.0-only
/* Trace events and the limit of the log, and the functions through which Rust has them. */

#include <linux/ratelimit.h>
#include <linux/types.h>

#define CREATE_TRACE_POINTS
#include "trace.h"

/* Called from driver/trace.rs only. */
void usmbd_trace_command(u16 opcode, u16 flags, u64 user_data, u32 length, int error);
void usmbd_trace_command(u16 opcode, u16 flags, u64 user_data, u32 length, int error)
{
	trace_usmbd_command(opcode, flags, user_data, length, error);
}

void usmbd_trace_event(u16 opcode, u16 flags, u64 user_data, u32 length);
void usmbd_trace_event(u16 opcode, u16 flags, u64 user_data, u32 length)
{
	trace_usmbd_event(opcode, flags, user_data, length);
}

void usmbd_trace_pdu(u64 connection, bool sent, u32 length, u32 payload_length,
		     u32 send_credits, u32 receive_credits);
void usmbd_trace_pdu(u64 connection, bool sent, u32 length, u32 payload_length,
		     u32 send_credits, u32 receive_credits)
{
	trace_usmbd_pdu(connection, sent, length, payload_length, send_credits,
			receive_credits);
}

void usmbd_trace_post(u64 connection, u32 requests, u32 signalled);
void usmbd_trace_post(u64 connection, u32 requests, u32 signalled)
{
	trace_usmbd_post(connection, requests, signalled);
}

void usmbd_trace_rdma(u64 connection, bool write, u32 length, u32 status);
void usmbd_trace_rdma(u64 connection, bool write, u32 length, u32 status)
{
	trace_usmbd_rdma(connection, write, length, status);
}

/* Ours alone: what other drivers say takes no line of it, and ours none of theirs. */
static DEFINE_RATELIMIT_STATE(usmbd_log, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

bool usmbd_may_log(void);
bool usmbd_may_log(void)
{
	return ___ratelimit(&usmbd_log, "usmbd");
}
