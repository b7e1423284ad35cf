#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# One client with several RDMA channels: smbd passes the later connections to the
# process that has the client, and that one serves them all.
# lanes: stock
# kernels: default
# timeout: 120
. /src/tests/cases/smbd-lib.sh

sed 's/^\[share\]/\tinterfaces = "10.9.0.1;capability=RSS,capability=RDMA,speed=10000000000"\n\tserver multi channel support = yes\n&/' \
	/src/tests/vm/guest/smb.conf >/tmp/multichannel.conf
LAB_SMB_CONF=/tmp/multichannel.conf
export LAB_SMB_CONF
start_smbd
share /mnt multichannel max_channels=3
all_channels() {
	[ "$(statistic connections)" = 3 ]
}
until_true 20 all_channels || fail "$(statistic connections) connections for 3 channels"
random /tmp/file $((12 << 20))
there_and_back /tmp/file /mnt one &
first=$!
there_and_back /tmp/file /mnt two || fail "the second copy"
wait $first || fail "the first copy"
lab umount /mnt
until_true 20 no_connections || fail "channels are left"
served=$(grep -c 'closed; .*RDMA [1-9]' $PRELOAD_LOG)
processes=$(sed -n 's/.*preload\[\([0-9]*\)\]: connection .* closed; .*RDMA [1-9].*/\1/p' $PRELOAD_LOG | sort -u | wc -l)
[ "$served" -ge 2 ] || fail "$served channels moved data"
[ "$processes" = 1 ] || fail "$processes processes moved data for the client"
stop_smbd
all_gone
