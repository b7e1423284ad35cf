#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# REGISTER_MEMORY and UNREGISTER_MEMORY: who may, what can be registered, what limits it, and that
# nothing stays pinned that should not.
# lanes: stock debug
# timeout: 150
"""docs/abi.md, "REGISTER_MEMORY"."""

import errno
import mmap
import os
import resource
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import memorylib as own  # noqa: E402
from lib import check, raw, refused  # noqa: E402

MIB, PAGE = own.MIB, own.PAGE


def record(device, one):
    return lambda: device.write(one)


def who_may():
    device, other = raw.Device(), raw.Device()
    memory = own.Own(PAGE)
    one = raw.register_memory(memory.address, PAGE)
    refused("without an area", errno.EFAULT, record(device, one))
    area = other.map_area(1)
    refused("with an area of another context", errno.EFAULT, record(device, one))
    handle = own.registered(other, memory.address, PAGE)
    refused("to give up through another context", errno.EFAULT, record(device, raw.unregister_memory(handle)))
    mine = device.map_area(1)
    refused("a handle is no buffer", errno.EFAULT, record(device, raw.unregister_memory(0)))
    refused("no such handle", errno.EFAULT, record(device, raw.unregister_memory(handle + 1)))
    dirty = raw.record(raw.UNREGISTER_MEMORY, struct.pack("<II", handle, 1))
    refused("a reserved field", errno.EINVAL, record(device, dirty))

    def child():
        # It has the descriptor, and a copy of the memory, but no area.
        for one in (raw.register_memory(memory.address, PAGE), raw.unregister_memory(handle)):
            try:
                device.write(one)
            except OSError as error:
                if error.errno != errno.EFAULT:
                    return 1
            else:
                return 2
        # With an area of its own it may register, but the parent's handle is not its own.
        with device.map_area(1):
            number = own.registered(device, memory.address, PAGE)
            try:
                device.write(raw.unregister_memory(handle if handle != number else handle + 5))
            except OSError as error:
                return 0 if error.errno == errno.EFAULT else 3
        return 4

    check("a forked child", own.in_child(child) == 0)
    # The parent's registration is still there, and any of its contexts may give it up.
    own.unregistered(device, handle)
    area.close()
    # Of two mappings one is enough, on the context that has it.
    refused("after its own mapping went", errno.EFAULT, record(other, one))
    own.unregistered(device, own.registered(device, memory.address, PAGE))
    mine.close()
    device.close()
    other.close()


def what_can_be(device):
    memory = own.Own(3 * MIB + 3 * PAGE)
    base = own.counted(), own.pinned()
    for what, offset, length, pages in (
            ("a byte", 0, 1, 1),
            ("the last byte of a page", PAGE - 1, 1, 1),
            ("two bytes across pages", PAGE - 1, 2, 2),
            ("a page", 0, PAGE, 1),
            ("a page and a byte", 0, PAGE + 1, 2),
            ("unaligned at both ends", 5, 3 * PAGE, 4),
            ("a block", 0, MIB, 256),
            ("across blocks", MIB - 1, 2, 2),
            ("three blocks, from within a page", 1, 3 * MIB, 769)):
        handle = own.registered(device, memory.address + offset, length)
        check(f"{what}: a handle is no buffer's number", handle >= own.FIRST_HANDLE)
        check(f"{what}: {own.counted() - base[0]} pages counted", own.counted() - base[0] == pages)
        check(f"{what}: {own.pinned() - base[1]} pages pinned", own.pinned() - base[1] == pages)
        own.unregistered(device, handle)
        check(f"{what}: given back", (own.counted(), own.pinned()) == base)
    handles = [own.registered(device, memory.address, PAGE) for _ in range(3)]
    check("the same memory twice", len(set(handles)) == 3)
    for handle in handles:
        own.unregistered(device, handle)
    check("a handle is not given out again soon",
          own.registered(device, memory.address, PAGE) not in handles)
    for what, one in (
            ("no bytes", raw.register_memory(memory.address, 0)),
            ("too many bytes", raw.register_memory(memory.address, (1 << 30) + 1)),
            ("bytes that wrap", raw.register_memory((1 << 64) - PAGE, PAGE + 1)),
            ("a flag", raw.record(raw.REGISTER_MEMORY, struct.pack("<QQ", memory.address, 1), flags=1)),
            ("a longer record", raw.record(raw.REGISTER_MEMORY, bytes(24)))):
        refused(what, errno.EINVAL, record(device, one))


