#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""CONNECT: two contexts talk, on every fabric and family; and the ways in which it fails.

The client's context is opened in the client's network namespace. Not for iWARP: siw makes its
sockets in the namespace of the thread that connects or listens, a kernel thread's, so both ends are
on this side then, or the other one is a process's.
"""
# lanes: stock
# timeout: 240

import errno
import os
import select
import struct
import subprocess
import threading
import time

import lib
from lib import check, raw, refused

REFUSED, UNREACHABLE, NEGOTIATION, NO_DEVICE, ENDED = 8, 9, 10, 5, 1
CONNECTED = struct.Struct("<QII24s32s32s")
CLIENT = os.open("/run/netns/client", os.O_RDONLY)
HERE = os.open("/proc/self/ns/net", os.O_RDONLY)
# Negotiate Responses.
GOOD = "00 01 00 01 00 01 00 00 FF 00 FF 00 00 00 00 00 00 00 80 00 54 05 00 00 54 05 00 00 56 A7 02 00"
BAD = {
    "an error": "00 01 00 01 00 00 00 00 00 00 00 00 BB 00 00 C0 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
    "one byte less": GOOD[:-3],
    "no credits": GOOD.replace("FF 00 FF 00", "FF 00 00 00"),
    "MaxReceiveSize 127": GOOD.replace("54 05 00 00 56", "7F 00 00 00 56"),
    "more than we receive": GOOD.replace("80 00 54 05", "80 00 55 05", 1),
}
SIW = "10.9.1.1", "10.9.1.2", "fd00:9:1::1"
REQUEST = "00 01 00 01 00 00 40 00 54 05 00 00 54 05 00 00 00 00 10 00"


def client_context(flags=0):
    """A context in the client's network namespace."""
    os.setns(CLIENT, os.CLONE_NEWNET)
    try:
        return raw.Device(flags)
    finally:
        os.setns(HERE, os.CLONE_NEWNET)


def client(*command):
    subprocess.run(["nsenter", "--net=/run/netns/client", *command], check=True, timeout=60)


def connected(device, timeout=30):
    """The next event, which must be CONNECTED: user_data and its fields."""
    _, user_data, body = device.expect(raw.CONNECTED, timeout * lib.SLOW)
    return user_data, CONNECTED.unpack(body)


def patiently(context, where, *records, **more):
    """Connects; the device, and what CONNECTED says. Over siw in several attempts.

    siw_accept() (drivers/infiniband/sw/siw/siw_cm.c) answers the peer before it has the socket's
    data go to the queue pair. What the peer sends in between, here the Negotiate Request, stays
    in the socket until more comes, and none does. So an acceptor on siw now and then gets nothing.
    """
    attempts = 4 if where in SIW else 1
    while True:
        attempts -= 1
        device = context()
        device.write(*records, raw.connect(where, user_data=7, **more))
        try:
            told = connected(device, 15 if where in SIW else 30)
        except TimeoutError:
            told = None
        if attempts == 0 or (told and told[1][1] == 0):
            check(f"{where}: CONNECTED", told)
            return device, *told
        device.close()


def outcome(device, *arguments, **more):
    """Connects; the status, which is not zero."""
    device.write(raw.connect(*arguments, **more))
    _, (connection, status, fabric, negotiated, local, peer) = connected(device)
    empty = not (connection or fabric or any(negotiated) or any(local))
    check(f"{arguments}: a failure with connection {connection}, fabric {fabric}",
          empty and any(peer))
    return status


def message(device, connection):
    """The next message of the connection."""
    whole = bytearray()
    while True:
        _, _, body = device.expect(raw.PDU_RECEIVED, 30 * lib.SLOW)
        number, total, offset, length, _ = struct.unpack_from("<QIIII", body)
        check(f"a piece of {number} at {offset}", number == connection and offset == len(whole))
        whole += body[24:24 + length]
        if len(whole) == total:
            return bytes(whole)


def exchange(device, connection, sizes=(1, 1340, 1341, 70000, 1 << 20)):
    for size in sizes:
        content = os.urandom(size)
        device.write(raw.send_pdu(connection, content, flags=raw.QUIET))
        check(f"{size} bytes came back as others", message(device, connection) == content)


def ended(device, connection, reason, user_data=0):
    opcode, _, told, body = device.next(30 * lib.SLOW)
    while opcode == raw.PDU_SENT:
        # Of a QUIET send: the peer has all of it, and the device had not yet said so.
        opcode, _, told, body = device.next(30 * lib.SLOW)
    check(f"event {opcode:#x} and not DISCONNECTED", opcode == raw.DISCONNECTED)
    number, why = struct.unpack_from("<QI", body)
    check(f"connection {number} ended for {why}, user_data {told}",
          (number, why, told) == (connection, reason, user_data))


class Echo:
    """A server in a thread of its own."""

    def __init__(self, where):
        self.server = lib.Server(where)
        self.stop = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        self.server.serve(lambda: self.stop, 600)

    def end(self):
        self.stop = True
        self.thread.join()
        self.server.device.close()


