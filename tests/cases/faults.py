#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# Allocations and copies that fail in the driver make an errno or an event, at every site: what is
# refused leaves no trace and works when it is tried again, no event is lost, and data are right.
# lanes: debug
# when: asked
# timeout: 600
"""Fault injection with the stacktrace filter on the module's text: fail-nth for system calls, one
failure at a time for everything that work items and handlers do."""

import collections
import ctypes
import errno
import mmap
import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw  # noqa: E402
import routelib  # noqa: E402
import serve  # noqa: E402

KINDS = "failslab", "fail_page_alloc", "fail_usercopy"
NOBODY = 1, 2       # A range in which nothing is.
MODULES = 0xffffffffa0000000, 0xffffffffff000000
ROUNDS = int(os.environ.get("USMBD_TEST_COUNT", 12))
EXPECTED = {errno.ENOMEM, errno.EFAULT, errno.EAGAIN}


def debugfs(kind, **values):
    for name, value in values.items():
        with open(f"/sys/kernel/debug/{kind}/{name.replace('_', '-')}", "w", encoding="ascii") as file:
            file.write(str(value))


def module_text():
    """The addresses between which the module's functions are."""
    with open("/proc/kallsyms", encoding="ascii") as file:
        symbols = [line.split() for line in file if line.rstrip().endswith("[usmbd]")]
    text = [int(symbol[0], 16) for symbol in symbols if symbol[1] in "tT"]
    return min(text), max(text) + 4096


def prepare():
    start, end = module_text()
    for kind in KINDS:
        debugfs(kind, probability=0, times=-1, interval=1, verbose=0, task_filter="N",
                stacktrace_depth=32, require_start=start, require_end=end)
    debugfs("failslab", ignore_gfp_wait="N")
    debugfs("fail_page_alloc", ignore_gfp_wait="N", ignore_gfp_highmem="N", min_order=0)
    return start, end


TEXT = prepare()
FAIL_NTH = "/proc/thread-self/fail-nth"
injected = collections.Counter()


def nth(number):
    """The `number`th site that this thread comes to fails; zero: none. Whether the last one set came."""
    # Opened twice, since it cannot seek.
    with open(FAIL_NTH, encoding="ascii") as file:
        left = int(file.read())
    with open(FAIL_NTH, "w", encoding="ascii") as file:
        file.write(str(number))
    return left == 0


def sweep(what, call):
    """Makes `call` again and again, with one failure more and more far on, until it is through. It
    must have no effect while it fails."""
    number = 1
    while True:
        nth(number)
        try:
            result = call()
            came = nth(0)
            injected[what] += came
            return result
        except OSError as error:
            came = nth(0)
            injected[what] += came
            if not came or error.errno not in EXPECTED:
                raise
        # Long messages have a thousand sites, each like the other.
        number += 1 + number // 16


class Device(raw.Device):
    """A device on which every call fails at every site before it works."""

    def __init__(self):
        super().__init__(fd=sweep("open", lambda: os.open("/dev/usmbd", os.O_RDWR)))

    def write(self, *records):
        for record in records:
            opcode = int.from_bytes(record[4:6], "little")
            taken = sweep(f"write {opcode:#x}", lambda record=record: os.write(self.fd, record))
            assert taken == len(record), (taken, record)

    def next(self, timeout=20.0, size=2 << 20):
        if not self.queue:
            # Copies that fail are the reader's own memory, and what he cannot be told is lost.
            debugfs("fail_usercopy", require_start=NOBODY[0], require_end=NOBODY[1])
            try:
                return super().next(timeout, size)
            finally:
                debugfs("fail_usercopy", require_start=TEXT[0], require_end=TEXT[1])
        return super().next(timeout, size)

    def map_area(self, buffers):
        return sweep("mmap", lambda: super(Device, self).map_area(buffers))


def again(call):
    """A failure that is meant for a work item may come to us: what it refuses works the next time."""
    try:
        return call()
    except OSError as error:
        if error.errno not in EXPECTED:
            raise
        return call()


class Patient(raw.Device):
    """A device whose calls are made again if a failure comes to them."""

    def write(self, *records):
        for record in records:
            again(lambda record=record: super(Patient, self).write(record))

    def next(self, timeout=20.0, size=2 << 20):
        return again(lambda: super(Patient, self).next(timeout, size))


