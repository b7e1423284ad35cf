#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# The peer's memory is read and written, 1 byte to 8 MiB, several ranges and
# descriptors, contents checked; also after wrong keys, short descriptors and
# a vanished peer.
# lanes: stock debug
# kernels: default
# timeout: 200
. /src/tests/cases/lib.sh

raw_server
if [ "${LANE:-stock}" = debug ]; then
	for address in 10.9.0.1 10.9.1.1; do
		client usmbd-peer placement $address --sizes 1,5000,300001 || fail "placement over $address"
		client usmbd-peer placement $address --sizes 5000 --descriptors 1 --invalidate ||
			fail "remote invalidation over $address"
		for fault in short-descriptors wrong-key vanish; do
			client usmbd-peer placement $address --sizes 30000 --descriptors 1 --fault $fault ||
				fail "$fault over $address"
		done
	done
	stop_server
	all_gone
	exit 0
fi
for address in 10.9.0.1 10.9.1.1; do
	client usmbd-peer placement "$address" || fail "placement over $address"
	client usmbd-peer placement "$address" --sizes 70000 --descriptors 1,40 --ranges 16 --regions 7 --count 2 ||
		fail "many descriptors and ranges over $address"
	client usmbd-peer placement "$address" --invalidate || fail "remote invalidation over $address"
done
# Not over siw: it sends a wrong part of pieces of a few bytes that cross a page (siw_try_1seg).
client usmbd-peer placement 10.9.0.1 --sizes 70000 --descriptors 1000,4095 --ranges 64 --regions 7 ||
	fail "as many descriptors as a request has"
client usmbd-peer placement fd00:9:0::1 --sizes 100000 --connections 3 --quiet || fail "QUIET, several connections"
client usmbd-peer placement fd00:9:1::1 --sizes 1,100000 --separate || fail "transfer and answer in two writes"
for address in 10.9.0.1 10.9.1.1; do
	for fault in short-descriptors wrong-key out-of-bounds deregistered vanish abrupt disconnect; do
		client usmbd-peer placement "$address" --sizes 300000 --descriptors 1 --fault $fault ||
			fail "$fault over $address"
		client usmbd-peer placement "$address" --sizes 4096 --descriptors 2 --ranges 2 ||
			fail "the next connection after $fault over $address"
	done
done
# 6: remote access; a peer that is told which key was wrong would be told too much.
[ "$(grep -c 'reason 6$' $LOG)" -ge 2 ] || fail "no remote access error was told"
stop_server
all_gone
