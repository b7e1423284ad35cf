/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Userspace SMB Direct: the C API of libusmbd.so.
 *
 * The Rust crate `usmbd` is the same library and says more; docs/abi.md describes the records that
 * go over the device.
 *
 * Functions that return int give zero or a negative errno, unless it says otherwise;
 * usmbd_error() tells the calling thread, in words, what its last failure was and what to do.
 * One thread at a time may use a context; others may use descriptors of their own (usmbd_from_fd
 * of a dup).
 */
#ifndef USMBD_H
#define USMBD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the records: major in the upper half. */
#define USMBD_ABI_VERSION 0x00010000u

/*
 * The records. Little-endian on every machine; all fields stand on their natural alignment.
 */

struct usmbd_header {
	uint32_t length;	/* bytes of the whole record, a multiple of 8 */
	uint16_t opcode;	/* USMBD_CMD_* or USMBD_EV_* */
	uint16_t flags;
	uint64_t user_data;	/* echoed in the event that completes the command */
};

struct usmbd_batch_header {	/* starts what one read() returns */
	uint32_t count;		/* events that follow */
	uint32_t bytes;		/* bytes returned, this header included */
	uint32_t still_queued;	/* events left */
	uint32_t next_length;	/* bytes of the next one's record */
};

#define USMBD_IPV4 2
#define USMBD_IPV6 10

struct usmbd_address {
	uint16_t family;	/* USMBD_IPV4, USMBD_IPV6, or zero for any */
	uint16_t port;		/* a number, not in network order */
	uint32_t flow;		/* IPv6 only */
	uint32_t scope;		/* IPv6 only: interface index of a link-local address */
	uint32_t reserved;
	uint8_t address[16];	/* network order; IPv4 in the first four bytes */
};

#define USMBD_FABRIC_INFINIBAND 1
#define USMBD_FABRIC_ROCE 2
#define USMBD_FABRIC_IWARP 3

struct usmbd_negotiated {
	uint32_t max_send_size;
	uint32_t max_receive_size;
	uint32_t max_fragmented_send_size;	/* largest message to send */
	uint32_t max_fragmented_recv_size;	/* largest message to receive */
	uint32_t max_read_write_size;		/* most bytes of one RDMA transfer */
	uint16_t receive_credit_max;
	uint16_t send_credit_target;
};

struct usmbd_range {		/* local memory */
	uint32_t buffer;	/* number of a buffer of the area, or handle of registered memory */
	uint32_t offset;
	uint32_t length;
	uint32_t reserved;
};

struct usmbd_descriptor {	/* Buffer Descriptor V1, as it came from the wire */
	uint64_t offset;
	uint32_t token;
	uint32_t length;
};

struct usmbd_presumption {	/* a negotiate context that a request must have */
	uint16_t context_type;	/* [MS-SMB2] 2.2.3.1 */
	uint16_t id;		/* an algorithm in it, or USMBD_ANY_ID */
	uint32_t reserved;
};

#define USMBD_ANY_ID 0xffff

/* Commands. */
#define USMBD_CMD_HELLO 0x0001
#define USMBD_CMD_NOP 0x0002
#define USMBD_CMD_SET_PARAMETERS 0x0010
#define USMBD_CMD_SET_NEGOTIATE_TEMPLATE 0x0011
#define USMBD_CMD_SET_SESSION_ID 0x0012
#define USMBD_CMD_CLEAR_SESSION_ID 0x0013
#define USMBD_CMD_SET_CLIENT_GUID 0x0014
#define USMBD_CMD_CLEAR_CLIENT_GUID 0x0015
#define USMBD_CMD_GET_MEMORY_PARAMETERS 0x0020
#define USMBD_CMD_REGISTER_MEMORY 0x0021
#define USMBD_CMD_UNREGISTER_MEMORY 0x0022
#define USMBD_CMD_LISTEN 0x0030
#define USMBD_CMD_CLOSE_LISTENER 0x0031
#define USMBD_CMD_ACCEPT 0x0032
#define USMBD_CMD_REJECT 0x0033
#define USMBD_CMD_CONNECT 0x0034
#define USMBD_CMD_SEND_PDU 0x0040
#define USMBD_CMD_RDMA_READ 0x0041
#define USMBD_CMD_RDMA_WRITE 0x0042
#define USMBD_CMD_DISCONNECT 0x0043
#define USMBD_CMD_QUERY_STATISTICS 0x0050
#define USMBD_CMD_LIST_CONNECTIONS 0x0051
#define USMBD_CMD_DROP 0x0052

