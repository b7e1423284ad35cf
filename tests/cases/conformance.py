#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# Every vector of tests/peer/vectors/, by a peer that is not ours, on each fabric and family.
# lanes: stock
# when: asked
# kernels: default
# timeout: 1200
"""The vectors of tests/peer/vectors/, played by usmbd-peer in the client's network, which also judges
them; here is only the upper layer, which accepts or connects and answers messages.

usage: conformance.py [all] [GROUP...]

Without `all`, what takes minutes is left out, and IPv6 is for the negotiation only; on the debug lane
for nothing.
"""

import os
import queue
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import raw  # noqa: E402

# Name, fabric, our address, the peer's, and its port where it accepts.
PLACES = [("RoCE, IPv4", "roce", "10.9.0.1", "10.9.0.2", 445),
          ("RoCE, IPv6", "roce", "fd00:9:0::1", "fd00:9:0::2", 445),
          ("iWARP, IPv4", "iwarp", "10.9.1.1", "10.9.1.2", 5445),
          ("iWARP, IPv6", "iwarp", "fd00:9:1::1", "fd00:9:1::2", 5445)]
# ksmbd's and cifs.ko's.
PARAMETERS = {"receive_credit_max": 255, "send_credit_target": 255, "max_send_size": 1364,
              "max_receive_size": 1364, "max_fragmented_recv_size": 1 << 20}


# Body of an SMB2 error response.
ERROR = struct.pack("<HHIB", 9, 0, 0, 0)


def answer(request, body, status=0, flags=1, number=None):
    """An SMB2 response; asynchronous with a number."""
    header = bytearray(request[:64])
    header[8:12] = struct.pack("<I", status)
    header[16] = flags
    if number is not None:
        header[32:40] = struct.pack("<Q", number)
    return bytes(header) + body


class Upper:
    """A context that answers messages, until its peer has played all that it wanted to."""

    def __init__(self, role, ours, theirs, parameters, greeting):
        self.device = raw.Device()
        self.device.write(raw.set_parameters(**{**PARAMETERS, **parameters}))
        self.theirs = theirs if role == "accept" else None
        self.greeting = greeting
        self.messages = {}
        self.area = None
        self.reads = {}         # user_data: connection, request, length, token
        if self.theirs is None:
            self.device.listen(ours)

    def connect(self):
        if self.theirs:
            self.device.write(raw.connect(self.theirs))

    def send(self, connection, message, invalidate=None):
        """What the peer does not take, or took itself away from, is not sent."""
        try:
            self.device.write(raw.send_pdu(connection, message, invalidate, flags=raw.QUIET))
        except OSError:
            pass

    def message(self, connection, message):
        if message[:1] == b"G":
            self.send(connection, b"A" * struct.unpack_from("<I", message, 1)[0])
        elif message[:4] == b"\xfeSMB":
            self.smb2(connection, message)
        elif message[:1] == b"D":
            self.device.write(raw.disconnect(connection))
        elif message[:1] == b"Q":
            time.sleep(2 * lib.SLOW)
            self.send(connection, b"A" * 8)
            time.sleep(3 * lib.SLOW)
        elif message[:1] != b"N":
            self.send(connection, message)

    def smb2(self, connection, request):
        """READ and WRITE with one descriptor, of a file of 1 MiB that is all 0x41."""
        if self.area is None:
            self.area = self.device.map_area(2)
            self.area[:raw.BUFFER_SIZE] = b"A" * raw.BUFFER_SIZE
        descriptor = raw.DESCRIPTOR.unpack_from(request, 112)
        if request[12] == 9:
            channel, length = struct.unpack_from("<II", request, 96)
            self.area[raw.BUFFER_SIZE:raw.BUFFER_SIZE + length] = bytes(length)
            token = descriptor[1] if channel == 2 else None
            self.reads[len(self.reads) + 1] = connection, request, length, token
            self.device.write(raw.rdma(raw.RDMA_READ, connection, [(1, 0, length)], [descriptor],
                                       user_data=len(self.reads)))
            return
        wanted, offset = struct.unpack_from("<IQ", request, 68)
        channel, = struct.unpack_from("<I", request, 100)
        token = descriptor[1] if channel == 2 else None
        more = {}
        if request[88] == 0x33:
            more = {"flags": 3, "number": 7}
            self.send(connection, answer(request, ERROR, 0x103, **more))
        length = min(wanted, raw.BUFFER_SIZE - offset)
        if length <= 0:
            self.send(connection, answer(request, ERROR, 0xc0000011), token)
            return
        body = struct.pack("<HHIII", 17, 80, 0, length, 0)
        try:
            self.device.write(
                raw.rdma(raw.RDMA_WRITE, connection, [(0, 0, length)], [descriptor], raw.QUIET),
                raw.send_pdu(connection, answer(request, body, **more), token, flags=raw.QUIET))
        except OSError:
            self.send(connection, answer(request, ERROR, 0xc000000d), token)

    def fetched(self, user_data, status):
        """Data of a WRITE."""
        connection, request, length, token = self.reads[user_data]
        good = self.area[raw.BUFFER_SIZE:raw.BUFFER_SIZE + length] == b"A" * length
        if status == 0 and good:
            self.send(connection, answer(request, struct.pack("<HHIII", 17, 0, length, 0, 0)), token)

    def event(self, timeout):
        try:
            opcode, _, user_data, body = self.device.next(timeout)
        except TimeoutError:
            return
        if opcode == raw.CONNECTION_READY:
            self.device.write(raw.accept(body[16:32]))
        elif opcode in (raw.ACCEPTED, raw.CONNECTED):
            connection, status = struct.unpack_from("<QI", body)
            if status == 0 and self.greeting:
                self.send(connection, b"A" * self.greeting)
            elif status and opcode == raw.CONNECTED:
                # For the next vector, once the peer listens for it.
                time.sleep(0.02)
                self.connect()
        elif opcode == raw.RDMA_COMPLETE and user_data in self.reads:
            self.fetched(user_data, struct.unpack_from("<QI", body)[1])
        elif opcode == raw.DISCONNECTED:
            connection, = struct.unpack_from("<Q", body)
            self.messages.pop(connection, None)
            self.connect()
        elif opcode == raw.PDU_RECEIVED:
            connection, total, _, length, _ = struct.unpack_from("<QIIII", body)
            message = self.messages.setdefault(connection, bytearray())
            message += body[24:24 + length]
            if len(message) == total:
                self.message(connection, bytes(self.messages.pop(connection)))


