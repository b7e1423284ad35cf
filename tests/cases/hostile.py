#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# A peer that breaks the protocol is disconnected, its DISCONNECTED says why, and the kernel's log
# has a line; one that only does odd things is served.
# lanes: stock
# kernels: default
# timeout: 200
"""Rules of [MS-SMBD] 3.1.5.6 to 3.1.5.9, one row each, as bytes."""

import os
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402

END = "expect-disconnect"
# 64 bytes that come back show that the connection lives.
ALIVE = ["send:FF00010000000000000000001800000040000000 00000000+64", "expect-payload:" + "41" * 64]
REFUSAL = "expect:" + "0001000100000000 00000000BB0000C0" + "00" * 16
SIZES = "54050000 54050000 56A70200"


def data(remaining, offset, length, requested=255, granted=1, flags=0, padding=4, more=None):
    """A Data Transfer with any header."""
    head = b"".join(n.to_bytes(2, "little") for n in (requested, granted, flags, 0))
    head += b"".join(n.to_bytes(4, "little") for n in (remaining, offset, length))
    return f"send:{head.hex()}{'00' * padding}+{length if more is None else more}"


EMPTY = data(0, 0, 0, padding=0)
# What, the steps behind the negotiation, reason of DISCONNECTED.
BREACHES = [
    ("19 bytes", ["send:FF00000000000000000000000000000000000000"[:-2]], 23),
    ("no credits requested", [data(0, 0, 0, requested=0, padding=0)], 24),
    ("data offset 23", [data(0, 23, 64, padding=3)], 25),
    ("data offset 25", [data(0, 25, 64, padding=5)], 25),
    ("data offset 20", [data(0, 20, 64, padding=0)], 25),
    ("data offset 0", [data(0, 0, 64, padding=0)], 25),
    ("data offset 16", [data(0, 16, 64, padding=0)], 25),
    ("data offset past the end", [data(0, 32, 64)], 26),
    ("an empty message with an offset", [data(0, 24, 0, padding=0)], 26),
    ("data one byte past the end", [data(0, 24, 65, more=64)], 26),
    ("a length that wraps", [data(0, 24, 0xffffffff, more=64)], 26),
    ("a message one byte too long", [data((1 << 20) - 1339, 24, 1340)], 27),
    ("fragments end too early", [data(2000, 24, 1000), data(0, 24, 1000)], 28),
    ("two messages interleaved", [data(2000, 24, 1000), data(0, 24, 500)], 28),
    ("more than was announced", [data(1000, 24, 1000), data(0, 24, 1001)], 28),
]
HARMLESS = [
    ("a grant alone", [data(0, 0, 0, granted=10, padding=0)]),
    ("padding behind an empty message", [data(0, 0, 0)]),
    ("data offset 32", [data(0, 32, 64, padding=12), "expect-payload:" + "41" * 64]),
    ("bytes behind the data", [data(0, 24, 64, more=80), "expect-payload:" + "41" * 64]),
    ("unknown flags", ["send:FF000100FEFFFFFF 00000000 00000000 00000000"]),
    ("a full PDU", [data(0, 24, 1340), "expect-payload:" + "41" * 1340]),
    ("an absurd credit target", [data(0, 0, 0, requested=65535, padding=0)]),
    ("an empty first fragment",
     [data(1500, 24, 0), data(500, 24, 1000), data(0, 24, 500), "expect-payload:" + "41" * 1340,
      "expect-payload:" + "41" * 160]),
    ("a probe, answered at once", [data(0, 0, 0, flags=1, padding=0),
                                   "expect:FF00....0000 0000 00000000 00000000 00000000"]),
]
# What, all the steps, the log's words.
NEGOTIATIONS = [
    ("19 bytes", ["send:0001000100 00FF00" + SIZES[:-2], END], "too short"),
    ("no credits", ["send:0001000100000000" + SIZES, END], "no credits"),
    ("a receive size of 127", ["send:000100010000FF00 54050000 7F000000 56A70200", END], "out of range"),
    ("a fragmented size of 131071", ["send:000100010000FF00 54050000 54050000 FFFF0100", END], "out of range"),
    ("versions too new", ["send:000200030000FF00" + SIZES, REFUSAL, END], "common protocol version"),
    ("versions too old", ["send:0000FF000000FF00" + SIZES, REFUSAL, END], "common protocol version"),
    ("silence", ["expect-silence:3500", END], "no negotiation in time"),
]
ACCEPTABLE = [
    ("Windows' request", "send:000100010000FF00 54050000 00200000 00001000"),
    ("no preferred send size", "send:000100010000FF00 00000000 54050000 56A70200"),
    ("a preferred send size of 127", "send:000100010000FF00 7F000000 54050000 56A70200"),
    ("all maxima", "send:000100010000FFFF FFFFFFFF FFFFFFFF FFFFFFFF"),
    ("a padded request", f"send:000100010000FF00{SIZES}+492"),
    ("a reserved field", f"send:00010001FFFFFF00{SIZES}"),
    ("a range of versions", f"send:000100020000FF00{SIZES}"),
]
ACCEPTED = "expect:0001000100010000FF00..00 00000000" + "." * 32


