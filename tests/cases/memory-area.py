#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# The area's memory: limits of a process, a user and the driver; given back when idle; zeroed; what
# outlives what.
# lanes: stock
# kernels: default
# timeout: 200
"""docs/operating.md, "Limits"; docs/abi.md, "Registration area"."""

import ctypes
import errno
import mmap
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import memorylib as own  # noqa: E402
from lib import check, raw, refused  # noqa: E402

MIB, PAGE = own.MIB, own.PAGE
BLOCK = MIB // PAGE
NOBODY = 65534
IDLE = 4


def load(**parameters):
    subprocess.run(["rmmod", "usmbd"], check=True)
    words = [f"{name}={value}" for name, value in parameters.items()]
    subprocess.run(["insmod", "/build/usmbd.ko", *words], check=True)


def address(area):
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def populate(area, buffer):
    """Gives a buffer memory; the errno, or 0."""
    start = ctypes.c_void_p(address(area) + buffer * MIB)
    ctypes.set_errno(0)
    return ctypes.get_errno() if own.LIBC.madvise(start, MIB, 23) else 0


def advise(area, buffer, advice=mmap.MADV_DONTNEED, length=MIB):
    start = ctypes.c_void_p(address(area) + buffer * MIB)
    assert own.LIBC.madvise(start, length, advice) == 0


def fill(count):
    """A process that has as many buffers as it gets; their number."""
    device = raw.Device()
    area = device.map_area(64)
    return next((n for n in range(count) if populate(area, n) != 0), count), area, device


def holder(count, uid=0):
    """A child that fills buffers, says how many it got, and holds them until its input ends."""
    ours, theirs = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours[0])
            os.close(theirs[1])
            if uid:
                os.setuid(uid)
            got = fill(count)
            os.write(ours[1], bytes([got[0]]))
            os.read(theirs[0], 1)
        finally:
            os._exit(0)
    os.close(ours[1])
    os.close(theirs[0])
    got = os.read(ours[0], 1)[0]
    os.close(ours[0])

    def end():
        os.close(theirs[1])
        os.waitpid(pid, 0)
    return got, end


def limits():
    load(process_memory_mib=4, user_memory_mib=10, memory_mib=16)
    for name, mib in (("process_limit", 4), ("user_limit", 10), ("driver_limit", 16)):
        check(f"{name} is {own.memory(name)} pages", own.memory(name) == mib * BLOCK)
    got, area, device = fill(8)
    check(f"a process gets {got} buffers", got == 4)
    check("another touch faults", populate(area, 10) != 0)

    def touch():
        mine = device.map_area(64)
        for n in range(5):
            mine[n * MIB] = 1
        return 0

    check("or is a SIGBUS", own.in_child(touch) == -7)
    memory = own.Own(2 * PAGE)
    refused("registered memory counts as well", errno.ENOMEM,
            lambda: device.write(raw.register_memory(memory.address, PAGE)))
    check("nothing is pinned then", own.counted() == 0)
    advise(area, 0, length=4 * MIB)
    check("what is not idle yet counts", populate(area, 11) != 0)
    ends = [holder(8)]
    check(f"a second process gets {ends[0][0]}", ends[0][0] == 4)
    ends.append(holder(8))
    check(f"the user's third gets {ends[1][0]}", ends[1][0] == 2)
    ends.append(holder(8))
    check(f"the user's fourth gets {ends[2][0]}", ends[2][0] == 0)
    os.chmod("/dev/usmbd", 0o666)
    ends.append(holder(8, NOBODY))
    check(f"another user gets {ends[3][0]}", ends[3][0] == 4)
    ends.append(holder(8, NOBODY))
    check(f"the driver's last are {ends[4][0]}", ends[4][0] == 2)
    check(f"the driver counts {own.memory('pages')}", own.memory("pages") == 16 * BLOCK)
    check("of one user", own.memory("user_0") == 10 * BLOCK)
    check("of the other", own.memory(f"user_{NOBODY}") == 6 * BLOCK)
    ends.pop()[1]()
    ends.append(holder(1, NOBODY))
    check(f"what one gave back another gets: {ends[4][0]}", ends[4][0] == 1)
    # The later ones hold copies of the earlier ones' pipes.
    for _, end in reversed(ends):
        end()
    os.chmod("/dev/usmbd", 0o600)
    area = None
    device.close()


