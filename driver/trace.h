/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM usmbd

#if !defined(_USMBD_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _USMBD_TRACE_H

#include <linux/tracepoint.h>

/* One command taken or refused. */
TRACE_EVENT(usmbd_command,
	TP_PROTO(u16 opcode, u16 flags, u64 user_data, u32 length, int error),
	TP_ARGS(opcode, flags, user_data, length, error),
	TP_STRUCT__entry(
		__field(u64, user_data)
		__field(u32, length)
		__field(int, error)
		__field(u16, opcode)
		__field(u16, flags)
	),
	TP_fast_assign(
		__entry->user_data = user_data;
		__entry->length = length;
		__entry->error = error;
		__entry->opcode = opcode;
		__entry->flags = flags;
	),
	TP_printk("opcode=0x%04x flags=0x%04x user_data=%llu length=%u error=%d",
		  __entry->opcode, __entry->flags, __entry->user_data,
		  __entry->length, __entry->error)
);

/* One event handed to a reader. */
TRACE_EVENT(usmbd_event,
	TP_PROTO(u16 opcode, u16 flags, u64 user_data, u32 length),
	TP_ARGS(opcode, flags, user_data, length),
	TP_STRUCT__entry(
		__field(u64, user_data)
		__field(u32, length)
		__field(u16, opcode)
		__field(u16, flags)
	),
	TP_fast_assign(
		__entry->user_data = user_data;
		__entry->length = length;
		__entry->opcode = opcode;
		__entry->flags = flags;
	),
	TP_printk("opcode=0x%04x flags=0x%04x user_data=%llu length=%u",
		  __entry->opcode, __entry->flags, __entry->user_data,
		  __entry->length)
);

/* One PDU posted or received: its length and the credits around it. */
TRACE_EVENT(usmbd_pdu,
	TP_PROTO(u64 connection, bool sent, u32 length, u32 payload_length,
		 u32 send_credits, u32 receive_credits),
	TP_ARGS(connection, sent, length, payload_length, send_credits,
		receive_credits),
	TP_STRUCT__entry(
		__field(u64, connection)
		__field(u32, length)
		__field(u32, payload_length)
		__field(u32, send_credits)
		__field(u32, receive_credits)
		__field(bool, sent)
	),
	TP_fast_assign(
		__entry->connection = connection;
		__entry->length = length;
		__entry->payload_length = payload_length;
		__entry->send_credits = send_credits;
		__entry->receive_credits = receive_credits;
		__entry->sent = sent;
	),
	TP_printk("connection=%llu %s length=%u payload=%u send_credits=%u receive_credits=%u",
		  __entry->connection, __entry->sent ? "sent" : "received",
		  __entry->length, __entry->payload_length,
		  __entry->send_credits, __entry->receive_credits)
);

/* One doorbell: work requests posted on the send queue together. */
TRACE_EVENT(usmbd_post,
	TP_PROTO(u64 connection, u32 requests, u32 signalled),
	TP_ARGS(connection, requests, signalled),
	TP_STRUCT__entry(
		__field(u64, connection)
		__field(u32, requests)
		__field(u32, signalled)
	),
	TP_fast_assign(
		__entry->connection = connection;
		__entry->requests = requests;
		__entry->signalled = signalled;
	),
	TP_printk("connection=%llu requests=%u signalled=%u",
		  __entry->connection, __entry->requests, __entry->signalled)
);

/* One RDMA_READ or RDMA_WRITE completed. */
TRACE_EVENT(usmbd_rdma,
	TP_PROTO(u64 connection, bool write, u32 length, u32 status),
	TP_ARGS(connection, write, length, status),
	TP_STRUCT__entry(
		__field(u64, connection)
		__field(u32, length)
		__field(u32, status)
		__field(bool, write)
	),
	TP_fast_assign(
		__entry->connection = connection;
		__entry->length = length;
		__entry->status = status;
		__entry->write = write;
	),
	TP_printk("connection=%llu %s length=%u status=%u",
		  __entry->connection, __entry->write ? "write" : "read",
		  __entry->length, __entry->status)
);

#endif /* _USMBD_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
