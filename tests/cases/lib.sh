# SPDX-License-Identifier: GPL-2.0-only
# What the cases share: servers, the client's network, endings. Sourced.
# shellcheck shell=bash
set -u

ROCE="10.9.0.1 fd00:9:0::1"
IWARP="10.9.1.1 fd00:9:1::1"
# With all checkers on, a message of 1 MiB takes its time.
[ "${LANE:-stock}" != debug ] || export USMBD_PEER_TIMEOUT=120
LOG=/tmp/server.log
server_pid=

fail() {
	echo "FAILED: $*"
	[ ! -f $LOG ] || { echo "--- the server said:"; tail -n 20 $LOG; }
	cat /sys/kernel/debug/usmbd/connections /sys/kernel/debug/usmbd/statistics 2>/dev/null
	[ -z "$server_pid" ] || kill -KILL "$server_pid"
	exit 1
}

# until_true SECONDS COMMAND...
until_true() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

# server COMMAND...: starts a server that says when it listens.
server() {
	: >$LOG
	"$@" >$LOG 2>&1 &
	server_pid=$!
	until_true 60 grep -q listening $LOG || fail "$1 does not listen"
}

raw_server() {
	server python3 /src/tests/raw/serve.py "$@"
}

stop_server() {
	kill "$server_pid" 2>/dev/null
	wait "$server_pid" 2>/dev/null
	server_pid=
}

# client COMMAND...: in the client's network.
client() {
	nsenter --net=/run/netns/client "$@"
}

statistic() {
	awk -v name="$1" '$1 == name { print $2 }' /sys/kernel/debug/usmbd/statistics
}

no_connections() {
	[ "$(statistic connections)" = 0 ]
}

# all_gone: nothing is left, and the module goes and comes back.
all_gone() {
	until_true 30 no_connections || fail "connections are left"
	[ "$(statistic contexts)" = 0 ] || fail "contexts are left"
	rmmod usmbd || fail "the module cannot be unloaded"
	insmod /build/usmbd.ko || fail "the module cannot be loaded again"
}
