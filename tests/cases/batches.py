#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# Batches, poll, nonblocking calls, what connections refuse, and descriptors that change hands.
# lanes: stock
# kernels: default
# timeout: 120
"""docs/abi.md, "Writing commands", "Reading events", "Waiting"."""

import ctypes
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw, refused  # noqa: E402

libc = ctypes.CDLL(None, use_errno=True)


def events_now(fd):
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    return dict(poller.poll(0)).get(fd, 0)


def nop(number):
    return raw.record(raw.NOP, user_data=number)


def read(fd, size=1 << 16):
    """One read(): its header, and the user_data of its events."""
    batch = os.read(fd, size)
    return raw.BATCH.unpack_from(batch), [user_data for _, _, user_data, _ in raw.events(batch)]


def batches():
    fd = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
    check("a new context: POLLOUT alone", events_now(fd) == select.POLLOUT)
    refused("read() of nothing", errno.EAGAIN, lambda: os.read(fd, 4096))

    records = b"".join(nop(n) for n in range(5))
    check("five records in one write()", os.write(fd, records) == len(records))
    check("events wait: POLLIN", events_now(fd) == select.POLLIN | select.POLLOUT)
    refused("room for no event", errno.EMSGSIZE, lambda: os.read(fd, 24))
    refused("room for no header", errno.EMSGSIZE, lambda: os.read(fd, 8))
    header, numbers = read(fd, 16 + 2 * 16)
    check(f"room for two: {header} {numbers}", header == (2, 48, 3, 16) and numbers == [0, 1])
    header, numbers = read(fd, 16 + 2 * 16 + 15)
    check(f"never half an event: {header} {numbers}", header == (2, 48, 1, 16) and numbers == [2, 3])
    header, numbers = read(fd)
    check(f"the last one: {header} {numbers}", header == (1, 32, 0, 0) and numbers == [4])
    check("read dry: POLLOUT alone", events_now(fd) == select.POLLOUT)

    check("records in several vectors",
          os.writev(fd, [nop(7)[:5], nop(7)[5:] + nop(8)[:16], b""]) == 32)
    first, second = bytearray(20), bytearray(100)
    check("an event in several vectors", os.readv(fd, [first, second]) == 48)
    check("its bytes", [n for _, _, n, _ in raw.events(bytes(first + second)[:48])] == [7, 8])

    check("a part behind records is not taken", os.write(fd, nop(1) + nop(2)[:12]) == 16)
    os.read(fd, 4096)
    for what, call in (("write()", lambda: libc.write(fd, ctypes.c_void_p(8), 16)),
                       ("read()", lambda: libc.read(fd, ctypes.c_void_p(8), 4096))):
        os.write(fd, nop(9))
        result = call()
        check(f"{what} with a bad address: {result}, {os.strerror(ctypes.get_errno())}",
              result == -1 and ctypes.get_errno() == errno.EFAULT)
        check(f"{what} with a bad address loses nothing", read(fd)[1] == [9])

    # An answer overtakes, and with AT_MOST_ONE events come singly.
    os.write(fd, nop(1) + nop(2) + raw.hello(features=raw.AT_MOST_ONE | 1 << 60, user_data=3))
    batch = os.read(fd, 4096)
    (count, _, left, _), answers = raw.BATCH.unpack_from(batch), list(raw.events(batch))
    check(f"HELLO's answer comes first: {answers}",
          (count, left) == (1, 2) and answers[0][0] == raw.HELLO_DONE and answers[0][2] == 3)
    version, _, features = struct.unpack("<IIQ", answers[0][3])
    check(f"version {version:#x}, features {features:#x}",
          version == raw.VERSION and features == raw.AT_MOST_ONE)
    check("one", read(fd) == ((1, 32, 1, 16), [1]))
    check("and one", read(fd) == ((1, 32, 0, 0), [2]))
    os.write(fd, raw.hello(version=raw.VERSION + 5))
    os.read(fd, 4096)
    os.write(fd, nop(1) + nop(2))
    check("HELLO without features takes it back", read(fd)[1] == [1, 2])

    # Whoever reads nothing is not served for ever; nothing that was taken is lost.
    taken, many = 0, b"".join(nop(n) for n in range(4096))
    try:
        while taken < 1 << 21:
            taken += os.write(fd, many) // 16
        check(f"{taken} commands without a read", False)
    except OSError as error:
        check(f"no slots: {error}", error.errno == errno.EAGAIN)
    check("no slots: no POLLOUT", events_now(fd) == select.POLLIN)
    got = 0
    while got < taken:
        got += len(read(fd, 1 << 20)[1])
    check(f"{got} events for {taken} commands", got == taken)
    check("slots again: POLLOUT", events_now(fd) == select.POLLOUT)
    os.close(fd)


