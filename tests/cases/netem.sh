#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Packets are lost, late, out of order and doubled, in both directions: what
# arrives is what was sent, and connections end in order. Echo, placement and
# files on a share, over RoCE and iWARP.
# lanes: stock
# when: asked
# kernels: default
# timeout: 900
. /src/tests/cases/smbd-lib.sh

modprobe sch_netem || fail "no netem"

# disturb WHAT...: nothing, to have the networks as they were. cifs.ko reaches
# iWARP from this side only, thus by lo (see share_iwarp).
disturb() {
	local device
	for device in veth0 veth2 lo; do
		tc qdisc del dev $device root 2>/dev/null
		[ $# = 0 ] || tc qdisc add dev $device root netem "$@" || fail "netem $* on $device"
	done
	for device in veth1 veth3; do
		client tc qdisc del dev $device root 2>/dev/null
		[ $# = 0 ] || client tc qdisc add dev $device root netem "$@" || fail "netem $* on $device"
	done
}

# disturbed: packets that netem has dropped, and those that went through it.
disturbed() {
	tc -s qdisc show dev veth0 | awk '/Sent/ { sub(",", "", $7); print "dropped " $7 " of " $4 }'
}

# way NAME: what netem is told for it.
way() {
	case $1 in
	loss) echo "loss 1%" ;;
	delay) echo "delay 5ms" ;;
	reorder) echo "delay 2ms reorder 25% 50%" ;;
	duplicate) echo "duplicate 5%" ;;
	all) echo "delay 1ms 1ms loss 0.5% duplicate 1%" ;;
	esac
}

WAYS="loss delay reorder duplicate all"

LOG=/tmp/server.log
raw_server
for name in $WAYS; do
	# shellcheck disable=SC2046  # a list
	disturb $(way $name)
	for address in 10.9.0.1 10.9.1.1; do
		connections=$(grep -c ^disconnected $LOG)
		client usmbd-peer echo $address --sizes 1,1340,1341,65536,300000 --count 2 --depth 4 ||
			fail "$name: echo over $address"
		client usmbd-peer placement $address --sizes 7,4096,300000 --descriptors 1,2 --ranges 1,3 ||
			fail "$name: placement over $address"
		# Echo has one connection, placement another.
		until_true 30 eval "[ \$(grep -c ^disconnected $LOG) = $((connections + 2)) ]" ||
			fail "$name: $(($(grep -c ^disconnected $LOG) - connections)) ends for 2 connections over $address"
	done
	echo "$name: echo and placement; $(disturbed)"
done
disturb
# 2: the peer disconnected, in order.
! grep ^disconnected $LOG | grep -v 'reason 2$' || fail "connections that did not end in order"
stop_server

LOG=$PRELOAD_LOG
start_smbd
random /tmp/file 3000000
for name in $WAYS; do
	ends=$(statistic connections_accepted)
	# shellcheck disable=SC2046  # a list
	disturb $(way $name)
	share /mnt
	there_and_back /tmp/file /mnt $name-roce
	lab umount /mnt
	share_iwarp /mnt 10.9.1.1
	there_and_back /tmp/file /mnt $name-iwarp
	lab umount /mnt
	echo "$name: files, over $(($(statistic connections_accepted) - ends)) connections; $(disturbed)"
	[ $(($(statistic connections_accepted) - ends)) = 2 ] || fail "$name: connections were made anew"
done
disturb
stop_smbd
all_gone
