/* SPDX-License-Identifier: GPL-2.0-only */
/* What bindgen reads. */

#include <linux/mm.h>
#include <rdma/ib_cm.h>
#include <rdma/ib_verbs.h>
#include <rdma/rdma_cm.h>

#include "shim.h"
