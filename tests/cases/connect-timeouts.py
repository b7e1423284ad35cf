#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""CONNECT to peers that are there and silent: one that accepts and never answers the negotiation,
and one whose packets are lost. Both end by the clock, as the address that nobody has does."""
# lanes: stock
# when: asked
# kernels: default
# timeout: 240

import struct
import subprocess
import time

import lib
from lib import check, raw

UNREACHABLE, NEGOTIATION = 9, 10


def client(*command):
    subprocess.run(["nsenter", "--net=/run/netns/client", *command], check=True, timeout=60)


def connect(where):
    device = raw.Device()
    device.write(raw.connect(where))
    return device, time.monotonic()


def ends(what, attempt, status, earliest, latest):
    device, begin = attempt
    _, _, body = device.expect(raw.CONNECTED, 180)
    took = time.monotonic() - begin
    told, = struct.unpack_from("<I", body, 8)
    check(f"{what}: status {told} after {took:.0f} s",
          told == status and earliest <= took <= latest)
    device.close()


acceptor = lib.peer("raw", "10.9.0.2", "--port", 445, "--timeout", 200, "--accept", "expect:*",
                    "expect-end")
acceptor.stdout.readline()
silent = connect("10.9.0.2")
check("it connects", lib.until(lambda: "negotiating" in open(
    "/sys/kernel/debug/usmbd/connections", encoding="ascii").read()))
time.sleep(2)
nobody = connect("10.9.0.77")
ends("an address that nobody has", nobody, UNREACHABLE, 2, 12 * lib.SLOW)

# From here on what the other side is sent by RoCE is lost; ARP is not.
client("nft", "add", "table", "netdev", "lossy")
client("nft", "add", "chain", "netdev", "lossy", "in",
       "{ type filter hook ingress device veth1 priority 0; }")
client("nft", "add", "rule", "netdev", "lossy", "in", "udp", "dport", "4791", "drop")
lost = connect("fd00:9:0::2")
ends("packets that are lost", lost, UNREACHABLE, 15, 125 * lib.SLOW)
client("nft", "delete", "table", "netdev", "lossy")

ends("no answer to the negotiation", silent, NEGOTIATION, 115, 125 * lib.SLOW)
acceptor.kill()
acceptor.wait()
check("something is left", lib.until(lambda: lib.statistics()["contexts"] == 0
                                     and lib.statistics()["connections"] == 0, 30))
lib.finish()
