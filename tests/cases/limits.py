#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# Each limit holds where it is said to be: one more is refused, and works again when something went.
# lanes: stock
# when: asked
# kernels: default
# timeout: 300
"""Listeners, unread answers, half-open connections, memory of commands, areas of a user and of all users;
then those that the operator sets when the module is loaded."""

import errno
import os
import select
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw, refused  # noqa: E402

LISTENERS, ANSWERS, COMMAND_BYTES, DESCRIPTORS = 16, 16, 4 << 20, 4095


def listeners():
    device = raw.Device()
    numbers = [device.listen(lib.ROCE, port=20000 + n, iwarp_port=21000 + n)
               for n in range(LISTENERS)]
    refused("one listener more", errno.EMFILE,
            lambda: device.write(raw.listen(lib.ROCE, port=22000, iwarp_port=22001)))
    device.write(raw.record(raw.CLOSE_LISTENER, struct.pack("<II", numbers[0], 0)))
    device.expect(raw.LISTENER_CLOSED)
    device.listen(lib.ROCE, port=22000, iwarp_port=22001)
    device.close()


def answers():
    device = raw.Device()
    taken = os.write(device.fd, raw.hello() * (ANSWERS + 1))
    check(f"{taken / 32} answers", taken == 32 * ANSWERS)
    refused("one answer more", errno.EAGAIN,
            lambda: os.write(device.fd, raw.record(raw.GET_MEMORY_PARAMETERS)))
    for _ in range(ANSWERS):
        device.expect(raw.HELLO_DONE)
    device.write(raw.hello())
    device.expect(raw.HELLO_DONE)
    device.close()


def half_open(backlog=5):
    """Connections that were not accepted, with and without a negotiation."""
    device = raw.Device()
    device.listen(lib.ROCE, backlog=backlog)
    crowd = lib.peer("crowd", lib.ROCE, "--count", 2 * backlog, "--threads", 1, "--timeout", 5)
    output, _ = crowd.communicate(timeout=100 * lib.SLOW)
    check(f"without negotiation: {output}", output == f"crowd: {backlog} of {2 * backlog} came in\n")
    check("silent connections stay", lib.until(lambda: lib.statistics()["connections"] == 0))
    holds = lib.peer("hold", lib.ROCE, "--connections", backlog, "--seconds", 60 * lib.SLOW, "--timeout", 40 * lib.SLOW)
    tickets = [device.expect(raw.CONNECTION_READY)[2][16:32] for _ in range(backlog)]
    late = lib.peer("hold", lib.ROCE, "--seconds", 1, "--timeout", 10 * lib.SLOW)
    output, _ = late.communicate(timeout=60 * lib.SLOW)
    check(f"one more than the backlog: {output}", late.returncode == 1 and "rejected" in output.lower())
    device.write(raw.accept(tickets[0]))
    device.expect(raw.ACCEPTED)
    late = lib.peer("hold", lib.ROCE, "--seconds", 1, "--timeout", 10 * lib.SLOW)
    device.write(raw.accept(device.expect(raw.CONNECTION_READY)[2][16:32]))
    device.expect(raw.ACCEPTED)
    lib.ended_well("one more when another was accepted", late)
    holds.kill()
    holds.communicate()
    device.close()
    check("connections stay", lib.until(lambda: lib.statistics()["connections"] == 0))


def command_bytes(limit=COMMAND_BYTES):
    """Lists of transfers under way."""
    server = lib.Server(lib.ROCE)
    process = lib.peer("hold", lib.ROCE, "--seconds", 100 * lib.SLOW, "--end")
    connection = server.accept_one()
    device = server.device
    area = device.map_area(1)
    area[0] = 1
    # Nothing that is posted from here on completes.
    table = "table netdev usmbd { chain out { type filter hook egress device veth1 priority 0; policy drop; }; }"
    subprocess.run(["ip", "netns", "exec", "client", "nft", table], check=True)
    read = raw.rdma(raw.RDMA_READ, connection, [(0, 0, 1)], [(4096, 1, 1)] * DESCRIPTORS)
    most = limit // (16 * (1 + DESCRIPTORS))
    taken = os.write(device.fd, read * (most + 3))
    check(f"{taken / len(read)} transfers, expected {most}", taken == most * len(read))
    refused("one transfer more", errno.EAGAIN, lambda: os.write(device.fd, read))
    _, writable, _ = select.select([], [device.fd], [], 0)
    check("it says that it is writable", not writable)
    subprocess.run(["ip", "netns", "exec", "client", "nft", "delete table netdev usmbd"], check=True)
    # The key is none of the peer's: the first one fails, and all with it.
    done = 0
    while True:
        opcode, _, _, _ = device.next(60)
        done += opcode == raw.RDMA_COMPLETE
        if opcode == raw.DISCONNECTED:
            break
    check(f"{done} events for {most} transfers", done == most)
    _, writable, _ = select.select([], [device.fd], [], 0)
    check("it is not writable again", writable)
    process.kill()
    process.communicate()
    device.close()


TOUCH = """
import os, sys
sys.path.insert(0, "/src/tests/raw")
import usmbd_raw as raw
os.setuid(int(sys.argv[1]))
device = raw.Device()
area = device.map_area(64)
for buffer in range(64):
    try:
        area.madvise(23, buffer << 20, 1 << 20)
    except OSError:
        break
else:
    buffer = 64
print(buffer, flush=True)
sys.stdin.read()
"""


