# SPDX-License-Identifier: GPL-2.0-only
"""Memory that does not come until it may, by userfaultfd()."""

import ctypes
import fcntl
import mmap
import os
import struct

PAGE = mmap.PAGESIZE
SYS_USERFAULTFD = 323
# linux/userfaultfd.h
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE = 0xc018aa3f, 0xc020aa00, 0xc020aa04
UFFD_API, MODE_MISSING = 0xaa, 1


class Stalling:
    """`before` bytes, whole pages, and one page more: who touches that one waits until it may come."""

    def __init__(self, before=0):
        self.memory = mmap.mmap(-1, before + PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.last = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) + before
        self.fd = ctypes.CDLL(None, use_errno=True).syscall(SYS_USERFAULTFD, os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        fcntl.ioctl(self.fd, UFFDIO_API, struct.pack("<QQQ", UFFD_API, 0, 0))
        fcntl.ioctl(self.fd, UFFDIO_REGISTER, struct.pack("<QQQQ", self.last, PAGE, MODE_MISSING, 0))

    def wait(self):
        """Until somebody waits for the page."""
        os.read(self.fd, 32)

    def let_come(self):
        fcntl.ioctl(self.fd, UFFDIO_ZEROPAGE, struct.pack("<QQQq", self.last, PAGE, 0, 0))
        os.close(self.fd)
