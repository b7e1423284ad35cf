#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# run.sh: make fuzz. Fuzzes the command stream in a guest, for TIME seconds (600)
# or BATCHES batches, whichever ends first. The sum of all runs on a kernel is
# kept in build/fuzz/, and the seed goes on from there unless SEED says another;
# what the threads did last is in the run's folder.
. "$(dirname "$0")/../../vm/lib.sh"

lane=${LANE:-stock}
kernel=$(lane_kernel "$lane" "${KREL:-}")
seconds=${TIME:-600}
kept=$BUILD/fuzz/device-$kernel.sum
run=fuzz-$kernel
mkdir -p "$BUILD/fuzz"

batches=$(awk '$1 == "batches" { print $2 }' "$kept" 2>/dev/null || true)
export USMBD_TEST_FUZZ_SEED=${SEED:-$((${batches:-0} + 1))}
export USMBD_TEST_FUZZ_TIME=$seconds USMBD_TEST_FUZZ_BATCHES=${BATCHES:-}
# In the guest the checkout is /src, and its build folder is there to read.
export USMBD_TEST_FUZZ_SUM=/src/build/fuzz/device-$kernel.sum
status=0
LANE=$lane RUN=$run TIMEOUT=$((seconds * 2 + 600)) "$VM/run.sh" tests/cases/fuzz-device.sh || status=$?
if [ -f "$BUILD/vm/$run/out/fuzz.sum" ]; then
	cp "$BUILD/vm/$run/out/fuzz.sum" "$kept"
	say "fuzz: the sum so far is in build/fuzz/$(basename "$kept")"
fi
exit $status
