#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# What goes over the wire is taken apart by tshark without a malformed frame:
# files over SMB Direct on RoCE, with transfers and inline; messages of all
# lengths on RoCE and iWARP.
# lanes: stock
# when: asked
# kernels: default
# timeout: 300
. /src/tests/cases/smbd-lib.sh

# capture NAME DEVICE: begins; uncapture ends it, and looks at it.
capture() {
	dump=/out/$1.pcapng
	tshark -q -i "$2" -w "$dump" >/tmp/tshark.log 2>&1 &
	tshark_pid=$!
	until_true 60 grep -q "Capture started\|Capturing on" /tmp/tshark.log || fail "tshark: $(cat /tmp/tshark.log)"
	sleep 3
}

# read_dump FILTER: those of its frames. Port 5445 is ARTEMIS's to tshark, unless told.
read_dump() {
	tshark --disable-protocol artemis -r "$dump" -Y "$1" 2>/dev/null
}

# smbd's hint in its list of security mechanisms ("not_defined_in_RFC4178") is
# malformed to tshark, over TCP too.
BROKEN='_ws.malformed && !spnego'

# uncapture LEAST: so many frames of SMB Direct at least, and none malformed.
uncapture() {
	local frames malformed
	sleep 2
	kill -INT $tshark_pid
	wait $tshark_pid
	frames=$(read_dump smb_direct | wc -l)
	malformed=$(read_dump "$BROKEN" | wc -l)
	echo "$(basename "$dump"): $frames frames of SMB Direct, $malformed malformed"
	[ "$frames" -ge "$1" ] || fail "only $frames frames of SMB Direct in $dump"
	[ "$malformed" = 0 ] || {
		read_dump "$BROKEN" | head -n 5
		fail "$malformed malformed frames in $dump"
	}
	rm "$dump"
}

start_smbd
random /tmp/file 200000
for way in plain sign; do
	capture files-$way veth0
	case $way in
	plain) share /mnt ;;
	# Signed, reads come inline, and cifs.ko asks for more than it takes.
	sign) share /mnt sign rsize=131072 ;;
	esac
	there_and_back /tmp/file /mnt $way
	lab umount /mnt
	uncapture 50
done
stop_smbd

LOG=/tmp/server.log
raw_server
for device in veth0 veth2; do
	capture echo-$device $device
	case $device in
	veth0) client usmbd-peer echo 10.9.0.1 --sizes 1,2,3,4,7,8,104,1339,1340,1341,30000 || fail "echo" ;;
	veth2) client usmbd-peer echo 10.9.1.1 --sizes 1,2,3,4,7,8,104,1339,1340,1341,30000 || fail "echo" ;;
	esac
	uncapture 40
done
stop_server
all_gone
