#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A 32-bit program uses the device on a 64-bit kernel: records are the same, and so are both mappings.
# lanes: stock
# kernels: default
# timeout: 60
. /src/tests/cases/lib.sh

compat32 || fail "the 32-bit program"
all_gone
