# SPDX-License-Identifier: GPL-2.0-only
"""What a raw script needs besides the bytes: somebody who connects, and a child of less power."""

import errno
import hashlib
import mmap
import os
import resource
import select
import signal
import struct
import subprocess
import time

import abi_page
import usmbd_raw as raw

SLOW = 4 if os.environ.get("LANE") == "debug" else 1
if SLOW > 1:
    os.environ.setdefault("USMBD_PEER_TIMEOUT", "120")
WAIT = 20 * SLOW
ROCE, IWARP = "10.9.0.1", "10.9.1.1"
PAGE = abi_page.Page()
NOBODY = 65534


class Device(raw.Device):
    """A context, of which every event has to be as the page says."""

    opened = set()

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.opened.add(self)

    def close(self):
        if self in self.opened:
            self.opened.remove(self)
            super().close()

    def next(self, timeout=WAIT, size=2 << 20):
        opcode, flags, user_data, body = super().next(timeout, size)
        wrong = PAGE.check_event(opcode, flags, body)
        assert not wrong, "; ".join(wrong)
        return opcode, flags, user_data, body

    def expect(self, opcode, timeout=WAIT):
        return super().expect(opcode, timeout)

    def works(self):
        """A NOP is answered, behind whatever waits."""
        number = 0x776f726b73
        while errno_of(lambda: self.write(raw.record(raw.NOP, user_data=number))) == errno.EAGAIN:
            # No slot is free: only reading helps.
            self.queue = []
            self.next()
        while self.next()[:3] != (raw.NOP_DONE, 0, number):
            pass

    def readable(self, timeout=WAIT):
        return bool(select.select([self.fd], [], [], timeout)[0])


