#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A process out of descriptors, a control group out of memory, and a machine out of memory: errors,
# or the end of who is killed, and all memory is back. USMBD_TEST_COUNT= says how often.
# lanes: stock
# when: asked
# kernels: default
# timeout: 600
. /src/tests/cases/lib.sh

count=${USMBD_TEST_COUNT:-2}
begin_counting

# Descriptors: as many contexts as the process may have, then EMFILE, and all go with it.
cat >/tmp/descriptors.py <<'PY'
import errno, os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
fds = []
try:
    while True:
        fds.append(os.open("/dev/usmbd", os.O_RDWR))
except OSError as error:
    sys.exit(not (error.errno == errno.EMFILE and len(fds) > 30))
PY
for round in $(seq "$count"); do
	python3 /tmp/descriptors.py || fail "descriptors ($round)"
	until_true 10 eval '[ $(statistic contexts) = 0 ]' || fail "contexts outlive their process ($round)"
done

# A control group: touching the area ends at its limit, by an error or by the OOM killer.
mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p /sys/fs/cgroup/small
echo 30M >/sys/fs/cgroup/small/memory.max
cat >/tmp/touch.py <<'PY'
import os, sys
sys.path.insert(0, "/src/tests/raw")
import usmbd_raw as raw
with open("/sys/fs/cgroup/small/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
device = raw.Device()
area = device.map_area(64)
for page in range(0, len(area), 4096):
    area[page] = 1
print("the area is larger than the group's memory")
PY
for round in $(seq "$count"); do
	python3 /tmp/touch.py >/tmp/touch.log 2>&1
	status=$?
	grep -q 'larger than' /tmp/touch.log && fail "the area is not charged to the control group"
	[ $status -ge 128 ] || fail "status $status: $(cat /tmp/touch.log)"
	until_true 10 eval '[ $(statistic contexts) = 0 ]' || fail "a context outlives who was killed"
done

# The machine: first whoever takes all memory is killed, and the server goes on; then the server is,
# with connections under load.
hog() {
	# By huge pages as far as there are any, which is fast, also where each page fault is not.
	exec python3 -c 'import mmap
taken = []
while True:
    taken.append(mmap.mmap(-1, 32 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    try: taken[-1].madvise(14)
    except OSError: pass
    taken[-1].madvise(23)' >/dev/null 2>&1
}
# shield SCORE: for this case and who waits for it; who is started later inherits it. While one process's
# memory comes back, the kernel often kills another one.
shield() {
	local pid=$$
	while [ "$pid" -gt 1 ]; do
		echo "$1" >"/proc/$pid/oom_score_adj"
		pid=$(awk '$1 == "PPid:" { print $2 }' "/proc/$pid/status")
	done
}
hog='' peer='' decoys=()
# decoy: somebody has to be left whom the kernel may kill, or it panics.
decoy() {
	local i
	for i in $(seq 16); do
		kill -0 "${decoys[i]:-}" 2>/dev/null && continue
		(echo 200 >/proc/$BASHPID/oom_score_adj; exec sleep infinity) &
		decoys[i]=$!
	done
}
# None may outlive a failure.
trap 'kill -KILL $hog $peer "${decoys[@]}" 2>/dev/null; shield 0' EXIT
shield -1000
for round in $(seq "$count"); do
	for victim in hog server; do
		decoy
		raw_server
		[ $victim = hog ] || echo 1000 >/proc/$server_pid/oom_score_adj
		client usmbd-peer placement 10.9.0.1 --count 1000 --sizes 200000 --timeout 60 >/tmp/peer.log 2>&1 &
		peer=$!
		until_true 60 eval '[ $(statistic connections) = 1 ]' || fail "no connection"
		(echo $([ $victim = hog ] && echo 1000 || echo 0) >/proc/$BASHPID/oom_score_adj; hog) &
		hog=$!
		if [ $victim = hog ]; then
			within 200 tail --pid=$hog -f /dev/null || fail "nobody was killed"
			wait $hog
			kill -0 $server_pid || fail "the server was killed"
			kill -KILL $peer 2>/dev/null
			wait $peer
			client usmbd-peer echo 10.9.0.1 --sizes 1000,1048576 || fail "no echo after memory was out"
			stop_server
		else
			within 200 tail --pid=$server_pid -f /dev/null || fail "the server was not killed"
			wait $server_pid
			server_pid=
			kill -KILL $hog $peer 2>/dev/null
			wait $hog $peer
		fi
		until_true 60 no_connections || fail "connections stay ($victim, $round)"
	done
done
all_back
tally "$count" "no descriptors left"
tally "$count" "control group out of memory"
tally "$count" "machine out of memory, another process killed"
tally "$count" "machine out of memory, the server killed under load"