def blocking_read():
    device = raw.Device()
    child = os.fork()
    if child == 0:
        time.sleep(0.5)
        os.write(device.fd, nop(42))
        os._exit(0)
    check("a read() that waits", read(device.fd)[1] == [42])
    os.waitpid(child, 0)
    # A signal ends the wait.
    old = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(InterruptedError(4, "x")))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    refused("a read() that a signal ends", errno.EINTR, lambda: os.read(device.fd, 4096))
    signal.signal(signal.SIGALRM, old)
    device.close()


def connections():
    """What a connection refuses, and how its end looks."""
    server = lib.Server(lib.ROCE)
    process = lib.peer("take", lib.ROCE, "--sizes", "40000", "--max-fragmented", 131072,
                       "--pause", 4, "--seed", 5)
    device = raw.Device(os.O_NONBLOCK)
    device.write(raw.hello(features=raw.AT_MOST_ONE))
    device.expect(raw.HELLO_DONE)
    connection = server.accept_one(device)
    foreign = raw.send_pdu(connection, b"x")
    refused("another context's connection", errno.ENOENT, lambda: os.write(server.device.fd, foreign))
    device.expect(raw.PDU_RECEIVED)
    too_long = raw.send_pdu(connection, bytes(131073))
    refused("a message too long for the peer", errno.EMSGSIZE, lambda: os.write(device.fd, too_long))
    remote = [(0x1000, 1, 1 << 20)]
    for what, ranges in (("of no area", [(0, 0, 4096)]),):
        for opcode in (raw.RDMA_READ, raw.RDMA_WRITE):
            record = raw.rdma(opcode, connection, ranges, remote)
            refused(f"a range {what}", errno.EFAULT, lambda r=record: os.write(device.fd, r))
    area = device.map_area(4)
    area[0:4] = b"here"
    for what, ranges in (("of an untouched buffer", [(1, 0, 4096)]), ("of no buffer", [(64, 0, 1)]),
                         ("past the end", [(0, (1 << 20) - 8, 9)]), ("of no bytes", [(0, 0, 0)]),
                         ("that wraps", [(0, 0xffffffff, 2)]), ("behind a good one", [(0, 0, 8), (1, 0, 8)])):
        for opcode in (raw.RDMA_READ, raw.RDMA_WRITE):
            record = raw.rdma(opcode, connection, ranges, remote)
            refused(f"a range {what}", errno.EFAULT, lambda r=record: os.write(device.fd, r))
    dirty = bytearray(raw.rdma(raw.RDMA_WRITE, connection, [(0, 0, 8)], remote))
    dirty[32 + 12] = 1
    refused("a range with a reserved field set", errno.EINVAL, lambda: os.write(device.fd, dirty))
    short = raw.rdma(raw.RDMA_WRITE, connection, [(0, 0, 4096)], [(0x1000, 1, 4095)])
    refused("descriptors too short", errno.EINVAL, lambda: os.write(device.fd, short))
    padding = bytearray(raw.send_pdu(connection, b"abc"))
    padding[-1] = 1
    refused("padding that is not zero", errno.EINVAL, lambda: os.write(device.fd, padding))

    # The peer takes nothing for a while, and a message that got no room is said when it would.
    content = pattern(5, 40000)
    device.write(raw.send_pdu(connection, content, user_data=77))
    waiting, sent = 0, 0
    try:
        while sent < 64 << 20:
            sent += os.write(device.fd, raw.send_pdu(connection, bytes(65536), flags=raw.QUIET))
        check("64 MiB were taken for a peer that reads nothing", False)
    except OSError as error:
        check(f"no room: {error}", error.errno == errno.EAGAIN)
    seen = set()
    while waiting < 40 and not {raw.PDU_SENT, raw.SEND_READY} <= seen:
        try:
            opcode, _, user_data, body = device.next(1.0 * lib.SLOW)
        except TimeoutError:
            waiting += 1
            continue
        seen.add(opcode)
        # The first message was taken; the others fail, QUIET or not, when the peer goes.
        if opcode == raw.PDU_SENT and struct.unpack_from("<QI", body)[1] == 0:
            check(f"PDU_SENT of {user_data}", user_data == 77)
        if opcode == raw.DISCONNECTED:
            break
    check(f"events {sorted(map(hex, seen))}", {raw.PDU_SENT, raw.SEND_READY} <= seen)
    page = device.map_status_page()
    check("the status page's connection", struct.unpack_from("<Q", page, 24)[0] == connection)
    accepted, completed = struct.unpack_from("<QQ", page, 120)
    check(f"bytes accepted {accepted}, completed {completed}", 40000 <= completed <= accepted)

    lib.ended_well("the peer that takes late", process)
    end = time.monotonic() + 20 * lib.SLOW
    while not events_now(device.fd) & select.POLLRDHUP and time.monotonic() < end:
        if events_now(device.fd) & select.POLLIN:
            device.next()
        time.sleep(0.01)
    check(f"the end waits: {events_now(device.fd):#x}",
          events_now(device.fd) & (select.POLLIN | select.POLLRDHUP | select.POLLHUP)
          == select.POLLIN | select.POLLRDHUP)
    refused("SEND_PDU behind the end", errno.ENOTCONN,
            lambda: os.write(device.fd, raw.send_pdu(connection, b"x")))
    refused("DISCONNECT behind the end", errno.ENOTCONN,
            lambda: os.write(device.fd, raw.disconnect(connection)))
    _, _, body = device.expect(raw.DISCONNECTED)
    check(f"reason {body[8]}", struct.unpack_from("<QI", body) == (connection, lib.REASON_PEER))
    check(f"the end was read: {events_now(device.fd):#x}",
          events_now(device.fd) & select.POLLHUP and not events_now(device.fd) & select.POLLERR)
    refused("SEND_PDU after the end", errno.ENOENT,
            lambda: os.write(device.fd, raw.send_pdu(connection, b"x")))
    check("the status page's reason", struct.unpack_from("<II", page, 12) == (3, lib.REASON_PEER))
    device.close()
    server.device.close()


