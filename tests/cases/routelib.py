#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What the cases about routing share: SMB2 messages, a client, and contexts in other processes.

Run by itself, it is such a process: it opens the device, and does what standard input says.
"""

import hashlib
import os
import select
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lib  # noqa: E402
from lib import check, raw  # noqa: E402

PORT, IWARP_PORT = 14455, 15445         # for listeners without privileges
ADDRESSES = ("10.9.0.1", "10.9.1.1", "fd00:9:0::1", "fd00:9:1::1")
GUID, SESSION = b"one client's guid", 0x7766554433221100
GUID = GUID[:16]
CLAIM_CLIENT_GUID, CLAIM_SESSION_ID = 1, 2
NEGOTIATE, SESSION_SETUP, ECHO = 0, 1, 13
RESPONSE = 1
NOT_ROUTABLE = 11

READY = struct.Struct("<IIQ16s32s32sIIIIIHH16sQ")
ROUTED = struct.Struct("<QIIIIIIIHH32s32s16sQ")
ACCEPTED = struct.Struct("<QIIIIIIIHH32s32s")


# --- SMB2 messages, [MS-SMB2] 2.2 -------------------------------------------------------------------


def header(command, flags=0, message_id=0, session_id=0, credits=31, next_command=0):
    return struct.pack("<4sHHIHHIIQIIQ16s", b"\xfeSMB", 64, 1, 0, command, credits, flags, next_command,
                       message_id, 0xfeff, 0, session_id, b"")


def context(context_type, data):
    return struct.pack("<HHI", context_type, len(data), 0) + data


def halves(*values):
    return struct.pack(f"<{len(values)}H", *values)


SALT = bytes(range(32))
CONTEXTS = (context(1, halves(1, 32, 1) + SALT), context(2, halves(2, 2, 1)), context(8, halves(2, 2, 1)))


def aligned(data):
    return data + bytes(-len(data) % 8)


def negotiate(guid=GUID, dialects=(0x0302, 0x0311), contexts=CONTEXTS, length=0, **more):
    """`length`: bytes of the whole message at least; a NETNAME fills it."""
    fixed = struct.pack("<HHHHI16s", 36, len(dialects), 1, 0, 0x7f, guid)
    start = 64 + 36 + 2 * len(dialects)
    if 0x0311 not in dialects:
        return header(NEGOTIATE, **more) + fixed + bytes(8) + halves(*dialects)
    offset = start + -start % 8
    size = offset + sum(len(aligned(one)) for one in contexts) + 8
    if length > size:
        contexts = (*contexts, context(5, os.urandom(length - size)))
    message = header(NEGOTIATE, **more) + fixed + struct.pack("<IHH", offset, len(contexts), 0)
    message = aligned(message + halves(*dialects))
    for one in contexts:
        message = aligned(message) + one
    return message


def session_setup(session_id=SESSION, token=b"spnego" * 30, message_id=1):
    return header(SESSION_SETUP, message_id=message_id, session_id=session_id) + struct.pack(
        "<HBBIIHHQ", 25, 1, 1, 1, 0, 88, len(token), 0) + token


def response(dialect=0x0311, token=b"a security buffer", credits=8):
    """A NEGOTIATE response, as a template."""
    contexts = aligned(context(1, halves(1, 32, 1) + os.urandom(32))) + context(2, halves(1, 2))
    offset = 128 + len(token) + -len(token) % 8
    message = header(NEGOTIATE, RESPONSE, credits=credits) + struct.pack(
        "<HHHH16sIIIIQQHHI", 65, 1, dialect, 2 if dialect == 0x0311 else 0, b"the server's own", 0x7f,
        8 << 20, 8 << 20, 8 << 20, 0, 0, 128, len(token), offset if dialect == 0x0311 else 0)
    message += token
    return aligned(message) + contexts if dialect == 0x0311 else message


def preauth(*messages):
    """The preauthentication hash of SMB 3.1.1, [MS-SMB2] 3.3.5.4."""
    value = bytes(64)
    for message in messages:
        value = hashlib.sha512(value + message).digest()
    return value


# --- The client -------------------------------------------------------------------------------------


class Lines:
    """Lines to and from a process."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        self.rest = b""

    def say(self, line):
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def line(self, timeout):
        """The next line; None if the process said its last."""
        end = time.monotonic() + timeout
        while b"\n" not in self.rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise TimeoutError("nothing is said")
            more = os.read(self.process.stdout.fileno(), 1 << 20)
            if not more:
                return self.rest.decode() or None
            self.rest += more
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode()

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()

    def kill(self):
        self.process.kill()
        self.close()


class Client(Lines):
    """usmbd-peer in the client's network, connected."""

    def __init__(self, address, *options):
        super().__init__(["nsenter", "--net=/run/netns/client", "usmbd-peer", "talk", address,
                          *map(str, options)])
        self.said = self.line(60 * lib.SLOW)

    @property
    def connected(self):
        return self.said == "connected"

    def step(self, step, timeout=60):
        self.say(step)
        return self.line(timeout * lib.SLOW) or ""

    def send(self, message):
        answer = self.step("send " + message.hex())
        return check(f"send: {answer}", answer == "sent")

    def receive(self):
        answer = self.step("receive")
        try:
            return bytes.fromhex(answer)
        except ValueError:
            check(f"receive: {answer}", False)
            return b""

    def ended(self, timeout=60):
        """Whether the other side ends it in time."""
        answer = self.step("end", timeout)
        return answer.startswith("ended") or "ended" in answer

    def disconnect(self):
        answer = self.step("disconnect")
        self.close()
        return answer


