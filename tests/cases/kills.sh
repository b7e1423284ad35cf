#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# smbd's child, and then its parent, are killed at random moments under load: connections end, what
# was written before is as it was, the client goes on with the next smbd, and all memory is back.
# USMBD_TEST_COUNT= says how often.
# lanes: stock
# when: asked
# kernels: default
# timeout: 300
. /src/tests/cases/smbd-lib.sh

count=${USMBD_TEST_COUNT:-3}
begin_counting
start_smbd
share /mnt soft,retrans=1
random /tmp/file $((4 << 20))

# The smbd that serves the connection: it has the registration area mapped.
serving() {
	grep -l /dev/usmbd /proc/[0-9]*/maps 2>/dev/null | head -n 1 | cut -d/ -f3
}

for round in $(seq "$count"); do
	for whom in child parent; do
		there_and_back /tmp/file /mnt before
		rm -f /tmp/killed
		# A client that comes back fast enough never fails.
		(while [ ! -e /tmp/killed ] && within 90 cp /tmp/file /mnt/load 2>/dev/null; do :; done) &
		load=$!
		sleep "0.$((RANDOM % 10))$((RANDOM % 10))"
		if [ $whom = child ]; then
			victim=$(serving)
		else
			victim=$(cat /run/samba/smbd.pid)
		fi
		[ -n "$victim" ] || fail "no $whom to kill"
		kill -KILL "$victim"
		touch /tmp/killed
		if [ $whom = parent ]; then
			until_true 60 eval '! pgrep -x smbd' || pkill -KILL -x smbd
			rm -f /run/samba/smbd.pid
			lab smbd start || fail "smbd does not start again"
		fi
		within 100 tail --pid=$load -f /dev/null || fail "the load hangs ($whom, $round)"
		wait $load
		# The first access may still find the dead connection.
		until_true 100 within 60 cp /tmp/file /mnt/after || fail "no access after the kill ($whom, $round)"
		cmp /tmp/file /srv/share/after || fail "another file after the kill ($whom, $round)"
		cmp /tmp/file /srv/share/before || fail "an older file changed ($whom, $round)"
		until_true 30 eval '[ $(statistic connections) = 1 ]' || fail "connections of the dead stay ($whom, $round)"
	done
done
echo "$count children and $count parents killed"
lab umount /mnt
stop_smbd
all_back
tally "$count" "kill -9 of the smbd that serves a connection"
tally "$count" "kill -9 of smbd's parent"
