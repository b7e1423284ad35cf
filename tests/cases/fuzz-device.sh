#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Whatever is written to the device, however the descriptors are used, and whatever peers do: no
# event is lost or comes twice, everything ends, and nothing stays behind.
# lanes: stock
# when: asked
# kernels: default
# timeout: 300
. /src/tests/cases/lib.sh

seconds=${USMBD_TEST_FUZZ_TIME:-60}
# Each thread's last batch is kept (for a guest that does not survive it) only with
# USMBD_TEST_FUZZ_LOG=1: /out is slow.
patience=60
[ "${LANE:-stock}" != debug ] || patience=240
sum=/out/fuzz.sum
[ -z "${USMBD_TEST_FUZZ_SUM:-}" ] || cp "$USMBD_TEST_FUZZ_SUM" $sum 2>/dev/null || true
mkdir -p /out/fuzz

begin_counting
peers=()
misbehave() {
	client usmbd-peer misbehave "$@" --timeout 10 >>/out/fuzz/peers.log 2>&1 &
	peers+=($!)
}

server usmbd-fuzz-device --seed "${USMBD_TEST_FUZZ_SEED:-1}" --time "$seconds" --patience $patience \
	${USMBD_TEST_FUZZ_BATCHES:+--batches "$USMBD_TEST_FUZZ_BATCHES"} --sum $sum \
	${USMBD_TEST_FUZZ_LOG:+--log /out/fuzz}
misbehave 10.9.0.1 --connections 3 --seconds "$seconds" --seed 1
misbehave 10.9.1.1 --connections 2 --seconds "$seconds" --seed 2
misbehave fd00:9:0::1 --connections 1 --seconds "$seconds" --seed 3
# Where the driver routes, by what SMB clients say first.
misbehave 10.9.0.1 --port 446 --smb --connections 2 --seconds "$seconds" --seed 4
misbehave 10.9.1.1 --port 5446 --smb --connections 1 --seconds "$seconds" --seed 5
wait "$server_pid"
status=$?
server_pid=
grep -E 'batches;|accepted .* at least|FAULT' $LOG
[ $status = 0 ] || fail "usmbd-fuzz-device: $status"
for peer in "${peers[@]}"; do
	wait "$peer" || fail "a peer: $(tail -n 3 /out/fuzz/peers.log)"
done
cat /out/fuzz/peers.log $LOG
all_back