#define USMBD_QUIET 0x0001	/* make an event only if it failed */
#define USMBD_INVALIDATE 0x0002	/* SEND_PDU: invalidate the peer's key */
#define USMBD_RANGES 0x0004	/* SEND_PDU: the message stands in ranges */
#define USMBD_FEATURE_AT_MOST_ONE 0x1	/* read() returns one event at most */

#define USMBD_MAX_RANGES 64
#define USMBD_MAX_DESCRIPTORS 4095
#define USMBD_MAX_PAYLOAD_LENGTH 0x1000000u
#define USMBD_MAX_TEMPLATES 4
#define USMBD_MIN_TEMPLATE_LENGTH 128
#define USMBD_MAX_TEMPLATE_LENGTH 4096
#define USMBD_MAX_PRESUMPTIONS 32
#define USMBD_MAX_REGISTRATION_LENGTH 0x40000000ull
#define USMBD_MAX_BACKLOG 4096

struct usmbd_cmd_hello {
	uint32_t version;
	uint32_t reserved;
	uint64_t features;
};

struct usmbd_cmd_set_parameters {	/* zero: leave as it is */
	uint32_t receive_credit_max;
	uint32_t send_credit_target;
	uint32_t max_send_size;
	uint32_t max_receive_size;
	uint32_t max_fragmented_recv_size;
	uint32_t max_read_write_size;
	uint32_t keepalive_interval;	/* milliseconds */
	uint32_t reserved;
};

struct usmbd_cmd_set_negotiate_template {	/* presumptions and response follow */
	uint32_t template_number;
	uint32_t response_length;	/* zero clears the template */
	uint16_t presumption_count;
	uint16_t reserved[3];
};

struct usmbd_cmd_session_id {	/* SET_SESSION_ID and CLEAR_SESSION_ID */
	uint64_t session_id;
};

struct usmbd_cmd_client_guid {	/* SET_CLIENT_GUID and CLEAR_CLIENT_GUID */
	uint8_t client_guid[16];
};

struct usmbd_cmd_register_memory {
	uint64_t address;
	uint64_t length;
};

struct usmbd_cmd_unregister_memory {
	uint32_t handle;
	uint32_t reserved;
};

#define USMBD_MODE_TICKET 0	/* connections are handed over by ticket */
#define USMBD_MODE_ROUTE 1	/* to whom has claimed their client or session */

struct usmbd_cmd_listen {
	struct usmbd_address address;	/* its port is that of InfiniBand and RoCE; zero for 445 */
	uint16_t iwarp_port;		/* zero for 5445 */
	uint16_t mode;			/* USMBD_MODE_* */
	uint16_t backlog;		/* zero for 64 */
	uint16_t reserved;
};

struct usmbd_cmd_close_listener {
	uint32_t listener;
	uint32_t reserved;
};

struct usmbd_cmd_accept {	/* ACCEPT and REJECT */
	uint8_t ticket[16];
};

struct usmbd_cmd_connect {
	struct usmbd_address peer;	/* port zero: 445, or 5445 on iWARP */
	struct usmbd_address local;	/* family zero leaves the choice to the routes */
	uint64_t reserved;
};

struct usmbd_cmd_send_pdu {	/* the payload follows, padded with zeros; or the ranges */
	uint64_t connection;
	uint32_t payload_length;
	uint32_t invalidate_token;
};

struct usmbd_cmd_transfer {	/* RDMA_READ and RDMA_WRITE; ranges and descriptors follow */
	uint64_t connection;
	uint16_t range_count;
	uint16_t descriptor_count;
	uint32_t reserved;
};

struct usmbd_cmd_disconnect {
	uint64_t connection;
};

struct usmbd_cmd_query_statistics {
	uint64_t connection;	/* zero for the whole context */
};

struct usmbd_cmd_list_connections {
	uint64_t after;
};

struct usmbd_cmd_drop {
	uint64_t connection;
};