def talk(context, where, fabric, port, **more):
    """One connection, from CONNECT to DISCONNECTED."""
    echo = Echo(where)
    made = lib.statistics()["connections_made"]
    device, user_data, (connection, status, kind, negotiated, local, peer) = patiently(
        context, where,
        raw.set_parameters(max_fragmented_recv_size=2 << 20, receive_credit_max=32), **more)
    check(f"{where}: status {status}, user_data {user_data}", (status, user_data) == (0, 7))
    check(f"{where}: fabric {kind}", kind == fabric)
    check(f"{where}: the peer {peer.hex()}", peer == raw.address(where, port))
    check(f"{where}: ours {local.hex()}", local[:2] == peer[:2] and any(local[16:]))
    sizes = struct.unpack("<5IHH", negotiated)
    check(f"{where}: negotiated {sizes}", sizes[:4] == (1364, 1364, 1 << 20, 2 << 20)
          and sizes[5] == 32)
    check("it is not counted", lib.statistics()["connections_made"] == made + 1)
    exchange(device, connection)
    # Only servers place data.
    for opcode in raw.RDMA_READ, raw.RDMA_WRITE:
        refused("a transfer by the client", errno.EOPNOTSUPP, lambda: device.write(
            raw.rdma(opcode, connection, [(0, 0, 1)], [(0, 0, 1)])))
    device.write(raw.disconnect(connection, user_data=9))
    ended(device, connection, lib.REASON_LOCAL, 9)
    refused("a message after the end", errno.ENOENT,
            lambda: device.write(raw.send_pdu(connection, b"late")))
    echo.end()
    device.close()


def server_ends():
    echo = lib.Server(lib.ROCE)
    device = client_context()
    device.write(raw.connect(lib.ROCE))
    there = echo.accept_one()
    _, (here, status, *_) = connected(device)
    check(f"status {status}", status == 0)
    echo.device.write(raw.disconnect(there))
    ended(device, here, lib.REASON_PEER)
    echo.device.close()
    device.close()


def what_was_accepted_is_sent():
    """A context that is closed at once after SEND_PDU."""
    echo = lib.Server(lib.ROCE)
    device = client_context()
    device.write(raw.connect(lib.ROCE))
    there = echo.accept_one()
    _, (here, *_) = connected(device)
    content = os.urandom(300000)
    device.write(raw.send_pdu(here, content))
    device.close()
    check("the last message", message(echo.device, there) == content)
    ended(echo.device, there, lib.REASON_PEER)
    echo.device.close()


def poll_is_as_of_a_socket():
    """Not writable while connecting; writable and readable when it is decided."""
    echo = lib.Server(lib.ROCE)
    device = client_context(os.O_NONBLOCK)
    poll = select.epoll()
    poll.register(device, select.EPOLLIN | select.EPOLLOUT)
    check("a fresh context", poll.poll(0) == [(device.fd, select.EPOLLOUT)])
    device.write(raw.connect(lib.ROCE))
    _, _, body = echo.device.expect(raw.CONNECTION_READY)
    check("while connecting", poll.poll(0) == [])
    echo.device.write(raw.accept(body[16:32]))
    check("connected", poll.poll(20 * lib.SLOW) == [(device.fd, select.EPOLLIN | select.EPOLLOUT)])
    connected(device)
    echo.device.close()
    device.close()
    device = client_context(os.O_NONBLOCK)
    poll.register(device, select.EPOLLIN | select.EPOLLOUT)
    device.write(raw.connect(lib.ROCE, 4450))
    end = time.monotonic() + 20 * lib.SLOW
    while (states := poll.poll(1)) == [] and time.monotonic() < end:
        pass
    check(f"refused: {states}", states == [(device.fd, select.EPOLLIN | select.EPOLLOUT)])
    device.close()


def failures():
    device = client_context()
    check("nobody listens", outcome(device, lib.ROCE) == REFUSED)
    check("nobody listens, IPv6", outcome(device, "fd00:9:0::1") == REFUSED)
    check("nobody is there", outcome(device, "10.9.0.77") == UNREACHABLE)
    # Not 127.0.0.1: the CM takes any device for that.
    client("ip", "link", "add", "plain0", "type", "veth", "peer", "name", "plain1")
    client("ip", "address", "add", "10.99.0.1/24", "dev", "plain0")
    client("ip", "link", "set", "plain0", "up")
    check("no RDMA device leads there", outcome(device, "10.99.0.1") == NO_DEVICE)
    client("ip", "link", "del", "plain0")
    check("no route", outcome(device, "192.0.2.1") == UNREACHABLE)
    check("not our address", outcome(device, lib.ROCE, local="10.9.9.9") == NO_DEVICE)
    iwarp = raw.Device()
    check("nobody listens, iWARP", outcome(iwarp, lib.IWARP) == REFUSED)
    iwarp.close()
    for what, record in {
            "no family": raw.record(raw.CONNECT, raw.address() + raw.address() + bytes(8)),
            "any address": raw.connect("0.0.0.0"),
            "another family": raw.connect(lib.ROCE, local="fd00::1"),
            "a local port": raw.record(raw.CONNECT, raw.address(lib.ROCE) +
                                       raw.address("10.9.0.2", 5) + bytes(8)),
            "a reserved field": raw.record(raw.CONNECT, raw.address(lib.ROCE) + raw.address() +
                                           b"\1" + bytes(7))}.items():
        refused(what, errno.EINVAL, lambda record=record: device.write(record))
    device.close()


