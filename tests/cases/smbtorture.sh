#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A part of Samba's smbtorture passes over SMB Direct as over TCP; the whole is
# make test-smbtorture.
# lanes: stock
# when: asked
# kernels: default
# timeout: 600
. /src/tests/cases/lib.sh

/src/tests/torture/run part || fail "not the same over SMB Direct"
all_gone
