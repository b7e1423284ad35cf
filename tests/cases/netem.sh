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

# disturb WAY: `none` has the networks as they were. cifs.ko reaches iWARP from
# this side only, thus by lo (see share_iwarp).
disturb() {
	local device fabric inside
	for device in veth0:roce veth2:iwarp lo:iwarp veth1:roce:client veth3:iwarp:client; do
		IFS=: read -r device fabric inside <<<"$device"
		$inside tc qdisc del dev $device root 2>/dev/null
		# shellcheck disable=SC2046  # a list
		[ "$1" = none ] || $inside tc qdisc add dev $device root netem $(way "$1" $fabric) ||
			fail "netem $1 on $device"
	done
}

# disturbed: packets that netem has dropped, and those that went through it.
disturbed() {
	tc -s qdisc show dev veth0 | awk '/Sent/ { sub(",", "", $7); print "dropped " $7 " of " $4 }'
}

# way NAME FABRIC: what netem is told for it. TCP sorts what iWARP gets. RoCE's
# queue pairs go back for each packet that is out of order, and give up after six
# times without an ACK, which rxe asks for every 64 packets (rxe_comp.c,
# rxe_req.c): at a few percent no transfer gets through, whoever it is of.
way() {
	local early=25%
	[ "$2" = iwarp ] || early=1%
	case $1 in
	loss) echo "loss 1%" ;;
	delay) echo "delay 5ms" ;;
	reorder) echo "delay 2ms reorder $early 50%" ;;
	duplicate) echo "duplicate 5%" ;;
	all) echo "delay 2ms reorder $early 50% loss 0.5% duplicate 1%" ;;
	esac
}

WAYS="loss delay reorder duplicate all"

LOG=/tmp/server.log
raw_server
for name in $WAYS; do
	disturb $name
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
disturb none
# 2: the peer disconnected, in order.
! grep ^disconnected $LOG | grep -v 'reason 2$' || fail "connections that did not end in order"
stop_server

LOG=$PRELOAD_LOG
start_smbd
random /tmp/file 3000000
for name in $WAYS; do
	ends=$(statistic connections_accepted)
	disturb $name
	share /mnt
	there_and_back /tmp/file /mnt $name-roce
	lab umount /mnt
	share_iwarp /mnt 10.9.1.1
	there_and_back /tmp/file /mnt $name-iwarp
	lab umount /mnt
	echo "$name: files, over $(($(statistic connections_accepted) - ends)) connections; $(disturbed)"
	[ $(($(statistic connections_accepted) - ends)) = 2 ] || fail "$name: connections were made anew"
done
disturb none
stop_smbd
all_gone