# --- Contexts ---------------------------------------------------------------------------------------


class Local(raw.Device):
    """A context here. Where it has had its last connection it is readable for ever, so nothing waits."""

    def __init__(self):
        super().__init__(os.O_NONBLOCK)

    def next(self, timeout=20.0, size=2 << 20):
        end = time.monotonic() + timeout
        while True:
            try:
                return super().next(max(end - time.monotonic(), 0), size)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError("no event came") from None
                time.sleep(0.02)


class Remote(raw.Device):
    """A context in a process of its own."""

    def __init__(self, *wrapper):
        """`wrapper`: the command that runs the process, `unshare` and the like."""
        self.lines = Lines([*wrapper, sys.executable, os.path.abspath(__file__)])
        self.queue = []
        answer = self.lines.line(30 * lib.SLOW)
        assert answer == "open", answer

    def write(self, *records):
        for record in records:
            self.lines.say("write " + record.hex())
            number = int(self.lines.line(30 * lib.SLOW))
            if number:
                raise OSError(number, os.strerror(number))

    def next(self, timeout=20.0, size=2 << 20):
        self.lines.say(f"next {timeout}")
        answer = self.lines.line(timeout + 30 * lib.SLOW)
        if answer == "none":
            raise TimeoutError("no event came")
        opcode, flags, user_data, body = answer.split(" ")
        return int(opcode), int(flags), int(user_data), bytes.fromhex(body)

    def close(self):
        self.lines.close()

    def kill(self):
        self.lines.kill()


def in_pid_namespace():
    return Remote("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def as_uid(uid):
    return Remote("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs")


def quiet(device, seconds=0.3):
    """Whether no event comes, LISTENER_CHANGED aside."""
    try:
        opcode, _, _, body = device.next(seconds)
        while opcode == raw.LISTENER_CHANGED:
            opcode, _, _, body = device.next(seconds)
    except TimeoutError:
        return True
    print(f"event {opcode:#x}: {body.hex()}")
    return False


def message(device, connection, timeout=20):
    """The next message of a connection, whole."""
    whole = b""
    while True:
        _, _, body = device.expect(raw.PDU_RECEIVED, timeout * lib.SLOW)
        number, total, offset, length, _ = struct.unpack_from("<QIIII", body)
        assert (number, offset) == (connection, len(whole)), (number, connection, offset, len(whole))
        whole += body[24:24 + length]
        assert not any(body[24 + length:]), "padding is not zero"
        if len(whole) == total:
            return whole


def answered(device, connection):
    """NEGOTIATE_ANSWERED: the response and the template."""
    _, _, body = device.expect(raw.NEGOTIATE_ANSWERED, 20 * lib.SLOW)
    number, length, template = struct.unpack_from("<QII", body)
    check("NEGOTIATE_ANSWERED's connection", number == connection)
    check("NEGOTIATE_ANSWERED's length", len(body) == 16 + length + -length % 8)
    return body[16:16 + length], template


class Connected:
    """What CONNECTION_READY, CONNECTION_ROUTED or ACCEPTED says."""

    def __init__(self, event, body):
        if event == raw.CONNECTION_READY:
            (self.listener, self.fabric, self.number, self.ticket, self.local, self.peer, *self.sizes,
             self.guid, self.session_id) = READY.unpack(body)
        elif event == raw.CONNECTION_ROUTED:
            (self.number, self.claim, self.fabric, *self.sizes, self.local, self.peer, self.guid,
             self.session_id) = ROUTED.unpack(body)
        else:
            (self.number, self.status, self.fabric, *self.sizes, self.local,
             self.peer) = ACCEPTED.unpack(body)

    @property
    def credits(self):
        """negotiated.receive_credit_max"""
        return self.sizes[5]


def expect(device, event, timeout=20):
    _, _, body = device.expect(event, timeout * lib.SLOW)
    return Connected(event, body)


def ended(device, connection, timeout=20):
    """DISCONNECTED's reason."""
    _, _, body = device.expect(raw.DISCONNECTED, timeout * lib.SLOW)
    number, reason = struct.unpack_from("<QI", body)
    check(f"DISCONNECTED of {number} and not {connection}", number == connection)
    return reason


def echo(client, device, connection, size=5000):
    """Messages go both ways, many enough to need more credits than routing gave."""
    for number in range(3):
        sent = os.urandom(size)
        client.send(sent)
        came = message(device, connection)
        check(f"message {number} came as it was sent", came == sent)
        device.write(raw.send_pdu(connection, came, flags=raw.QUIET))
        check(f"message {number} came back", client.receive() == sent)


def listener(where=None, port=0, iwarp_port=0, device=None, **parameters):
    """A context with a listener that routes."""
    device = device or Local()
    if parameters:
        device.write(raw.set_parameters(**parameters))
    device.number = device.listen(where, port=port, iwarp_port=iwarp_port, mode=raw.MODE_ROUTE)
    return device


def nothing_is_left():
    check("connections are left", lib.until(lambda: lib.statistics()["connections"] == 0))


def serve():
    device = Local()
    print("open", flush=True)
    for line in sys.stdin:
        verb, value = line.split()
        if verb == "write":
            number = 0
            try:
                os.write(device.fd, bytes.fromhex(value))
            except OSError as error:
                number = error.errno
            print(number, flush=True)
        else:
            try:
                opcode, flags, user_data, body = device.next(float(value))
                print(opcode, flags, user_data, body.hex(), flush=True)
            except TimeoutError:
                print("none", flush=True)


if __name__ == "__main__":
    serve()
