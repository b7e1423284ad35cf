#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""A server that knows nothing but the bytes: echoes messages, and moves memory for tests/peer.

usage: serve.py [ADDRESS] [--keepalive=MILLISECONDS]

A message's first letter says what it wants:
  R, W  an RDMA read or write of the peer's memory: REQUEST below, and the descriptors
  D     to be disconnected
  S     that nothing is read for as many seconds as the next byte says
  else  to be sent back
Ends on SIGTERM.
"""

import hashlib
import os
import signal
import struct
import sys
import time

import usmbd_raw as raw

REQUEST = struct.Struct("<BBHIII")      # operation, flags, descriptors, length, seed, ranges
INVALIDATE, QUIET, SEPARATE = 1, 2, 4   # its flags
# Buffers of one connection, and connections that have buffers of their own at a time.
BUFFERS, SHARES = 16, 4


def pattern(seed, length):
    """As tests/peer/src/content.rs."""
    period = min(length, 65521)
    base = b"".join(hashlib.sha256(struct.pack("<II", seed, n)).digest()
                    for n in range(-(-period // 32)))[:period]
    return (base * (length // max(period, 1) + 1))[:length]


class Device(raw.Device):
    """Reads into memory that is there: where there is no more (tests/cases/starvation.sh), nothing has to
    be faulted in inside read()."""

    def __init__(self):
        super().__init__()
        self.buffer = bytearray(bytes(2 << 20))

    def read(self, size):
        return bytes(self.buffer[:os.readv(self.fd, [memoryview(self.buffer)[:size]])])


class Server:
    def __init__(self, where, keepalive=0):
        self.device = Device()
        self.device.write(raw.set_parameters(keepalive_interval=keepalive))
        self.device.listen(where)
        self.area = None
        self.messages = {}      # connection: what came of its message so far
        self.unsent = {}        # connection: records that got no room
        self.reads = {}         # user_data: (connection, ranges, length)
        self.number = 0

    def run(self):
        print("listening", flush=True)
        while True:
            opcode, flags, user_data, body = self.device.next(timeout=None)
            if opcode == raw.CONNECTION_READY:
                self.device.write(raw.accept(body[16:32]))
            elif opcode == raw.PDU_RECEIVED:
                self.piece(body)
            elif opcode == raw.RDMA_COMPLETE:
                self.moved(user_data, body)
            elif opcode == raw.DISCONNECTED:
                connection, reason = struct.unpack_from("<QI", body)
                print(f"disconnected {connection} reason {reason}", flush=True)
                self.messages.pop(connection, None)

    def piece(self, body):
        connection, total, offset, length, _ = struct.unpack_from("<QIIII", body)
        message = self.messages.setdefault(connection, bytearray())
        assert len(message) == offset, (len(message), offset)
        message += body[24:24 + length]
        if len(message) == total:
            del self.messages[connection]
            self.message(connection, bytes(message))

    def message(self, connection, message):
        if message[:1] in (b"R", b"W"):
            self.move(connection, message)
        elif message[:1] == b"D":
            self.write(raw.disconnect(connection))
        elif message[:1] == b"S":
            time.sleep(message[1])
            self.write(raw.send_pdu(connection, b"s", flags=raw.QUIET))
        else:
            self.write(raw.send_pdu(connection, message, flags=raw.QUIET))

    def write(self, *records):
        """A connection that ended meanwhile is no business of ours: its DISCONNECTED says so."""
        try:
            self.device.write(*records)
        except OSError as error:
            print(f"not written: {error}", flush=True)

    def move(self, connection, message):
        if self.area is None:
            self.area = self.device.map_area(BUFFERS * SHARES)
        operation, flags, count, length, seed, ranges = REQUEST.unpack_from(message)
        descriptors = [raw.DESCRIPTOR.unpack_from(message, REQUEST.size + 16 * n)
                       for n in range(count)]
        invalidate = descriptors[0][1] if flags & INVALIDATE else None
        local = self.ranges(length, ranges, connection % SHARES * BUFFERS)
        self.number += 1
        if operation == ord("W"):
            self.fill(local, pattern(seed, length))
            # The data first, and the answer behind it: in one write().
            records = [raw.rdma(raw.RDMA_WRITE, connection, local, descriptors,
                                raw.QUIET if flags & QUIET else 0, self.number),
                       raw.send_pdu(connection, b"w" + seed.to_bytes(4, "little"), invalidate,
                                    flags=raw.QUIET)]
        else:
            self.fill(local, bytes(length))
            self.reads[self.number] = connection, local, length, invalidate
            records = [raw.rdma(raw.RDMA_READ, connection, local, descriptors,
                                user_data=self.number)]
        try:
            for batch in [[one] for one in records] if flags & SEPARATE else [records]:
                self.device.write(*batch)
        except OSError as error:
            self.reads.pop(self.number, None)
            self.write(raw.send_pdu(connection, b"!" + error.errno.to_bytes(4, "little")))

    def moved(self, user_data, body):
        _, status, _ = struct.unpack("<QII", body)
        if user_data not in self.reads:
            return
        connection, local, length, invalidate = self.reads.pop(user_data)
        if status == 0:
            digest = hashlib.sha256(self.gather(local)).digest()
            self.write(raw.send_pdu(connection, b"r" + digest, invalidate, flags=raw.QUIET))

    @staticmethod
    def ranges(length, count, first):
        """Ranges of unequal length, all apart, none across the end of a buffer.

        The first of the buffers to use is `first`: transfers of several connections, which may be
        under way side by side, must not share memory.
        """
        out, buffer, free = [], 0, [24] + [40] * (BUFFERS - 1)
        while length:
            left = max(count - len(out), 1)
            size = length if left == 1 else max(length // left, 1)
            size = min(size, raw.BUFFER_SIZE - free[buffer])
            if size:
                out.append((first + buffer, free[buffer], size))
                length -= size
                free[buffer] += size
            buffer = (buffer + 1) % BUFFERS
        return out

    def fill(self, local, data):
        at = 0
        for buffer, offset, length in local:
            start = buffer * raw.BUFFER_SIZE + offset
            self.area[start:start + length] = data[at:at + length]
            at += length

    def gather(self, local):
        return b"".join(self.area[b * raw.BUFFER_SIZE + o:b * raw.BUFFER_SIZE + o + n]
                        for b, o, n in local)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    places = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    options = dict(argument[2:].split("=") for argument in sys.argv[1:] if argument.startswith("--"))
    Server(places[0] if places else None, int(options.get("keepalive", 0))).run()