/* Events. */
#define USMBD_EV_HELLO_DONE 0x8001
#define USMBD_EV_NOP_DONE 0x8002
#define USMBD_EV_MEMORY_PARAMETERS 0x8020
#define USMBD_EV_MEMORY_REGISTERED 0x8021
#define USMBD_EV_MEMORY_UNREGISTERED 0x8022
#define USMBD_EV_LISTENING 0x8030
#define USMBD_EV_LISTENER_CLOSED 0x8031
#define USMBD_EV_LISTENER_CHANGED 0x8032
#define USMBD_EV_CONNECTION_READY 0x8033
#define USMBD_EV_ACCEPTED 0x8034
#define USMBD_EV_CONNECTION_ROUTED 0x8035
#define USMBD_EV_NEGOTIATE_ANSWERED 0x8036
#define USMBD_EV_CONNECTED 0x8037
#define USMBD_EV_PDU_RECEIVED 0x8040
#define USMBD_EV_PDU_SENT 0x8041
#define USMBD_EV_RDMA_COMPLETE 0x8042
#define USMBD_EV_DISCONNECTED 0x8043
#define USMBD_EV_SEND_READY 0x8044
#define USMBD_EV_STATISTICS 0x8050
#define USMBD_EV_CONNECTIONS 0x8051

#define USMBD_INVALIDATED 0x0001	/* PDU_RECEIVED: the peer invalidated our key */

struct usmbd_ev_hello_done {
	uint32_t version;
	uint32_t reserved;
	uint64_t features;
};

struct usmbd_ev_memory_parameters {
	uint64_t area_offset;
	uint64_t status_page_offset;
	uint32_t buffer_count;
	uint32_t buffer_size;
	uint32_t status_page_length;
	uint32_t reserved;
};

struct usmbd_ev_memory_registered {
	uint32_t handle;	/* stands in ranges in the place of a buffer's number */
	uint32_t reserved;
	uint64_t length;
};

struct usmbd_ev_memory_unregistered {
	uint32_t handle;
	uint32_t reserved;
};

struct usmbd_ev_listening {
	uint32_t status;	/* see usmbd_status_text() */
	uint32_t listener;
};

struct usmbd_ev_listener_closed {
	uint32_t listener;
	uint32_t reserved;
};

struct usmbd_ev_listener_changed {	/* the RDMA devices that it serves now */
	uint32_t listener;
	uint16_t infiniband_devices;	/* InfiniBand and RoCE */
	uint16_t iwarp_devices;
};

struct usmbd_ev_connection_ready {
	uint32_t listener;
	uint32_t fabric;
	uint64_t connection;
	uint8_t ticket[16];
	struct usmbd_address local;
	struct usmbd_address peer;
	struct usmbd_negotiated negotiated;	/* from here on, of a listener that routes */
	uint8_t client_guid[16];
	uint64_t session_id;
};

struct usmbd_ev_accepted {
	uint64_t connection;
	uint32_t status;
	uint32_t fabric;
	struct usmbd_negotiated negotiated;
	struct usmbd_address local;
	struct usmbd_address peer;
};

struct usmbd_ev_connected {	/* all but status and peer are zero if it failed */
	uint64_t connection;
	uint32_t status;
	uint32_t fabric;
	struct usmbd_negotiated negotiated;
	struct usmbd_address local;
	struct usmbd_address peer;
};

#define USMBD_CLAIM_CLIENT_GUID 1	/* NEGOTIATE is not answered */
#define USMBD_CLAIM_SESSION_ID 2	/* NEGOTIATE was answered from a template */

struct usmbd_ev_connection_routed {	/* the messages that were read follow as events */
	uint64_t connection;
	uint32_t claim;		/* USMBD_CLAIM_*: what matched */
	uint32_t fabric;
	struct usmbd_negotiated negotiated;
	struct usmbd_address local;
	struct usmbd_address peer;
	uint8_t client_guid[16];
	uint64_t session_id;
};

struct usmbd_ev_negotiate_answered {	/* the response follows, as it was sent */
	uint64_t connection;
	uint32_t payload_length;
	uint32_t template_number;
};

struct usmbd_ev_pdu_received {	/* the payload follows */
	uint64_t connection;
	uint32_t total;		/* bytes of the whole message */
	uint32_t offset;	/* where in it this piece starts */
	uint32_t payload_length;
	uint32_t invalidated_token;
};

struct usmbd_ev_pdu_sent {
	uint64_t connection;
	uint32_t status;
	uint32_t reserved;
};

struct usmbd_ev_rdma_complete {
	uint64_t connection;
	uint32_t status;
	uint32_t length;
};

struct usmbd_ev_disconnected {
	uint64_t connection;
	uint32_t reason;	/* see usmbd_reason_text() */
	uint32_t reserved;
};

struct usmbd_ev_send_ready {
	uint64_t connection;
};

