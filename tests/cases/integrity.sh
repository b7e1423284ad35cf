#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Random reads and writes of random lengths over the share, each verified by fio, and those with
# truncations, mappings and what drops the client's cache, each verified by fsx, while connections are
# dropped at random moments and come back: every byte is as it was written. Over a plain mount, a
# signed, an encrypted one, and one with several channels. USMBD_TEST_TIME= seconds for each (30).
# lanes: stock
# kernels: default
# timeout: 600
. /src/tests/cases/smbd-lib.sh

seconds=${USMBD_TEST_TIME:-30}

sed 's/^\[share\]/\tinterfaces = "10.9.0.1;capability=RSS,capability=RDMA,speed=10000000000"\n\tserver multi channel support = yes\n&/' \
	/src/tests/vm/guest/smb.conf >/tmp/multichannel.conf
LAB_SMB_CONF=/tmp/multichannel.conf
export LAB_SMB_CONF

# A connection of those that serve.
any_connection() {
	usmbdctl list --json | python3 -c '
import json, random, sys
serving = [one["connection"] for one in json.load(sys.stdin) if one["phase"] == "serving"]
print(random.choice(serving) if serving else "")'
}

# settings WEIGHTS [MORE]: what fsx does, besides what it always does.
settings() {
	printf 'flen = 1048576\n%s\n[opsize]\nmax = 262144\n[weights]\nread = 10\nwrite = 10\nclose_open = 2\nposix_fadvise = 5\n%s\n' \
		"${2:-}" "$1"
}
# Mappings of the share's files, ucma's lock and cifs.ko's over a reconnect make a circle, of which
# lockdep complains; nothing of usmbd is in it.
mappings='mapread = 0
mapwrite = 0'
[ "${LANE:-stock}" = debug ] || mappings='mapread = 5
mapwrite = 5
invalidate = 2'
settings "$mappings
truncate = 2
fsync = 2" >/tmp/whole.toml
# While connections are dropped, sizes are neither asked for nor set, and nothing is flushed by name:
# cifs.ko uses the handle that went with the connection for those, and says EBADF.
settings "${mappings/mapwrite = 5/mapwrite = 0}
truncate = 0" "nosizechecks = true" >/tmp/dropping.toml

# exercise SETTINGS FILE
exercise() {
	local seed=$RANDOM
	within 300 fsx -q -N 300 -S $seed -f "/tmp/$1.toml" -P /tmp "$2" >/tmp/fsx.log 2>&1 ||
		fail "fsx, $1, $2, seed $seed: $(tail -n 5 /tmp/fsx.log)"
}

drop_now_and_then() {
	local end=$((SECONDS + seconds)) victim
	while [ $SECONDS -lt $end ]; do
		sleep "$((2 + RANDOM % 4)).$((RANDOM % 10))"
		victim=$(any_connection)
		[ -z "$victim" ] || ! usmbdctl drop "$victim" || echo dropped >>/tmp/drops
	done
}

begin_counting
dropped=0
start_smbd
for way in plain sign seal multichannel; do
	case $way in
	plain) share /mnt hard ;;
	sign) share /mnt hard sign ;;
	seal) share /mnt hard seal,rsize=131072 ;;
	multichannel) share /mnt hard multichannel max_channels=4 ;;
	esac
	exercise whole "/mnt/$way.whole"
	: >/tmp/drops
	drop_now_and_then &
	dropper=$!
	end=$((SECONDS + seconds))
	runs=0
	while [ $SECONDS -lt $end ]; do
		runs=$((runs + 1))
		exercise dropping "/mnt/$way.dropping"
		within 300 fio --name=$way --directory=/mnt --numjobs=2 --size=4m --rw=randrw --bsrange=512-512k --bs_unaligned \
			--ioengine=psync --fallocate=none --verify=crc32c --verify_fatal=1 --randseed=$RANDOM --output=/tmp/fio.log ||
			fail "fio, $way: $(grep -iE 'verify|error|err=' /tmp/fio.log | head -n 5)"
	done
	wait $dropper
	for file in /srv/share/"$way".*; do
		cmp "$file" "/mnt/$(basename "$file")" || fail "$way: the client sees another file"
	done
	drops=$(wc -l </tmp/drops)
	dropped=$((dropped + drops))
	echo "$way: $runs runs of fsx and of fio, $drops connections dropped"
	[ "$drops" -gt 0 ] || fail "no connection was dropped"
	rm -f /srv/share/"$way".*
	lab umount /mnt
done
stop_smbd
all_back
tally $((seconds * 4)) "seconds of verified files, connections being dropped"
tally "$dropped" "connections dropped under verified files"
