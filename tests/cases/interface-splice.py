#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# The device takes and gives bytes by read and write alone: nothing is spliced into it or out of it.
# lanes: stock debug
# kernels: default
# timeout: 60
"""docs/abi.md, "Writing commands": the writer is who has the bytes."""

import ctypes
import errno
import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw, refused  # noqa: E402

libc = ctypes.CDLL(None, use_errno=True)


def nop(number):
    return raw.record(raw.NOP, user_data=number)


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def vmsplice(fd, data):
    memory = ctypes.create_string_buffer(data, len(data))
    vector = Vector(ctypes.addressof(memory), len(data))
    result = libc.vmsplice(fd, ctypes.byref(vector), 1, 0)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


device = os.open("/dev/usmbd", os.O_RDWR | os.O_NONBLOCK)
with open("/tmp/records", "wb") as file:
    file.write(nop(1) * 10)
source = os.open("/tmp/records", os.O_RDWR)

# Into it.
out, into = os.pipe()
os.write(into, nop(2))
refused("splice from a pipe", errno.EINVAL, lambda: os.splice(out, device, 16))
check("the pipe has it still", os.read(out, 100) == nop(2))
refused("sendfile", errno.EINVAL, lambda: os.sendfile(device, source, 0, 160))
refused("copy_file_range", errno.EINVAL, lambda: os.copy_file_range(source, device, 160))
refused("vmsplice", errno.EBADF, lambda: vmsplice(device, nop(3)))
# Gifts of memory get no further than a pipe.
vmsplice(into, nop(4))
refused("splice of a gift", errno.EINVAL, lambda: os.splice(out, device, 16))
os.read(out, 100)
refused("nothing came of it", errno.EAGAIN, lambda: os.read(device, 4096))

# Out of it.
os.write(device, nop(5) + nop(6))
refused("splice to a pipe", errno.EINVAL, lambda: os.splice(device, into, 4096))
refused("sendfile from it", errno.EINVAL, lambda: os.sendfile(source, device, None, 4096))
refused("copy_file_range from it", errno.EINVAL, lambda: os.copy_file_range(device, source, 4096))
os.set_blocking(out, False)
refused("nothing is in the pipe", errno.EAGAIN, lambda: os.read(out, 4096))
check("nothing was lost", [n for _, _, n, _ in raw.events(os.read(device, 4096))] == [5, 6])

# There is no position.
for name, call in (("lseek", lambda: os.lseek(device, 0, os.SEEK_SET)),
                   ("pread", lambda: os.pread(device, 4096, 0)),
                   ("pwrite", lambda: os.pwrite(device, nop(1), 0)),
                   ("preadv2 at a position", lambda: os.preadv(device, [bytearray(64)], 0, 0)),
                   ("pwritev2 at a position", lambda: os.pwritev(device, [nop(1)], 0, 0))):
    refused(name, errno.ESPIPE, call)
refused("truncate", errno.EINVAL, lambda: os.ftruncate(device, 0))
check("O_APPEND changes nothing", os.write(device, nop(8)) == 16)
os.read(device, 4096)

# Half-open descriptors do their half.
reader, writer = os.open("/dev/usmbd", os.O_RDONLY), os.open("/dev/usmbd", os.O_WRONLY)
refused("write to one that reads", errno.EBADF, lambda: os.write(reader, nop(1)))
check("write to one that writes", os.write(writer, nop(1)) == 16)
refused("read of one that writes", errno.EBADF, lambda: os.read(writer, 4096))
os.close(reader)
os.close(writer)
os.close(device)
lib.finish()