struct usmbd_counters {
	uint64_t pdus_sent;
	uint64_t pdus_received;
	uint64_t messages_sent;
	uint64_t messages_received;
	uint64_t message_bytes_sent;
	uint64_t message_bytes_received;
	uint64_t rdma_reads;
	uint64_t rdma_read_bytes;
	uint64_t rdma_writes;
	uint64_t rdma_write_bytes;
	uint64_t remote_invalidations;
};

struct usmbd_ev_statistics {
	uint64_t connection;	/* zero for the whole context */
	struct usmbd_counters counters;
};

struct usmbd_ev_connections {	/* `count` struct usmbd_connection_info follow */
	uint32_t count;
	uint32_t left;		/* with greater numbers, that did not fit */
};

#define USMBD_MAX_LISTED 32

struct usmbd_connection_info {
	uint64_t connection;
	uint32_t phase;		/* USMBD_PHASE_* */
	uint32_t fabric;
	struct usmbd_address local;
	struct usmbd_address peer;
	char device[32];	/* filled up with zeros */
	uint32_t uid;		/* of the opener of the context that has it */
	uint16_t send_credits;
	uint16_t receive_credits;
	uint64_t memory;	/* bytes of kernel memory of its own */
	struct usmbd_counters counters;
};

#define USMBD_PHASE_NEGOTIATING 1
#define USMBD_PHASE_ROUTING 2
#define USMBD_PHASE_OFFERED 3
#define USMBD_PHASE_SERVING 4
#define USMBD_PHASE_LINGERING 5
#define USMBD_PHASE_DRAINING 6
#define USMBD_PHASE_CONNECTING 7

/* Where mmap() finds what. */
#define USMBD_AREA_OFFSET 0ull
#define USMBD_BUFFER_SIZE 0x100000u
#define USMBD_STATUS_PAGE_OFFSET 0x10000000000ull
#define USMBD_STATUS_PAGE_LENGTH 4096u

struct usmbd_status_page {
	uint32_t abi_version;
	uint32_t sequence;	/* odd while the page is changed */
	uint32_t connections;
	uint32_t state;		/* USMBD_STATE_* */
	uint32_t reason;
	uint32_t fabric;
	uint64_t connection;
	struct usmbd_address local;
	struct usmbd_address peer;
	struct usmbd_negotiated negotiated;
	uint64_t bytes_accepted;
	uint64_t bytes_completed;
};

#define USMBD_STATE_NONE 0
#define USMBD_STATE_ACCEPTING 1
#define USMBD_STATE_ESTABLISHED 2
#define USMBD_STATE_DISCONNECTED 3

/*
 * The functions.
 */

struct usmbd;

/* Opens /dev/usmbd; NULL on failure, with errno set. */
struct usmbd *usmbd_open(void);

/* Takes over a descriptor of the device, as one that came by SCM_RIGHTS; NULL on failure, and then
 * the descriptor is still the caller's. */
struct usmbd *usmbd_from_fd(int fd);

/* Closes the descriptor and unmaps the area. NULL is allowed. */
void usmbd_close(struct usmbd *usmbd);

/* The descriptor, for poll() and epoll: events are there, if usmbd_next_event() has none, when it is
 * readable. */
int usmbd_fd(const struct usmbd *usmbd);

/* What the calling thread's last failure was. Good until its next call. */
const char *usmbd_error(void);

/* Texts of numbers in events, good as long as the process. */
const char *usmbd_status_text(uint32_t status);
const char *usmbd_reason_text(uint32_t reason);

/* Agrees on version and features, and waits for that. `version` and `used` may be NULL. */
int usmbd_hello(struct usmbd *usmbd, uint64_t features, uint32_t *version, uint64_t *used);

/* Commands. They take effect when they return zero; -EAGAIN, only on an O_NONBLOCK descriptor or
 * for want of event slots, means to read events and try again. */
int usmbd_set_parameters(struct usmbd *usmbd, const struct usmbd_cmd_set_parameters *parameters);
int usmbd_listen(struct usmbd *usmbd, const struct usmbd_cmd_listen *listen, uint64_t user_data);
int usmbd_close_listener(struct usmbd *usmbd, uint32_t listener, uint64_t user_data);
int usmbd_accept(struct usmbd *usmbd, const uint8_t ticket[16], uint64_t user_data);
int usmbd_reject(struct usmbd *usmbd, const uint8_t ticket[16]);
int usmbd_connect(struct usmbd *usmbd, const struct usmbd_cmd_connect *connect, uint64_t user_data);
int usmbd_disconnect(struct usmbd *usmbd, uint64_t connection, uint64_t user_data);
int usmbd_nop(struct usmbd *usmbd, uint64_t user_data);