def idle():
    load(idle_seconds=IDLE)
    check("no memory before a touch", own.memory("pages") == 0)
    device = raw.Device()
    area = device.map_area(8)
    check("no memory for a mapping", own.memory("pages") == 0)
    for n in range(4):
        area[n * MIB + 5] = 1 + n
    check("memory for each touched buffer", own.memory("pages") == 4 * BLOCK)
    advise(area, 0)
    advise(area, 2)
    area[2 * MIB + MIB - 1] = 9          # One page of it is mapped again.
    check("memory stays for a while", own.memory("pages") == 4 * BLOCK)
    begin = time.monotonic()
    check("what nobody has mapped is given back",
          lib.until(lambda: own.memory("pages") == 3 * BLOCK, 4 * IDLE))
    took = time.monotonic() - begin
    check(f"not at once: after {took:.1f} s", took > IDLE / 2)
    time.sleep(2 * IDLE)
    check("what is mapped, if only a page, stays", own.memory("pages") == 3 * BLOCK)
    check("with what is in it", (area[MIB + 5], area[2 * MIB + 5], area[3 * MIB + 5]) == (2, 3, 4))
    check("what was given back is zero again", area[5] == 0 and not any(area[0:8192]))
    # A transfer or a registration of the same pages keeps it.
    area[7 * MIB] = 7
    handle = own.registered(device, address(area) + 7 * MIB, PAGE)
    advise(area, 7)
    time.sleep(2 * IDLE)
    check("pages that are pinned stay", area[7 * MIB] == 7)
    own.unregistered(device, handle)
    # Dirt does not come back, in whatever process.
    for n in range(8):
        area[n * MIB:(n + 1) * MIB] = b"\xaa" * MIB
    assert own.LIBC.munmap(ctypes.c_void_p(address(area)), 8 * MIB) == 0
    check("all of it is given back with the last mapping", own.memory("pages") == 0)
    check("and the area itself", own.memory("areas") == 0)

    def clean():
        mine = device.map_area(8)
        return any(mine[n * MIB:(n + 1) * MIB].strip(b"\0") for n in range(8))

    check("zeroed", own.in_child(clean) == 0)
    device.close()


def survivors():
    """One area for all contexts of a process, for as long as any has it mapped."""
    first, second = raw.Device(), raw.Device()
    one = first.map_area(4)
    one[MIB:MIB + 4] = b"kept"
    two = second.map_area(4)
    check("two contexts of one process share it", two[MIB:MIB + 4] == b"kept")
    check("it is one area", own.memory("areas") == 1 and own.memory("pages") == BLOCK)
    one.close()
    first.close()
    check("it survives the context that mapped it first", two[MIB:MIB + 4] == b"kept")
    third = raw.Device()
    three = third.map_area(2)
    check("a third context finds it", three[MIB:MIB + 4] == b"kept")

    def child():
        mine = second.map_area(4)
        good = mine[MIB:MIB + 4] == bytes(4) and own.memory("areas") == 2
        mine[MIB:MIB + 4] = b"mine"
        return 0 if good else 1

    check("a forked child that maps gets its own", own.in_child(child) == 0)
    check("the child's end leaves ours", two[MIB:MIB + 4] == b"kept" and own.memory("areas") == 1)

    # Moved, it is the same; it cannot be made longer or twice.
    other = mmap.mmap(-1, 4 * MIB, flags=own.PRIVATE)
    target = ctypes.addressof(ctypes.c_char.from_buffer(other))
    start = address(two)
    remap = own.LIBC.mremap
    size = ctypes.c_size_t
    for what, old, new, flags in (("longer", 4 * MIB, 8 * MIB, 1), ("twice", 0, 4 * MIB, 1),
                                  ("and left behind", 4 * MIB, 4 * MIB, 5)):
        moved = remap(ctypes.c_void_p(start), size(old), size(new), flags)
        check(f"mremap, {what}", moved == ctypes.c_void_p(-1).value)
    moved = remap(ctypes.c_void_p(start), size(4 * MIB), size(4 * MIB), 3, ctypes.c_void_p(target))
    check("mremap, moved", moved == target and ctypes.string_at(target + MIB, 4) == b"kept")
    check("still one area", own.memory("areas") == 1)
    memory = own.Own(PAGE)
    own.unregistered(second, own.registered(second, memory.address, PAGE))
    assert own.LIBC.munmap(ctypes.c_void_p(target), 4 * MIB) == 0
    refused("unmapped where it was moved to", errno.EFAULT,
            lambda: second.write(raw.register_memory(memory.address, PAGE)))
    check("the third context has it still", three[MIB:MIB + 4] == b"kept")
    own.unregistered(third, own.registered(third, memory.address, PAGE))
    three.close()
    check("gone with the last mapping", lib.until(lambda: own.memory("areas") == 0))
    third.close()
    # A process that ends without a word.
    pid_end = holder(3)
    check("a child's three buffers", pid_end[0] == 3 and own.memory("pages") == 3 * BLOCK)
    pid_end[1]()
    check("are given back with it", lib.until(lambda: own.memory("pages") == 0))


limits()
idle()
survivors()
lib.finish()
