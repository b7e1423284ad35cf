#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# An unmodified smbclient reaches an unmodified smbd over SMB Direct, both by
# the preload library, and nothing over TCP; over RoCE and iWARP, IPv4 and IPv6.
# And it stays what it was where it was not told.
# lanes: stock
# kernels: default
# timeout: 240
. /src/tests/cases/smbd-lib.sh
. /src/tests/cases/smbclient-lib.sh

# No TCP port at all: what works, works over SMB Direct.
sed 's/smb ports = .*/smb ports = 5445\n\tsmb2 max write = 4194304\n\tsmb2 max read = 4194304/' \
	/src/tests/vm/guest/smb.conf >/tmp/rdma-only.conf
listens_for_rdma() {
	grep -q ": SMB Direct on 0.0.0.0" $PRELOAD_LOG
}
LAB_SMB_CONF=/tmp/rdma-only.conf LAB_NO_TCP=1 lab smbd start || fail "smbd does not start"
until_true 30 listens_for_rdma || fail "smbd does not listen for SMB Direct"
[ -z "$(ss -Hltn 'sport = :445')" ] || fail "somebody listens on TCP port 445"

made=$(statistic connections_made) messages=$(statistic messages_received)
files_come_back client 10.9.0.1 1 1000 65536 1048577 9000000
files_come_back client fd00:9:0::1 300000
# siw connects in the network of a kernel thread, so from this side.
files_come_back here 10.9.1.1 300000
files_come_back here fd00:9:1::1 300000
made=$(($(statistic connections_made) - made)) messages=$(($(statistic messages_received) - messages))
[ $made = 8 ] || fail "$made connections for 8 calls"
[ $messages -ge 160 ] || fail "only $messages messages"
grep -q "SMB Direct in the place of TCP port 445" $CLIENT_LOG || fail "the library says nothing"

# A listing, errors, and a name that is not there.
share_client client 10.9.0.1 'mkdir d; cd d; ls; cd ..; rmdir d; get none /tmp/none'
grep -q 'NT_STATUS_OBJECT_NAME_NOT_FOUND' /tmp/smbclient.out || fail "no error: $(cat /tmp/smbclient.out)"
# Encrypted, it goes as well.
share_client client 10.9.0.1 ls --client-protection=encrypt ||
	fail "encrypted: $(cat /tmp/smbclient.out)"

# Another program, an address that is not named, no addresses at all: TCP, which nobody serves.
made=$(statistic connections_made)
for way in USMBD_PRELOAD_PROGRAM=smbtorture USMBD_PRELOAD_CONNECT=10.9.1.0/24 USMBD_PRELOAD_CONNECT=; do
	over_rdma "${IN_CLIENT[@]}" env "$way" timeout $((100 * SLOW)) smbclient //10.9.0.1/share -U smbtest%pw -c ls >/tmp/smbclient.out 2>&1 &&
		fail "with $way it works"
	grep -q NT_STATUS_CONNECTION_REFUSED /tmp/smbclient.out || fail "with $way: $(cat /tmp/smbclient.out)"
done
[ "$(statistic connections_made)" = "$made" ] || fail "a connection that nobody asked for"
lab smbd stop || fail "smbd does not stop"

# Nobody listens.
share_client client 10.9.0.1 ls && fail "it works without a server"
grep -q NT_STATUS_CONNECTION_REFUSED /tmp/smbclient.out || fail "without a server: $(cat /tmp/smbclient.out)"
all_gone
