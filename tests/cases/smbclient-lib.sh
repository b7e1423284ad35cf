# SPDX-License-Identifier: GPL-2.0-only
# What the cases with Samba's clients share. Sourced after smbd-lib.sh.
# shellcheck shell=bash

CLIENT_LOG=/run/lab/log/client

IN_CLIENT=(nsenter --net=/run/netns/client)

# over_rdma COMMAND...: with the preload library, which takes its connections to
# the lab's servers.
over_rdma() {
	env USMBD_PRELOAD_PROGRAM=smbclient,smbtorture USMBD_PRELOAD_CONNECT=10.9.0.0/16,fd00:9::/32 \
		USMBD_PRELOAD_LOG=debug USMBD_PRELOAD_LOG_TO=$CLIENT_LOG LD_PRELOAD=$MODULE "$@"
}

# share_client WHERE SERVER COMMANDS [OPTION...]: smbclient on the share, from the client's
# network or from here.
share_client() {
	local where=() server=$2 commands=$3
	[ "$1" = here ] || where=("${IN_CLIENT[@]}")
	shift 3
	over_rdma "${where[@]}" timeout $((100 * SLOW)) smbclient "//$server/share" -U smbtest%pw --timeout=$((20 * SLOW)) -c "$commands" "$@" >/tmp/smbclient.out 2>&1
}

# files_come_back WHERE SERVER SIZE...: files of these sizes go to the share and back by
# smbclient.
files_come_back() {
	local where=$1 server=$2 size
	shift 2
	for size in "$@"; do
		random /tmp/there "$size"
		share_client "$where" "$server" 'put /tmp/there f; get f /tmp/back; rm f' || fail "smbclient to $server with $size bytes: $(cat /tmp/smbclient.out)"
		cmp /tmp/there /tmp/back || fail "$size bytes came back from $server as others"
	done
}
