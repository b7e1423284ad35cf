# SPDX-License-Identifier: GPL-2.0-only
"""What the cases in Python share: checks that are counted, the peer, a little server."""

import os
import select
import struct
import subprocess
import sys
import time

# Behind the cases: both folders have a routing.py.
sys.path.append("/src/tests/raw")
import usmbd_raw as raw  # noqa: E402

SLOW = 4 if os.environ.get("LANE") == "debug" else 1
if SLOW > 1:
    os.environ.setdefault("USMBD_PEER_TIMEOUT", "120")
ROCE, IWARP = "10.9.0.1", "10.9.1.1"
REASON_LOCAL, REASON_PEER, REASON_DEVICE = 1, 2, 3

failures = 0
checks = 0


def check(what, good):
    """Counts, and says what is wrong."""
    global failures, checks
    checks += 1
    if not good:
        failures += 1
        print("FAILED:", what, flush=True)
    return good


def refused(what, number, call):
    """`call` must fail with this errno."""
    try:
        result = call()
    except OSError as error:
        return check(f"{what}: {os.strerror(error.errno)} and not {os.strerror(number)}",
                     error.errno == number)
    return check(f"{what}: worked ({result!r})", False)


def tally(count, what):
    """So often the case did something; `make tally` has the sums of the cases that passed."""
    with open("/tmp/tally", "a", encoding="utf-8") as file:
        file.write(f"{count} {what}\n")


def finish():
    print(f"{checks} checks, {failures} failed")
    sys.exit(failures != 0)


def peer(*arguments):
    """usmbd-peer in the client's network."""
    command = ["nsenter", "--net=/run/netns/client", "usmbd-peer", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended_well(what, process, timeout=60):
    """The peer must end with status 0."""
    try:
        output, _ = process.communicate(timeout=timeout * SLOW)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        return check(f"{what}: the peer did not end: {output}", False)
    return check(f"{what}: the peer: {output.strip()}", process.returncode == 0)


def statistics():
    with open("/sys/kernel/debug/usmbd/statistics", encoding="ascii") as file:
        return {name: int(value) for name, value in map(str.split, file)}


def until(condition, seconds=20):
    """Waits for a condition; whether it came."""
    end = time.monotonic() + seconds * SLOW
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


POLLERR = select.POLLERR


def poll_now(fd, events=select.POLLIN | select.POLLOUT | select.POLLRDHUP):
    """What poll() says now."""
    poller = select.poll()
    poller.register(fd, events)
    return dict(poller.poll(0)).get(fd, 0)


class Server:
    """A context that listens, accepts everything, and echoes messages."""

    def __init__(self, where, device=None, **parameters):
        self.device = device or raw.Device()
        if parameters:
            self.device.write(raw.set_parameters(**parameters))
        self.device.listen(where)
        self.messages = {}
        self.reasons = []
        self.accepted = []
        self.unsent = []

    def event(self, timeout):
        """Handles one event; false if none came."""
        try:
            opcode, _, user_data, body = self.device.next(timeout)
        except TimeoutError:
            return False
        if opcode == raw.CONNECTION_READY:
            self.device.write(raw.accept(body[16:32]))
        elif opcode == raw.ACCEPTED:
            self.accepted.append(struct.unpack_from("<Q", body)[0])
        elif opcode == raw.DISCONNECTED:
            connection, reason = struct.unpack_from("<QI", body)
            self.messages.pop(connection, None)
            self.reasons.append(reason)
        elif opcode == raw.PDU_SENT:
            # Those that were sent are QUIET.
            self.unsent.append(user_data)
        elif opcode == raw.PDU_RECEIVED:
            connection, total, offset, length, _ = struct.unpack_from("<QIIII", body)
            message = self.messages.setdefault(connection, bytearray())
            message += body[24:24 + length]
            if offset + length == total:
                del self.messages[connection]
                try:
                    self.device.write(raw.send_pdu(connection, bytes(message), flags=raw.QUIET,
                                                   user_data=len(message)))
                except OSError:
                    pass
        return True

    def serve(self, done, seconds=30):
        """Serves until `done()`; whether that came in time."""
        end = time.monotonic() + seconds * SLOW
        while not done():
            if time.monotonic() > end:
                return False
            self.event(0.1)
        return True

    def accept_one(self, device=None, seconds=20):
        """Accepts the next connection, in `device` if it is given; its number."""
        _, _, body = self.device.expect(raw.CONNECTION_READY, seconds * SLOW)
        device = device or self.device
        device.write(raw.accept(body[16:32]))
        _, _, body = device.expect(raw.ACCEPTED, seconds * SLOW)
        connection, status = struct.unpack_from("<QI", body)
        check(f"ACCEPTED says status {status}", status == 0)
        return connection
