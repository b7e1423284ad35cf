#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# First messages that no SMB client sends, or too many of them, or too late: the connection ends, and nothing else does.
# lanes: stock
# kernels: default
# timeout: 400
"""Routing and hostile peers."""

import os
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import routelib as routing  # noqa: E402
from lib import check, raw  # noqa: E402
from routelib import GUID, SESSION, Client, context, header, negotiate, session_setup  # noqa: E402


def patched(message, at, value):
    return message[:at] + value + message[at + len(value):]


GOOD = negotiate()
START = struct.unpack_from("<I", GOOD, 92)[0]
FIRST = [
    ("one byte", b"x"),
    ("SMB1", b"\xffSMB" + bytes(60)),
    ("encrypted", b"\xfdSMB" + bytes(100)),
    ("compressed", b"\xfcSMB" + bytes(100)),
    ("a header alone", GOOD[:64]),
    ("cut short", GOOD[:99]),
    ("SESSION_SETUP first", session_setup()),
    ("ECHO", header(routing.ECHO) + struct.pack("<HH", 4, 0)),
    ("a response", patched(GOOD, 16, b"\1")),
    ("asynchronous", patched(GOOD, 16, b"\2")),
    ("a compound", patched(GOOD, 20, struct.pack("<I", len(GOOD))) + GOOD),
    ("another StructureSize", patched(GOOD, 64, b"\x41")),
    ("no dialects", patched(GOOD, 66, b"\0\0")),
    ("65535 dialects", patched(GOOD, 66, b"\xff\xff")),
    ("no contexts", patched(GOOD, 96, b"\0\0")),
    ("65535 contexts", patched(GOOD, 96, b"\xff\xff")),
    ("contexts outside", patched(GOOD, 92, b"\xf8\xff\xff\xff")),
    ("contexts at the header", patched(GOOD, 92, b"\0\0\0\0")),
    ("contexts unaligned", patched(GOOD, 92, struct.pack("<I", START + 4))),
    ("a context too long", patched(GOOD, START + 2, b"\xff\xff")),
    ("a last context cut short", GOOD[:-1]),
    ("too long by one", negotiate(length=65537)),
    ("much too long", bytes(1 << 20)),
]
SECOND = [
    ("NEGOTIATE again", GOOD),
    ("ECHO", header(routing.ECHO, message_id=1) + struct.pack("<HH", 4, 0)),
    ("SMB1", b"\xffSMB" + bytes(60)),
    ("cut short", session_setup()[:80]),
    ("a token outside", session_setup()[:-1]),
    ("too long for both", session_setup(token=bytes(65500))),
    ("a compound", patched(session_setup(), 20, b"\x80")),
]


def ends(what, where, *messages, answers=0):
    """The last of the messages ends it, and it is counted."""
    before = lib.statistics()["protocol_errors"]
    client = Client(where, "--timeout", 20 * lib.SLOW)
    for number, message in enumerate(messages):
        answer = client.step("send " + message.hex())
        if number < len(messages) - 1:
            check(f"{what}: {answer}", answer == "sent")
        if number < answers:
            check(f"{what}: answered", client.receive()[:4] == b"\xfeSMB")
    check(f"{what}: its end", "ended" in answer or client.ended(20))
    client.kill()
    counted = lib.until(lambda: lib.statistics()["protocol_errors"] == before + 1, 5)
    check(f"{what}: counted {lib.statistics()['protocol_errors'] - before} times", counted)


def log_has(text):
    return text in os.popen("dmesg").read()


front = routing.listener()
owner = routing.Local()
owner.write(raw.set_client_guid(GUID), raw.set_session_id(SESSION))
for number, (what, message) in enumerate(FIRST):
    ends("first: " + what, lib.IWARP if number % 6 == 1 else lib.ROCE, message)
check("the log says so", log_has("its first messages are not those of an SMB client"))
check("nobody hears of any", routing.quiet(owner) and routing.quiet(front))
owner.write(raw.clear_client_guid(GUID))
front.write(raw.set_negotiate_template(0, routing.response()))
for number, (what, message) in enumerate(SECOND):
    ends("second: " + what, lib.IWARP if number % 6 == 1 else lib.ROCE, GOOD, message, answers=1)
check("nobody hears of any", routing.quiet(owner) and routing.quiet(front))
front.write(raw.set_negotiate_template(0, b""))

# Two messages at once: nothing may come before the answer.
REQUEST = negotiate(dialects=(0x0302,))


def pdu(payload, remaining=0):
    """A Data Transfer, [MS-SMBD] 2.2.3."""
    return "send:" + (struct.pack("<HHHHIII4x", 255, 10, 0, 0, remaining, 24, len(payload)) + payload).hex()


for where in (lib.ROCE, lib.IWARP):
    for what, steps in (
            ("a second message behind the first", [pdu(REQUEST), pdu(session_setup(0))]),
            ("a second message while a ticket is out", [pdu(REQUEST), "wait:500", pdu(session_setup(0))]),
            ("announced too long", [pdu(REQUEST, 65536)])):
        before = lib.statistics()["protocol_errors"]
        process = lib.peer("raw", where, "negotiate", *steps, "expect-end")
        lib.ended_well(what, process)
        counted = lib.until(lambda: lib.statistics()["protocol_errors"] == before + 1, 5)
        check(f"{what}: counted", counted)
    routing.nothing_is_left()
while not routing.quiet(front):
    pass                                # tickets of what ended meanwhile

# Who says nothing, or half of it, or comes late: 30 s, for all of it together.
clients = {
    "nothing": ["negotiate"],
    "half a message": ["negotiate", pdu(REQUEST[:50], len(REQUEST) - 50)],
    "a ticket that nobody takes": ["negotiate", pdu(REQUEST)],
}
front.write(raw.set_negotiate_template(0, routing.response()))
begin = time.monotonic()
processes = {what: lib.peer("raw", lib.ROCE, "--timeout", 60 * lib.SLOW, *steps, "wait:20000", "expect-end")
             for what, steps in clients.items()}
never = Client(lib.ROCE, "--timeout", 60 * lib.SLOW)
never.send(GOOD)
never.receive()
late = Client(lib.ROCE, "--timeout", 60 * lib.SLOW)
late.send(GOOD)
late.receive()
late_since = time.monotonic()
ready = routing.expect(front, raw.CONNECTION_READY)
time.sleep(15)
late.send(session_setup())
connected = routing.expect(owner, raw.CONNECTION_ROUTED)
check("a session that comes late", connected.session_id == SESSION)
for what, process in processes.items():
    lib.ended_well(what, process)
took = time.monotonic() - begin
check(f"they end after {took} s", 29 < took < 60 * lib.SLOW)
check("a session that never comes", never.ended(40))
lib.refused("the ticket is no longer good", 2, lambda: front.write(raw.accept(ready.ticket)))
time.sleep(max(0, late_since + 32 - time.monotonic()))
routing.message(owner, connected.number)
routing.answered(owner, connected.number)
routing.message(owner, connected.number)
routing.echo(late, owner, connected.number, 100)
late.disconnect()
routing.ended(owner, connected.number)

# The server is well.
owner.write(raw.set_client_guid(GUID))
client = Client(lib.ROCE)
client.send(GOOD)
connected = routing.expect(owner, raw.CONNECTION_ROUTED)
check("the server is well", routing.message(owner, connected.number) == GOOD)
client.disconnect()
routing.ended(owner, connected.number)
front.close()
owner.close()
routing.nothing_is_left()
lib.finish()