def log_lines(since):
    lines = os.popen("dmesg").read().split(f"hostile row {since} begins")[-1].splitlines()
    return [line for line in lines if "usmbd" in line and "connection " in line]


def row(server, what, steps, read=True):
    """Plays the steps while the server serves."""
    with open("/dev/kmsg", "w", encoding="ascii") as log:
        log.write(f"hostile row {what} begins\n")
    server.reasons.clear()
    process = lib.peer("raw", server.where, *steps)
    if read:
        server.serve(lambda: process.poll() is not None, 40)
    return lib.ended_well(what, process, 40)


def breach(server, what, steps, reason, words=None, read=True):
    before = lib.statistics()["protocol_errors"]
    row(server, what, steps, read)
    if reason:
        server.serve(lambda: server.reasons, 20)
        lib.check(f"{what}: reasons {server.reasons}, expected {reason}", server.reasons == [reason])
    counted = lib.until(lambda: lib.statistics()["protocol_errors"] == before + 1, 5)
    lib.check(f"{what}: counted {lib.statistics()['protocol_errors'] - before} times", counted)
    lines = log_lines(what)
    lib.check(f"{what}: log lines {lines}", len(lines) == 1 and (words or "") in lines[0])
    lib.check(f"{what}: connections are left", lib.until(lambda: lib.statistics()["connections"] == 0))


# The log takes ten lines in five seconds, and what the case before this one brought about counts.
time.sleep(5.5)
for where in (lib.ROCE, lib.IWARP):
    server = lib.Server(where, receive_credit_max=255, send_credit_target=255, max_send_size=1364,
                        max_receive_size=1364, max_fragmented_recv_size=1 << 20)
    server.where = where
    for number, (what, steps, reason) in enumerate(BREACHES):
        if where == lib.IWARP and number % 4:
            continue                # The rules are the engine's; the fabric shows in a few.
        # As above.
        if number % 8 == 7:
            time.sleep(5.5)
        # The device may learn of the end by what it sent last.
        breach(server, what, ["negotiate", *steps, "expect-end"], reason)
    time.sleep(5.5)
    for what, steps, words in NEGOTIATIONS:
        if where == lib.ROCE or what == "silence":
            breach(server, "negotiation: " + what, steps, None, words)
    for what, steps in HARMLESS:
        row(server, what, ["negotiate", *steps, *ALIVE, "disconnect", END])
        server.serve(lambda: server.reasons, 20)
        lib.check(f"{where}: {what}: reasons {server.reasons}", server.reasons == [lib.REASON_PEER])
    for what, request in ACCEPTABLE:
        row(server, what, [request, ACCEPTED, *ALIVE, "disconnect", END])
    server.serve(lambda: False, 1)
    server.device.close()

# The driver has a receive to spare for a peer that sends without a credit.
time.sleep(5.5)
server = lib.Server(lib.ROCE, receive_credit_max=2)
server.where = lib.ROCE
process = lib.peer("raw", server.where, "negotiate", "3*" + data(0, 24, 64, granted=0), "expect-end")
connection = server.accept_one()
lib.ended_well("no credit", process)
server.serve(lambda: server.reasons, 20)
lib.check(f"no credit: reasons {server.reasons}", server.reasons == [29])
server.reasons.clear()
# A PDU that is longer than a receive is the device's to refuse.
process = lib.peer("raw", server.where, "negotiate", data(0, 24, 6000), "expect-end")
server.serve(lambda: server.reasons, 20)
lib.ended_well("too long a PDU", process)
lib.check(f"too long a PDU: reasons {server.reasons}", server.reasons == [7])
server.device.close()

# Many breaches do not fill the log.
server = lib.Server(lib.ROCE)
server.where = lib.ROCE
with open("/dev/kmsg", "w", encoding="ascii") as log:
    log.write("hostile row flood begins\n")
begin = time.monotonic()
for _ in range(30):
    server.reasons.clear()
    process = lib.peer("raw", server.where, "negotiate", BREACHES[0][1][0], END)
    server.serve(lambda: process.poll() is not None and server.reasons, 20)
    process.communicate()
lines = log_lines("flood")
# Ten in five seconds.
most = 10 * (1 + int((time.monotonic() - begin) / 5))
lib.check(f"30 breaches: {len(lines)} lines, expected {most} at most", 1 <= len(lines) <= most)
server.device.close()
lib.finish()
