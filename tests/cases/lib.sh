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

# What the RDMA core still has of the driver's.
rdma_objects() {
	local kind
	for kind in qp cq mr cm_id; do
		rdma resource show $kind | grep -c '\[usmbd\]'
	done | awk '{ s += $1 } END { print s + 0 }'
}

# count_memory: from now on, each allocation and each release of Rust in the
# kernel is counted; nobody but the module is Rust here. Call it with the module
# unloaded or idle.
count_memory() {
	local t=/sys/kernel/tracing
	echo 'p:usmbd_test/realloc rust_helper_krealloc_node_align old=%di:x64 size=%si:x64' >>$t/kprobe_events || fail "no kprobe"
	echo 'hist:name=got:keys=common_type if old < 32 && size > 0' >$t/events/usmbd_test/realloc/trigger || fail "no trigger"
	echo 'hist:name=gave:keys=common_type if old > 32 && size == 0' >>$t/events/usmbd_test/realloc/trigger || fail "no trigger"
}

# live_memory: objects that were allocated since count_memory and not released.
live_memory() {
	awk '/^# trigger info:/ { sign = /name=gave|old > 32/ ? -1 : 1 } /Hits:/ { s += sign * $2 } END { print s + 0 }' \
		/sys/kernel/tracing/events/usmbd_test/realloc/hist
}

uncount_memory() {
	local t=/sys/kernel/tracing
	echo '!hist:name=got:keys=common_type if old < 32 && size > 0' >>$t/events/usmbd_test/realloc/trigger
	echo '!hist:name=gave:keys=common_type if old > 32 && size == 0' >>$t/events/usmbd_test/realloc/trigger
	echo '-:usmbd_test/realloc' >>$t/kprobe_events
}

# all_gone: nothing is left, and the module goes and comes back.
all_gone() {
	until_true 30 no_connections || fail "connections are left"
	[ "$(statistic contexts)" = 0 ] || fail "contexts are left"
	rmmod usmbd || fail "the module cannot be unloaded"
	[ "$(rdma_objects)" = 0 ] || fail "the module left $(rdma_objects) objects in the RDMA core"
	insmod /build/usmbd.ko || fail "the module cannot be loaded again"
}

# all_back: as all_gone, and all memory is back. Needs count_memory before, with
# the module unloaded.
all_back() {
	until_true 30 no_connections || fail "connections are left"
	[ "$(statistic contexts)" = 0 ] || fail "contexts are left"
	rmmod usmbd || fail "the module cannot be unloaded"
	[ "$(rdma_objects)" = 0 ] || fail "the module left $(rdma_objects) objects in the RDMA core"
	[ "$(live_memory)" = 0 ] || {
		cat /sys/kernel/tracing/events/usmbd_test/realloc/hist
		fail "the module left $(live_memory) objects of memory"
	}
	uncount_memory
	insmod /build/usmbd.ko || fail "the module cannot be loaded again"
}
