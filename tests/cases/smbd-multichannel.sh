#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# One client with four RDMA channels: smbd passes the later connections to the
# process that has the client, and that one serves them all. Each connection's
# counters show that it moved data in both directions.
# lanes: stock
# kernels: default
# timeout: 180
. /src/tests/cases/smbd-lib.sh

CHANNELS=4

sed 's/^\[share\]/\tinterfaces = "10.9.0.1;capability=RSS,capability=RDMA,speed=10000000000"\n\tserver multi channel support = yes\n&/' \
	/src/tests/vm/guest/smb.conf >/tmp/multichannel.conf
LAB_SMB_CONF=/tmp/multichannel.conf
export LAB_SMB_CONF

# carried: the number of connections that moved data by RDMA READ and by RDMA
# WRITE; the parameters are what each must have moved at least.
carried() {
	usmbdctl list --json | python3 -c '
import json, sys
least = int(sys.argv[1])
counters = [one["counters"] for one in json.load(sys.stdin) if one["phase"] == "serving"]
print(sum(min(one["rdma_read_bytes"], one["rdma_write_bytes"]) >= least for one in counters))
' "$1"
}

start_smbd
share /mnt multichannel max_channels=$CHANNELS
all_channels() {
	[ "$(statistic connections)" = $CHANNELS ]
}
until_true 20 all_channels || fail "$(statistic connections) connections for $CHANNELS channels"
random /tmp/file $((16 << 20))
# The client takes the channel that has the fewest requests under way, so there
# must be several at a time.
copies=()
for name in one two three four; do
	there_and_back /tmp/file /mnt $name &
	copies+=($!)
done
for copy in "${copies[@]}"; do
	wait "$copy" || fail "a copy"
done
usmbdctl list
[ "$(carried $((1 << 20)))" = $CHANNELS ] || fail "$(carried $((1 << 20))) of $CHANNELS channels carried data both ways"
lab umount /mnt
until_true 20 no_connections || fail "channels are left"
processes=$(sed -n 's/.*preload\[\([0-9]*\)\]: connection .* closed; .*RDMA [1-9].*/\1/p' $PRELOAD_LOG | sort -u | wc -l)
[ "$processes" = 1 ] || fail "$processes processes moved data for the client"
stop_smbd
all_gone
