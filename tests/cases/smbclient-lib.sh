# SPDX-License-Identifier: GPL-2.0-only
# What the cases with Samba's clients share. Sourced after smbd-lib.sh.
# shellcheck shell=bash

CLIENT_LOG=/run/lab/log/client

# over_rdma COMMAND...: with the preload library, which takes its connections to
# the lab's servers.
over_rdma() {
	env USMBD_PRELOAD_PROGRAM=smbclient,smbtorture USMBD_PRELOAD_CONNECT=10.9.0.0/16,fd00:9::/32 \
		USMBD_PRELOAD_LOG=debug USMBD_PRELOAD_LOG_TO=$CLIENT_LOG LD_PRELOAD=$MODULE "$@"
}

# share_client SERVER COMMANDS [OPTION...]: smbclient on the share.
share_client() {
	local server=$1 commands=$2
	shift 2
	timeout 100 smbclient "//$server/share" -U smbtest%pw -c "$commands" "$@"
}

# files_come_back WHERE SERVER SIZE...: files of these sizes go to the share and back by
# smbclient, run by WHERE (client, or env for this side).
files_come_back() {
	local where=$1 server=$2 size
	shift 2
	for size in "$@"; do
		random /tmp/there "$size"
		over_rdma "$where" bash -c "$(declare -f share_client); share_client $server 'put /tmp/there f; get f /tmp/back; rm f'" \
			>/tmp/smbclient.out 2>&1 || fail "smbclient to $server with $size bytes: $(cat /tmp/smbclient.out)"
		cmp /tmp/there /tmp/back || fail "$size bytes came back from $server as others"
	done
}