class Server(serve.Server):
    """tests/raw/serve.py's server on such a device, in this process."""

    def __init__(self, where):
        self.device = Device()
        self.listener = self.device.listen(where)
        self.area, self.messages, self.unsent, self.reads, self.number = None, {}, {}, {}, 0
        self.reasons = []

    def fill(self, local, data):
        # The page fault of a buffer's first touch, which would kill us.
        for buffer, _, _ in local:
            sweep("touch", lambda buffer=buffer: self.area.madvise(
                23, buffer * raw.BUFFER_SIZE, raw.BUFFER_SIZE))     # MADV_POPULATE_WRITE
        super().fill(local, data)

    def serve(self, done, seconds=100):
        """As its run(), until `done()`; whether that came in time."""
        end = time.monotonic() + seconds * lib.SLOW
        while not done():
            if time.monotonic() > end:
                return False
            try:
                opcode, _, user_data, body = self.device.next(0.1)
            except TimeoutError:
                continue
            if opcode == raw.CONNECTION_READY:
                try:
                    self.device.write(raw.accept(body[16:32]))
                except OSError as error:
                    # It ended before.
                    if error.errno != errno.ENOENT:
                        raise
            elif opcode == raw.PDU_RECEIVED:
                self.piece(body)
            elif opcode == raw.RDMA_COMPLETE:
                self.moved(user_data, body)
            elif opcode == raw.DISCONNECTED:
                self.messages.pop(int.from_bytes(body[:8], "little"), None)
                self.reasons.append(body[8])
        return True


def system_calls():
    """Every call of a server, while peers check what it does."""
    for where in (lib.ROCE, lib.IWARP):
        server = Server(where)
        for arguments in (["echo", where, "--sizes", "1,1340,70000"],
                          ["placement", where, "--sizes", "1,5000,200000", "--descriptors", "1,3"],
                          ["placement", where, "--sizes", "5000", "--invalidate"]):
            if where == lib.IWARP and "--invalidate" in arguments:
                continue
            process = lib.peer(*arguments)
            check(f"{arguments}: not done in time", server.serve(lambda: process.poll() is not None))
            lib.ended_well(f"{arguments} over {where}", process)
        check("connections stay", server.serve(lambda: lib.statistics()["connections"] == 0, 30))
        for record in (raw.hello(), raw.record(raw.NOP), raw.record(raw.GET_MEMORY_PARAMETERS)):
            server.device.write(record)
            server.device.next()
        server.device.write(raw.set_parameters(receive_credit_max=8))
        server.device.write(raw.close_listener(server.listener))
        server.device.expect(raw.LISTENER_CLOSED)
        server.device.close()


def without_peers():
    """Every call that needs no connection."""
    device = Device()
    area = device.map_area(1)
    memory = mmap.mmap(-1, 3 << 20)
    memory.write(bytes(3 << 20))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    device.write(raw.register_memory(address + 5, (2 << 20) + 10000))
    _, _, body = device.expect(raw.MEMORY_REGISTERED)
    device.write(raw.unregister_memory(int.from_bytes(body[:4], "little")))
    device.expect(raw.MEMORY_UNREGISTERED)
    device.write(raw.set_negotiate_template(0, routelib.response(), [(1, 1)]),
                 raw.set_session_id(routelib.SESSION), raw.set_client_guid(routelib.GUID),
                 raw.clear_session_id(routelib.SESSION), raw.clear_client_guid(routelib.GUID))
    for record, event in ((raw.query_statistics(), raw.STATISTICS),
                          (raw.list_connections(), raw.CONNECTIONS)):
        device.write(record)
        device.expect(event)
    device.close()
    area.close()


def one_failure(kind, number):
    """One failure soon, wherever it is."""
    debugfs(kind, times=1, interval=max(number, 1), probability=100)


def no_failure(kind):
    """Whether it came."""
    debugfs(kind, probability=0)
    with open(f"/sys/kernel/debug/{kind}/times", encoding="ascii") as file:
        return int(file.read()) == 0