class Peer:
    """usmbd-peer in the client's network, on its way to us; `talk` if it is told no other command."""

    running = set()

    def __init__(self, where=ROCE, *arguments, command="talk"):
        line = ["nsenter", "--net=/run/netns/client", "usmbd-peer", command, where]
        self.process = subprocess.Popen(line + [str(a) for a in arguments], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.running.add(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.running.discard(self)
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def line(self):
        """What it says next."""
        ready, _, _ = select.select([self.process.stdout], [], [], WAIT)
        assert ready, "the peer says nothing"
        return self.process.stdout.readline().decode().strip()

    def connected(self):
        assert (said := self.line()) == "connected", said

    def say(self, step):
        self.process.stdin.write(step.encode() + b"\n")
        self.process.stdin.flush()

    def start(self, message):
        """Sends; `sent` when somebody has read as much of it as its credits reach for."""
        self.say(f"send {message.hex()}")

    def sent(self):
        assert (said := self.line()) == "sent", said

    def send(self, message):
        self.start(message)
        self.sent()

    def receive(self):
        self.say("receive")
        return bytes.fromhex(self.line())

    def disconnect(self):
        self.say("disconnect")
        assert (said := self.line()).startswith("ended"), said

    def end(self):
        """Waits for the connection's end."""
        self.say("end")
        assert (said := self.line()).startswith("ended"), said


class Connection:
    """A peer that is connected to a context of its own, by ticket; `with` ends both.

    The listener stands in the same context unless `device` is given.
    """

    def __init__(self, where=ROCE, *arguments, command="talk", device=None, **parameters):
        self.listening = Device()
        self.device = device or self.listening
        for context in {self.listening, self.device}:
            context.write(raw.set_parameters(**parameters))
        self.listener = self.listening.listen(where)
        self.peer = Peer(where, *arguments, command=command)
        try:
            self.ready = self.listening.expect(raw.CONNECTION_READY)[2]
            self.ticket = self.ready[16:32]
            self.device.write(raw.accept(self.ticket, user_data=7))
            _, user_data, self.accepted = self.device.expect(raw.ACCEPTED)
            self.number, status = struct.unpack_from("<QI", self.accepted)
            assert (user_data, status) == (7, 0), (user_data, status)
            if command == "talk":
                self.peer.connected()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.peer.__exit__()
        for context in {self.listening, self.device}:
            context.close()

    def message(self):
        """The next message, whole."""
        out = b""
        while True:
            body = self.device.expect(raw.PDU_RECEIVED)[2]
            _, total, offset, length, _ = struct.unpack_from("<QIIII", body)
            assert offset == len(out), (offset, len(out))
            out += body[24:24 + length]
            if len(out) == total:
                return out

    def disconnected(self):
        """Reads up to DISCONNECTED: (user_data, reason)."""
        while True:
            opcode, _, user_data, body = self.device.next()
            if opcode == raw.DISCONNECTED:
                return user_data, struct.unpack_from("<QI", body)[1]


REQUEST = struct.Struct("<BBHIII")      # operation, flags, descriptors, length, seed, ranges


class Placement(Connection):
    """A peer that wants its memory read or written, with its request; it ends after the last of its sizes."""

    def __init__(self, operation, sizes, descriptors=1, where=ROCE, **parameters):
        super().__init__(where, "--operations", operation, "--sizes", sizes, "--descriptors",
                         descriptors, "--ranges", 1, "--regions", 1, command="placement",
                         **parameters)
        try:
            self.await_request()
        except BaseException:
            self.__exit__()
            raise

    def await_request(self):
        message = self.message()
        _, _, count, self.length, self.seed, _ = REQUEST.unpack_from(message)
        self.descriptors = [raw.DESCRIPTOR.unpack_from(message, REQUEST.size + 16 * n) for n in range(count)]

    def answer(self, moved=None):
        """Tells the peer that it is done, with what was read; the peer must be content."""
        if moved is None:
            answer = b"w" + struct.pack("<I", self.seed)
        else:
            answer = b"r" + hashlib.sha256(moved).digest()
        self.device.write(raw.send_pdu(self.number, answer, flags=raw.QUIET))
        said, _ = self.peer.process.communicate(timeout=60 * SLOW)
        assert self.peer.process.returncode == 0, said


def tidy():
    """Ends what a test that failed left open."""
    for peer in list(Peer.running):
        peer.__exit__()
    for device in list(Device.opened):
        device.close()


def errno_of(call):
    """The errno of a call, or 0."""
    try:
        call()
        return 0
    except OSError as error:
        return error.errno


def name_of(number):
    # One number has two names, of which Python knows the other.
    if number == errno.EOPNOTSUPP:
        return "EOPNOTSUPP"
    return errno.errorcode.get(number, "no error") if number else "no error"


def refused(name, call):
    got = name_of(errno_of(call))
    assert got == name, f"{got} and not {name}"


class Interrupted(Exception):
    pass


def interrupted(call, after=0.5 * SLOW):
    """Whether a signal ends the call: Python runs the handler when the system call gave EINTR."""
    def handler(*_):
        raise Interrupted
    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        call()
        return False
    except Interrupted:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def in_child(work, uid=0, memlock=None):
    """What `work` asserts, in a process of this user without capabilities (root keeps its own)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if memlock is not None:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            work()
            os._exit(0)
        except BaseException as error:  # pylint: disable=broad-exception-caught
            os.write(writer, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    os.close(reader)
    _, status = os.waitpid(child, 0)
    assert status == 0, said or f"the child ended with {status:#x}"


def eventually(holds, seconds=20):
    """Waits for what may be a moment away."""
    end = time.monotonic() + seconds * SLOW
    while not holds():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.01)


def flood(device):
    """Takes all event slots for commands."""
    many = b"".join(raw.record(raw.NOP) for _ in range(4096))
    while True:
        try:
            os.write(device.fd, many)
        except OSError as error:
            assert error.errno == errno.EAGAIN, error
            return


def own_memory(length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE):
    """Memory of this process, and its address, which the kernel tells by the file's name."""
    own_memory.count += 1
    name = f"usmbd-raw-{os.getpid()}-{own_memory.count}"
    fd = os.memfd_create(name)
    os.ftruncate(fd, length)
    memory = mmap.mmap(fd, length, flags, prot)
    os.close(fd)
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        line = next(line for line in maps if line.rstrip().endswith(f":{name} (deleted)"))
    return memory, int(line.split("-")[0], 16)


own_memory.count = 0


class HalfReadable:
    """Memory that ends: `bytes_before` bytes of a record can be read, the others not."""

    def __init__(self, record, bytes_before):
        fd = os.memfd_create("half")
        size = (len(record) + 4095) // 4096 * 4096 + 4096
        os.ftruncate(fd, 4096 + size)
        self.memory = mmap.mmap(fd, 4096 + size)
        start = 4096 - bytes_before
        self.memory[start:start + len(record)] = record
        os.ftruncate(fd, 4096)
        os.close(fd)
        self.view = memoryview(self.memory)[start:start + len(record)]
