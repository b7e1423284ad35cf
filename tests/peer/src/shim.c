/* SPDX-License-Identifier: GPL-2.0-only */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "shim.h"

struct peer {
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct ibv_comp_channel *completions;
	struct ibv_cq *cq;
	unsigned int unacknowledged;
	int event, event_status;
	/* Of a connect request, or of the answer to ours. */
	uint8_t private_data[UINT8_MAX], private_length;
	int has_depths;
	uint8_t responder_resources, initiator_depth;
};

struct peer_listener {
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id;
};

static int result_of(int ret)
{
	return ret ? -errno : 0;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static struct rdma_event_channel *open_channel(void)
{
	struct rdma_event_channel *channel = rdma_create_event_channel();

	if (channel)
		fcntl(channel->fd, F_SETFL, O_NONBLOCK);
	return channel;
}

static int wait_readable(int fd, int timeout_ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	int ret = poll(&pfd, 1, timeout_ms);

	if (ret < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	return ret ? 0 : -ETIMEDOUT;
}

static int await_event(struct peer *p, enum rdma_cm_event_type wanted, int timeout_ms)
{
	int ret = wait_readable(p->channel->fd, timeout_ms);

	if (!ret)
		ret = peer_take_event(p);
	if (ret < 0)
		return ret;
	return ret == (int)wanted && !p->event_status ? 0 : PEER_EVENT;
}

static int resolve_name(const char *host, uint16_t port, struct addrinfo **result)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM };
	char service[8];

	snprintf(service, sizeof(service), "%u", port);
	return getaddrinfo(host, service, &hints, result) ? -EINVAL : 0;
}

int peer_open(const char *host, uint16_t port, const char *source, int timeout_ms,
	      struct peer **result)
{
	struct addrinfo *to = NULL, *from = NULL;
	struct peer *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return -ENOMEM;
	*result = p;
	ret = resolve_name(host, port, &to);
	if (!ret && source)
		ret = resolve_name(source, 0, &from);
	if (ret)
		goto out;
	p->channel = open_channel();
	if (!p->channel) {
		ret = -errno;
		goto out;
	}
	ret = result_of(rdma_create_id(p->channel, &p->id, p, RDMA_PS_TCP));
	if (ret)
		goto out;
	ret = result_of(rdma_resolve_addr(p->id, from ? from->ai_addr : NULL, to->ai_addr,
					  timeout_ms));
	if (!ret)
		ret = await_event(p, RDMA_CM_EVENT_ADDR_RESOLVED, timeout_ms + 1000);
	if (!ret)
		ret = result_of(rdma_resolve_route(p->id, timeout_ms));
	if (!ret)
		ret = await_event(p, RDMA_CM_EVENT_ROUTE_RESOLVED, timeout_ms + 1000);
out:
	if (from)
		freeaddrinfo(from);
	if (to)
		freeaddrinfo(to);
	return ret;
}

int peer_create_queue_pair(struct peer *p, const struct peer_sizes *sizes)
{
	struct ibv_qp_init_attr attr = {
		.qp_type = IBV_QPT_RC,
		.cap = {
			.max_send_wr = sizes->sends,
			.max_recv_wr = sizes->receives,
			.max_send_sge = 1,
			.max_recv_sge = 1,
		},
	};

	p->pd = ibv_alloc_pd(p->id->verbs);
	if (!p->pd)
		return -errno;
	p->completions = ibv_create_comp_channel(p->id->verbs);
	if (!p->completions)
		return -errno;
	fcntl(p->completions->fd, F_SETFL, O_NONBLOCK);
	p->cq = ibv_create_cq(p->id->verbs, sizes->sends + sizes->receives + 1, NULL,
			      p->completions, 0);
	if (!p->cq)
		return -errno;
	attr.send_cq = p->cq;
	attr.recv_cq = p->cq;
	return result_of(rdma_create_qp(p->id, p->pd, &attr));
}

uint32_t peer_responder_resources(struct peer *p)
{
	struct ibv_device_attr attr;

	if (ibv_query_device(p->id->verbs, &attr))
		return 1;
	return attr.max_qp_rd_atom < 32 ? (uint32_t)attr.max_qp_rd_atom : 32;
}

/* What cifs.ko asks for: the server reads our memory, we never read its. */
static struct rdma_conn_param connection_parameters(struct peer *p)
{
	struct rdma_conn_param param = {
		.responder_resources = (uint8_t)peer_responder_resources(p),
		.initiator_depth = 1,
		.retry_count = 6,
		.rnr_retry_count = 0,
	};
	if (p->has_depths) {
		param.responder_resources = p->responder_resources;
		param.initiator_depth = p->initiator_depth;
	}
	return param;
}

void peer_set_depths(struct peer *p, uint8_t responder_resources, uint8_t initiator_depth)
{
	p->has_depths = 1;
	p->responder_resources = responder_resources;
	p->initiator_depth = initiator_depth;
}

static void keep_private_data(struct peer *p, const struct rdma_cm_event *event)
{
	const struct rdma_conn_param *param = &event->param.conn;

	p->private_length = param->private_data ? param->private_data_len : 0;
	if (p->private_length)
		memcpy(p->private_data, param->private_data, p->private_length);
}

