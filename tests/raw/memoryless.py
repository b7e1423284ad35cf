# SPDX-License-Identifier: GPL-2.0-only
"""ENOMEM of each command that docs/abi.md has it for.

A child in a control group that gets no more memory writes the command: what the driver allocates on
behalf of a caller counts against the caller's group.
"""

import gc
import mmap
import os
import struct
import time

import usmbd_raw as raw
from errnos import WELL_FORMED, pair
from world import (
    NOBODY, ROCE, SLOW, Connection, Device, Peer, in_child, name_of, own_memory, refused)

ROOT, GROUP = "/sys/fs/cgroup", "/sys/fs/cgroup/usmbd-raw"
# A page fault is tried again at once when there is no memory; a write() gives up.
STUCK = 20
NOP = WELL_FORMED["NOP"]


def put(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def make_group():
    if not os.path.exists(f"{ROOT}/cgroup.controllers"):
        assert os.system(f"mount -t cgroup2 none {ROOT}") == 0, "no control groups here"
    put(f"{ROOT}/cgroup.subtree_control", "+memory")
    os.makedirs(GROUP, exist_ok=True)
    put(f"{GROUP}/memory.max", "max")


def out_of_memory():
    """How often the group has been refused memory."""
    with open(f"{GROUP}/memory.events", encoding="ascii") as file:
        return int(dict(line.split() for line in file)["oom"])


def first_errno(fd, records, steps, times=100):
    """Writes each record until it is refused, but not more than `times`; the last one's errno.

    What it is at stands in `steps`, for the parent.
    """
    number = 0
    for record in records:
        number = 0
        for step in range(times):
            steps[0] = step % 256
            try:
                os.write(fd, record)
            except OSError as error:
                number = error.errno
                break
    return number


def without_memory(device, *records, rehearsal=None, leftover=None):
    """The last of these records, written until it is refused, is refused with ENOMEM.

    `rehearsal` are the records to rehearse with, where these ones would have an effect elsewhere.
    `leftover` is the errno where what the group still had was just enough; it is tried again then.
    """
    for _ in range(10):
        got = errno_without_memory(device, records, rehearsal or records)
        device.works()
        if got != leftover:
            break
    assert got == "ENOMEM", f"{got} and not ENOMEM"


def errno_without_memory(device, records, rehearsal):
    """What a child without memory got for the first record that was refused, by name."""
    make_group()
    steps = mmap.mmap(-1, mmap.PAGESIZE)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        # There will be hardly any memory for page faults either: what Python needs is touched before,
        # by the same steps on contexts of no importance.
        gc.disable()
        put("/proc/self/oom_score_adj", "-1000")
        put(f"{GROUP}/cgroup.procs", "0")
        spares = [os.open("/dev/usmbd", os.O_RDWR) for _ in range(6)]
        for spare in spares[:3]:
            first_errno(spare, [NOP], steps, 10)
            first_errno(os.open("/dev/usmbd", os.O_RDWR), rehearsal, steps)
            first_errno(-1, records, steps)
        os.write(ready[1], b"r")
        os.read(go[0], 1)
        # What the kernel could still reclaim of the group goes first, lest the record lives on it.
        for spare in spares:
            first_errno(spare, [NOP], steps, 1000)
        os._exit(first_errno(device.fd, records, steps))
    os.read(ready[0], 1)
    # Each failure is half a page on the console otherwise.
    with open("/proc/sys/kernel/printk", encoding="ascii") as file:
        loud = file.read()
    put("/proc/sys/kernel/printk", "1")
    put(f"{GROUP}/memory.max", "0")
    os.write(go[1], b"g")
    end = time.monotonic() + 30 * SLOW
    before = None
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.1)
        # Refused over and over in one and the same step, it is stuck in a page fault after all, and
        # gets this one page. One that is only slow gets none: the record would never be refused.
        at, refusals = steps[0], out_of_memory()
        if before and at == before[0] and refusals >= before[1] + STUCK:
            with open(f"{GROUP}/memory.current", encoding="ascii") as file:
                put(f"{GROUP}/memory.max", str(int(file.read()) + 4096))
            before = None
        elif before is None or at != before[0]:
            before = at, refusals
    put(f"{GROUP}/memory.max", "max")
    put("/proc/sys/kernel/printk", loud)
    hung = status[0] == 0
    if hung:
        status = os.waitpid(child, 0)
    for descriptor in ready + go:
        os.close(descriptor)
    steps.close()
    assert not hung, "the child itself wanted memory"
    assert os.WIFEXITED(status[1]), f"the child ended with {status[1]:#x}"
    return name_of(os.WEXITSTATUS(status[1]))


