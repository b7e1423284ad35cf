# SPDX-License-Identifier: GPL-2.0-only
"""What the cases about memory share: registrations, memory of our own, what the kernel has pinned."""

import ctypes
import mmap
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import raw  # noqa: E402

sys.path.insert(0, "/src/tests/raw")
import serve  # noqa: E402

FIRST_HANDLE = 1 << 31
MIB, PAGE = 1 << 20, 4096
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mremap.restype = ctypes.c_void_p


def registered(device, address, length):
    """Registers; the handle."""
    device.write(raw.register_memory(address, length, 77))
    _, user_data, body = device.expect(raw.MEMORY_REGISTERED)
    handle, reserved, told = struct.unpack("<IIQ", body)
    assert (user_data, reserved, told) == (77, 0, length), (user_data, reserved, told)
    return handle


def unregistered(device, handle):
    device.write(raw.unregister_memory(handle, 78))
    _, user_data, body = device.expect(raw.MEMORY_UNREGISTERED)
    assert (user_data, struct.unpack("<II", body)) == (78, (handle, 0)), (user_data, body)


class Own:
    """Memory of our own."""

    def __init__(self, length, flags=PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, fd=-1):
        self.map = mmap.mmap(fd, length, flags, prot)
        self.length = length
        if prot & mmap.PROT_WRITE:
            self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        else:
            # A buffer that cannot be written tells no address.
            self.address = address_of(self.map)

    def unmap(self, offset, length):
        assert LIBC.munmap(ctypes.c_void_p(self.address + offset), length) == 0

    def protect(self, prot):
        assert LIBC.mprotect(ctypes.c_void_p(self.address), self.length, prot) == 0


def address_of(mapping):
    """The address of a mapping, also of one that may only be read."""
    class Buffer(ctypes.Structure):
        _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
                    ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int),
                    ("ndim", ctypes.c_int), ("format", ctypes.c_char_p),
                    ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
                    ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p)]
    buffer = Buffer()
    api = ctypes.pythonapi
    api.PyObject_GetBuffer(ctypes.py_object(mapping), ctypes.byref(buffer), 0)
    address = buffer.buf
    api.PyBuffer_Release(ctypes.byref(buffer))
    return address


def counted(pid="self"):
    """Pages that a process has pinned, as RLIMIT_MEMLOCK counts them."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmPin"))
    return int(line.split()[1]) * 1024 // PAGE


def pinned():
    """Pages that the whole kernel has pinned for devices."""
    # The CPUs' own counts first.
    with open("/proc/sys/vm/stat_refresh", "w", encoding="ascii") as file:
        file.write("1")
    with open("/proc/vmstat", encoding="ascii") as file:
        values = dict(line.split() for line in file)
    return int(values["nr_foll_pin_acquired"]) - int(values["nr_foll_pin_released"])


def memory(name):
    """A line of the driver's own account; zero if it is not there."""
    with open("/sys/kernel/debug/usmbd/memory", encoding="ascii") as file:
        return int(dict(line.split() for line in file).get(name, 0))


def in_child(function):
    """What a forked child makes of it: its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = function() or 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Server(serve.Server):
    """As serve.py, but what is moved stands in memory of our own that is registered, beginning in
    the middle of a page; or, if it is `mixed`, by turns there and in the area. Messages come back
    from there too, not copied."""

    SHARE = 10 * MIB

    def __init__(self, where, mixed=False):
        super().__init__(where)
        self.mixed = mixed
        self.area = self.device.map_area(64)
        self.own = Own(self.SHARE * serve.SHARES + 2 * PAGE)
        self.base = PAGE - 100
        self.handle = registered(self.device, self.own.address + self.base, self.SHARE * serve.SHARES)
        self.turn = 0

    def ranges(self, length, count, first):
        """Ranges of unequal length, in one order, with gaps, across pages and blocks."""
        share = first // serve.BUFFERS
        out, left = [], length
        at, free = share * self.SHARE + 40, [24] + [40] * (serve.BUFFERS - 1)
        while left:
            more = max(count - len(out), 1)
            size = left if more == 1 else max(left // more, 1)
            buffer = len(out) % serve.BUFFERS
            if self.mixed and len(out) % 2 and free[buffer] < MIB:
                size = min(size, MIB - free[buffer])
                out.append((first + buffer, free[buffer], size))
                free[buffer] += size
            else:
                out.append((self.handle, at, size))
                at += size + 40
            left -= size
        return out

    def place(self, buffer, offset):
        if buffer >= FIRST_HANDLE:
            return self.own.map, self.base + offset
        return self.area, buffer * MIB + offset

    def fill(self, local, data):
        at = 0
        for buffer, offset, length in local:
            memory, start = self.place(buffer, offset)
            memory[start:start + length] = data[at:at + length]
            at += length

    def gather(self, local):
        out = []
        for buffer, offset, length in local:
            memory, start = self.place(buffer, offset)
            out.append(memory[start:start + length])
        return b"".join(out)

    def message(self, connection, message):
        if message[:1] in (b"R", b"W", b"D", b"S"):
            return super().message(connection, message)
        self.turn += 1
        # From 1 to 64 ranges, in another place each time.
        count = [1, 2, 3, 7, 64][self.turn % 5]
        first = connection % serve.SHARES * serve.BUFFERS
        local = [(b, o + self.turn % 8 * 64, n) for b, o, n in self.ranges(len(message), count, first)]
        local = local if self.inside(local) else self.ranges(len(message), 1, first)
        self.fill(local, message)
        self.write(raw.send_ranges(connection, local, flags=raw.QUIET))

    @staticmethod
    def inside(local):
        return len(local) <= 64 and all(b >= FIRST_HANDLE or o + n <= MIB for b, o, n in local)