def too_many():
    """64 at a time; closing the context ends them all, at once."""
    device = client_context()
    device.write(*[raw.connect("10.9.0.77", user_data=n) for n in range(64)])
    refused("the 65th", errno.EAGAIN, lambda: device.write(raw.connect("10.9.0.77")))
    begin = time.monotonic()
    device.close()
    check("close() waits for them", time.monotonic() - begin < 2 * lib.SLOW)
    check("something is left", lib.until(lambda: lib.statistics()["contexts"] == 0))


class Acceptor:
    """usmbd-peer as the server, on the client's side."""

    def __init__(self, *arguments):
        self.process = lib.peer(*arguments)
        line = self.process.stdout.readline()
        check(f"the peer says {line!r}", "listening" in line)

    def ends_well(self, what):
        lib.ended_well(what, self.process)


def peers():
    """An acceptor that is not ours, on both fabrics; and what it can do wrong."""
    for where, port, fabric in ("10.9.0.2", 445, 2), ("fd00:9:0::2", 445, 2), ("10.9.1.2", 5445, 3):
        acceptor = Acceptor("serve-echo", where, "--port", port, "--connections", 9)
        device, _, (connection, status, kind, *_) = patiently(raw.Device, where)
        check(f"{where}: status {status}, fabric {kind}", (status, kind) == (0, fabric))
        exchange(device, connection, (1, 5000, 100000))
        device.write(raw.send_pdu(connection, b"D"))
        device.expect(raw.PDU_SENT)
        ended(device, connection, lib.REASON_PEER)
        device.close()
        acceptor.process.kill()
        acceptor.process.wait()
    for what, response in BAD.items():
        acceptor = Acceptor("raw", "10.9.0.2", "--port", 445, "--accept", f"expect:{REQUEST}",
                            f"send:{response}", "expect-disconnect")
        device = raw.Device()
        check(what, outcome(device, "10.9.0.2") == NEGOTIATION)
        device.close()
        acceptor.ends_well(what)
    acceptor = Acceptor("raw", "10.9.0.2", "--port", 445, "--accept", "expect:*", "disconnect")
    device = raw.Device()
    check("it disconnects instead", outcome(device, "10.9.0.2") == ENDED)
    acceptor.ends_well("it disconnects instead")
    # A response whose grants are used, and the credits that come with the first message.
    acceptor = Acceptor("raw", "10.9.0.2", "--port", 445, "--accept", f"expect:{REQUEST}",
                        f"send:{GOOD}", "expect-payload:68656c6c6f", "expect-disconnect")
    device.write(raw.connect("10.9.0.2"))
    _, (connection, status, *_) = connected(device)
    check(f"a good response: {status}", status == 0)
    device.write(raw.send_pdu(connection, b"hello"))
    device.expect(raw.PDU_SENT)
    device.write(raw.disconnect(connection))
    ended(device, connection, lib.REASON_LOCAL)
    device.close()
    acceptor.ends_well("the first message")


def a_device_goes():
    """It takes its connections with it, those too that are not made yet."""
    echo = lib.Server(lib.ROCE)
    device = client_context()
    device.write(raw.connect(lib.ROCE))
    echo.accept_one()
    _, (connection, *_) = connected(device)
    device.write(raw.connect(lib.ROCE, user_data=3))
    echo.device.expect(raw.CONNECTION_READY)
    client("rdma", "link", "del", "rxe1")
    seen = {}
    while len(seen) < 2:
        opcode, _, user_data, body = device.next(20 * lib.SLOW)
        seen[opcode] = (user_data, body)
    _, reason = struct.unpack_from("<QI", seen[raw.DISCONNECTED][1])
    check(f"the connection: reason {reason}", reason == lib.REASON_DEVICE)
    user_data, body = seen[raw.CONNECTED]
    check(f"the other one: {body.hex()}", user_data == 3 and CONNECTED.unpack(body)[1] == 3)
    check("without a device", outcome(device, lib.ROCE) == NO_DEVICE)
    device.close()
    echo.device.close()
    client("rdma", "link", "add", "rxe1", "type", "rxe", "netdev", "veth1")


talk(client_context, "10.9.0.1", 2, 445)
talk(client_context, "10.9.0.1", 2, 445, local="10.9.0.2")
talk(client_context, "fd00:9:0::1", 2, 445)
talk(raw.Device, "10.9.1.1", 3, 5445)
talk(raw.Device, "fd00:9:1::1", 3, 5445)
server_ends()
what_was_accepted_is_sent()
poll_is_as_of_a_socket()
failures()
too_many()
peers()
a_device_goes()
check("something is left", lib.until(lambda: lib.statistics()["contexts"] == 0
                                     and lib.statistics()["connections"] == 0))
subprocess.run(["rmmod", "usmbd"], check=True, timeout=60)
subprocess.run(["insmod", "/build/usmbd.ko"], check=True, timeout=60)
lib.finish()
