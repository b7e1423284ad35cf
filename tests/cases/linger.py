#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# What was accepted leaves after the last close(); a peer that takes nothing is not waited for long.
# USMBD_TEST_COUNT= says how often.
# lanes: stock
# kernels: default
# timeout: 90
"""docs/abi.md, DISCONNECT and close()."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw  # noqa: E402
from serve import pattern  # noqa: E402

SIZES = [1, 200000, 1 << 20, 5, 70000, 1 << 20]


def linger():
    """What was accepted leaves after close(); then the connection is disconnected in order."""
    for address in (lib.ROCE, lib.IWARP):
        server = lib.Server(address)
        process = lib.peer("take", address, "--sizes", ",".join(map(str, SIZES)), "--seed", 9,
                           "--pause", 1, "--end")
        device = raw.Device()
        connection = server.accept_one(device)
        device.expect(raw.PDU_RECEIVED, 20 * lib.SLOW)
        for number, size in enumerate(SIZES):
            device.write(raw.send_pdu(connection, pattern(9 + number, size), flags=raw.QUIET))
        device.close()
        lib.ended_well(f"linger over {address}", process)
        check("connections linger too long", lib.until(lambda: lib.statistics()["connections"] == 0))
        check("lingering", lib.statistics()["lingering"] == 0)

        # A peer that takes nothing is not waited for long: 5 s.
        process = lib.peer("raw", address, "negotiate", "send:" + "FF0001000000000000000000"
                           "180000000100000000000000 45", "expect-messages:1", "expect-end")
        device = raw.Device()
        connection = server.accept_one(device)
        device.expect(raw.PDU_RECEIVED, 20 * lib.SLOW)
        device.write(raw.send_pdu(connection, bytes(100000), flags=raw.QUIET))
        device.close()
        check("it lingers", lib.statistics()["lingering"] == 1)
        check("it lingers for ever", lib.until(lambda: lib.statistics()["connections"] == 0, 12))
        lib.ended_well(f"a peer that grants one credit, over {address}", process)
        server.device.close()


COUNT = int(os.environ.get("USMBD_TEST_COUNT", 1))
for _ in range(COUNT):
    linger()
lib.tally(2 * COUNT, "last close with messages unsent")
lib.tally(2 * COUNT, "last close, and a peer that takes nothing")
lib.finish()
