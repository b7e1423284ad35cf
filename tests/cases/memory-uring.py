#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# Whose memory a write by io_uring names: that of the process that submits it, and of the one that
# made the ring if a polling thread does; whichever thread of the kernel carries it out.
# lanes: stock debug
# timeout: 60
"""docs/architecture.md, "Memory and the wall between processes"."""

import errno
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import memorylib as own  # noqa: E402
import uring  # noqa: E402
from lib import check, raw  # noqa: E402

LIMIT = 20 * lib.SLOW


def write(ring, device, record, flags, data=None):
    """A record by io_uring; its result."""
    data = data or uring.Buffer(content=record)
    ring.submit(uring.WRITE, device.fd, data, len(record), 1, flags)
    return ring.result(1, LIMIT)


def exercise(what, device, ring, flags=0):
    memory = own.Own(3 * own.PAGE)
    record = raw.register_memory(memory.address + 1, own.PAGE)
    before = own.counted()
    check(f"{what}: registered", write(ring, device, record, flags) == len(record))
    _, _, body = device.expect(raw.MEMORY_REGISTERED, LIMIT)
    handle, = struct.unpack_from("<I", body)
    check(f"{what}: the process's pages are counted", own.counted() == before + 2)

    # Where the maker's thread finds it as well.
    data = uring.Buffer(content=record)

    def child(wanted):
        got = write(ring, device, record, flags, data)
        print(f"{what}, in a child: {got}", flush=True)
        return 0 if got == wanted else 1

    polled = ring.polls
    # A child submits; its own memory is at the same address, but it has no area.
    check(f"{what}: a child", own.in_child(lambda: child(len(record) if polled else -errno.EFAULT)) == 0)
    if polled:
        # The maker's thread did it, with the maker's memory: that is what the child was let in to.
        _, _, body = device.expect(raw.MEMORY_REGISTERED, LIMIT)
        check(f"{what}: by the maker's thread", own.counted() == before + 4)
        own.unregistered(device, struct.unpack_from("<I", body)[0])
    record = raw.unregister_memory(handle)
    check(f"{what}: given up", write(ring, device, record, flags) == len(record))
    device.expect(raw.MEMORY_UNREGISTERED, LIMIT)
    check(f"{what}: nothing is counted", own.counted() == before)
    ring.close()


context = raw.Device()
record = raw.register_memory(own.Own(own.PAGE).address, 1)
poller = uring.Ring(flags=uring.SQPOLL)
for title, one, option in (("plain", uring.Ring(), 0), ("worker", uring.Ring(), uring.ASYNC), ("poller", poller, 0)):
    check(f"{title}: without an area", write(one, context, record, option) == -errno.EFAULT)
    area = context.map_area(1)
    exercise(title, context, one, option)
    area.close()
context.close()
lib.finish()
