# SPDX-License-Identifier: GPL-2.0-only
# What the cases share: servers, the client's network, endings. Sourced.
# shellcheck shell=bash
set -u

ROCE="10.9.0.1 fd00:9:0::1"
IWARP="10.9.1.1 fd00:9:1::1"
# With all checkers on, everything takes its time.
SLOW=1
if [ "${LANE:-stock}" = debug ]; then
	SLOW=4
	export USMBD_PEER_TIMEOUT=120
fi
LOG=/tmp/server.log
server_pid=
counting=
# What the cases draw at random. When something happens is random, too, and not repeated.
seed=${USMBD_TEST_SEED:-$RANDOM}
RANDOM=$seed

fail() {
	echo "FAILED: $* (USMBD_TEST_SEED=$seed)"
	[ ! -f $LOG ] || { echo "--- the server said:"; tail -n 20 $LOG; }
	cat /sys/kernel/debug/usmbd/connections /sys/kernel/debug/usmbd/statistics 2>/dev/null
	[ -z "$server_pid" ] || kill -KILL "$server_pid"
	[ -z "$counting" ] || uncount_memory
	[ -d /sys/module/usmbd ] || insmod /build/usmbd.ko
	exit 1
}

# tally COUNT WHAT: so often the case did something. `make tally` has the sums of the cases that passed.
tally() {
	echo "$*" >>/tmp/tally
}

# until_true SECONDS COMMAND...
until_true() {
	local end=$((SECONDS + $1 * SLOW))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

# within SECONDS COMMAND...: as timeout.
within() {
	local limit=$(($1 * SLOW))
	shift
	timeout -k 5 "$limit" "$@"
}

# server COMMAND...: starts a server that says when it listens.
server() {
	mkdir -p "${LOG%/*}"
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
# kernel is counted, when it is done; nobody but the module is Rust here. Call it
# with the module unloaded. Rust does both by krealloc(), through a helper.
count_memory() {
	local t=/sys/kernel/tracing from event=krealloc_node_align_noprof
	# The helper jumps there: from the module, or from the kernel crate itself.
	from=$(awk '$3 ~ /^_R.*6kernel/ && $4 == "" && tolower($2) == "t" { print "0x" $1 }' /proc/kallsyms |
		sort | sed -n '1s/^/caller >= /p; $s/^/caller < /p' | paste -s -d'&' | sed 's/&/ \&\& /')
	from="(caller >= 0xffffffffa0000000 && caller < 0xffffffffff000000) || ($from)"
	from=${from//caller/__probe_ret_ip}
	# Without memory nothing was got; to give back returns ZERO_SIZE_PTR. A key with few values: what
	# does not fit into the table is not counted.
	got="hist:name=usmbd_got:keys=old if old < 32 && retval > 32 && ($from)"
	gave="hist:name=usmbd_gave:keys=retval if old > 32 && size == 0 && ($from)"
	echo "r256:usmbd_test/realloc $event old=\$arg1:x64 size=\$arg2:x64 retval=\$retval:x64" >>$t/kprobe_events ||
		fail "no kretprobe: $(dmesg | tail -n 1)"
	# Opened to be written anew, the file forgets its triggers.
	echo "$got" >>$t/events/usmbd_test/realloc/trigger || fail "no trigger: $(cat $t/error_log)"
	echo "$gave" >>$t/events/usmbd_test/realloc/trigger || fail "no trigger: $(cat $t/error_log)"
}

# count_rcu: memory that is given back by RCU goes another way. Call it when the
# module is loaded, and has not done anything yet.
count_rcu() {
	local t=/sys/kernel/tracing
	rcu="hist:name=usmbd_rcu:keys=caller.hex if $(awk '$4 == "[usmbd]" && tolower($2) == "t" { print "0x" $1 }' /proc/kallsyms |
		sort | sed -n '1s/^/caller >= /p; $s/^/caller < /p' | paste -s -d'&' | sed 's/&/ \&\& /')"
	echo "p:usmbd_test/rcu kvfree_call_rcu caller=+0(%sp):x64" >>$t/kprobe_events || fail "no kprobe: $(dmesg | tail -n 1)"
	echo "$rcu" >$t/events/usmbd_test/rcu/trigger || fail "no trigger: $(cat $t/error_log)"
}

# counted got|gave|rcu
counted() {
	cat /sys/kernel/tracing/events/usmbd_test/*/hist |
		awk -v name="name=usmbd_$1:" '/trigger info/ { here = index($0, name) } here && /Hits:/ { print $2 }'
}

# live_memory: objects that were allocated since count_memory and not released.
live_memory() {
	echo $(($(counted got) - $(counted gave) - $(counted rcu)))
}

uncount_memory() {
	local t=/sys/kernel/tracing
	counting=
	echo "!$got" >>$t/events/usmbd_test/realloc/trigger
	echo "!$gave" >>$t/events/usmbd_test/realloc/trigger
	echo "!$rcu" >$t/events/usmbd_test/rcu/trigger
	for name in realloc rcu; do
		echo "-:usmbd_test/$name" >>$t/kprobe_events
	done
}

# begin_counting: the module is loaded anew, and its memory counted; the debug
# lane's kernel has kmemleak instead, or who runs the suites there accounts for it
# (make test-debug).
begin_counting() {
	rmmod usmbd || fail "rmmod"
	if [ -e /sys/kernel/debug/kmemleak ]; then
		echo clear >/sys/kernel/debug/kmemleak
		insmod /build/usmbd.ko || fail "insmod"
		return
	fi
	count_memory
	counting=yes
	insmod /build/usmbd.ko || fail "insmod"
	count_rcu
}

# unload: nothing is left, and the module goes.
unload() {
	until_true 30 no_connections || fail "connections are left"
	[ "$(statistic contexts)" = 0 ] || fail "contexts are left"
	rmmod usmbd || fail "the module cannot be unloaded"
	[ "$(rdma_objects)" = 0 ] || fail "the module left $(rdma_objects) objects in the RDMA core"
}

# all_gone: nothing is left, and the module goes and comes back.
all_gone() {
	unload
	insmod /build/usmbd.ko || fail "the module cannot be loaded again"
}

# all_back: as all_gone, and all memory is back. Needs begin_counting before.
all_back() {
	unload
	if [ -n "$counting" ]; then
		[ "$(counted got)" -gt 100 ] || fail "memory was not counted"
		[ "$(live_memory)" = 0 ] || fail "of $(counted got) objects of memory the module left $(live_memory)"
		echo "memory: $(counted got) objects, all given back"
		uncount_memory
	elif { echo scan >/sys/kernel/debug/kmemleak; } 2>/dev/null; then
		# What is not found by the second scan either is not on its way.
		echo scan >/sys/kernel/debug/kmemleak
		[ ! -s /sys/kernel/debug/kmemleak ] || fail "leaks: $(cat /sys/kernel/debug/kmemleak)"
		echo "memory: kmemleak found nothing"
	else
		echo "memory: kmemleak is off"
	fi
	insmod /build/usmbd.ko || fail "the module cannot be loaded again"
}
