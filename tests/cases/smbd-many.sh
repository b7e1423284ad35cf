#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Several mounts at once, each with a connection and so an smbd of its own, over
# RoCE and iWARP, while others use TCP; and several channels of one client.
# lanes: stock
# kernels: default
# timeout: 240
. /src/tests/cases/smbd-lib.sh

start_smbd
random /tmp/file $((6 << 20))
share /tmp/m0
share /tmp/m1 sign
share_iwarp /tmp/m2 10.9.1.1
share /tmp/m3
lab mount tcp /tmp/m4 cache=none nosharesock || fail "mount over TCP"
[ "$(statistic connections)" = 4 ] || fail "$(statistic connections) connections for 4 mounts"
workers=()
for m in 0 1 2 3 4; do
	(for round in 1 2 3; do there_and_back /tmp/file /tmp/m$m many-$m-$round; done) &
	workers+=($!)
done
for worker in "${workers[@]}"; do
	wait "$worker" || fail "one of the mounts"
done
# Several requests at a time on one connection.
if command -v fio >/dev/null; then
	within 100 fio --name=mixed --directory=/tmp/m0 --size=4m --bs=64k --rw=randrw --ioengine=libaio --iodepth=8 --direct=1 \
		--numjobs=3 --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal >/tmp/fio.out 2>&1 || {
		tail -n 20 /tmp/fio.out
		fail "fio with verification"
	}
fi
for m in 0 1 2 3 4; do
	lab umount /tmp/m$m
done
stop_smbd
all_gone
