#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# An unmodified smbclient reaches the kernel's own server over SMB Direct, and so
# does CONNECT; ksmbd's sizes are limited to what fits into one message.
# lanes: stock
# when: asked
# kernels: default
# timeout: 240
. /src/tests/cases/smbd-lib.sh
. /src/tests/cases/smbclient-lib.sh

mkdir -p /run/lab/log
sed 's/^\[global\]/&\n\tsmb2 max read = 65536\n\tsmb2 max write = 65536\n\tsmb2 max trans = 65536/' \
	/src/tests/vm/guest/ksmbd.conf >/tmp/ksmbd.conf
LAB_KSMBD_CONF=/tmp/ksmbd.conf lab ksmbd start || fail "ksmbd does not start"
sleep 1
/src/tests/raw/ksmbd.py 10.9.0.1 >/tmp/ksmbd.out 2>&1 || fail "CONNECT to ksmbd: $(cat /tmp/ksmbd.out)"
grep "dialect 3.0.2" /tmp/ksmbd.out || fail "CONNECT to ksmbd: $(cat /tmp/ksmbd.out)"
made=$(statistic connections_made)
files_come_back client 10.9.0.1 1 65536 1000000
made=$(($(statistic connections_made) - made))
[ $made = 3 ] || fail "$made connections for 3 calls"
lab ksmbd stop || fail "ksmbd does not stop"
all_gone
