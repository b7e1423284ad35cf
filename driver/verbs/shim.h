/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions for what has no symbol: static inlines and macros of the kernel
 * that the driver needs. Nothing here decides anything. Directions of DMA are
 * int, because the kernel's Rust type for them changed between 7.2 and 7.3; for
 * the same reason device attributes are copied to fixed widths.
 */

#ifndef USMBD_SHIM_H
#define USMBD_SHIM_H

#include <linux/eventpoll.h>
#include <linux/fs.h>
#include <linux/types.h>

struct cred;
struct ib_cq;
struct ib_device;
struct ib_qp;
struct ib_recv_wr;
struct ib_send_wr;
struct ib_wc;
struct mm_struct;
struct net;
struct page;
struct scatterlist;

/* What a device can do; Limits in device.rs. */
struct usmbd_limits {
	u32 max_send_sge;
	u32 max_sge_rd;
	u32 max_qp_wr;
	u32 max_cqe;
	u32 max_qp_init_rd_atom;
	u32 max_fast_reg_pages;
	u32 fast_registration;
	u32 ports;
};

/* Work requests and completions. */
int usmbd_post_send(struct ib_qp *qp, const struct ib_send_wr *wr,
		    const struct ib_send_wr **bad);
int usmbd_post_recv(struct ib_qp *qp, const struct ib_recv_wr *wr,
		    const struct ib_recv_wr **bad);
int usmbd_modify_qp_to_error(struct ib_qp *qp);
int usmbd_poll_cq(struct ib_cq *cq, int count, struct ib_wc *out);
int usmbd_req_notify_cq(struct ib_cq *cq);
u64 usmbd_wc_wr_id(const struct ib_wc *wc);
u32 usmbd_wc_invalidated(const struct ib_wc *wc);

/* Devices. */
bool usmbd_protocol_iwarp(const struct ib_device *dev, u32 port);
bool usmbd_protocol_roce(const struct ib_device *dev, u32 port);
void usmbd_device_limits(const struct ib_device *dev,
			 struct usmbd_limits *limits);
bool usmbd_port_is_in_net(struct ib_device *dev, u32 port,
			  const struct net *net);

/* DMA. */
u64 usmbd_dma_map_single(struct ib_device *dev, void *addr, size_t size,
			 int direction);
void usmbd_dma_unmap_single(struct ib_device *dev, u64 addr, size_t size,
			    int direction);
int usmbd_dma_mapping_error(struct ib_device *dev, u64 addr);
void usmbd_dma_sync_for_cpu(struct ib_device *dev, u64 addr, size_t size,
			    int direction);
void usmbd_dma_sync_for_device(struct ib_device *dev, u64 addr, size_t size,
			       int direction);
int usmbd_dma_map_sg(struct ib_device *dev, struct scatterlist *sg, int count);
void usmbd_dma_unmap_sg(struct ib_device *dev, struct scatterlist *sg,
			int count);
void usmbd_sg_init_table(struct scatterlist *sg, unsigned int count);
void usmbd_sg_set_page(struct scatterlist *sg, struct page *page,
		       unsigned int length, unsigned int offset);

/* Network namespaces. */
struct net *usmbd_current_net(void);
struct net *usmbd_net_get(struct net *net);
void usmbd_net_put(struct net *net);
bool usmbd_file_ns_capable(const struct file *file, const struct net *net,
			   int cap);
u32 usmbd_uid_as_seen_by(const struct cred *asker, const struct cred *who);
u32 usmbd_file_euid(const struct file *file);
bool usmbd_file_capable(const struct file *file, int cap);

/* Memory. */
int usmbd_page_count(struct page *page);
void usmbd_get_page(struct page *page);
unsigned long usmbd_total_pages(void);
s64 usmbd_pinned_pages_add(struct mm_struct *mm, s64 pages);
unsigned long usmbd_memlock_limit(void);
bool usmbd_fatal_signal_pending(void);
void usmbd_cond_resched(void);

/* Constants that carry a cast, which bindgen does not evaluate. */
static const int USMBD_IOCB_NOWAIT = (__force int)IOCB_NOWAIT;
static const u32 USMBD_FMODE_NOWAIT = (__force u32)FMODE_NOWAIT;
static const u32 USMBD_EPOLLIN = (__force u32)EPOLLIN;
static const u32 USMBD_EPOLLOUT = (__force u32)EPOLLOUT;
static const u32 USMBD_EPOLLRDNORM = (__force u32)EPOLLRDNORM;
static const u32 USMBD_EPOLLWRNORM = (__force u32)EPOLLWRNORM;
static const u32 USMBD_EPOLLERR = (__force u32)EPOLLERR;
static const u32 USMBD_EPOLLHUP = (__force u32)EPOLLHUP;
static const u32 USMBD_EPOLLRDHUP = (__force u32)EPOLLRDHUP;

#endif
