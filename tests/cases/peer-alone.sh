#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Our peer without our driver: ksmbd takes it for an SMB Direct client, and it understands itself.
# So what it says about the driver is worth something.
# lanes: stock
# kernels: default
# when: asked
# timeout: 150
. /src/tests/cases/lib.sh

# Whatever comes, the next case finds the module again.
trap 'lab ksmbd stop; [ -e /dev/usmbd ] || insmod /build/usmbd.ko' EXIT
rmmod usmbd || fail "the module cannot be unloaded"
lab ksmbd start || fail "ksmbd does not start"
# (ksmbd listens for RDMA on IPv4 alone.)
for address in 10.9.0.1 10.9.1.1; do
	client usmbd-peer ksmbd "$address" || fail "SMB2 NEGOTIATE with ksmbd over $address"
done
# Rules that every acceptor has, with their verdicts: ksmbd agrees.
breach() {
	local what=$1
	shift
	client usmbd-peer raw 10.9.0.1 "$@" || fail "ksmbd: $what"
}
breach "19 bytes of a request" "send:000100010000FF00540500005405000056A702" expect-end
breach "no credits" "send:0001000100000000540500005405000056A70200" expect-end
breach "no credits requested" negotiate "send:0000010000000000000000000000000000000000" expect-end
breach "data offset 23" negotiate "send:FF0000000000000000000000170000004000000000000000+64" expect-end
breach "data past the end" negotiate "send:FF0000000000000000000000180000004100000000000000+64" expect-end
breach "a probe" negotiate "send:FF00010001000000000000000000000000000000" "expect:......000000*" disconnect expect-disconnect
lab ksmbd stop || fail "ksmbd does not stop"

# Not over siw: this is about the peer itself, which is the same on all fabrics.
for address in 10.9.0.1 fd00:9:0::1; do
	server usmbd-peer serve-echo "$address" --connections 3
	client usmbd-peer echo "$address" --port 445 --connections 2 --depth 4 --count 2 || fail "echo to ourselves over $address"
	client usmbd-peer echo "$address" --port 445 --credits 1 --sizes 1,5000 --count 3 || fail "a single credit over $address"
	wait "$server_pid" || fail "serve-echo over $address"
	server_pid=
done
# And it says so when something is wrong.
server usmbd-peer serve-echo 10.9.0.1 --connections 2
client usmbd-peer raw 10.9.0.1 negotiate expect-disconnect --timeout 3 && fail "silence was taken for a disconnect"
client usmbd-peer take 10.9.0.1 --sizes 5 --timeout 5 && fail "wrong content was taken for right"
stop_server
