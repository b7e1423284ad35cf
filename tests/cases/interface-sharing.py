#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# One context, many users: threads, processes, credentials.
# lanes: stock
# kernels: default
# timeout: 150
"""docs/abi.md, "Contexts": what a context may do is its opener's, and who uses it does not matter."""

import ctypes
import errno
import os
import signal
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw, refused  # noqa: E402
from stalling import Stalling  # noqa: E402

libc = ctypes.CDLL(None, use_errno=True)
SETRESUID = 117
LIMIT = 20 * lib.SLOW


def nop(number):
    return raw.record(raw.NOP, user_data=number)


def other_credentials():
    """A thread with another euid acts with the opener's authority, and with no more than that."""
    device = raw.Device()
    outcome = []

    def thread():
        # Only this thread: the system call itself, not libc's function.
        outcome.append(libc.syscall(SETRESUID, -1, 1234, -1))
        device.write(raw.listen(user_data=1), raw.list_connections(user_data=2))
        outcome.append(device.expect(raw.CONNECTIONS)[1])
        outcome.append(struct.unpack_from("<I", device.expect(raw.LISTENING)[2])[0])

    runner = threading.Thread(target=thread)
    runner.start()
    runner.join(LIMIT)
    check(f"LISTEN on 445 by euid 1234: {outcome}", outcome == [0, 2, 0])
    check("the main thread is root still", os.geteuid() == 0)
    device.close()

    # The other way round: root cannot lend its rights to a descriptor that it did not open.
    os.chmod("/dev/usmbd", 0o666)
    os.seteuid(1234)
    device = raw.Device()
    os.seteuid(0)
    os.chmod("/dev/usmbd", 0o600)
    refused("LISTEN on 445, opened by 1234, by root", errno.EACCES, lambda: os.write(device.fd, raw.listen()))
    refused("LIST_CONNECTIONS, opened by 1234, by root", errno.EPERM,
            lambda: os.write(device.fd, raw.list_connections()))
    device.listen(port=4450, iwarp_port=4451)
    device.close()


def two_writers():
    """Batches of two writers are whole each, and in order for each of them; all readers together get
    every event once."""
    device = raw.Device()
    writers, batches, size = 4, 200, 25

    def write(writer):
        for batch in range(batches):
            first = writer << 32 | batch * size
            data = b"".join(nop(first + n) for n in range(size))
            if os.write(device.fd, data) != len(data):
                os._exit(3)
        return True

    children = []
    for writer in range(writers):
        child = os.fork()
        if child == 0:
            os._exit(0 if write(writer) else 1)
        children.append(child)
    got = []
    while len(got) < writers * batches * size:
        got += [n for _, _, n, _ in raw.events(os.read(device.fd, 4096))]
    check("the writers", all(os.waitpid(child, 0)[1] == 0 for child in children))
    for writer in range(writers):
        own = [n & 0xffffffff for n in got if n >> 32 == writer]
        check(f"writer {writer} in order", own == list(range(batches * size)))

    # Several readers that wait, in threads and another process.
    seen, lock = [], threading.Lock()

    def read(fd, keep):
        while True:
            numbers = [n for _, _, n, _ in raw.events(os.read(fd, 16 + 16 * 3))]
            with lock:
                keep += [n for n in numbers if n]
            if 0 in numbers:
                return

    threads = [threading.Thread(target=read, args=(device.fd, seen)) for _ in range(4)]
    for thread in threads:
        thread.start()
    total = 3000
    for first in range(1, total + 1, 10):
        os.write(device.fd, b"".join(nop(first + n) for n in range(10)))
    # One end for each, one at a time: who has read one does not read again.
    for _ in threads:
        os.write(device.fd, nop(0))
        end = time.monotonic() + LIMIT
        while lib.poll_now(device.fd) & 1 and time.monotonic() < end:
            time.sleep(0.001)
        alive = sum(thread.is_alive() for thread in threads)
        while sum(thread.is_alive() for thread in threads) == alive and time.monotonic() < end:
            time.sleep(0.001)
    for thread in threads:
        thread.join(LIMIT)
    check("all readers ended", not any(thread.is_alive() for thread in threads))
    check(f"{len(seen)} events, each once", sorted(seen) == list(range(1, total + 1)))
    device.close()