def areas():
    """A user's areas have half of what all have, which is an eighth of the memory."""
    os.chmod("/dev/usmbd", 0o666)
    with open("/proc/meminfo", encoding="ascii") as file:
        total = int(file.readline().split()[1]) >> 10
    users = {}
    processes = []

    def touch(uid):
        process = subprocess.Popen([sys.executable, "-c", TOUCH, str(uid)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        processes.append(process)
        got = int(process.stdout.readline())
        users[uid] = users.get(uid, 0) + got
        return got

    while touch(0) == 64:
        pass
    check(f"one user: {users[0]} MiB of {total}", total // 16 - 2 <= users[0] <= total // 16 + 1)
    while touch(1000) == 64:
        pass
    check(f"two users: {users}", abs(sum(users.values()) - total // 8) <= 2)
    # Half a buffer of each of the two may be left.
    check("a third user", touch(1001) <= 1)
    for process in processes:
        process.communicate()
    check("it is all back", touch(1001) == 64)
    processes[-1].communicate()
    os.chmod("/dev/usmbd", 0o600)


def connections(most):
    """Of a listener, accepted ones too."""
    server = lib.Server(lib.ROCE)
    holds = [lib.peer("hold", lib.ROCE, "--seconds", 100 * lib.SLOW, "--end") for _ in range(most)]
    check("connections come", server.serve(lambda: len(server.accepted) == most, 30))
    late = lib.peer("hold", lib.ROCE, "--seconds", 1, "--timeout", 10 * lib.SLOW)
    output, _ = late.communicate(timeout=60 * lib.SLOW)
    check(f"one more connection: {output}", late.returncode == 1 and "rejected" in output.lower())
    # Another listener has places of its own.
    other = lib.Server(lib.IWARP)
    late = lib.peer("hold", lib.IWARP, "--seconds", 1)
    check("it comes in elsewhere", other.serve(lambda: late.poll() is not None, 30))
    lib.ended_well("elsewhere", late)
    holds[0].kill()
    holds[0].communicate()
    check("one ends", server.serve(lambda: server.reasons, 30))

    def again():
        late = lib.peer("hold", lib.ROCE, "--seconds", 1, "--timeout", 10 * lib.SLOW)
        server.serve(lambda: late.poll() is not None, 30)
        late.communicate()
        return late.returncode == 0
    check("no place is free again", lib.until(again))
    for hold in holds[1:]:
        hold.kill()
        hold.communicate()
    server.device.close()
    other.device.close()


def commands(most):
    """Whose events nobody reads."""
    device = raw.Device()
    nop = raw.record(raw.NOP)
    taken = os.write(device.fd, nop * (most + 5))
    check(f"{taken // 16} commands, expected {most}", taken == most * 16)
    refused("one command more", errno.EAGAIN, lambda: os.write(device.fd, nop))
    device.expect(raw.NOP_DONE)
    device.queue.clear()
    check("it is taken again", os.write(device.fd, nop) == 16)
    device.close()


def events(most):
    """For which a connection needs slots."""
    server = lib.Server(lib.ROCE, receive_credit_max=255)
    # For each receive, one of them spare, and three of its own.
    fit = most // (255 + 1 + 3)
    holds = []
    for number in range(fit + 1):
        holds.append(lib.peer("hold", lib.ROCE, "--seconds", 100 * lib.SLOW, "--end"))
        if number < fit:
            server.serve(lambda: len(server.accepted) == len(holds), 30)
    check(f"{len(server.accepted)} connections", len(server.accepted) == fit)
    _, _, body = server.device.expect(raw.CONNECTION_READY)
    refused("ACCEPT without slots", errno.EAGAIN, lambda: server.device.write(raw.accept(body[16:32])))
    # With fewer receives it fits, and then there is none left.
    for credits in range(254, 0, -1):
        server.device.write(raw.set_parameters(receive_credit_max=credits))
        try:
            server.device.write(raw.accept(body[16:32]))
            break
        except BlockingIOError:
            pass
    server.device.expect(raw.ACCEPTED)
    taken = os.write(server.device.fd, raw.record(raw.NOP) * 40)
    check(f"{taken // 16} of 40 commands are taken with all connections there", taken == 40 * 16)
    for hold in holds:
        hold.kill()
        hold.communicate()
    server.device.close()


def settings():
    """The same, with other values."""
    def load(**values):
        check("contexts stay", lib.until(lambda: lib.statistics()["contexts"] == 0))
        check("connections stay", lib.until(lambda: lib.statistics()["connections"] == 0))
        subprocess.run(["rmmod", "usmbd"], check=True)
        arguments = [f"{name}={value}" for name, value in values.items()]
        subprocess.run(["insmod", "/build/usmbd.ko", *arguments], check=True)

    load(listener_connections=4, context_commands=40, context_events=1024, context_command_kib=1024)
    connections(4)
    commands(40)
    command_bytes(1024 << 10)
    events(1024)
    load()


listeners()
answers()
half_open()
command_bytes()
areas()
settings()
check("contexts stay", lib.until(lambda: lib.statistics()["contexts"] == 0))
lib.finish()
