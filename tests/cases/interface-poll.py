#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# poll and epoll, level- and edge-triggered: when each bit comes and goes, and that whoever sleeps for it
# is woken.
# lanes: stock
# timeout: 150
"""docs/abi.md, "Waiting"."""

import os
import select
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw  # noqa: E402

IN, OUT, RDHUP, HUP, ERR, ET = (select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP, select.EPOLLHUP,
                                select.EPOLLERR, select.EPOLLET)
MEANT = IN | OUT | RDHUP | HUP | ERR
ALL = IN | OUT | RDHUP
LIMIT = 20 * lib.SLOW


def nop(number):
    return raw.record(raw.NOP, user_data=number)


def drain(fd):
    """Reads until there is nothing; how many events."""
    got = 0
    while True:
        try:
            got += len(list(raw.events(os.read(fd, 1 << 20))))
        except BlockingIOError:
            return got


class Epoll:
    """One descriptor in an epoll."""

    def __init__(self, fd, events):
        self.fd = fd
        self.epoll = select.epoll()
        self.epoll.register(fd, events)

    def now(self, timeout=0.0):
        """What it says, zero for nothing."""
        return dict(self.epoll.poll(timeout)).get(self.fd, 0) & MEANT

    def close(self):
        self.epoll.close()


class Sleeper:
    """A thread that sleeps in epoll_wait() for some bits alone."""

    def __init__(self, fd, events):
        self.got = None
        self.epoll = Epoll(fd, events)
        check(f"nothing yet for {events:#x}", self.epoll.now() == 0)
        self.thread = threading.Thread(target=self.sleep)
        self.thread.start()
        time.sleep(0.3)

    def sleep(self):
        self.got = self.epoll.now(LIMIT)

    def woken(self, what, bits):
        self.thread.join(LIMIT + 5)
        check(f"{what}: woken with {self.got:#x}", self.got == bits)
        self.epoll.close()


def level_and_edge():
    fd = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
    level, edge = Epoll(fd, ALL), Epoll(fd, ALL | ET)
    check("both say OUT", level.now() == edge.now() == OUT)
    check("level again, edge not", (level.now(), edge.now()) == (OUT, 0))
    os.write(fd, nop(1))
    check("an event: both", level.now() == edge.now() == IN | OUT)
    check("not read: level alone", (level.now(), edge.now()) == (IN | OUT, 0))
    os.write(fd, nop(2))
    check("another event: another edge", edge.now() == IN | OUT)
    check("both are read", drain(fd) == 2)
    check("read dry: no IN", (level.now(), edge.now() & IN) == (OUT, 0))
    for number in range(200):
        os.write(fd, nop(number))
        check("an edge for each", edge.now() & IN)
        check("one event", drain(fd) == 1)
    # Edge-triggered readers that read until EAGAIN see all of it, whoever writes.
    seen, wanted = 0, 20000

    def writer():
        left = wanted
        while left:
            try:
                left -= os.write(fd, b"".join(nop(n) for n in range(min(left, 50)))) // 16
            except BlockingIOError:
                time.sleep(0.001)

    thread = threading.Thread(target=writer)
    thread.start()
    end = time.monotonic() + 3 * LIMIT
    while seen < wanted and time.monotonic() < end:
        if edge.now(LIMIT) & IN:
            seen += drain(fd)
    thread.join()
    check(f"{seen} events by their edges", seen == wanted)
    level.close()
    edge.close()
    os.close(fd)


def oneshot_and_exclusive():
    fd = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
    once = Epoll(fd, IN | select.EPOLLONESHOT)
    os.write(fd, nop(1))
    check("once", once.now() == IN and once.now() == 0)
    once.epoll.modify(fd, IN | select.EPOLLONESHOT)
    check("once more", once.now() == IN)
    drain(fd)
    sleepers = [Sleeper(fd, IN | select.EPOLLEXCLUSIVE) for _ in range(3)]
    os.write(fd, nop(1))
    end = time.monotonic() + LIMIT
    while not any(sleeper.got for sleeper in sleepers) and time.monotonic() < end:
        time.sleep(0.01)
    check("one of three at least", any(sleeper.got for sleeper in sleepers))
    os.write(fd, nop(2) * 3)
    for sleeper in sleepers:
        sleeper.thread.join(LIMIT + 5)
        sleeper.epoll.close()
    once.close()
    os.close(fd)