def what_cannot_be(device):
    base = own.counted(), own.pinned()

    def fault(what, address, length):
        refused(what, errno.EFAULT, record(device, raw.register_memory(address, length)))
        check(f"{what}: nothing stays", (own.counted(), own.pinned()) == base)

    fault("address zero", 0, PAGE)
    fault("a kernel address", (1 << 64) - (1 << 20), PAGE)
    fault("no canonical address", 1 << 60, PAGE)
    for what, hole in (("at the start", 0), ("in the middle", PAGE), ("at the end", 2 * PAGE)):
        memory = own.Own(3 * PAGE)
        memory.unmap(hole, PAGE)
        fault(f"a hole {what}", memory.address + 1, 3 * PAGE - 2)
    memory = own.Own(4 * MIB)
    memory.unmap(2 * MIB + 5 * PAGE, PAGE)
    fault("a hole in the third block", memory.address + 7, 3 * MIB)
    memory = own.Own(2 * PAGE)
    memory.protect(mmap.PROT_READ)
    fault("memory to read only", memory.address, 2 * PAGE)
    memory.protect(0)
    fault("memory without access", memory.address, 2 * PAGE)
    status = device.map_status_page()
    fault("the status page", own.address_of(status), PAGE)
    # On a disk: tmpfs is not written back.
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        file.truncate(4 * PAGE)
        shared = own.Own(4 * PAGE, flags=mmap.MAP_SHARED, fd=file.fileno())
        fault("a file that is written back", shared.address, PAGE)
        private = own.Own(4 * PAGE, flags=mmap.MAP_PRIVATE, fd=file.fileno())
        own.unregistered(device, own.registered(device, private.address, 4 * PAGE))
        file.truncate(PAGE)
        fault("past the end of a file", private.address, 2 * PAGE)
    shared = own.Own(PAGE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    own.unregistered(device, own.registered(device, shared.address, PAGE))
    check("all is given back", (own.counted(), own.pinned()) == base)


def how_many(device):
    memory = own.Own(PAGE)
    handles = [own.registered(device, memory.address, 1) for _ in range(1024)]
    one = raw.register_memory(memory.address, 1)
    refused("one registration too many", errno.ENOMEM, record(device, one))
    own.unregistered(device, handles.pop())
    handles.append(own.registered(device, memory.address, 1))
    check("the driver counts them", own.memory("registrations") == 1024)
    for handle in handles:
        device.write(raw.unregister_memory(handle))
    for _ in handles:
        device.expect(raw.MEMORY_UNREGISTERED)
    check("the driver counts none", own.memory("registrations") == 0)


def endings(device):
    """The last mapping of the area, exec and exit end registrations."""
    base = own.pinned()
    memory = own.Own(2 * MIB)
    first, second = device.map_area(1), device.map_area(2)
    handle = own.registered(device, memory.address, MIB)
    first.close()
    check("one mapping is left", own.pinned() == base + 256)
    second.close()
    check("no mapping is left", lib.until(lambda: own.pinned() == base))
    check("nothing is counted", own.counted() == 0)
    third = device.map_area(1)
    refused("what ended with the area", errno.EFAULT, record(device, raw.unregister_memory(handle)))
    third.close()

    def child():
        mine = device.map_area(1)
        own.registered(device, memory.address + 3, MIB)
        check("pinned in the child", own.pinned() == base + 257)
        if after == "exec":
            os.execv("/bin/true", ["true"])
        if after == "killed":
            os.kill(os.getpid(), 9)
        return mine and 0

    for after in ("exit", "exec", "killed"):
        check(f"child, {after}", own.in_child(child) == (-9 if after == "killed" else 0))
        check(f"nothing is pinned after {after}", lib.until(lambda: own.pinned() == base))
    check("nobody's pages are counted", lib.until(lambda: own.memory("pages") == 0))


def limited():
    """RLIMIT_MEMLOCK binds unless the opener, not the caller, has CAP_IPC_LOCK."""
    pages = 16
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (pages * PAGE, pages * PAGE))
    memory = own.Own(32 * PAGE)
    for what, device, free in (("opened with CAP_IPC_LOCK", raw.Device(fd=int(sys.argv[2])), True),
                               ("opened without", raw.Device(), False)):
        area = device.map_area(1)
        beyond = record(device, raw.register_memory(memory.address + 1, pages * PAGE))
        if free:
            handle = own.registered(device, memory.address + 1, pages * PAGE)
            check(f"{what}: counted", own.counted() == pages + 1)
            own.unregistered(device, handle)
        else:
            refused(f"{what}: a page too many", errno.ENOMEM, beyond)
            check(f"{what}: nothing is counted", own.counted() == 0)
            handle = own.registered(device, memory.address, pages * PAGE)
            refused(f"{what}: one more", errno.ENOMEM, record(device, raw.register_memory(memory.address, 1)))
            own.unregistered(device, handle)
            own.unregistered(device, own.registered(device, memory.address, pages * PAGE))
        area.close()
        device.close()
    lib.finish()


def memlock():
    device = raw.Device()
    os.set_inheritable(device.fd, True)
    command = ["setpriv", "--bounding-set=-ipc_lock", sys.executable, __file__, "limited", str(device.fd)]
    result = subprocess.run(command, capture_output=True, text=True, pass_fds=[device.fd], check=False)
    check(f"RLIMIT_MEMLOCK: {result.stdout}{result.stderr}", result.returncode == 0)
    device.close()


if len(sys.argv) > 1:
    limited()
begin = own.pinned()
who_may()
context = raw.Device()
mapping = context.map_area(1)
what_can_be(context)
what_cannot_be(context)
mapping.close()
mapping = context.map_area(1)
how_many(context)
mapping.close()
endings(context)
memlock()
context.close()
check("nothing is pinned in the end", lib.until(lambda: own.pinned() == begin))
lib.finish()
