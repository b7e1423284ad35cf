#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# With every allocation of the driver failing, save those that a write() makes and whose ENOMEM it
# returns: established connections go on, messages and 64 MiB of a file go both ways, and nothing is
# lost. New connections are refused, and work afterwards.
# lanes: debug
# when: asked
# timeout: 300
. /src/tests/cases/smbd-lib.sh

F=/sys/kernel/debug

# The addresses of the module's functions, and of one of them.
module_text() {
	awk '$4 == "[usmbd]" && tolower($2) == "t" { print $1 }' /proc/kallsyms | sort | sed -n '1p; $p'
}
function_text() {
	awk '$4 == "[usmbd]" && tolower($2) == "t" { print $1, $3 }' /proc/kallsyms | sort |
		awk -v wanted="$1\$" 'found { print $1; exit } $2 ~ wanted && $2 !~ /^__pfx/ { print $1; found = 1 }'
}

starve() {
	mapfile -t text < <(module_text)
	mapfile -t writing < <(function_text chardev10write_iter)
	[ ${#text[@]} = 2 ] && [ ${#writing[@]} = 2 ] || fail "where are the functions: ${text[*]} ${writing[*]}"
	for kind in failslab fail_page_alloc; do
		echo N >$F/$kind/task-filter
		echo 0 >$F/$kind/verbose
		echo 1 >$F/$kind/interval
		echo 0 >$F/$kind/space
		echo 32 >$F/$kind/stacktrace-depth
		echo "0x${text[0]}" >$F/$kind/require-start
		echo "0x${text[1]}" >$F/$kind/require-end
		echo "0x${writing[0]}" >$F/$kind/reject-start
		echo "0x${writing[1]}" >$F/$kind/reject-end
		echo N >$F/$kind/ignore-gfp-wait
		# Counts down with each failure.
		echo 1000000 >$F/$kind/times
		echo 100 >$F/$kind/probability
	done
	echo N >$F/fail_page_alloc/ignore-gfp-highmem
	echo 0 >$F/fail_page_alloc/min-order
}

enough() {
	local kind failed=0
	for kind in failslab fail_page_alloc; do
		echo 0 >$F/$kind/probability
		failed=$((failed + 1000000 - $(cat $F/$kind/times)))
		echo 0 >$F/$kind/reject-start
		echo 0 >$F/$kind/reject-end
	done
	echo "$failed allocations failed: $*"
	came=$failed
}

trap 'echo 0 >$F/failslab/probability; echo 0 >$F/fail_page_alloc/probability' EXIT
begin_counting
# Messages, of one PDU and of many, over both fabrics.
raw_server
for address in 10.9.0.1 10.9.1.1; do
	sent=$(statistic messages_sent)
	client usmbd-peer echo "$address" --sizes 1,1340,100000 --count 150 >/tmp/peer.log 2>&1 &
	peer=$!
	until_true 60 eval '[ $(($(statistic messages_sent) - sent)) -gt 10 ]' || fail "no messages go"
	starve
	timeout 250 tail --pid=$peer -f /dev/null || fail "the echo hangs"
	wait $peer || fail "echo over $address without memory: $(cat /tmp/peer.log)"
	enough "echo over $address"
	cat /tmp/peer.log
	until_true 60 no_connections || fail "the connection stays"
done
# Who comes now is refused, and not when there is memory again.
starve
client usmbd-peer echo 10.9.0.1 --timeout 20 >/tmp/peer.log 2>&1 && fail "a new connection without memory"
enough "a new connection: $(cat /tmp/peer.log)"
[ "$came" -gt 0 ] || fail "nothing failed"
client usmbd-peer echo 10.9.0.1 || fail "no echo when there is memory again"
stop_server

# A file: what of the area is used has its memory by then, as a first touch needs some.
start_smbd
share /mnt
random /tmp/file $((64 << 20))
timeout 250 cp /tmp/file /mnt/first || fail "the first copy"
timeout 250 cp /mnt/first /tmp/back || fail "the first copy back"
starve
timeout 280 cp /tmp/file /mnt/second || fail "cp to the share without memory"
timeout 280 cp /mnt/second /tmp/back || fail "cp from the share without memory"
enough "64 MiB both ways"
cmp /tmp/file /srv/share/second || fail "another file arrived"
cmp /tmp/file /tmp/back || fail "another file came back"
lab umount /mnt
stop_smbd
all_back