def work_items():
    """Handlers, completions, teardown: an outcome of any kind, but always one."""
    outcomes = collections.Counter()
    dice = random.Random(1)
    for where in (lib.ROCE, lib.IWARP):
        server = lib.Server(where, Patient())
        for number in range(ROUNDS):
            kind = "fail_page_alloc" if number % 8 == 7 else "failslab"
            one_failure(kind, dice.randrange(1, 160))
            process = lib.peer("echo", where, "--sizes", "100,20000", "--count", 2,
                               "--timeout", 15 * lib.SLOW)
            done = server.serve(lambda: process.poll() is not None, 60)
            came = no_failure(kind)
            check(f"{where} {number}: the peer hangs", done)
            output, _ = process.communicate()
            injected["work items"] += came
            if process.returncode:
                check(f"{where} {number}: {output.strip()}", came and "timed out" not in output)
                outcomes[output.strip().rsplit(":", 1)[-1]] += 1
            else:
                outcomes["echoed"] += 1
            gone = server.serve(lambda: lib.statistics()["connections"] == 0, 30)
            if not check(f"{where} {number}: a connection stays after {output.strip()}", gone):
                break
        process = lib.peer("echo", where)
        server.serve(lambda: process.poll() is not None, 60)
        lib.ended_well(f"echo afterwards, over {where}", process)
        server.device.close()
    print("one failure each:", dict(outcomes))


def routing():
    """One failure each while the driver reads a client's first messages, answers, and hands over."""
    outcomes = collections.Counter()
    dice = random.Random(2)
    for number in range(ROUNDS):
        device = routelib.listener(lib.ROCE)
        device.write(raw.set_negotiate_template(0, routelib.response()))
        claim = number % 3      # of the guid; of the session, with an answer between; of none
        if claim < 2:
            device.write((raw.set_client_guid(routelib.GUID), raw.set_session_id(routelib.SESSION))[claim])
        one_failure("failslab", dice.randrange(1, 200))
        client = routelib.Client(lib.ROCE, "--timeout", 15 * lib.SLOW)
        if client.connected:
            client.step("send " + routelib.negotiate().hex())
            if claim:
                client.step("receive")
                client.step("send " + routelib.session_setup().hex())
        outcome = "nothing"
        try:
            while outcome == "nothing":
                opcode, _, _, body = device.next(3 * lib.SLOW)
                if opcode == raw.CONNECTION_READY:
                    outcome = "ticket"
                    again(lambda body=body: device.write(raw.accept(body[16:32])))
                elif opcode == raw.CONNECTION_ROUTED:
                    outcome = "routed"
        except TimeoutError:
            pass
        came = no_failure("failslab")
        injected["routing"] += came
        outcomes[outcome] += 1
        check(f"routing {number}: {outcome} without a failure",
              came or outcome == ("routed" if claim < 2 else "ticket"))
        client.kill()
        device.close()
        if not check(f"routing {number}: a connection stays after {outcome}",
                     lib.until(lambda: lib.statistics()["connections"] == 0, 30)):
            break
    print("one failure each while routing:", dict(outcomes))


def removal():
    """A device goes, and the module, with every allocation of the module failing."""
    server = lib.Server(lib.ROCE)
    process = lib.peer("hold", lib.ROCE, "--seconds", 300, "--end")
    server.serve(lambda: server.accepted, 60)
    debugfs("failslab", times=-1, interval=1, probability=100)
    subprocess.run(["rdma", "link", "del", "rxe0"], check=True, timeout=60 * lib.SLOW)
    server.serve(lambda: server.reasons, 30)
    check(f"reasons {server.reasons}", server.reasons == [lib.REASON_DEVICE])
    server.device.close()
    gone = lib.until(lambda: lib.statistics()["contexts"] == 0)
    check("the context stays", gone)
    subprocess.run(["rmmod", "usmbd"], check=True)
    debugfs("failslab", probability=0)
    subprocess.run(["rdma", "link", "add", "rxe0", "type", "rxe", "netdev", "veth0"], check=True)
    process.kill()
    process.communicate()
    # Loading it: its init is not where its text was, so this is for all modules.
    debugfs("failslab", require_start=MODULES[0], require_end=MODULES[1])
    refused = 0
    for number in range(1, 200, 5):
        one_failure("failslab", number)
        loaded = subprocess.run(["insmod", "/build/usmbd.ko"], capture_output=True, check=False)
        came = no_failure("failslab")
        injected["init"] += came
        if loaded.returncode == 0:
            subprocess.run(["rmmod", "usmbd"], check=True)
        else:
            refused += 1
            check(f"insmod: {loaded.stderr}", came and b"Cannot allocate memory" in loaded.stderr)
    check(f"insmod was refused {refused} times", refused > 0)
    subprocess.run(["insmod", "/build/usmbd.ko"], check=True)


try:
    without_peers()
    system_calls()
    work_items()
    routing()
    removal()
finally:
    for name in KINDS:
        debugfs(name, probability=0)
    print("failures that came:", dict(injected), sum(injected.values()))
lib.tally(sum(injected.values()), "failed allocations and copies")
lib.finish()