def room():
    """OUT goes when too much is outstanding, comes back by reading, and wakes who waits for it."""
    fd = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
    many = b"".join(nop(n) for n in range(4096))
    taken = 0
    try:
        while True:
            taken += os.write(fd, many) // 16
    except BlockingIOError:
        pass
    check(f"{taken} commands", taken == 1 << 16)
    level = Epoll(fd, ALL)
    check("no OUT", level.now() == IN)
    sleeper, edge = Sleeper(fd, OUT), Epoll(fd, OUT | ET)
    check("no edge", edge.now() == 0)
    got = 0
    while got < taken // 8:
        got += len(list(raw.events(os.read(fd, 1 << 15))))
    check("an eighth is not enough", sleeper.got is None and level.now() == IN and edge.now() == 0)
    while got <= taken // 4:
        got += len(list(raw.events(os.read(fd, 1 << 15))))
    sleeper.woken("a quarter is", OUT)
    check("an edge too", edge.now() == OUT)
    got += drain(fd)
    check("all of them", got == taken)
    edge.close()

    # The same for answers: a quarter of sixteen.
    os.write(fd, raw.query_statistics() * 12)
    check("twelve answers", level.now() == IN | OUT)
    os.write(fd, raw.query_statistics())
    check("thirteen", level.now() == IN)
    sleeper = Sleeper(fd, OUT)
    os.read(fd, 16 + 112)
    sleeper.woken("twelve again", OUT)
    drain(fd)
    level.close()
    os.close(fd)


def command_bytes():
    """Lists of transfers under way count too; where they end, who waits for OUT is woken."""
    server = lib.Server(lib.ROCE)
    process = lib.peer("hold", lib.ROCE, "--seconds", 100)
    device = raw.Device(os.O_NONBLOCK)
    connection = server.accept_one(device)
    area = device.map_area(1)
    area[0] = 1
    # 4095 descriptors are 64 KiB of list. Nothing completes while the network is away.
    lists = [(0x1000 + n, 1, 1) for n in range(4095)]
    record = raw.rdma(raw.RDMA_WRITE, connection, [(0, 0, 4095)], lists)
    subprocess.run(["ip", "-n", "client", "link", "set", "veth1", "down"], check=True)
    taken = 0
    try:
        while taken < 100:
            check("OUT while a quarter is free", (lib.poll_now(device.fd) & OUT != 0) == (taken < 49))
            os.write(device.fd, record)
            taken += 1
    except BlockingIOError:
        pass
    check(f"{taken} long lists", taken == 64)
    sleeper = Sleeper(device.fd, OUT)
    subprocess.run(["ip", "-n", "client", "link", "set", "veth1", "up"], check=True)
    subprocess.run(["ip", "-n", "client", "addr", "replace", "fd00:9:0::2/64", "dev", "veth1", "nodad"],
                   check=True)
    # The peer's device knows no such key: the connection ends, and all of them with it.
    sleeper.woken("room again", OUT)
    process.kill()
    process.communicate()
    area.close()
    device.close()
    server.device.close()


