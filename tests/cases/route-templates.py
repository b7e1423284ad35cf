#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# A template answers only a request that offers its dialect and fulfils what it presumes; the lowest that fits does.
# lanes: stock
# kernels: default
# timeout: 200
"""Negotiate templates: docs/abi.md, SET_NEGOTIATE_TEMPLATE."""

import errno
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import routelib as routing  # noqa: E402
from lib import check, raw, refused  # noqa: E402
from routelib import Client, context, halves, negotiate  # noqa: E402

OLD, NEW = routing.response(0x0302), routing.response(0x0311)


def patched(message, at, value):
    return message[:at] + value + message[at + len(value):]


def bad_ones():
    device = raw.Device()
    good = raw.set_negotiate_template(0, NEW, [(2, 1)])
    device.write(good)
    body = raw.HEADER.size
    for what, record in (
            ("template 4", raw.set_negotiate_template(4, NEW)),
            ("127 bytes", raw.set_negotiate_template(0, NEW[:127])),
            ("4097 bytes", raw.set_negotiate_template(0, NEW + bytes(4097 - len(NEW)))),
            ("33 presumptions", raw.set_negotiate_template(0, NEW, [(2, 1)] * 33)),
            ("presumptions without a response", raw.set_negotiate_template(0, b"", [(2, 1)])),
            ("reserved fields", patched(good, body + 10, b"\1")),
            ("a presumption's reserved field", patched(good, body + 16 + 4, b"\1")),
            ("padding", patched(raw.set_negotiate_template(0, NEW + b"x"),
                                raw.HEADER.size + 16 + len(NEW) + 7, b"\1")),
            ("no SMB2", raw.set_negotiate_template(0, b"\xffSMB" + NEW[4:])),
            ("a request", raw.set_negotiate_template(0, aligned_request())),
            ("a failure", raw.set_negotiate_template(0, patched(NEW, 8, b"\x0d\0\0\xc0"))),
            ("another command", raw.set_negotiate_template(0, patched(NEW, 12, b"\1"))),
            ("a compound", raw.set_negotiate_template(0, patched(NEW, 20, b"\x80"))),
            ("dialect 2.1", raw.set_negotiate_template(0, patched(NEW, 68, b"\x10\x02"))),
            ("dialect 2.FF", raw.set_negotiate_template(0, patched(NEW, 68, b"\xff\x02")))):
        refused(what, errno.EINVAL, lambda r=record: device.write(r))
    for number in range(4):
        device.write(raw.set_negotiate_template(number, NEW, [(2, 1)] * 32))
        device.write(raw.set_negotiate_template(number, NEW + bytes(4096 - len(NEW))))
        device.write(raw.set_negotiate_template(number, NEW[:128]))
        device.write(raw.set_negotiate_template(number, b""))
        device.write(raw.set_negotiate_template(number, b""))
    device.close()


def aligned_request():
    return routing.aligned(negotiate(length=200))


def outcome(front, request, what, templates):
    """Which template answers; None if none does."""
    for number, template in enumerate(templates):
        front.write(raw.set_negotiate_template(number, *template) if template
                    else raw.set_negotiate_template(number, b""))
    client = Client(lib.ROCE)
    client.send(request)
    try:
        ready = routing.expect(front, raw.CONNECTION_READY, 1)
    except TimeoutError:
        ready = None
    number = None
    if ready is None:
        response = client.receive()
        client.send(routing.session_setup(0))
        ready = routing.expect(front, raw.CONNECTION_READY)
        front.write(raw.accept(ready.ticket))
        connected = routing.expect(front, raw.ACCEPTED)
        check(f"{what}: the request", routing.message(front, connected.number) == request)
        told, number = routing.answered(front, connected.number)
        check(f"{what}: the response", told == response and len(told) == len(templates[number][0]))
        routing.message(front, connected.number)
        client.disconnect()
        routing.ended(front, connected.number)
    else:
        front.write(raw.record(raw.REJECT, ready.ticket))
        client.ended()
        client.disconnect()
    return number


def fitting():
    front = routing.listener(lib.ROCE)
    plain = negotiate()
    compression = context(3, halves(1, 0, 0, 0, 4))
    transforms = context(7, halves(2, 0, 0, 0, 1, 2))
    rich = negotiate(contexts=(*routing.CONTEXTS, compression, transforms, context(0x100, bytes(16))))
    for what, request, templates, expected in (
            ("no template", plain, [], None),
            ("the dialect", plain, [(NEW,)], 0),
            ("a dialect not offered", negotiate(dialects=(0x0302,)), [(NEW,)], None),
            ("an older dialect", negotiate(dialects=(0x0300, 0x0302)), [(NEW,), (OLD,)], 1),
            ("the lowest number", plain, [None, (OLD,), (NEW,)], 1),
            ("a cipher offered", plain, [(NEW, [(2, 1), (2, 2)])], 0),
            ("a cipher not offered", plain, [(NEW, [(2, 1), (2, 4)])], None),
            ("the next one then", plain, [(NEW, [(2, 4)]), (NEW, [(2, 2)])], 1),
            ("the hash", plain, [(NEW, [(1, 1)])], 0),
            ("a hash not offered", plain, [(NEW, [(1, 2)])], None),
            ("any signing", plain, [(NEW, [(8, raw.ANY_ID)])], 0),
            ("signing not offered", plain, [(NEW, [(8, 0)])], None),
            ("no such context", plain, [(NEW, [(3, raw.ANY_ID)])], None),
            ("compression", rich, [(NEW, [(3, 4)])], 0),
            ("compression's flags are no algorithm", rich, [(NEW, [(3, 0)])], None),
            ("RDMA transforms", rich, [(NEW, [(7, 1), (7, 2)])], 0),
            ("a context that is no list", rich, [(NEW, [(0x100, raw.ANY_ID)])], 0),
            ("an entry of a context that is no list", rich, [(NEW, [(0x100, 0)])], None),
            ("contexts of an older dialect", negotiate(dialects=(0x0302,)), [(OLD, [(2, 1)])], None),
            ("all it can have", rich, [(NEW, [(2, 1)] * 32)], 0)):
        number = outcome(front, request, what, templates + [None] * (4 - len(templates)))
        check(f"{what}: template {number} and not {expected}", number == expected)
    front.close()


def patches():
    """MessageId and credits are the request's."""
    front = routing.listener(lib.ROCE)
    for asked, most, granted, message_id in ((0, 8, 1, 0), (1, 8, 1, 1), (8, 8, 8, 5), (500, 8, 8, 1 << 40),
                                             (5, 0, 1, 0)):
        front.write(raw.set_negotiate_template(3, routing.response(0x0302, credits=most)))
        client = Client(lib.ROCE)
        client.send(negotiate(credits=asked, message_id=message_id))
        response = client.receive()
        check(f"{granted} credits of {asked} and {most}", struct.unpack_from("<H", response, 14)[0] == granted)
        check(f"MessageId {message_id}", struct.unpack_from("<Q", response, 24)[0] == message_id)
        client.disconnect()
    front.close()


bad_ones()
fitting()
patches()
routing.nothing_is_left()
lib.finish()
