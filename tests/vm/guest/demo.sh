#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# demo.sh: a real smbd serves a share to the kernel's SMB client over SMB
# Direct. A file of 64 MiB goes there and back; then both sides' counters say
# how it went.
set -u

SIZE=$((64 << 20))
COUNTERS=/sys/class/infiniband/rxe1/ports/1/hw_counters

say() {
	echo "demo: $*"
}

fail() {
	say "FAILED: $*"
	mkdir -p /out/demo
	cp -r /run/lab/log/. /out/demo/ 2>/dev/null
	cat /sys/kernel/debug/usmbd/connections /sys/kernel/debug/usmbd/statistics >/out/demo/usmbd 2>/dev/null
	say "the logs of smbd and of the preload library are in build/vm/demo/out/demo"
	exit 1
}

statistic() {
	awk -v name="$1" '$1 == name { print $2 }' /sys/kernel/debug/usmbd/statistics
}

sum() {
	sha256sum "$1" | cut -d ' ' -f 1
}

[ -c /dev/usmbd ] || fail "/dev/usmbd is not there"
lab smbd start || fail "smbd does not start"
say "$(smbd --version) listens: $(grep -c ': SMB Direct on' /run/lab/log/preload) listeners of SMB Direct, and TCP"
lab mount rdma /mnt cache=none || fail "the share cannot be mounted over RDMA"
say "mounted: $(grep ' /mnt ' /proc/mounts | cut -c 1-110)..."

sends=$(cat $COUNTERS/rdma_sends) || fail "rxe1 has no counter of its sends"
read_bytes=$(statistic rdma_read_bytes)
written_bytes=$(statistic rdma_write_bytes)
received=$(statistic pdus_received)
sent=$(statistic pdus_sent)
head -c $SIZE /dev/urandom >/tmp/there || fail "no room for the file"
begin=$SECONDS
timeout 120 cp /tmp/there /mnt/file || fail "copying to the share"
say "64 MiB to the share in $((SECONDS - begin)) s"
begin=$SECONDS
timeout 120 cp /mnt/file /tmp/back || fail "copying from the share"
say "64 MiB back in $((SECONDS - begin)) s"
want=$(sum /tmp/there)
for file in /srv/share/file /tmp/back; do
	[ "$(sum $file)" = "$want" ] || fail "$file is another file than the one sent"
done
say "three times the same file: sha256 ${want:0:16}..."

read_bytes=$(($(statistic rdma_read_bytes) - read_bytes))
written_bytes=$(($(statistic rdma_write_bytes) - written_bytes))
received=$(($(statistic pdus_received) - received))
sent=$(($(statistic pdus_sent) - sent))
say "witness 1, /dev/usmbd: $read_bytes bytes by RDMA READ, $written_bytes by RDMA WRITE, $received PDUs received, $sent sent"
[ "$read_bytes" -ge $SIZE ] || fail "fewer bytes by RDMA READ than the file has"
[ "$written_bytes" -ge $SIZE ] || fail "fewer bytes by RDMA WRITE than the file has"
[ "$received" -gt 0 ] && [ "$sent" -gt 0 ] || fail "no PDUs"

sends=$(($(cat $COUNTERS/rdma_sends) - sends))
state=$(grep -m 1 -o 'SMBDirect protocol version: .*' /proc/fs/cifs/DebugData)
regions=$(grep -m 1 -o 'mr_ready_count: .*' /proc/fs/cifs/DebugData)
say "witness 2, the client: $state; $regions; rxe1 sent $sends messages"
[[ $state == *CONNECTED* ]] || fail "the client does not say that SMB Direct is connected"
[[ $regions == *mr_ready_count:* ]] || fail "the client says nothing of its memory regions"
# Inline, 64 MiB would be 50000 messages of 1340 bytes.
[ "$sends" -gt 0 ] && [ "$sends" -lt 2000 ] || fail "the client sent $sends messages for 64 MiB"

lab umount /mnt || fail "umount"
lab smbd stop || fail "smbd does not stop"
say "OK"
