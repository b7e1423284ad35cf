#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# What one write() asks of a connection is posted in one chain with one doorbell: an RDMA write and
# the message behind it, and many messages; a QUIET command in front asks for no completion.
# kernels: default
# timeout: 120
. /src/tests/cases/lib.sh

EVENTS=/sys/kernel/tracing/events/usmbd
TRACE=/sys/kernel/tracing/trace

# traced COMMAND...: what the driver's commands and doorbells were meanwhile.
traced() {
	echo >$TRACE
	echo 1 | tee $EVENTS/usmbd_command/enable >$EVENTS/usmbd_post/enable
	"$@"
	local status=$?
	echo 0 | tee $EVENTS/usmbd_command/enable >$EVENTS/usmbd_post/enable
	grep -o 'usmbd_[cp].*' $TRACE >/tmp/trace
	return $status
}

raw_server
traced client usmbd-peer placement 10.9.0.1 --sizes 65536 --ranges 1 --descriptors 1 --count 8 --quiet || fail "placement"
# The first transfer of a buffer is behind its registration.
awk '
	/opcode=0x0042/ { write = 1; next }
	/opcode=0x0040/ && write { pair = 1; next }
	/usmbd_post/ {
		if (write && !pair) { print "a doorbell between RDMA_WRITE and its message"; bad = 1 }
		if (pair) {
			split($3, requests, "="); split($4, signalled, "=")
			if (requests[2] < 2) { print "not in one chain: " $0; bad = 1 }
			if (signalled[2] == 1) lean++
			pairs++
		}
		write = pair = 0
	}
	END {
		print pairs + 0 " RDMA writes with their messages, " lean + 0 " of them with one completion"
		exit bad || pairs < 8 || lean < 6
	}' /tmp/trace || { cat /tmp/trace; fail "chaining"; }
stop_server

# 32 messages by one write().
rm -f /tmp/go
python3 - <<'END' >/tmp/many.out 2>&1 &
import os, sys
sys.path[:0] = ["/src/tests/cases"]
import lib
from lib import raw
server = lib.Server("10.9.0.1")
print("listening", flush=True)
connection = server.accept_one(seconds=60)
server.serve(lambda: os.path.exists("/tmp/go"))
batch = b"".join(raw.send_pdu(connection, b"x" * 64, flags=raw.QUIET) for _ in range(32))
server.device.write(batch)
print("taken", flush=True)
server.serve(lambda: bool(server.reasons))
END
server_pid=$!
until_true 60 grep -q listening /tmp/many.out || fail "no server: $(cat /tmp/many.out)"
client usmbd-peer hold 10.9.0.1 --seconds 60 --end >/tmp/peer.log 2>&1 &
peer=$!
until_true 60 grep -q holding /tmp/peer.log || fail "no connection: $(cat /tmp/peer.log /tmp/many.out)"
many() {
	touch /tmp/go
	until_true 30 grep -q taken /tmp/many.out
	sleep 1
}
traced many || fail "32 messages: $(cat /tmp/many.out)"
most=$(sed -n 's/usmbd_post:.*requests=\([0-9]*\).*/\1/p' /tmp/trace | sort -n | tail -n 1)
[ "${most:-0}" -ge 16 ] || { cat /tmp/trace; fail "at most ${most:-0} messages with a doorbell"; }
kill $peer
wait $server_pid
server_pid=

# What was written in front of a DISCONNECT is posted in front of it.
python3 - <<'END' || fail "a message in front of a DISCONNECT"
import sys
sys.path[:0] = ["/src/tests/cases"]
import lib
from lib import raw
server = lib.Server("10.9.0.1")
peer = lib.peer("hold", "10.9.0.1", "--seconds", 60, "--end")
connection = server.accept_one()
# The peer's first PDU brings our credits.
def has_credits():
    with open("/sys/kernel/debug/usmbd/connections", encoding="ascii") as file:
        return " send_credits=0 " not in file.read()
lib.check("credits to send with", lib.until(has_credits))
before = lib.statistics()["pdus_sent"]
server.device.write(raw.send_pdu(connection, b"x" * 6000) + raw.disconnect(connection))
# 6000 bytes are 5 PDUs of at most 1340.
sent = lib.statistics()["pdus_sent"] - before
lib.check(f"{sent} PDUs were posted", sent >= 5)
lib.check("the end", server.serve(lambda: bool(server.reasons)))
peer.kill()
peer.wait()
lib.finish()
END
all_gone
