#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# open() costs little and has no area; an idle connection's own memory is at
# most 256 KiB at default parameters. What the provider's queues take is
# reported beside it.
# kernels: default
# timeout: 120
. /src/tests/cases/lib.sh

used() {
	awk '/^(Slab|VmallocUsed|Percpu|KernelStack):/ { s += $2 } /^MemFree:/ { free = $2 } END { print s }' /proc/meminfo
}

python3 - <<'PY' || fail "open() costs more than it may"
import os
import sys
sys.path.insert(0, "/src/tests/raw")
import usmbd_raw as raw

def free():
    os.system("sync; echo 3 >/proc/sys/vm/drop_caches")
    return next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemFree"))

before = free()
contexts = [raw.Device() for _ in range(500)]
each = (before - free()) / len(contexts)
print(f"a context: {each:.1f} KiB")
sys.exit(each > 32)
PY

raw_server
before=$(used)
client usmbd-peer echo 10.9.0.1 --connections 8 --count 400 --sizes 100 >/tmp/peer.log 2>&1 &
peer=$!
eight() {
	[ "$(grep -c established /sys/kernel/debug/usmbd/connections)" = 8 ]
}
until_true 60 eight || fail "eight connections at a time"
after=$(used)
cat /sys/kernel/debug/usmbd/connections
most=$(sed -n 's/.*memory=\([0-9]*\).*/\1/p' /sys/kernel/debug/usmbd/connections | sort -n | tail -n 1)
wait $peer || fail "the echo: $(cat /tmp/peer.log)"
echo "a connection's own memory: $most bytes; slab and vmalloc for each, both ends and the provider's queues: $(((after - before) / 8)) KiB"
[ "$most" -le $((256 << 10)) ] || fail "an idle connection has $most bytes"
stop_server
all_gone