def pieces_in_order():
    """A connection's messages are in order whoever reads, one at a time."""
    server = lib.Server(lib.ROCE, receive_credit_max=32)
    process = lib.peer("echo", lib.ROCE, "--sizes", "60000", "--count", 20)
    connection = server.accept_one()
    lock, messages, failed = threading.Lock(), [0], []

    def read():
        # The lock makes them one reader after the other; the driver does the rest.
        while messages[0] < 20 and not failed:
            with lock:
                if messages[0] >= 20:
                    return
                content, total = b"", 1
                while len(content) < total:
                    opcode, _, _, body = server.device.next(LIMIT)
                    if opcode != raw.PDU_RECEIVED:
                        failed.append(hex(opcode))
                        return
                    _, total, offset, length, _ = struct.unpack_from("<QIIII", body)
                    if offset != len(content):
                        failed.append((offset, len(content)))
                        return
                    content += body[24:24 + length]
                messages[0] += 1
                server.device.write(raw.send_pdu(connection, content, flags=raw.QUIET))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * LIMIT)
    check(f"in order: {failed}", not failed and messages[0] == 20)
    lib.ended_well("echo", process)
    server.device.close()


def passed():
    """A descriptor that is passed while events are queued: they are read over there, and the sender may
    close and end."""
    device = raw.Device()
    device.write(*(nop(n) for n in range(100)), raw.query_statistics(user_data=500))
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def receive():
        here.close()
        os.close(device.fd)
        os.setuid(1234)
        _, fds, _, _ = socket.recv_fds(there, 16, 1)
        got = [n for _, _, n, _ in raw.events(os.read(fds[0], 1 << 16))]
        os.write(fds[0], nop(7))
        return got == [500, *range(100)] and [n for _, _, n, _ in raw.events(os.read(fds[0], 100))] == [7]

    child = os.fork()
    if child == 0:
        os._exit(0 if receive() else 1)
    there.close()
    socket.send_fds(here, [b"fd"], [device.fd])
    device.close()
    check("read by who got it", os.waitpid(child, 0)[1] == 0)
    here.close()
    check("nobody has it any more", lib.until(lambda: lib.statistics()["contexts"] == 0))

    # In flight and never received: the events go with the socket.
    device = raw.Device()
    device.write(*(nop(n) for n in range(10)))
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    socket.send_fds(here, [b"fd"], [device.fd])
    device.close()
    check("still there", lib.statistics()["contexts"] == 1)
    here.close()
    there.close()
    check("gone with its socket", lib.until(lambda: lib.statistics()["contexts"] == 0))


def signals():
    """A read that waits ends by a signal, or goes on where the handler asks for that; a reader that is
    stuck in its own memory keeps nobody from being killed."""
    device = raw.Device()
    # SA_RESTART: it goes on, and gets the event.
    count = []
    signal.signal(signal.SIGUSR1, lambda *_: count.append(1))
    signal.siginterrupt(signal.SIGUSR1, False)

    def later():
        for _ in range(3):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.2)
        os.write(device.fd, nop(3))

    thread = threading.Thread(target=later)
    thread.start()
    buffer = ctypes.create_string_buffer(4096)
    length = libc.read(device.fd, buffer, 4096)
    thread.join()
    check(f"it goes on: {length}", length == 32 and [n for _, _, n, _ in raw.events(buffer.raw[:32])] == [3])
    check("the handler ran", len(count) >= 1)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    # Without: EINTR.
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    length = libc.read(device.fd, buffer, 4096)
    check(f"it ends: {length}", length == -1 and ctypes.get_errno() == errno.EINTR)
    signal.signal(signal.SIGALRM, old)

    # Many readers that wait die at once when they are killed.
    children = []
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os.read(device.fd, 4096)
            os._exit(0)
        children.append(child)
    time.sleep(0.3)
    for child in children:
        os.kill(child, signal.SIGKILL)
    check("killed", all(os.waitpid(child, 0)[1] == signal.SIGKILL for child in children))
    os.write(device.fd, nop(4))
    check("nothing was lost", [n for _, _, n, _ in raw.events(os.read(device.fd, 4096))] == [4])
    device.close()


