# SPDX-License-Identifier: GPL-2.0-only
# What the cases with smbd and cifs.ko share. Sourced.
# shellcheck shell=bash
. /src/tests/cases/lib.sh

PRELOAD_LOG=/run/lab/log/preload
# Shown when a case fails.
# shellcheck disable=SC2034
LOG=$PRELOAD_LOG

MODULE=/build/stage/lib/libusmbd_preload.so

start_smbd() {
	rm -f $PRELOAD_LOG
	lab smbd start || fail "smbd does not start"
	grep -q ": SMB Direct on 0.0.0.0" $PRELOAD_LOG || fail "smbd does not listen for SMB Direct"
}

stop_smbd() {
	lab smbd stop || fail "smbd does not stop"
}

# share DIR [OPTIONS]: mount over RDMA; every mount has a connection of its own.
share() {
	local dir=$1
	shift
	within 60 lab mount rdma "$dir" cache=none nosharesock "$@" || fail "mount $dir $*"
}

# share_iwarp DIR ADDRESS: the same over siw, from the server's own network:
# cifs.ko connects from a kernel thread, and siw makes its socket in the thread's
# network namespace, which does not have the client's addresses.
share_iwarp() {
	modprobe cifs
	mkdir -p "$1"
	within 60 mount -t cifs "//$2/share" "$1" -o user=smbtest,password=pw,vers=3.1.1,rdma,cache=none,nosharesock ||
		fail "mount $1 over siw"
}

# random FILE BYTES
random() {
	head -c "$2" /dev/urandom >"$1"
}

# there_and_back FILE DIR NAME: copies FILE to the share and back, and compares.
there_and_back() {
	within 100 cp "$1" "$2/$3" || fail "cp to $2/$3"
	cmp "$1" "/srv/share/$3" || fail "$3 arrived as another file"
	within 100 cp "$2/$3" "/tmp/back-$3" || fail "cp from $2/$3"
	cmp "$1" "/tmp/back-$3" || fail "$3 came back as another file"
	rm -f "/tmp/back-$3"
}
