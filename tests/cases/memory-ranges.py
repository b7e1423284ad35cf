#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# The range check: which ranges RDMA_READ, RDMA_WRITE and SEND_PDU take, and from whom; a privileged
# program that is tricked into writing our bytes cannot make the kernel touch its memory.
# lanes: stock debug
# kernels: default
# timeout: 150
"""docs/abi.md, "Ranges"."""

import errno
import os
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import memorylib as own  # noqa: E402
from lib import check, raw, refused  # noqa: E402

MIB, PAGE, LAST = own.MIB, own.PAGE, 0xffffffff


class Served:
    """A connection to a peer that waits."""

    def __init__(self):
        self.device, self.other = raw.Device(), raw.Device()
        server = lib.Server(lib.ROCE)
        self.peer = lib.peer("take", lib.ROCE, "--sizes", "5000,70000", "--pause", 0)
        self.listening = server.device
        self.connection = server.accept_one(self.device)
        # Its request.
        self.device.expect(raw.PDU_RECEIVED, 30 * lib.SLOW)

    def commands(self, ranges):
        """Each command that takes ranges, with these."""
        total = sum(one[2] for one in ranges) & LAST
        descriptors = [(0, 1, max(total, 1))]
        reserved = [one[3] if len(one) > 3 else 0 for one in ranges]
        bare = [one[:3] for one in ranges]
        for name, opcode in (("RDMA_READ", raw.RDMA_READ), ("RDMA_WRITE", raw.RDMA_WRITE)):
            one = bytearray(raw.rdma(opcode, self.connection, bare, descriptors))
            for at, value in enumerate(reserved):
                struct.pack_into("<I", one, 32 + 16 * at + 12, value)
            yield name, bytes(one)
        one = bytearray(raw.send_ranges(self.connection, bare, max(total, 1) if total < 1 << 20 else 1000))
        for at, value in enumerate(reserved):
            struct.pack_into("<I", one, 32 + 16 * at + 12, value)
        yield "SEND_PDU", bytes(one)

    def refuse(self, what, number, *ranges, device=None):
        for name, one in self.commands(ranges):
            refused(f"{name}, {what}", number, lambda: (device or self.device).write(one))


def check_ranges(served):
    fault = errno.EFAULT
    memory = own.Own(3 * MIB)
    served.refuse("no area", fault, (0, 0, 1))
    elsewhere = served.other.map_area(2)
    elsewhere[0] = 1
    far = own.registered(served.other, memory.address, 100)
    served.refuse("an area of another context", fault, (0, 0, 1))
    served.refuse("a handle through another context", fault, (far, 0, 1))
    area = served.device.map_area(4)
    area[0] = area[2 * MIB] = 1
    length = 2 * MIB + 100
    handle = own.registered(served.device, memory.address + 50, length)
    for what, one in (
            ("a buffer without memory", (1, 0, 1)),
            ("the first number that is no buffer", (64, 0, 1)),
            ("the last number below handles", (own.FIRST_HANDLE - 1, 0, 1)),
            ("no such handle", (handle + 1, 0, 1)),
            ("the last handle", (LAST, 0, 1)),
            ("no bytes of a buffer", (0, 0, 0)),
            ("no bytes of a handle", (handle, 0, 0)),
            ("past a buffer", (0, 1, MIB)),
            ("at a buffer's end", (0, MIB, 1)),
            ("past a registration", (handle, 1, length)),
            ("a byte past a registration", (handle, length - 1, 2)),
            ("the registration's page beyond its end", (handle, length, 1)),
            ("all 32 bits of a registration", (handle, 0, LAST)),
            ("wrapping in a buffer", (0, LAST, 2)),
            ("wrapping in a registration", (handle, LAST, 2)),
            ("wrapping to zero", (handle, LAST, 1))):
        served.refuse(what, fault, one)
        served.refuse(f"{what}, behind a good one", fault, (0, 0, 1), one)
        served.refuse(f"{what}, in front of a good one", fault, one, (handle, 0, 1))
    served.refuse("a reserved field", errno.EINVAL, (0, 0, 1, 1))
    served.refuse("a reserved field of the last", errno.EINVAL, (0, 0, 1), (handle, 0, 1, 1 << 31))

    def child():
        before = lib.failures
        served.refuse("a child without an area", fault, (0, 0, 1))
        served.refuse("a child, a handle", fault, (handle, 0, 1))
        mine = served.device.map_area(4)
        mine[0] = 1
        served.refuse("a child's own area, the parent's handle", fault, (handle, 0, 1))
        served.refuse("a child's own area, the parent's buffer", fault, (2, 0, 1))
        return lib.failures - before

    check("a forked child", own.in_child(child) == 0)
    many = [(handle, n, 1) for n in range(64)]
    refused("65 ranges", errno.EINVAL, lambda: served.device.write(
        raw.send_ranges(served.connection, many + [(handle, 0, 1)])))
    return area, elsewhere, handle


