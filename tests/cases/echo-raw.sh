#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A raw script serves an echo over both fabrics and both families.
# lanes: stock debug
# timeout: 150
. /src/tests/cases/lib.sh

raw_server
sizes=1,2,100,1340,1341,4096,65536,1048576
for address in $ROCE $IWARP; do
	client usmbd-peer echo "$address" --sizes $sizes || fail "echo over $address"
done
client usmbd-peer echo 10.9.0.1 --connections 4 --depth 8 --count 16 --sizes 1,1339,1340,1341,20000 ||
	fail "several connections, several messages under way"
client usmbd-peer echo 10.9.0.1 --credits 2 --max-send 128 --max-receive 128 --sizes 1,104,105,30000 --count 2 ||
	fail "the smallest sizes and nearly no credits"
client usmbd-peer echo 10.9.0.1 --credits 1 --sizes 1,5000 --count 3 || fail "a single credit"
stop_server
all_gone
