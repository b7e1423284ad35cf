#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A C program serves an echo with libusmbd.so, over both fabrics and both families.
# lanes: stock
# kernels: default
# timeout: 120
. /src/tests/cases/lib.sh

server c-echo
sizes=1,1340,1341,65536,1048576
# With all checkers on, 1 MiB over siw was seen to take longer than a wait lasts.
[ "${LANE:-stock}" = debug ] && slow=1,1340,1341,20000 || slow=$sizes
for address in $ROCE; do
	client usmbd-peer echo "$address" --sizes $sizes || fail "echo over $address"
done
for address in $IWARP; do
	client usmbd-peer echo "$address" --sizes $slow || fail "echo over $address"
done
client usmbd-peer echo 10.9.0.1 --connections 3 --depth 8 --count 8 --sizes 100,70000 || fail "several at once"
stop_server
all_gone