int peer_private_data(const struct peer *p, void *to, uint8_t size)
{
	uint8_t length = p->private_length < size ? p->private_length : size;

	memcpy(to, p->private_data, length);
	return length;
}

int peer_connect(struct peer *p, const void *private_data, uint8_t length, int timeout_ms)
{
	struct rdma_conn_param param = connection_parameters(p);
	int ret;

	param.private_data = private_data;
	param.private_data_len = length;
	ret = result_of(rdma_connect(p->id, &param));
	return ret ? ret : await_event(p, RDMA_CM_EVENT_ESTABLISHED, timeout_ms);
}

int peer_accept(struct peer *p, const void *private_data, uint8_t length, int timeout_ms)
{
	struct rdma_conn_param param = connection_parameters(p);
	int ret;

	param.private_data = private_data;
	param.private_data_len = length;
	ret = result_of(rdma_accept(p->id, &param));
	return ret ? ret : await_event(p, RDMA_CM_EVENT_ESTABLISHED, timeout_ms);
}

int peer_disconnect(struct peer *p)
{
	return result_of(rdma_disconnect(p->id));
}

/* Ends the queue pair without a word to the other side. */
int peer_break_queue_pair(struct peer *p)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

	return -ibv_modify_qp(p->id->qp, &attr, IBV_QP_STATE);
}

void peer_close(struct peer *p)
{
	if (!p)
		return;
	if (p->id && p->id->qp)
		rdma_destroy_qp(p->id);
	if (p->cq) {
		ibv_ack_cq_events(p->cq, p->unacknowledged);
		ibv_destroy_cq(p->cq);
	}
	if (p->completions)
		ibv_destroy_comp_channel(p->completions);
	if (p->pd)
		ibv_dealloc_pd(p->pd);
	if (p->id)
		rdma_destroy_id(p->id);
	if (p->channel)
		rdma_destroy_event_channel(p->channel);
	free(p);
}

int peer_listen(const char *host, uint16_t port, struct peer_listener **result)
{
	struct peer_listener *l = calloc(1, sizeof(*l));
	struct addrinfo *address = NULL;
	int ret;

	if (!l)
		return -ENOMEM;
	*result = l;
	ret = resolve_name(host, port, &address);
	if (ret)
		return ret;
	l->channel = open_channel();
	ret = l->channel ? 0 : -errno;
	if (!ret)
		ret = result_of(rdma_create_id(l->channel, &l->id, l, RDMA_PS_TCP));
	if (!ret)
		ret = result_of(rdma_bind_addr(l->id, address->ai_addr));
	if (!ret)
		ret = result_of(rdma_listen(l->id, 64));
	freeaddrinfo(address);
	return ret;
}

int peer_next_request(struct peer_listener *l, int timeout_ms, struct peer **result)
{
	struct rdma_cm_event *event;
	struct peer *p;
	int ret = wait_readable(l->channel->fd, timeout_ms);

	if (ret)
		return ret;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	ret = result_of(rdma_get_cm_event(l->channel, &event));
	if (!ret && event->event == RDMA_CM_EVENT_CONNECT_REQUEST) {
		p->id = event->id;
		keep_private_data(p, event);
	}
	if (!ret)
		rdma_ack_cm_event(event);
	if (!p->id) {
		free(p);
		return ret ? ret : -EAGAIN;
	}
	*result = p;
	p->id->context = p;
	p->channel = open_channel();
	return p->channel ? result_of(rdma_migrate_id(p->id, p->channel)) : -errno;
}

void peer_listener_close(struct peer_listener *l)
{
	if (!l)
		return;
	if (l->id)
		rdma_destroy_id(l->id);
	if (l->channel)
		rdma_destroy_event_channel(l->channel);
	free(l);
}

int peer_is_iwarp(const struct peer *p)
{
	return p->id->verbs->device->transport_type == IBV_TRANSPORT_IWARP;
}

int peer_take_event(struct peer *p)
{
	struct rdma_cm_event *event;

	if (rdma_get_cm_event(p->channel, &event))
		return -errno;
	p->event = (int)event->event;
	p->event_status = event->status;
	if (event->event == RDMA_CM_EVENT_ESTABLISHED && event->param.conn.private_data)
		keep_private_data(p, event);
	rdma_ack_cm_event(event);
	return p->event;
}

int peer_event(const struct peer *p, int *status)
{
	*status = p->event_status;
	return p->event;
}

const char *peer_event_name(int event)
{
	return rdma_event_str((enum rdma_cm_event_type)event);
}

const char *peer_status_name(int status)
{
	return ibv_wc_status_str((enum ibv_wc_status)status);
}