/* Sends one message, gathered from `count` parts without a copy in this process. `flags` are
 * USMBD_QUIET and USMBD_INVALIDATE (then of `token`, else zero). */
int usmbd_send(struct usmbd *usmbd, uint64_t connection, uint64_t user_data, uint16_t flags,
	       uint32_t token, const struct iovec *parts, size_t count);

/* As usmbd_send(), for a message that stands in the area or in registered memory, which must stay as it
 * is until PDU_SENT. */
int usmbd_send_ranges(struct usmbd *usmbd, uint64_t connection, uint64_t user_data, uint16_t flags,
		      uint32_t token, const struct usmbd_range *ranges, size_t count);

/* Moves data between local memory and the peer's. `flags`: USMBD_QUIET; the memory is free again then
 * when a later transfer of the same kind on the same connection has completed. */
int usmbd_rdma_read(struct usmbd *usmbd, uint64_t connection, uint64_t user_data, uint16_t flags,
		    const struct usmbd_range *ranges, size_t range_count,
		    const struct usmbd_descriptor *descriptors, size_t descriptor_count);
int usmbd_rdma_write(struct usmbd *usmbd, uint64_t connection, uint64_t user_data, uint16_t flags,
		     const struct usmbd_range *ranges, size_t range_count,
		     const struct usmbd_descriptor *descriptors, size_t descriptor_count);

/*
 * Routing. A template is a whole SMB2 NEGOTIATE response, with which listeners of this context in
 * USMBD_MODE_ROUTE answer clients that offer its dialect and fulfil the presumptions; no response and
 * no presumptions clear it. Claims bring the connections of a session or a client to this context:
 * -EEXIST if another has claimed it, -ENOENT to clear what was not claimed.
 */
int usmbd_set_negotiate_template(struct usmbd *usmbd, uint32_t number,
				 const struct usmbd_presumption *presumptions,
				 size_t presumption_count, const void *response,
				 size_t response_length);
int usmbd_set_session_id(struct usmbd *usmbd, uint64_t session_id);
int usmbd_clear_session_id(struct usmbd *usmbd, uint64_t session_id);
int usmbd_set_client_guid(struct usmbd *usmbd, const uint8_t guid[16]);
int usmbd_clear_client_guid(struct usmbd *usmbd, const uint8_t guid[16]);

/*
 * Registers memory of this process, so that ranges can name it by the handle in MEMORY_REGISTERED.
 * Call usmbd_map_area() before: without it, -EFAULT. The memory must stay allocated until
 * MEMORY_UNREGISTERED; what a transfer under way names must be left alone.
 */
int usmbd_register_memory(struct usmbd *usmbd, void *start, size_t length, uint64_t user_data);
int usmbd_unregister_memory(struct usmbd *usmbd, uint32_t handle, uint64_t user_data);

/* Questions, answered by STATISTICS (of a connection, or for zero of the context) and by CONNECTIONS
 * (of which the number is greater than `after`). The latter and usmbd_drop(), which disconnects
 * anybody's connection, need CAP_NET_ADMIN of the opener: else -EPERM. */
int usmbd_query_statistics(struct usmbd *usmbd, uint64_t connection, uint64_t user_data);
int usmbd_list_connections(struct usmbd *usmbd, uint64_t after, uint64_t user_data);
int usmbd_drop(struct usmbd *usmbd, uint64_t connection);

/*
 * The next event: a record, header first, good until the next call for this context. Waits for one
 * if `wait` is not zero. Zero, or -EAGAIN if there is none, or another negative errno. Events of
 * kinds that this library does not know are passed on; skip them.
 */
int usmbd_next_event(struct usmbd *usmbd, int wait, const struct usmbd_header **event);

/* Events that were read already and wait for usmbd_next_event(): while this is not zero, poll() does
 * not tell all. */
uint32_t usmbd_events_at_hand(const struct usmbd *usmbd);

/* Maps the registration area, once: `*length` bytes at `*start`, in buffers of USMBD_BUFFER_SIZE.
 * Touch a buffer before it is named in a transfer. It is unmapped by usmbd_close(). Call it before
 * events are expected, as it waits for an answer of its own. */
int usmbd_map_area(struct usmbd *usmbd, void **start, size_t *length);

/* A consistent copy of the status page. */
int usmbd_status(struct usmbd *usmbd, struct usmbd_status_page *status);

#ifdef __cplusplus
}
#endif

#endif
