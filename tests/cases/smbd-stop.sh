#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# smbd stops at random moments inside a running copy (USMBD_TEST_COUNT=, else 5). The
# client gets an error or connects again, and never hangs; once smbd is back, the copy
# can be repeated on the same mount.
# lanes: stock
# kernels: default
# timeout: 500
. /src/tests/cases/smbd-lib.sh

SIZE=$((24 << 20))
random /tmp/file $SIZE
start_smbd
share /mnt soft,retrans=1
count=${USMBD_TEST_COUNT:-5}
inside=0
tries=0
gave_up=0
while [ $inside -lt "$count" ]; do
	tries=$((tries + 1))
	[ $tries -le $((3 * count)) ] || fail "only $inside of $tries stops met a running copy"
	rm -f /srv/share/file
	within 90 cp /tmp/file /mnt/file 2>/tmp/cp.out &
	copy=$!
	until_true 20 test -s /srv/share/file || fail "the copy does not begin"
	# The copy takes a second or so here.
	sleep "0.$((RANDOM % 5))$((RANDOM % 10))"
	if [ "$(stat -c %s /srv/share/file)" -lt $SIZE ] && kill -0 $copy 2>/dev/null; then
		inside=$((inside + 1))
	fi
	lab smbd stop || fail "smbd does not stop"
	lab smbd start || fail "smbd does not start again"
	wait $copy
	status=$?
	[ $status -lt 124 ] || fail "the copy hangs (try $tries)"
	# A soft mount gives its caller up when it was without a server for 10 s, be it on its way back to
	# it (cifs_wait_for_server_reconnect()).
	end=$((SECONDS + 60))
	until within 100 cp /tmp/file /mnt/again 2>/tmp/again.out; do
		if ! grep -q "Host is down" /tmp/again.out || [ $SECONDS -ge $end ]; then
			echo "the first copy ended with $status: $(cat /tmp/cp.out)"
			dmesg | tail -n 15
			fail "the copy cannot be repeated (try $tries): $(cat /tmp/again.out)"
		fi
		gave_up=$((gave_up + 1))
	done
	cmp /tmp/file /srv/share/again || fail "the repeated copy is another file"
done
echo "$inside of $tries stops met a running copy; the client gave $gave_up copies up before it was back"
lab umount /mnt
stop_smbd
all_gone
tally "$inside" "smbd stopped inside a copy"
