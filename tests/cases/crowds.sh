#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# 1000 peers that connect and never negotiate, and 1000 that negotiate and say nothing, take no more
# than the backlog and the connections that were accepted; others are served meanwhile, and all
# memory is back.
# lanes: stock
# when: asked
# kernels: default
# timeout: 500
. /src/tests/cases/lib.sh

crowd=${USMBD_TEST_CROWD:-1000}
[ "${LANE:-stock}" != debug ] || crowd=${USMBD_TEST_CROWD:-200}

begin_counting
raw_server

# Half-open ones: a listener's backlog at most (64), for 5 seconds each.
client usmbd-peer crowd 10.9.0.1 --count "$crowd" --timeout 5 >/tmp/crowd.log 2>&1 &
peer=$!
most=0
served=0
while kill -0 $peer 2>/dev/null; do
	now=$(statistic connections)
	[ "$now" -le $most ] || most=$now
	! within 30 env USMBD_PEER_TIMEOUT=2 usmbd-peer echo 10.9.0.1 --sizes 100 >/dev/null 2>&1 || served=$((served + 1))
	sleep 0.2
done
wait $peer || fail "the crowd: $(cat /tmp/crowd.log)"
cat /tmp/crowd.log
echo "never negotiated: $most connections at a time at most, and $served others served"
[ "$most" -le 65 ] || fail "$most connections at a time with a backlog of 64"
until_true 60 no_connections || fail "silent connections stay"
# The place is free again.
client usmbd-peer echo 10.9.0.1 --sizes 1000 || fail "no echo after the crowd"

# Idle ones are connections like others, accepted by the server.
client usmbd-peer crowd 10.9.0.1 --count "$crowd" --negotiate --credits 4 --seconds 3 >/tmp/crowd.log 2>&1 &
peer=$!
until_true 300 eval '! kill -0 '$peer || fail "the idle crowd does not end"
wait $peer || fail "the idle crowd: $(cat /tmp/crowd.log)"
cat /tmp/crowd.log
came=$(sed -n 's/crowd: \([0-9]*\) of.*/\1/p' /tmp/crowd.log)
[ "${came:-0}" -gt 0 ] || fail "nobody came in"
until_true 60 no_connections || fail "idle connections stay"
client usmbd-peer echo 10.9.0.1 --sizes 1000 || fail "no echo after the idle crowd"
stop_server
all_back
tally "$crowd" "connects that never negotiate"
tally "$came" "connects that negotiate and say nothing"