def pattern(seed, length):
    import serve
    return serve.pattern(seed, length)


def changing_hands():
    """A connection's descriptor works after SCM_RIGHTS and fork, in another process."""
    server = lib.Server(lib.ROCE)
    process = lib.peer("echo", lib.ROCE, "--sizes", "1000,200000", "--count", 3)
    device = raw.Device()
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        here.close()
        os.close(device.fd)
        _, fds, _, _ = socket.recv_fds(there, 16, 1)
        other = lib.Server.__new__(lib.Server)
        other.device, other.messages, other.reasons, other.accepted = raw.Device(fd=fds[0]), {}, [], []
        os._exit(0 if other.serve(lambda: other.reasons, 60) and other.reasons == [2] else 1)
    server.accept_one(device)
    socket.send_fds(here, [b"fd"], [device.fd])
    os.close(device.fd)
    lib.ended_well("echo by another process", process)
    check("the other process", os.waitpid(child, 0)[1] == 0)
    server.device.close()


def killed():
    """SIGKILL with traffic: the peer sees an end, the driver keeps nothing."""
    for address in (lib.ROCE, lib.IWARP):
        for _ in range(3):
            server = subprocess.Popen(["python3", "/src/tests/raw/serve.py"], stdout=subprocess.PIPE)
            server.stdout.readline()
            process = lib.peer("echo", address, "--sizes", "1,300000", "--count", 1000,
                               "--connections", 2, "--depth", 4)
            before = lib.statistics()["messages_received"]
            lib.until(lambda b=before: lib.statistics()["messages_received"] > b + 20)
            server.kill()
            server.wait()
            try:
                output, _ = process.communicate(timeout=40 * lib.SLOW)
                check(f"the peer of a killed server: {output}",
                      process.returncode == 1 and "ended" in output)
            except subprocess.TimeoutExpired:
                process.kill()
                check("the peer of a killed server does not see its end", False)
            check("connections of a killed server",
                  lib.until(lambda: lib.statistics()["connections"] == 0))
            check("contexts of a killed server", lib.statistics()["contexts"] == 0)


for part in (batches, blocking_read, connections, changing_hands, killed):
    print(part.__name__, flush=True)
    part()
lib.finish()