def lines_of(process):
    """The lines that a process says, and None when it has ended."""
    lines = queue.Queue()

    def read():
        for line in process.stdout:
            lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def play(group, role, place, parameters, greeting):
    """Plays a group; the verdicts."""
    name, _, ours, theirs, port = place
    upper = Upper(role, ours, theirs, parameters, greeting)
    arguments = ["vectors", "--group", group, "--slowness", lib.SLOW, "--timeout", 20 * lib.SLOW]
    arguments += [theirs, "--port", port, "--accept"] if role == "accept" else [ours]
    process = lib.peer(*arguments)
    lines = lines_of(process)
    verdicts = []
    limit = time.monotonic() + 400 * lib.SLOW
    while True:
        try:
            line = lines.get_nowait()
        except queue.Empty:
            upper.event(0.05)
            if time.monotonic() > limit:
                process.kill()
                verdicts.append(f"FAIL {group}: the peer does not end")
                break
            continue
        if line is None:
            break
        if line.startswith("playing"):
            upper.connect()
        elif line.startswith(("PASS", "FAIL")):
            verdicts.append(line)
            print(f"{line[:4]} {name}, peer {role}s: {line[5:]}", flush=True)
        elif not line.startswith("vectors:") and "failed" not in line:
            print(line, flush=True)
            verdicts.append("FAIL " + line)
    upper.device.close()
    lib.check(f"{group} over {name}: something is left",
              lib.until(lambda: lib.statistics()["connections"] == 0))
    return verdicts


def main():
    whole = "all" in sys.argv[1:]
    wanted = [argument for argument in sys.argv[1:] if argument != "all"]
    groups, _ = lib.peer("groups").communicate()
    passed = failed = 0
    for line in groups.splitlines():
        group, *conditions = line.split()
        conditions = dict(condition.split("=") for condition in conditions)
        roles = conditions.pop("roles").split(",")
        fabrics = conditions.pop("fabrics", "roce,iwarp").split(",")
        greeting = int(conditions.pop("greet", 0))
        long = conditions.pop("long", None)
        if wanted and group not in wanted or long and not whole:
            continue
        places = [place for place in PLACES if place[1] in fabrics]
        if long or lib.SLOW > 1 or not whole and "negotiate" not in group:
            places = [place for place in places if "IPv4" in place[0]]
        parameters = {name: int(value) for name, value in conditions.items()}
        for place in places:
            for role in roles:
                verdicts = play(group, role, place, parameters, greeting)
                lib.check(f"{group} over {place[0]}: nothing was played", verdicts)
                good = sum(verdict.startswith("PASS") for verdict in verdicts)
                passed += good
                failed += len(verdicts) - good
    print(f"{passed} passed, {failed + lib.failures} failed")
    sys.exit(failed + lib.failures != 0)


main()
