#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Packets that vanish (nftables), and links that go down and come back, under load: the keepalive or
# the device finds it, connections end, and the next ones work. USMBD_TEST_COUNT= says how often.
# lanes: stock
# when: asked
# kernels: default
# timeout: 300
. /src/tests/cases/lib.sh

count=${USMBD_TEST_COUNT:-1}
begin_counting
raw_server --keepalive=2000

# Where packets arrive, on both sides: nobody learns that they are gone.
drop_packets() {
	nft_drop "$1" | ip netns exec client nft -f - && nft_drop "${OURS[$1]}" | nft -f -
}
nft_drop() {
	echo "table netdev usmbd { chain in { type filter hook ingress device $1 priority 0; policy drop; }; }"
}
let_packets() {
	ip netns exec client nft delete table netdev usmbd && nft delete table netdev usmbd
}
declare -A OURS=([veth1]=veth0 [veth3]=veth2)
link_down() {
	ip -n client link set "$1" down
}
link_up() {
	ip -n client link set "$1" up
	ip -n client addr replace "fd00:9:$([ "$1" = veth1 ] && echo 0 || echo 1)::2/64" dev "$1" nodad
	[ "$1" != veth1 ] || { revive rxe0 veth0 && revive rxe1 veth1 ip netns exec client; }
}
# revive DEVICE NETDEV [WHERE...]: for a packet that cannot leave, as a MAD while the
# link is down, rxe puts the queue pair into the error state (rxe_req.c), also that
# of the connection manager, and no connection comes about any more.
revive() {
	local device=$1 netdev=$2
	shift 2
	"$@" rdma resource show qp | grep -q "$device/1 .* type GSI state ERR" || return 0
	echo "$device's connection manager is dead: $device is made anew"
	"$@" rdma link del "$device" && "$@" rdma link add "$device" type rxe netdev "$netdev"
}

for round in $(seq "$count"); do
	for way in "drop_packets let_packets" "link_down link_up"; do
		read -r cut mend <<<"$way"
		for path in "veth1 10.9.0.1" "veth3 10.9.1.1"; do
			read -r device address <<<"$path"
			for traffic in idle busy; do
				if [ $traffic = idle ]; then
					client usmbd-peer hold "$address" --seconds 200 --end >/tmp/peer.log 2>&1 &
				else
					client usmbd-peer placement "$address" --count 1000 --sizes 1000000 >/tmp/peer.log 2>&1 &
				fi
				peer=$!
				until_true 60 eval '[ $(statistic connections) -gt 0 ]' || fail "no connection over $device"
				sleep "1.$((RANDOM % 10))"
				$cut "$device" || fail "$cut $device"
				until_true 60 no_connections || fail "a connection outlives $cut on $device ($traffic, $round)"
				$mend "$device" || fail "$mend $device"
				kill -KILL $peer 2>/dev/null
				wait $peer 2>/dev/null
				until_true 60 client usmbd-peer echo "$address" --timeout $((5 * SLOW)) --sizes 1000 ||
					fail "no echo after $mend on $device ($traffic, $round)"
			done
		done
	done
done
echo "$((count * 8)) silences"
stop_server
all_back
tally $((count * 4)) "all packets dropped"
tally $((count * 4)) "interface down and up"
