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

drop_packets() {
	ip netns exec client nft -f - <<-END
		table netdev usmbd {
			chain out { type filter hook egress device $1 priority 0; policy drop; }
			chain in { type filter hook ingress device $1 priority 0; policy drop; }
		}
	END
}
let_packets() {
	ip netns exec client nft delete table netdev usmbd
}
link_down() {
	ip -n client link set "$1" down
}
link_up() {
	ip -n client link set "$1" up
	ip -n client addr replace "fd00:9:$([ "$1" = veth1 ] && echo 0 || echo 1)::2/64" dev "$1" nodad
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
				until_true 60 client usmbd-peer echo "$address" --timeout 5 --sizes 1000 ||
					fail "no echo after $mend on $device ($traffic, $round)"
			done
		done
	done
done
echo "$((count * 8)) silences"
stop_server
all_back
