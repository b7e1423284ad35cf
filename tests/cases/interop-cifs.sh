#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# cifs.ko with other parameters than its own: few credits, other sizes, other
# thresholds between inline and RDMA, and a short keepalive. Files arrive and
# come back as they were.
# lanes: stock
# when: asked
# kernels: default
# timeout: 400
. /src/tests/cases/smbd-lib.sh

modprobe cifs

# NAME VALUE NAME VALUE...: cifs.ko's parameters for the mounts to come.
parameters() {
	while [ $# -gt 1 ]; do
		echo "$2" >/proc/fs/cifs/"$1" || fail "$1 cannot be $2"
		shift 2
	done
}

usual() {
	parameters smbd_receive_credit_max 255 smbd_send_credit_target 255 smbd_max_send_size 1364 \
		smbd_max_receive_size 1364 smbd_max_fragmented_recv_size "$FRAGMENTED" \
		rdma_readwrite_threshold 4096 smbd_keep_alive_interval 120
}

# files NAME [OPTIONS]: two files with these parameters; the transfers that it took.
files() {
	local reads writes
	reads=$(statistic rdma_reads) writes=$(statistic rdma_writes)
	share /mnt ${2:+"$2"}
	there_and_back /tmp/small /mnt "$1-small"
	there_and_back /tmp/large /mnt "$1-large"
	lab umount /mnt
	reads=$(($(statistic rdma_reads) - reads)) writes=$(($(statistic rdma_writes) - writes))
	echo "$1: $reads RDMA reads, $writes RDMA writes"
	transfers=$((reads + writes))
}

# The next case has them as they were, even if this one fails.
trap usual EXIT

FRAGMENTED=$(cat /proc/fs/cifs/smbd_max_fragmented_recv_size)
start_smbd
random /tmp/small 3000
random /tmp/large 2500000

for credits in 1 2 3 10; do
	usual
	parameters smbd_receive_credit_max $credits smbd_send_credit_target $credits
	# cifs.ko may sit on credits until it has something to send (docs/protocol.md,
	# "Where others are wrong"), which is an echo at the latest.
	files "credits-$credits" echo_interval=$SLOW
done
for size in 128 512 1024 8192; do
	usual
	parameters smbd_max_send_size $size smbd_max_receive_size $size
	files "size-$size"
done
usual
parameters smbd_max_fragmented_recv_size 131072
files fragmented-131072

usual
parameters rdma_readwrite_threshold 1
files threshold-1
[ $transfers -ge 7 ] || fail "only $transfers transfers with a threshold of one byte"
usual
parameters rdma_readwrite_threshold 1048577
# Reads come inline then, and cifs.ko asks for more than it takes.
files threshold-large rsize=131072
[ $transfers = 0 ] || fail "$transfers transfers although all was to go inline"

usual
parameters smbd_keep_alive_interval 2
received=$(statistic pdus_received) accepted=$(statistic connections_accepted)
share /mnt
sleep 9
[ $(($(statistic pdus_received) - received)) -ge 3 ] || fail "no keepalives came"
there_and_back /tmp/large /mnt keepalive
[ $(($(statistic connections_accepted) - accepted)) = 1 ] || fail "the connection was made anew"
lab umount /mnt
stop_smbd
all_gone