@pair("NOP LISTEN SET_NEGOTIATE_TEMPLATE SET_SESSION_ID SET_CLIENT_GUID LIST_CONNECTIONS"
      " QUERY_STATISTICS", "ENOMEM")
def on_a_new_context(name):
    device = Device()
    without_memory(device, WELL_FORMED[name])
    device.write(WELL_FORMED[name])
    device.works()
    device.close()


@pair("CLOSE_LISTENER", "ENOMEM")
def on_a_listener(_):
    device = Device()
    record = raw.close_listener(device.listen(ROCE, port=4000, iwarp_port=4001))
    without_memory(device, NOP, record)
    device.write(record)
    device.expect(raw.LISTENER_CLOSED)
    device.close()


@pair("SEND_PDU RDMA_READ RDMA_WRITE", "ENOMEM")
def on_a_connection(name):
    with Connection() as connection:
        record = bytearray(WELL_FORMED[name])
        record[16:24] = struct.pack("<Q", connection.number)
        # The ranges are of an area that the child does not have.
        without_memory(connection.device, bytes(record), leftover="EFAULT")
        connection.device.write(raw.send_pdu(connection.number, b"still there"))
        assert connection.peer.receive() == b"still there"


@pair("ACCEPT", "ENOMEM")
def on_a_ticket(_):
    device, other = Device(), Device()
    device.listen(ROCE)
    with Peer(ROCE) as peer:
        ticket = device.expect(raw.CONNECTION_READY)[2][16:32]
        without_memory(other, raw.accept(ticket), rehearsal=[raw.accept(bytes(16))])
        # The ticket is still good.
        other.write(raw.accept(ticket))
        other.expect(raw.ACCEPTED)
        peer.connected()
        other.works()
    device.close()
    other.close()


@pair("UNREGISTER_MEMORY", "ENOMEM")
def on_registered_memory(_):
    # The mapping of the area is not the child's, so nothing but the slots is asked for before it is
    # refused; the record itself is taken here afterwards.
    device = Device()
    area = device.map_area(1)
    memory, address = own_memory(4096)
    device.write(raw.register_memory(address, 4096))
    handle, = struct.unpack_from("<I", device.expect(raw.MEMORY_REGISTERED)[2])
    without_memory(device, NOP, raw.unregister_memory(handle))
    device.write(raw.unregister_memory(handle))
    device.expect(raw.MEMORY_UNREGISTERED)
    area.close()
    memory.close()
    device.close()


@pair("REGISTER_MEMORY", "ENOMEM")
def more_than_may_be_locked(_):
    def work():
        device = Device()
        area = device.map_area(1)
        memory, address = own_memory(1 << 16)
        refused("ENOMEM", lambda: os.write(device.fd, raw.register_memory(address + 1, 8192)))
        device.write(raw.register_memory(address + 1, 4095))
        device.expect(raw.MEMORY_REGISTERED)
        # What is registered counts.
        refused("ENOMEM", lambda: os.write(device.fd, raw.register_memory(address + 4096, 4097)))
        device.write(raw.register_memory(address + 4096, 4096))
        device.expect(raw.MEMORY_REGISTERED)
        device.works()
        area.close()
        memory.close()
    os.chmod("/dev/usmbd", 0o666)
    in_child(work, uid=NOBODY, memlock=8192)
    os.chmod("/dev/usmbd", 0o600)
