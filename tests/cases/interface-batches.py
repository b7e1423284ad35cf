#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# Batches of every length, what ends one early, buffers of every size, memory that is not there.
# lanes: stock
# kernels: default
# timeout: 120
"""docs/abi.md, "Writing commands" and "Reading events"."""

import ctypes
import errno
import mmap
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw, refused  # noqa: E402

libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE


def nop(number):
    return raw.record(raw.NOP, user_data=number)


def numbers(batch):
    return [user_data for _, _, user_data, _ in raw.events(batch)]


def drain(fd, size=1 << 20):
    """All that is queued, read in batches of this size."""
    got = []
    while True:
        try:
            got += numbers(os.read(fd, size))
        except BlockingIOError:
            return got


def lengths():
    """Batches of 1 to 1000 records: whole, in one vector each, and in vectors that cut everywhere."""
    fd = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
    for count in [*range(1, 40), 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 999, 1000]:
        data = b"".join(nop(n) for n in range(count))
        check(f"{count} records", os.write(fd, data) == len(data))
        check(f"{count} events", drain(fd) == list(range(count)))
    records = [nop(n) for n in range(1000)]
    check("a vector each", os.writev(fd, records) == 16000)
    check("their events", drain(fd, 16 + 16 * 7) == list(range(1000)))
    data = b"".join(records)
    for step in (1, 3, 7, 15, 17, 33, 1001):
        cut = [data[at:at + step] for at in range(0, len(data), step)][:1024]
        written = sum(map(len, cut))
        check(f"vectors of {step}", os.writev(fd, cut) == written // 16 * 16)
        check(f"their events ({step})", drain(fd) == list(range(written // 16)))
    os.close(fd)


def prefix():
    """What cannot be taken ends the batch: the records before it count, none behind it is taken."""
    fd = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
    bad = [(errno.EINVAL, raw.record(0x7777)), (errno.EINVAL, raw.record(raw.NOP, flags=1)),
           (errno.ENOENT, raw.disconnect(1 << 40)), (errno.ENOENT, raw.query_statistics(1 << 40)),
           (errno.ENOENT, raw.send_pdu(1 << 40, b"x" * 100))]
    for number, record in bad:
        for before in (1, 2, 100, 999):
            data = b"".join(nop(n) for n in range(before)) + record + nop(1 << 32)
            check(f"{before} before a bad one", os.write(fd, data) == 16 * before)
            check("only those", drain(fd) == list(range(before)))
            refused("the rest", number, lambda d=data[16 * before:]: os.write(fd, d))
            check("nothing of the rest", drain(fd) == [])
            check("behind it", os.write(fd, data[16 * before + len(record):]) == 16)
            check("behind it, the event", drain(fd) == [1 << 32])
    # A part of a record is never taken.
    whole = raw.hello(user_data=5)
    for part in range(1, len(whole)):
        refused(f"{part} bytes of a record", errno.EINVAL, lambda p=part: os.write(fd, whole[:p]))
        check(f"{part} bytes behind one", os.write(fd, nop(1) + whole[:part]) == 16)
    check("their events", drain(fd) == [1] * (len(whole) - 1))
    check("no bytes at all", os.write(fd, b"") == 0)
    # A call takes 4096 records at most, and says so.
    check("4096 records", os.write(fd, b"".join(nop(n) for n in range(5000))) == 4096 * 16)
    check("4096 events", drain(fd) == list(range(4096)))
    os.close(fd)


def room():
    """An event is read whole or stays; AT_MOST_ONE makes it one."""
    fd = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
    for size in range(0, 16 + 16):
        os.write(fd, nop(size))
        refused(f"{size} bytes of room", errno.EMSGSIZE, lambda s=size: os.read(fd, s))
        check(f"it stays ({size})", drain(fd) == [size])
    for count in range(1, 20):
        os.write(fd, b"".join(nop(n) for n in range(20)))
        batch = os.read(fd, 16 + 16 * count + 15)
        header = raw.BATCH.unpack_from(batch)
        check(f"room for {count}: {header}", header == (count, 16 + 16 * count, 20 - count, 16))
        check(f"the others ({count})", drain(fd) == list(range(count, 20)))
    # `next_length` is what it takes, also for an answer with a tail.
    os.write(fd, nop(0) + raw.query_statistics(user_data=1) + raw.list_connections(user_data=2))
    header = raw.BATCH.unpack_from(os.read(fd, 16 + 112))
    check(f"the next is an empty list: {header}", header == (1, 128, 2, 24))
    refused("a byte less", errno.EMSGSIZE, lambda: os.read(fd, 16 + 23))
    header = raw.BATCH.unpack_from(os.read(fd, 16 + 24))
    check(f"the next is the NOP's: {header}", header == (1, 40, 1, 16))
    drain(fd)
    os.write(fd, raw.hello(features=raw.AT_MOST_ONE))
    drain(fd)
    os.write(fd, b"".join(nop(n) for n in range(5)))
    for number in range(5):
        batch = os.read(fd, 1 << 16)
        check(f"one at a time: {number}",
              raw.BATCH.unpack_from(batch) == (1, 32, 4 - number, 16 if number < 4 else 0)
              and numbers(batch) == [number])
    os.close(fd)


def without_memory():
    """Where memory ends, nothing is lost: neither of a batch nor of what waits to be read."""
    fd = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
    area = mmap.mmap(-1, 2 * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    hole = start + PAGE
    check("a hole", libc.mprotect(ctypes.c_void_p(hole), PAGE, 0) == 0)

    def call(name, at, length):
        result = getattr(libc, name)(fd, ctypes.c_void_p(at), ctypes.c_size_t(length))
        return result if result >= 0 else -ctypes.get_errno()

    records = b"".join(nop(n) for n in range(10))
    for bytes_there in range(0, 100):
        at = hole - bytes_there
        ctypes.memmove(at, records, bytes_there)
        taken = call("write", at, len(records))
        whole = bytes_there // 16
        expected = 16 * whole if whole else -errno.EFAULT
        check(f"{bytes_there} bytes of a batch are there: {taken}", taken == expected)
        check(f"their events ({bytes_there})", drain(fd) == list(range(whole)))

        os.write(fd, records)
        got = call("read", at, 4096)
        whole = max(0, (bytes_there - 16) // 16)
        expected = 16 + 16 * whole if whole else -errno.EFAULT
        check(f"{bytes_there} bytes of a buffer are there: {got}", got == expected)
        if got > 0:
            batch = ctypes.string_at(at, got)
            check(f"its header ({bytes_there})", raw.BATCH.unpack_from(batch) == (whole, got, 10 - whole, 16))
            check(f"its events ({bytes_there})", numbers(batch) == list(range(whole)))
        check(f"the others stay ({bytes_there})", drain(fd) == list(range(whole, 10)))

    # The batch header's place is missing, and the events' is there.
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    os.write(fd, records)
    vectors = (Vector * 2)(Vector(hole, 16), Vector(start, 1024))
    check("no place for the header", libc.readv(fd, vectors, 2) == -1 and ctypes.get_errno() == errno.EFAULT)
    check("all of them stay", drain(fd) == list(range(10)))
    os.close(fd)

    # Pieces of messages, and with them the peer's credits.
    server = lib.Server(lib.ROCE)
    process = lib.peer("echo", lib.ROCE, "--sizes", "3000", "--count", 2)
    connection = server.accept_one()
    fd = server.device.fd
    message = b""
    for round_trip in range(2):
        got = 0
        for bytes_there in (0, 16, 17, 40, 56, 57, 63, 64, 200, 1000, 1300):
            while not lib.poll_now(fd) & 1:
                pass
            result = call("read", hole - bytes_there, 4096)
            check(f"a piece, {bytes_there} bytes there: {result}", result == -errno.EFAULT)
        while got < 3000:
            opcode, _, _, body = server.device.next()
            if opcode == raw.PDU_RECEIVED:
                length = int.from_bytes(body[16:20], "little")
                check("in order", int.from_bytes(body[12:16], "little") == got)
                message += body[24:24 + length]
                got += length
        server.device.write(raw.send_pdu(connection, message[-3000:], flags=raw.QUIET))
    lib.ended_well("echo", process)
    server.device.close()
    area = None


def nowait():
    """RWF_NOWAIT takes the place of O_NONBLOCK for one call, both ways."""
    fd = os.open("/dev/usmbd", os.O_RDWR)
    buffer = bytearray(4096)
    refused("nothing to read", errno.EAGAIN, lambda: os.preadv(fd, [buffer], -1, os.RWF_NOWAIT))
    check("a write that need not wait", os.pwritev(fd, [nop(1) + nop(2)], -1, os.RWF_NOWAIT) == 32)
    length = os.preadv(fd, [buffer], -1, os.RWF_NOWAIT)
    check("a read that need not wait", numbers(bytes(buffer[:length])) == [1, 2])
    refused("nothing to read again", errno.EAGAIN, lambda: os.preadv(fd, [buffer], -1, os.RWF_NOWAIT))
    os.close(fd)

    # A SEND_PDU that finds no room: EAGAIN, and SEND_READY when there is some; behind another one
    # it ends the batch.
    server = lib.Server(lib.ROCE)
    process = lib.peer("take", lib.ROCE, "--sizes", ",".join(["900000"] * 6), "--pause", 3, "--seed", 1)
    connection = server.accept_one()
    fd = server.device.fd
    from serve import pattern
    content = [pattern(1 + n, 900000) for n in range(6)]
    sent = 0
    waited = False
    seen = []
    while sent < 6:
        record = raw.send_pdu(connection, content[sent], user_data=sent)
        try:
            taken = os.pwritev(fd, [record], -1, os.RWF_NOWAIT)
            check("a whole record", taken == len(record))
            sent += 1
            if sent == 1:
                batch = nop(99) + raw.send_pdu(connection, content[1])
                check("behind another one", os.pwritev(fd, [batch], -1, os.RWF_NOWAIT) == 16)
        except BlockingIOError:
            waited = True
            while seen[-1:] != [raw.SEND_READY]:
                seen.append(server.device.next(30 * lib.SLOW)[0])
            seen.append(0)
    check(f"it had to wait, and was told: {seen}", waited and raw.SEND_READY in seen)
    lib.ended_well("the peer that takes late", process)
    server.device.close()

    # One that may wait waits.
    process = lib.peer("take", lib.ROCE, "--sizes", "900000,900000,900000", "--pause", 2, "--seed", 1)
    server = lib.Server(lib.ROCE)
    connection = server.accept_one()
    for number in range(3):
        record = raw.send_pdu(connection, content[number], flags=raw.QUIET)
        check("a write that waits", os.write(server.device.fd, record) == len(record))
    lib.ended_well("another peer that takes late", process)
    server.device.close()


def blame():
    """A message that is posted between the parts of an RDMA_READ is not told what became of these."""
    server = lib.Server(lib.ROCE)
    process = lib.peer("hold", lib.ROCE, "--seconds", 100 * lib.SLOW)
    connection = server.accept_one()
    area = server.device.map_area(1)
    area[0] = 1
    # More work requests than are posted at a time, and the peer gave no key.
    descriptors = [(4096 * number, 1, 1) for number in range(100)]
    server.device.write(raw.rdma(raw.RDMA_READ, connection, [(0, 0, 100)], descriptors, user_data=1)
                        + raw.send_pdu(connection, b"behind", user_data=2))
    statuses = {}
    while len(statuses) < 2:
        opcode, _, user_data, body = server.device.next(20 * lib.SLOW)
        if opcode in (raw.RDMA_COMPLETE, raw.PDU_SENT):
            statuses[user_data] = struct.unpack_from("<QI", body)[1]
    # 1: the connection ended first; 2: remote access.
    check(f"statuses of the read and the message: {statuses}", statuses == {1: 2, 2: 1})
    process.kill()
    process.communicate()
    area.close()
    server.device.close()


for part in (lengths, prefix, room, without_memory, nowait, blame):
    print(part.__name__, flush=True)
    part()
lib.finish()
