#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# The library's example serves an echo: one context for all, and one for each connection.
# lanes: stock
# timeout: 120
. /src/tests/cases/lib.sh

for mode in "" --per-connection; do
	# shellcheck disable=SC2086
	server /build/stage/bin/echo $mode
	for address in $ROCE $IWARP; do
		client usmbd-peer echo "$address" --sizes 1,4096,1048576 || fail "echo over $address $mode"
	done
	client usmbd-peer echo 10.9.0.1 --connections 3 --depth 4 --count 8 --sizes 100,70000 || fail "three at once $mode"
	stop_server
done
all_gone