static int poll_once(struct peer *p, struct peer_completion *out, int count)
{
	struct ibv_wc wc;
	int n, ret;

	for (n = 0; n < count; n++) {
		ret = ibv_poll_cq(p->cq, 1, &wc);
		if (ret < 0)
			return -EIO;
		if (!ret)
			break;
		out[n].id = wc.wr_id;
		out[n].status = wc.status;
		/* Only id and status mean something on an error. */
		out[n].length = wc.status ? 0 : wc.byte_len;
		/*
		 * rxe hands the kernel's flags through, whose IB_WC_WITH_INVALIDATE
		 * is the bit that libibverbs calls IBV_WC_IP_CSUM_OK.
		 */
		out[n].with_invalidate = !wc.status && !(wc.wc_flags & IBV_WC_WITH_IMM) &&
			(wc.wc_flags & (IBV_WC_WITH_INV | IBV_WC_IP_CSUM_OK));
		out[n].invalidated = out[n].with_invalidate ? wc.invalidated_rkey : 0;
	}
	return n;
}

static void take_notifications(struct peer *p)
{
	struct ibv_cq *cq;
	void *context;

	while (!ibv_get_cq_event(p->completions, &cq, &context))
		p->unacknowledged++;
}

/* Completions, or 0 when time is over or an rdma_cm event waits. */
int peer_poll(struct peer *p, struct peer_completion *out, int count, int timeout_ms)
{
	int64_t end = now_ms() + timeout_ms, left;
	struct pollfd fds[2] = {
		{ .fd = p->completions->fd, .events = POLLIN },
		{ .fd = p->channel->fd, .events = POLLIN },
	};
	int ret;

	for (;;) {
		ret = poll_once(p, out, count);
		if (ret)
			return ret;
		left = end - now_ms();
		if (left <= 0)
			return 0;
		ret = -ibv_req_notify_cq(p->cq, 0);
		if (ret)
			return ret;
		ret = poll_once(p, out, count);
		if (ret)
			return ret;
		/* A wake-up that a provider loses costs a moment, not the test. */
		ret = poll(fds, 2, left < 200 ? (int)left : 200);
		if (ret < 0 && errno != EINTR)
			return -errno;
		if (ret <= 0)
			continue;
		take_notifications(p);
		if (fds[1].revents)
			return poll_once(p, out, count);
	}
}

int peer_register(struct peer *p, void *start, size_t length, int remote, struct ibv_mr **result)
{
	int access = IBV_ACCESS_LOCAL_WRITE;

	if (remote)
		access |= IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
	/* A window can be bound to it where the device knows windows. */
	if (remote && !peer_is_iwarp(p))
		access |= IBV_ACCESS_MW_BIND;
	*result = ibv_reg_mr(p->pd, start, length, access);
	return *result ? 0 : -errno;
}

uint32_t peer_local_key(const struct ibv_mr *mr)
{
	return mr->lkey;
}

uint32_t peer_remote_key(const struct ibv_mr *mr)
{
	return mr->rkey;
}

int peer_deregister(struct ibv_mr *mr)
{
	return -ibv_dereg_mr(mr);
}

int peer_window_allocate(struct peer *p, struct ibv_mw **result)
{
	errno = EOPNOTSUPP;
	*result = ibv_alloc_mw(p->pd, IBV_MW_TYPE_2);
	return *result ? 0 : -errno;
}

int peer_window_bind(struct peer *p, struct ibv_mw *mw, struct ibv_mr *mr, void *start,
		     size_t length, uint64_t id, uint32_t *key)
{
	struct ibv_send_wr *bad, wr = {
		.wr_id = id,
		.opcode = IBV_WR_BIND_MW,
		.send_flags = IBV_SEND_SIGNALED,
		.bind_mw = {
			.mw = mw,
			.rkey = ibv_inc_rkey(mw->rkey),
			.bind_info = {
				.mr = mr,
				.addr = (uint64_t)(uintptr_t)start,
				.length = length,
				.mw_access_flags = IBV_ACCESS_REMOTE_READ |
						   IBV_ACCESS_REMOTE_WRITE,
			},
		},
	};
	int ret = -ibv_post_send(p->id->qp, &wr, &bad);

	if (!ret)
		*key = mw->rkey = wr.bind_mw.rkey;
	return ret;
}

int peer_window_free(struct ibv_mw *mw)
{
	return -ibv_dealloc_mw(mw);
}

int peer_post_receive(struct peer *p, uint64_t id, void *start, uint32_t length, uint32_t key)
{
	struct ibv_sge sge = { .addr = (uintptr_t)start, .length = length, .lkey = key };
	struct ibv_recv_wr *bad, wr = { .wr_id = id, .sg_list = &sge, .num_sge = 1 };

	return -ibv_post_recv(p->id->qp, &wr, &bad);
}

int peer_post_send(struct peer *p, uint64_t id, const void *start, uint32_t length, uint32_t key,
		   const uint32_t *invalidate)
{
	struct ibv_sge sge = { .addr = (uintptr_t)start, .length = length, .lkey = key };
	struct ibv_send_wr *bad, wr = {
		.wr_id = id,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = invalidate ? IBV_WR_SEND_WITH_INV : IBV_WR_SEND,
		.send_flags = IBV_SEND_SIGNALED,
		.invalidate_rkey = invalidate ? *invalidate : 0,
	};

	return -ibv_post_send(p->id->qp, &wr, &bad);
}