def ends(what, peer_end, reason, error):
    """RDHUP when the end is the next event, HUP when it was read, ERR if it was not orderly; never
    earlier, and whoever sleeps for them is woken."""
    server = lib.Server(lib.ROCE)
    process = lib.peer("echo", lib.ROCE, "--sizes", "1000", "--count", 1)
    device = raw.Device(os.O_NONBLOCK)
    device.write(raw.hello(features=raw.AT_MOST_ONE))
    device.expect(raw.HELLO_DONE)
    connection = server.accept_one(device)
    level, edge = Epoll(device.fd, ALL), Epoll(device.fd, ALL | ET)
    hup = Sleeper(device.fd, 0)
    rdhup = Sleeper(device.fd, RDHUP)
    end = time.monotonic() + LIMIT
    while not level.now() & IN and time.monotonic() < end:
        time.sleep(0.01)
    # Two events in front of the end.
    os.write(device.fd, nop(1) + nop(2))
    if peer_end:
        process.kill()
    else:
        admin = raw.Device()
        admin.write(raw.drop(connection))
        admin.close()
    check(f"{what}: ended", lib.until(lambda: lib.statistics()["connections"] == 0))
    process.communicate()
    check(f"{what}: behind other events, no RDHUP", level.now() == IN | OUT)
    check(f"{what}: nobody is woken for it", rdhup.got is None and hup.got is None)
    events = []
    while lib.poll_now(device.fd) & RDHUP == 0:
        opcode, _, _, body = device.next(LIMIT)
        events.append(opcode)
        if opcode == raw.DISCONNECTED:
            break
    check(f"{what}: {events}", events[-1] == raw.NOP_DONE)
    rdhup.woken(f"{what}: the end is next", RDHUP)
    check(f"{what}: IN and RDHUP", level.now() == IN | OUT | RDHUP and edge.now() == IN | OUT | RDHUP)
    check(f"{what}: not HUP yet", hup.got is None)
    _, _, body = device.expect(raw.DISCONNECTED)
    check(f"{what}: reason {body[8]}", struct.unpack_from("<QI", body) == (connection, reason))
    hup.woken(f"{what}: HUP", HUP | error)
    expected = IN | OUT | RDHUP | HUP | error
    check(f"{what}: after it {level.now():#x}", level.now() == expected and edge.now() == expected)
    check(f"{what}: poll() says the same", lib.poll_now(device.fd) == expected)
    check(f"{what}: nothing to read", drain(device.fd) == 0)

    # Another connection on the same context: no HUP any more.
    process = lib.peer("hold", lib.ROCE, "--seconds", 100)
    second = server.accept_one(device)
    check(f"{what}: another connection", level.now() == OUT)
    # Two connections: neither end shows.
    other = lib.peer("hold", lib.ROCE, "--seconds", 100)
    third = server.accept_one(device)
    device.write(raw.disconnect(second))
    end = time.monotonic() + LIMIT
    while not level.now() & IN and time.monotonic() < end:
        time.sleep(0.01)
    check(f"{what}: one of two: {level.now():#x}", level.now() == IN | OUT)
    device.expect(raw.DISCONNECTED)
    check(f"{what}: one of two was read", level.now() == OUT)
    device.write(raw.disconnect(third, user_data=5))
    check(f"{what}: the other", lib.until(lambda: level.now() == IN | OUT | RDHUP))
    check(f"{what}: its DISCONNECT", device.expect(raw.DISCONNECTED)[1] == 5)
    check(f"{what}: an orderly end", level.now() == IN | OUT | RDHUP | HUP)
    for one in (process, other):
        one.kill()
        one.communicate()
    # A context that listens has no such end.
    check(f"{what}: the listener", lib.poll_now(server.device.fd) == OUT)
    for e in (level, edge):
        e.close()
    device.close()
    server.device.close()


def put_back():
    """A reader without room for the next event may have it for a moment: who finds none then is woken
    when it is back."""
    fd = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
    lengths = []
    for count in (1, 2):
        os.write(fd, nop(0) * count)
        lengths.append(len(os.read(fd, 1 << 20)))
    four = lengths[0] + 3 * (lengths[1] - lengths[0])
    stop, polled = threading.Event(), 0

    def sleeper():
        nonlocal polled
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not stop.is_set():
            poll.poll()
            polled += 1

    thread = threading.Thread(target=sleeper)
    thread.start()
    for number in range(1000):
        os.write(fd, nop(0) * 5)
        os.read(fd, four)
        before = polled
        end = time.monotonic() + LIMIT
        while polled == before and time.monotonic() < end:
            time.sleep(0)
        if polled == before:
            check(f"an event that was put back wakes nobody ({number})", False)
            break
        check("one was left", drain(fd) == 1)
    stop.set()
    os.write(fd, nop(0))
    thread.join()
    os.close(fd)


def orderly():
    ends("killed peer", True, lib.REASON_PEER, 0)


def not_orderly():
    ends("dropped", False, 10, ERR)


for part in (level_and_edge, oneshot_and_exclusive, room, command_bytes, put_back, orderly, not_orderly):
    print(part.__name__, flush=True)
    part()
lib.finish()
