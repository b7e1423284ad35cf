# SPDX-License-Identifier: GPL-2.0-only
"""A small io_uring, by its system calls."""

import ctypes
import mmap
import os
import struct
import time

SETUP, ENTER, REGISTER = 425, 426, 427
SQPOLL = 2
NOP, READV, WRITEV, READ_FIXED, WRITE_FIXED, ASYNC_CANCEL, READ, WRITE = 0, 1, 2, 4, 5, 14, 22, 23
FIXED_FILE, LINK, ASYNC = 1, 4, 16
REGISTER_BUFFERS, REGISTER_FILES = 0, 2
NEED_WAKEUP = 1
GETEVENTS, SQ_WAKEUP = 1, 2

libc = ctypes.CDLL(None, use_errno=True)
SQE = struct.Struct("<BBHiQQIIQHHiQQ")


def syscall(*arguments):
    result = libc.syscall(*(ctypes.c_long(argument) for argument in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Buffer:
    """Memory that stays where it is."""

    def __init__(self, size=4096, content=b""):
        self.memory = mmap.mmap(-1, max(size, len(content)))
        self.memory[:len(content)] = content
        self.pin = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(self.pin)
        self.size = max(size, len(content))

    def __getitem__(self, key):
        return self.memory[key]


class Ring:
    def __init__(self, entries=64, flags=0, idle=50):
        parameters = ctypes.create_string_buffer(120)
        struct.pack_into("<5I", parameters, 0, 0, 0, flags, 0, idle)
        self.fd = syscall(SETUP, entries, ctypes.addressof(parameters))
        sq_entries, cq_entries = struct.unpack_from("<II", parameters)
        self.sq_head, self.sq_tail, self.sq_mask, _, self.sq_flags, _, self.sq_array = (
            struct.unpack_from("<7I", parameters, 40))
        self.cq_head, self.cq_tail, self.cq_mask, _, _, self.cqes = struct.unpack_from("<6I", parameters, 80)
        self.ring = mmap.mmap(self.fd, max(self.sq_array + 4 * sq_entries, self.cqes + 16 * cq_entries),
                              offset=0)
        # struct.pack_into() zeroes what it is about to write: a polling kernel thread would see a tail
        # of 0, and take a ringful of entries that nobody submitted, over and over.
        self.words = memoryview(self.ring).cast("I")
        self.sqes = mmap.mmap(self.fd, 64 * sq_entries, offset=0x10000000)
        self.polls = bool(flags & SQPOLL)
        self.done = {}

    def number(self, at):
        return self.words[at // 4]

    def set_number(self, at, value):
        self.words[at // 4] = value & 0xffffffff

    def register(self, what, argument, count):
        syscall(REGISTER, self.fd, what, ctypes.addressof(argument), count)

    def register_files(self, *fds):
        self.register(REGISTER_FILES, (ctypes.c_int * len(fds))(*fds), len(fds))

    def register_buffers(self, *buffers):
        vectors = (ctypes.c_uint64 * (2 * len(buffers)))()
        for number, buffer in enumerate(buffers):
            vectors[2 * number], vectors[2 * number + 1] = buffer.address, buffer.size
        self.register(REGISTER_BUFFERS, vectors, len(buffers))

    def submit(self, opcode, fd, buffer=None, length=0, user_data=0, flags=0, rw_flags=0, index=0,
               offset=(1 << 64) - 1, address=None):
        tail = self.number(self.sq_tail)
        slot = tail & self.number(self.sq_mask)
        if address is None:
            address = buffer.address if buffer else 0
        SQE.pack_into(self.sqes, 64 * slot, opcode, flags, 0, fd, offset, address, length, rw_flags,
                      user_data, index, 0, 0, 0, 0)
        self.set_number(self.sq_array + 4 * slot, slot)
        self.set_number(self.sq_tail, tail + 1)

    def enter(self, wait=0):
        if self.polls:
            if self.number(self.sq_flags) & NEED_WAKEUP:
                syscall(ENTER, self.fd, 0, 0, SQ_WAKEUP, 0, 0)
            return
        waiting = self.number(self.sq_tail) - self.number(self.sq_head)
        syscall(ENTER, self.fd, waiting, wait, GETEVENTS if wait else 0, 0, 0)

    def reap(self):
        head = self.number(self.cq_head)
        while head != self.number(self.cq_tail):
            at = self.cqes + 16 * (head & self.number(self.cq_mask))
            user_data, result, _ = struct.unpack_from("<QiI", self.ring, at)
            self.done[user_data] = result
            head += 1
            self.set_number(self.cq_head, head)

    def result(self, user_data, seconds=20):
        """What became of it; None if nothing did yet."""
        end = time.monotonic() + seconds
        while True:
            self.enter()
            self.reap()
            if user_data in self.done:
                return self.done.pop(user_data)
            if time.monotonic() >= end:
                return None
            time.sleep(0.005)

    def close(self):
        self.sqes.close()
        self.words.release()
        self.ring.close()
        os.close(self.fd)
