/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A flat face over librdmacm and libibverbs, for one connection at a time:
 * no struct of rdma-core crosses into Rust, so none is declared twice.
 * Functions return 0 or a count; a negative errno; or PEER_EVENT when another
 * rdma_cm event came than the one awaited (peer_event() tells which).
 */
#ifndef USMBD_PEER_SHIM_H
#define USMBD_PEER_SHIM_H

#include <stddef.h>
#include <stdint.h>

#define PEER_EVENT (-4096)

struct peer;
struct peer_listener;
struct ibv_mr;
struct ibv_mw;

/* Twin: verbs.rs, struct Completion. */
struct peer_completion {
	uint64_t id;
	uint32_t status;
	uint32_t length;
	uint32_t invalidated;
	uint32_t with_invalidate;
};

/* Twin: verbs.rs, struct QueueSizes. */
struct peer_sizes {
	uint32_t sends;
	uint32_t receives;
};

int peer_open(const char *host, uint16_t port, const char *source, int timeout_ms,
	      struct peer **result);
int peer_create_queue_pair(struct peer *p, const struct peer_sizes *sizes);
int peer_connect(struct peer *p, const void *private_data, uint8_t length, int timeout_ms);
int peer_accept(struct peer *p, const void *private_data, uint8_t length, int timeout_ms);
/* For the connect or accept to come, in the place of cifs.ko's. */
void peer_set_depths(struct peer *p, uint8_t responder_resources, uint8_t initiator_depth);
/* What came with the other side's request or answer: at most size bytes; their number. */
int peer_private_data(const struct peer *p, void *to, uint8_t size);
int peer_disconnect(struct peer *p);
int peer_break_queue_pair(struct peer *p);
void peer_close(struct peer *p);

int peer_listen(const char *host, uint16_t port, struct peer_listener **result);
int peer_next_request(struct peer_listener *l, int timeout_ms, struct peer **result);
void peer_listener_close(struct peer_listener *l);

int peer_is_iwarp(const struct peer *p);
uint32_t peer_responder_resources(struct peer *p);

int peer_poll(struct peer *p, struct peer_completion *out, int count, int timeout_ms);
/* The rdma_cm event that waits, taken off; -EAGAIN if none does. */
int peer_take_event(struct peer *p);
int peer_event(const struct peer *p, int *status);
const char *peer_event_name(int event);
const char *peer_status_name(int status);

int peer_register(struct peer *p, void *start, size_t length, int remote, struct ibv_mr **result);
uint32_t peer_local_key(const struct ibv_mr *mr);
uint32_t peer_remote_key(const struct ibv_mr *mr);
int peer_deregister(struct ibv_mr *mr);

int peer_window_allocate(struct peer *p, struct ibv_mw **result);
int peer_window_bind(struct peer *p, struct ibv_mw *mw, struct ibv_mr *mr, void *start,
		     size_t length, uint64_t id, uint32_t *key);
int peer_window_free(struct ibv_mw *mw);

int peer_post_receive(struct peer *p, uint64_t id, void *start, uint32_t length, uint32_t key);
int peer_post_send(struct peer *p, uint64_t id, const void *start, uint32_t length, uint32_t key,
		   const uint32_t *invalidate);

#endif
