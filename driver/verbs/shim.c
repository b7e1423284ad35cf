// SPDX-License-Identifier: GPL-2.0-only
/*
 * Functions for what has no symbol: static inlines and macros of the kernel.
 * Each does what its name says and nothing else; the argument why a call is
 * safe stands at its Rust caller.
 */

#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/mm.h>
#include <linux/netdevice.h>
#include <linux/nsproxy.h>
#include <linux/scatterlist.h>
#include <linux/sched/signal.h>
#include <linux/uidgid.h>
#include <net/net_namespace.h>
#include <rdma/ib_verbs.h>
#include <rdma/rdma_cm.h>

#include "shim.h"

int usmbd_post_send(struct ib_qp *qp, const struct ib_send_wr *wr,
		    const struct ib_send_wr **bad)
{
	return ib_post_send(qp, wr, bad);
}

int usmbd_post_recv(struct ib_qp *qp, const struct ib_recv_wr *wr,
		    const struct ib_recv_wr **bad)
{
	return ib_post_recv(qp, wr, bad);
}

int usmbd_modify_qp_to_error(struct ib_qp *qp)
{
	struct ib_qp_attr attr = { .qp_state = IB_QPS_ERR };

	return ib_modify_qp(qp, &attr, IB_QP_STATE);
}

int usmbd_poll_cq(struct ib_cq *cq, int count, struct ib_wc *out)
{
	return ib_poll_cq(cq, count, out);
}

int usmbd_req_notify_cq(struct ib_cq *cq)
{
	return ib_req_notify_cq(cq, IB_CQ_NEXT_COMP |
				    IB_CQ_REPORT_MISSED_EVENTS);
}

u64 usmbd_wc_wr_id(const struct ib_wc *wc)
{
	return wc->wr_id;
}

u32 usmbd_wc_invalidated(const struct ib_wc *wc)
{
	return wc->ex.invalidate_rkey;
}

bool usmbd_protocol_iwarp(const struct ib_device *dev, u32 port)
{
	return rdma_protocol_iwarp(dev, port);
}

bool usmbd_protocol_roce(const struct ib_device *dev, u32 port)
{
	return rdma_protocol_roce(dev, port);
}

void usmbd_device_limits(const struct ib_device *dev,
			 struct usmbd_limits *limits)
{
	const struct ib_device_attr *attrs = &dev->attrs;

	*limits = (struct usmbd_limits) {
		.max_send_sge = attrs->max_send_sge,
		.max_sge_rd = attrs->max_sge_rd,
		.max_qp_wr = attrs->max_qp_wr,
		.max_cqe = attrs->max_cqe,
		.max_qp_init_rd_atom = attrs->max_qp_init_rd_atom,
		.max_fast_reg_pages = attrs->max_fast_reg_page_list_len,
		.fast_registration = !!(attrs->device_cap_flags &
					IB_DEVICE_MEM_MGT_EXTENSIONS),
		.ports = dev->phys_port_cnt,
	};
}

bool usmbd_port_is_in_net(struct ib_device *dev, u32 port,
			  const struct net *net)
{
	struct net_device *netdev = ib_device_get_netdev(dev, port);
	bool same;

	/* InfiniBand's ports have none. */
	if (!netdev)
		return rdma_dev_access_netns(dev, net);
	same = net_eq(dev_net(netdev), net);
	dev_put(netdev);
	return same;
}

u64 usmbd_dma_map_single(struct ib_device *dev, void *addr, size_t size,
			 int direction)
{
	return ib_dma_map_single(dev, addr, size, direction);
}

void usmbd_dma_unmap_single(struct ib_device *dev, u64 addr, size_t size,
			    int direction)
{
	ib_dma_unmap_single(dev, addr, size, direction);
}

int usmbd_dma_mapping_error(struct ib_device *dev, u64 addr)
{
	return ib_dma_mapping_error(dev, addr);
}

void usmbd_dma_sync_for_cpu(struct ib_device *dev, u64 addr, size_t size,
			    int direction)
{
	ib_dma_sync_single_for_cpu(dev, addr, size, direction);
}

void usmbd_dma_sync_for_device(struct ib_device *dev, u64 addr, size_t size,
			       int direction)
{
	ib_dma_sync_single_for_device(dev, addr, size, direction);
}

int usmbd_dma_map_sg(struct ib_device *dev, struct scatterlist *sg, int count)
{
	/*
	 * User space works on these pages with no sync call in between, so a
	 * mapping that would bounce or need cache maintenance must fail.
	 */
	return ib_dma_map_sg_attrs(dev, sg, count, DMA_BIDIRECTIONAL,
				   DMA_ATTR_REQUIRE_COHERENT);
}

void usmbd_dma_unmap_sg(struct ib_device *dev, struct scatterlist *sg,
			int count)
{
	ib_dma_unmap_sg_attrs(dev, sg, count, DMA_BIDIRECTIONAL,
			      DMA_ATTR_REQUIRE_COHERENT);
}

void usmbd_sg_init_table(struct scatterlist *sg, unsigned int count)
{
	sg_init_table(sg, count);
}

void usmbd_sg_set_page(struct scatterlist *sg, struct page *page,
		       unsigned int length, unsigned int offset)
{
	sg_set_page(sg, page, length, offset);
}

struct net *usmbd_current_net(void)
{
	return get_net(current->nsproxy->net_ns);
}

struct net *usmbd_net_get(struct net *net)
{
	return get_net(net);
}

void usmbd_net_put(struct net *net)
{
	put_net(net);
}

bool usmbd_file_ns_capable(const struct file *file, const struct net *net,
			   int cap)
{
	return file_ns_capable(file, net->user_ns, cap);
}

u32 usmbd_uid_as_seen_by(const struct cred *asker, const struct cred *who)
{
	return from_kuid_munged(asker->user_ns, who ? who->euid : INVALID_UID);
}

u32 usmbd_file_euid(const struct file *file)
{
	return __kuid_val(file->f_cred->euid);
}

bool usmbd_file_capable(const struct file *file, int cap)
{
	return file_ns_capable(file, &init_user_ns, cap);
}

int usmbd_page_count(struct page *page)
{
	return page_count(page);
}

void usmbd_get_page(struct page *page)
{
	get_page(page);
}

unsigned long usmbd_total_pages(void)
{
	return totalram_pages();
}

s64 usmbd_pinned_pages_add(struct mm_struct *mm, s64 pages)
{
	return atomic64_add_return(pages, &mm->pinned_vm);
}

unsigned long usmbd_memlock_limit(void)
{
	return rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
}

bool usmbd_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

void usmbd_cond_resched(void)
{
	cond_resched();
}
