#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# A device that goes ends its connections, as does a network that goes without a word; a module in
# use stays. USMBD_TEST_COUNT= says how often.
# lanes: stock
# kernels: default
# timeout: 200
. /src/tests/cases/lib.sh

count=${USMBD_TEST_COUNT:-1}

# The module stays while a descriptor is open, and goes afterwards.
for round in $(seq "$count"); do
	exec 7<>/dev/usmbd
	rmmod usmbd 2>/dev/null && fail "the module was unloaded under an open descriptor ($round)"
	exec 7<&-
	all_gone
done

# rdma link del waits for nobody.
raw_server
for round in $(seq "$count"); do
	for link in "rxe0 rxe veth0 10.9.0.1" "siw0 siw veth2 10.9.1.1"; do
		read -r name type netdev address <<<"$link"
		for traffic in idle busy; do
			if [ $traffic = idle ]; then
				client usmbd-peer hold "$address" --seconds 60 --end >/tmp/peer.log 2>&1 &
				peer=$!
				until_true 60 grep -q holding /tmp/peer.log || fail "no connection over $name"
			else
				client usmbd-peer placement "$address" --count 1000 --sizes 1000000 >/tmp/peer.log 2>&1 &
				peer=$!
				begun=$(statistic rdma_write_bytes)
				# shellcheck disable=SC2016
				until_true 60 eval '[ $(($(statistic rdma_write_bytes) - begun)) -gt 2000000 ]' || fail "no transfer over $name"
			fi
			reasons=$(grep -c 'reason 3$' $LOG)
			within 60 rdma link del $name || fail "rdma link del $name hangs ($traffic, $round)"
			until_true 30 no_connections || fail "connections outlive $name ($traffic, $round)"
			# shellcheck disable=SC2016
			until_true 10 eval '[ $(grep -c "reason 3$" $LOG) -gt '"$reasons"' ]' || fail "no DeviceRemoved for $name ($traffic, $round)"
			rdma link add $name type $type netdev $netdev || fail "$name does not come back"
			if [ $traffic = idle ]; then
				wait $peer || fail "the peer of an idle connection: $(cat /tmp/peer.log)"
			else
				within 60 tail --pid=$peer -f /dev/null || fail "the peer of a busy connection does not see its end"
			fi
			until_true 30 client usmbd-peer echo "$address" --timeout $((5 * SLOW)) --sizes 1000 || fail "no echo after $name came back ($traffic, $round)"
		done
	done
done
echo "$((count * 4)) devices gone and back"

stop_server

# The network goes without a word: who has something to send finds out, and the keepalive has.
network_back() {
	ip -n client link set veth1 up
	ip -n client addr replace fd00:9:0::2/64 dev veth1 nodad
}
trap network_back EXIT
raw_server --keepalive=2000
client usmbd-peer hold 10.9.0.1 --seconds 100 --end >/tmp/peer.log 2>&1 &
peer=$!
until_true 60 grep -q holding /tmp/peer.log || fail "no connection"
sleep 5
no_connections && fail "the keepalive ended a connection that was well"
ip -n client link set veth1 down
until_true 40 no_connections || fail "a connection outlives its network"
# 4: lost; 5: the device gave up; 17: nobody answered.
until_true 5 grep -qE 'reason (4|5|17)$' $LOG || fail "the reason is another"
network_back
kill $peer 2>/dev/null
wait $peer
client usmbd-peer echo 10.9.0.1 --sizes 1000 || fail "no echo after the network came back"
stop_server
all_gone
tally "$count" "rmmod under an open descriptor"
tally $((count * 4)) "device removed and back"
