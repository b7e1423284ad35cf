#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# io_uring reads and writes the device: plain, with registered files and buffers, from a polling thread.
# lanes: stock debug
# kernels: default
# timeout: 150
"""docs/abi.md, "Waiting in write()", "Waiting"."""

import errno
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import uring  # noqa: E402
from lib import check, raw  # noqa: E402
from uring import Buffer, Ring  # noqa: E402

LIMIT = 20 * lib.SLOW
STATUS_DISCONNECTED, STATUS_REMOTE_ACCESS = 1, 2


def nop(number):
    return raw.record(raw.NOP, user_data=number)


def numbers(buffer, length):
    return [user_data for _, _, user_data, _ in raw.events(buffer[:length])]


def exercise(what, ring, fd, flags=0):
    """Batches go in, events come out; a read that comes first waits."""
    for count in (1, 2, 100):
        data = Buffer(content=b"".join(nop(n) for n in range(count)))
        ring.submit(uring.WRITE, fd, data, 16 * count, 1, flags)
        check(f"{what}: write of {count}", ring.result(1, LIMIT) == 16 * count)
        room = Buffer(1 << 16)
        ring.submit(uring.READ, fd, room, room.size, 2, flags)
        length = ring.result(2, LIMIT)
        check(f"{what}: read of {count}", length == 16 + 16 * count and numbers(room, length) == list(range(count)))
    # The prefix rule, and errors.
    data = Buffer(content=nop(1) + raw.record(0x7777) + nop(2))
    ring.submit(uring.WRITE, fd, data, 48, 1, flags)
    check(f"{what}: up to the bad one", ring.result(1, LIMIT) == 16)
    ring.submit(uring.WRITE, fd, None, 32, 1, flags, address=data.address + 16)
    check(f"{what}: the bad one", ring.result(1, LIMIT) == -errno.EINVAL)
    ring.submit(uring.READ, fd, room, 20, 2, flags)
    check(f"{what}: room for no event", ring.result(2, LIMIT) == -errno.EMSGSIZE)
    ring.submit(uring.READ, fd, None, 4096, 2, flags, address=8)
    check(f"{what}: no memory", ring.result(2, LIMIT) == -errno.EFAULT)
    ring.submit(uring.READ, fd, room, 4096, 2, flags)
    check(f"{what}: it stayed", ring.result(2, LIMIT) == 32 and numbers(room, 32) == [1])
    # RWF_NOWAIT.
    ring.submit(uring.READ, fd, room, 4096, 2, flags, rw_flags=os.RWF_NOWAIT)
    check(f"{what}: nothing, without waiting", ring.result(2, LIMIT) == -errno.EAGAIN)
    # A read of nothing waits, and is not lost when it is woken.
    for number in range(20):
        ring.submit(uring.READ, fd, room, 4096, 3, flags)
        if number < 3:
            check(f"{what}: a read waits", ring.result(3, 0.2) is None)
        ring.submit(uring.WRITE, fd, data, 16, 4, flags)
        check(f"{what}: and is woken", ring.result(3, LIMIT) == 32 and ring.result(4, LIMIT) == 16
              and numbers(room, 32) == [1])
    # From a worker thread, where it may sleep.
    ring.submit(uring.READ, fd, room, 4096, 3, flags | uring.ASYNC)
    check(f"{what}: a worker's read waits", ring.result(3, 0.3) is None)
    ring.submit(uring.WRITE, fd, data, 16, 4, flags | uring.ASYNC)
    check(f"{what}: a worker's read", ring.result(3, LIMIT) == 32 and ring.result(4, LIMIT) == 16)
    # In a chain.
    ring.submit(uring.WRITE, fd, data, 16, 4, flags | uring.LINK)
    ring.submit(uring.READ, fd, room, 4096, 5, flags)
    check(f"{what}: a chain", ring.result(4, LIMIT) == 16 and ring.result(5, LIMIT) == 32)


def plain():
    fd = os.open("/dev/usmbd", os.O_RDWR)
    ring = Ring()
    exercise("plain", ring, fd)
    # A read that is given up takes nothing with it.
    room = Buffer()
    ring.submit(uring.READ, fd, room, 4096, 7)
    check("it waits", ring.result(7, 0.2) is None)
    ring.submit(uring.ASYNC_CANCEL, -1, None, 0, 8, address=7, offset=0)
    check("given up", ring.result(8, LIMIT) == 0 and ring.result(7, LIMIT) == -errno.ECANCELED)
    os.write(fd, nop(6))
    check("nothing was lost", [n for _, _, n, _ in raw.events(os.read(fd, 4096))] == [6])
    ring.close()
    os.close(fd)

    # What may wait is the ring's business, not the descriptor's: it waits by poll.
    fd = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
    ring = Ring()
    exercise("O_NONBLOCK", ring, fd)
    ring.close()
    os.close(fd)


