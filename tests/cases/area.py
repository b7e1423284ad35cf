#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# Who may map the area and how, what is shared, and which ranges a command may name.
# lanes: stock debug
# timeout: 120
"""The registration area: docs/abi.md, "Memory"."""

import ctypes
import errno
import mmap
import os
import subprocess
import sys
import time

sys.path.insert(0, "/src/tests/raw")
import usmbd_raw as raw

MIB = raw.BUFFER_SIZE
READ, WRITE, EXEC = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
SHARED, PRIVATE = mmap.MAP_SHARED, mmap.MAP_PRIVATE
STATUS = raw.STATUS_PAGE_OFFSET
LIBC = ctypes.CDLL(None, use_errno=True)
MADV_DOFORK = 11
failed = 0


def check(what, right):
    global failed
    if not right:
        print(f"FAILED: {what}")
        failed += 1


def refused(what, call, *numbers):
    try:
        call()
    except OSError as error:
        check(f"{what}: {errno.errorcode[error.errno]}", error.errno in numbers)
    else:
        check(f"{what}: taken", False)


def mapping(device, length, flags, prot, offset=0):
    return lambda: mmap.mmap(device.fd, length, flags, prot, offset=offset)


def in_child(function):
    """What a forked child makes of it: its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = function() or 0
        finally:
            os._exit(status)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


def who_may_map():
    device = raw.Device()
    invalid = errno.EINVAL
    refused("private", mapping(device, MIB, PRIVATE, READ | WRITE), invalid)
    refused("at an offset", mapping(device, MIB, SHARED, READ | WRITE, MIB), invalid)
    refused("too long", mapping(device, 65 * MIB, SHARED, READ | WRITE), invalid)
    refused("to execute", mapping(device, MIB, SHARED, READ | WRITE | EXEC), errno.EACCES, errno.EPERM, invalid)
    refused("status page to write", mapping(device, 4096, SHARED, READ | WRITE, STATUS), errno.EPERM, errno.EACCES)
    refused("status page, two", mapping(device, 8192, SHARED, READ, STATUS), invalid)
    refused("beyond the status page", mapping(device, 4096, SHARED, READ, STATUS + 4096), invalid)
    status = device.map_status_page()
    check("the status page's version", int.from_bytes(status[:4], "little") == raw.VERSION)
    check("the status page's sequence", int.from_bytes(status[4:8], "little") % 2 == 0)
    area = device.map_area(64)
    area[64 * MIB - 1] = 7
    check("the last byte", area[64 * MIB - 1] == 7)
    area.close()
    device.close()


def what_is_shared():
    first, second = raw.Device(), raw.Device()
    one, two = first.map_area(4), second.map_area(8)
    check("zeroed", not any(one[MIB:MIB + 8192]))
    one[3 * MIB + 5:3 * MIB + 9] = b"area"
    check("one area for all contexts of a process", two[3 * MIB + 5:3 * MIB + 9] == b"area")

    address = ctypes.addressof(ctypes.c_char.from_buffer(one))
    check("a child has no mapping", in_child(lambda: ctypes.string_at(address, 1) and 0) == -11)
    check("DONTCOPY stays", LIBC.madvise(ctypes.c_void_p(address), MIB, MADV_DOFORK) != 0)

    def own():
        mine = first.map_area(4)
        return 0 if mine[3 * MIB + 5:3 * MIB + 9] == bytes(4) else 1

    check("a child's area is its own", in_child(own) == 0)

    # A hole in the middle: both ends stay.
    hole = ctypes.c_void_p(address + MIB + 4096)
    check("munmap of a part", LIBC.munmap(hole, 4096) == 0)
    check("the rest stays", one[3 * MIB + 5:3 * MIB + 9] == b"area")
    check("madvise", LIBC.madvise(ctypes.c_void_p(address + 3 * MIB), MIB, mmap.MADV_DONTNEED) == 0)
    check("what another mapping has stays", one[3 * MIB + 5:3 * MIB + 9] == b"area")
    first.close()
    check("a mapping outlives its file", two[3 * MIB + 5:3 * MIB + 9] == b"area")
    two.close()
    second.close()


def what_may_be_named():
    device, other = raw.Device(), raw.Device()
    device.listen()
    # Finds the neighbour: the CM does not wait for that as long as it takes here.
    subprocess.run(["ip", "netns", "exec", "client", "ping", "-c1", "-W9", "10.9.0.1"], stdout=subprocess.DEVNULL)
    peer = subprocess.Popen(["ip", "netns", "exec", "client", "usmbd-peer", "echo", "10.9.0.1",
                             "--sizes", "5", "--timeout", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, body = device.expect(raw.CONNECTION_READY, 30)
    device.write(raw.accept(body[16:32]))
    _, _, body = device.expect(raw.ACCEPTED)
    connection = int.from_bytes(body[:8], "little")
    device.expect(raw.PDU_RECEIVED)

    def write(*ranges):
        descriptors = [(0, 1, sum(length for _, _, length in ranges) % (1 << 32))]
        return lambda: device.write(raw.rdma(raw.RDMA_WRITE, connection, ranges, descriptors))

    wrong = errno.EFAULT
    refused("no area", write((0, 0, 1)), wrong)
    elsewhere = other.map_area(4)
    elsewhere[0] = 1
    refused("mapped by another context only", write((0, 0, 1)), wrong)
    area = device.map_area(4)
    area[0] = area[3 * MIB] = 1
    refused("a buffer without memory", write((1, 0, 1)), wrong)
    refused("no such buffer", write((64, 0, 1)), wrong)
    refused("no such buffer by far", write((0xffffffff, 0, 1)), wrong)
    refused("empty", write((0, 0, 0)), wrong, errno.EINVAL)
    refused("past the buffer", write((0, 1, MIB)), wrong)
    refused("past the buffer, wrapping", write((0, 0xffffffff, 2)), wrong)
    refused("at the buffer's end", write((0, MIB, 1)), wrong)
    refused("one of two", write((0, 0, 1), (1, 0, 1)), wrong)

    def child():
        try:
            write((0, 0, 1))()
        except OSError as error:
            return 0 if error.errno == wrong else 1
        return 2

    check("a child that has not mapped it", in_child(child) == 0)
    check("nothing of this ended the connection", peer.poll() is None)
    # The last byte of the last buffer, to a key that the peer never gave.
    write((3, 0, MIB))()
    _, _, body = device.expect(raw.RDMA_COMPLETE)
    check("a wrong key is the peer's status", int.from_bytes(body[8:12], "little") != 0)
    device.expect(raw.DISCONNECTED)
    peer.wait(60)
    area.close()
    elsewhere.close()
    device.close()
    other.close()


who_may_map()
what_is_shared()
what_may_be_named()
time.sleep(1)
sys.exit(1 if failed else 0)