def check_messages(served, handle):
    def send(what, number, ranges, length):
        one = raw.send_ranges(served.connection, ranges, length)
        refused(f"SEND_PDU, {what}", number, lambda: served.device.write(one))

    send("less than the ranges", errno.EINVAL, [(0, 0, 10)], 9)
    send("more than the ranges", errno.EINVAL, [(0, 0, 10), (handle, 0, 10)], 21)
    send("longer than the peer takes", errno.EMSGSIZE, [(handle, 0, MIB)] * 2, 2 * MIB)
    send("longer than any message", errno.EINVAL, [(handle, 0, MIB)] * 17, 17 * MIB)
    refused("SEND_PDU without ranges", errno.EINVAL, lambda: served.device.write(
        raw.record(raw.SEND_PDU, struct.pack("<QII", served.connection, 1, 0), raw.RANGES)))
    refused("SEND_PDU, half a range", errno.EINVAL, lambda: served.device.write(
        raw.record(raw.SEND_PDU, struct.pack("<QII", served.connection, 1, 0) + bytes(8), raw.RANGES)))
    refused("RDMA_WRITE has no flag RANGES", errno.EINVAL, lambda: served.device.write(
        raw.rdma(raw.RDMA_WRITE, served.connection, [(0, 0, 1)], [(0, 1, 1)], raw.RANGES)))
    refused("SEND_PDU, no such connection", errno.ENOENT, lambda: served.device.write(
        raw.send_ranges(served.connection + 1000, [(0, 0, 1)])))


# Copies what it is told to its standard output, and exits with the errno.
TRICKED = """
import os, sys
try:
    os.write(1, bytes.fromhex(sys.argv[1]))
except OSError as error:
    sys.exit(error.errno)
"""


def check_tricked(served, handle):
    """Rule: what a program writes to a descriptor names nothing that it has not mapped itself."""
    memory = own.Own(PAGE)
    # An address that is mapped in every process of this program: that of a file's first page.
    with open("/proc/self/maps", encoding="ascii") as file:
        stack = next(line for line in file if "[stack]" in line)
    records = dict(served.commands([(0, 0, 1)]))
    records["a handle"] = raw.send_ranges(served.connection, [(handle, 0, 1)])
    records["REGISTER_MEMORY"] = raw.register_memory(int(stack.split("-")[0], 16), PAGE)
    records["REGISTER_MEMORY of ours"] = raw.register_memory(memory.address, PAGE)
    records["UNREGISTER_MEMORY"] = raw.unregister_memory(handle)
    for name, one in records.items():
        command = [sys.executable, "-c", TRICKED, one.hex()]
        status = subprocess.run(command, stdout=served.device.fd, check=False).returncode
        check(f"{name} from a tricked program: {errno.errorcode.get(status)}", status == errno.EFAULT)
    # The same bytes, copied by a program that knows nothing of us.
    path = "/tmp/record"
    with open(path, "wb") as file:
        file.write(records["REGISTER_MEMORY"])
    for copier in (["cat", path], ["dd", f"if={path}", "bs=4096", "status=none"]):
        done = subprocess.run(copier, stdout=served.device.fd, stderr=subprocess.PIPE, text=True, check=False)
        check(f"{copier[0]}: {done.stderr}", done.returncode != 0 and "Bad address" in done.stderr)


def check_taken(served, area, handle, elsewhere):
    """After all that the connection works. A context takes what is mapped through it, no longer."""
    memory_base = own.serve.pattern(1, 5000)
    area[MIB - 2000:MIB] = memory_base[:2000]
    area[2 * MIB:2 * MIB + 3000] = memory_base[2000:]
    served.device.write(raw.send_ranges(served.connection, [(0, MIB - 2000, 2000), (2, 0, 3000)],
                                        user_data=5))
    _, user_data, body = served.device.expect(raw.PDU_SENT, 30 * lib.SLOW)
    check("PDU_SENT", user_data == 5 and struct.unpack_from("<QI", body) == (served.connection, 0))
    area.close()
    # The process has its area still, through the other context.
    served.refuse("after munmap", errno.EFAULT, (0, 0, 1))
    served.refuse("a handle after munmap", errno.EFAULT, (handle, 0, 1))
    check("the area is still there", elsewhere[0] == 1)
    area = served.device.map_area(4)
    check("and found when it is mapped again", area[MIB - 2000:MIB] == memory_base[:2000])
    second = own.serve.pattern(2, 70000)
    local, at = [], 0
    for n in range(64):
        size = 1 + n * 7 if n < 63 else 70000 - at
        start = 3 * MIB + at + n * 3
        area[start:start + size] = second[at:at + size]
        local.append((3, at + n * 3, size))
        at += size
    served.device.write(raw.send_ranges(served.connection, local, user_data=6))
    _, user_data, _ = served.device.expect(raw.PDU_SENT, 30 * lib.SLOW)
    check("64 ranges are sent", user_data == 6)


served = Served()
mapped, elsewhere, number = check_ranges(served)
check_messages(served, number)
check_tricked(served, number)
check_taken(served, mapped, number, elsewhere)
lib.ended_well("the peer's contents", served.peer)
lib.finish()