def registered():
    fd = os.open("/dev/usmbd", os.O_RDWR)
    ring = Ring()
    ring.register_files(fd)
    # The ring keeps it open.
    os.close(fd)
    exercise("registered file", ring, 0, uring.FIXED_FILE)
    out, room = Buffer(content=b"".join(nop(n) for n in range(50))), Buffer(1 << 16)
    ring.register_buffers(out, room)
    ring.submit(uring.WRITE_FIXED, 0, out, 800, 1, uring.FIXED_FILE, index=0)
    check("registered buffer: write", ring.result(1, LIMIT) == 800)
    ring.submit(uring.READ_FIXED, 0, room, 16 + 16 * 10 + 9, 2, uring.FIXED_FILE, index=1)
    check("registered buffer: read", ring.result(2, LIMIT) == 176 and numbers(room, 176) == list(range(10)))
    ring.submit(uring.READ_FIXED, 0, room, 1 << 16, 2, uring.FIXED_FILE, index=1)
    check("registered buffer: the rest", ring.result(2, LIMIT) == 656 and numbers(room, 656) == list(range(10, 50)))
    # The ring's end is the context's, also with a read under way.
    ring.submit(uring.READ, 0, room, 4096, 3, uring.FIXED_FILE)
    check("it waits", ring.result(3, 0.2) is None)
    before = lib.statistics()["contexts"]
    ring.close()
    check("contexts left", lib.until(lambda: lib.statistics()["contexts"] == before - 1))


def polled():
    """A kernel thread submits: its memory is the ring maker's, its authority the opener's."""
    fd = os.open("/dev/usmbd", os.O_RDWR)
    ring = Ring(flags=uring.SQPOLL)
    exercise("SQPOLL", ring, fd)
    ring.register_files(fd)
    exercise("SQPOLL, registered file", ring, 0, uring.FIXED_FILE)
    os.close(fd)
    ring.close()

    # Its maker has no rights of its own, and cannot open the device.
    fd = os.open("/dev/usmbd", os.O_RDWR)
    child = os.fork()
    if child == 0:
        os.setresuid(1234, 1234, 1234)
        ring = Ring(flags=uring.SQPOLL)
        commands, room = Buffer(content=raw.list_connections() + raw.listen()), Buffer(1 << 13)
        ring.submit(uring.WRITE, fd, commands, 24 + 56, 1)
        good = ring.result(1, LIMIT) == 80
        seen = {}
        while good and not {raw.CONNECTIONS, raw.LISTENING} <= seen.keys():
            ring.submit(uring.READ, fd, room, room.size, 2)
            length = ring.result(2, LIMIT) or 0
            good = length > 0
            seen.update((opcode, body) for opcode, _, _, body in raw.events(room[:length]))
        good = good and struct.unpack_from("<I", seen[raw.LISTENING])[0] == 0
        os._exit(0 if good else 1)
    check("the opener's authority", os.waitpid(child, 0)[1] == 0)
    os.close(fd)


def connections():
    """Ranges of the ring maker's area; messages that find no room."""
    server = lib.Server(lib.ROCE)
    process = lib.peer("hold", lib.ROCE, "--seconds", 100)
    device = raw.Device()
    connection = server.accept_one(device)
    for what, flags in (("", 0), (" by SQPOLL", uring.SQPOLL)):
        ring = Ring(flags=flags)
        record = raw.rdma(raw.RDMA_WRITE, connection, [(0, 0, 16)], [(0x1000, 1, 16)], user_data=9)
        command = Buffer(content=record)
        if not flags:
            ring.submit(uring.WRITE, device.fd, command, len(record), 1)
            check(f"no area{what}", ring.result(1, LIMIT) == -errno.EFAULT)
            area = device.map_area(1)
            area[0] = 1
        else:
            ring.submit(uring.WRITE, device.fd, command, len(record), 1)
            check(f"a range{what}", ring.result(1, LIMIT) == len(record))
            _, user_data, body = device.expect(raw.RDMA_COMPLETE)
            check(f"a key that does not exist{what}",
                  user_data == 9 and struct.unpack_from("<QI", body) == (connection, STATUS_REMOTE_ACCESS))
        ring.close()
    area.close()
    process.kill()
    process.communicate()
    device.close()

    from serve import pattern
    process = lib.peer("take", lib.ROCE, "--sizes", "900000,900000,900000", "--pause", 2, "--seed", 1)
    device = raw.Device()
    connection = server.accept_one(device)
    ring = Ring()
    records = [raw.send_pdu(connection, pattern(1 + n, 900000), flags=raw.QUIET) for n in range(3)]
    buffers = [Buffer(content=record) for record in records]
    for number in range(3):
        ring.submit(uring.WRITE, device.fd, buffers[number], len(records[number]), number,
                    uring.LINK if number < 2 else 0)
    for number in range(3):
        check(f"message {number}", ring.result(number, LIMIT) == len(records[number]))
    lib.ended_well("the peer that takes late", process)
    ring.close()
    device.close()
    server.device.close()


for part in (plain, registered, polled, connections):
    print(part.__name__, flush=True)
    part()
lib.finish()