def busy_reader():
    """While one reader is stuck in a page fault, others that may not wait are told so, and those that
    may can be killed."""
    memory = Stalling()
    start = memory.last
    device = raw.Device()
    device.write(nop(1), nop(2))
    # Forked before there are threads; it reads when it is told to.
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(told, 1)
        os.read(device.fd, 4096)
        os._exit(0)
    result = []
    stuck = threading.Thread(target=lambda: result.append(libc.read(device.fd, ctypes.c_void_p(start), 4096)))
    stuck.start()
    time.sleep(0.5)
    check("it is stuck", stuck.is_alive())
    buffer = bytearray(4096)
    refused("another that may not wait", errno.EAGAIN, lambda: os.preadv(device.fd, [buffer], -1, os.RWF_NOWAIT))
    os.write(tell, b"x")
    time.sleep(0.3)
    os.kill(child, signal.SIGKILL)
    end = time.monotonic() + 5 * lib.SLOW
    ended = (0, 0)
    while ended[0] == 0 and time.monotonic() < end:
        ended = os.waitpid(child, os.WNOHANG)
        time.sleep(0.02)
    check(f"another that waits can be killed: {ended}", ended == (child, signal.SIGKILL))
    check("writing goes on", os.write(device.fd, nop(3)) == 16)
    memory.let_come()
    stuck.join(LIMIT)
    check(f"it gets all of them: {result}", result == [16 + 3 * 16])
    check("in order", [n for _, _, n, _ in raw.events(ctypes.string_at(start, 64))] == [1, 2, 3])
    device.close()


def page():
    """The status page is about the one connection that a context has, whatever it had before."""
    server = lib.Server(lib.ROCE)
    device = raw.Device()
    status = device.map_status_page()

    def now():
        """State, reason and number; bytes accepted and completed; connections."""
        state, reason = struct.unpack_from("<II", status, 12)
        number, = struct.unpack_from("<Q", status, 24)
        return ((state, reason, number), struct.unpack_from("<QQ", status, 120),
                struct.unpack_from("<I", status, 8)[0])

    def come():
        process = lib.peer("hold", lib.ROCE, "--seconds", 100 * lib.SLOW)
        return process, server.accept_one(device)

    def go(process, number):
        process.kill()
        process.communicate()
        _, _, body = device.expect(raw.DISCONNECTED, 30 * lib.SLOW)
        ended, reason = struct.unpack_from("<QI", body)
        check("the one that went", ended == number)
        return reason

    first, a = come()
    device.write(raw.send_pdu(a, bytes(1000)))
    device.expect(raw.PDU_SENT)
    check(f"of one: {now()}", now() == ((2, 0, a), (1000, 1000), 1))
    second, b = come()
    check(f"of two: {now()}", now()[2] == 2)
    device.write(raw.send_pdu(b, bytes(100)))
    device.expect(raw.PDU_SENT)
    go(first, a)
    check(f"of the other one: {now()}", now() == ((2, 0, b), (100, 100), 1))
    device.write(raw.send_pdu(b, bytes(10)))
    device.expect(raw.PDU_SENT)
    reason = go(second, b)
    check(f"of none any more: {now()}", now() == ((3, reason, b), (110, 110), 0))
    third, c = come()
    check(f"of the next one: {now()}", now() == ((2, 0, c), (0, 0), 1))
    go(third, c)
    status.close()
    device.close()
    server.device.close()


for part in (other_credentials, two_writers, pieces_in_order, passed, page, signals, busy_reader):
    print(part.__name__, flush=True)
    part()
lib.finish()
