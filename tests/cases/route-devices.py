#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# LISTENER_CHANGED tells which devices a listener serves; a listener with an address follows its device.
# lanes: stock
# kernels: default
# timeout: 240
"""LISTENER_CHANGED: docs/abi.md."""

import os
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import routelib as routing  # noqa: E402
from lib import check, raw  # noqa: E402

NETDEV = {"rxe0": ("rxe", "veth0"), "siw0": ("siw", "veth2")}


def link_del(name):
    """It must not wait for anybody."""
    done = subprocess.run(["timeout", str(60 * lib.SLOW), "rdma", "link", "del", name], check=False)
    return check(f"rdma link del {name}: {done.returncode}", done.returncode == 0)


def link_add(name):
    kind, netdev = NETDEV[name]
    subprocess.run(["rdma", "link", "add", name, "type", kind, "netdev", netdev], check=True)


def changed(device, number, infiniband, iwarp, what):
    """The next event, which tells so many devices."""
    try:
        opcode, _, _, body = device.next(20 * lib.SLOW)
    except TimeoutError:
        return check(f"{what}: nothing came", False)
    told = struct.unpack("<IHH", body) if opcode == raw.LISTENER_CHANGED else None
    return check(f"{what}: event {opcode:#x} {told} and not {(number, infiniband, iwarp)}",
                 told == (number, infiniband, iwarp))


def silent(device, what):
    try:
        opcode, _, _, body = device.next(1.0)
    except TimeoutError:
        return
    check(f"{what}: event {opcode:#x} {body.hex()}", False)


def peer_echo(where, what):
    server = lib.Server(where)
    process = lib.peer("echo", where, "--sizes", "1000", "--timeout", 30 * lib.SLOW)
    server.serve(lambda: process.poll() is not None, 40)
    lib.ended_well(what, process)
    server.device.close()


def listening(where=None, **more):
    device = raw.Device()
    return device, device.listen(where, **more)


def wildcard():
    """Those in the client's namespace are not served."""
    device, number = listening()
    changed(device, number, 1, 1, "at first")
    silent(device, "once")
    link_del("rxe0")
    changed(device, number, 0, 1, "RoCE goes")
    link_add("rxe0")
    changed(device, number, 1, 1, "RoCE comes")
    # Not read in between: one event, and it says how things are.
    link_del("siw0")
    link_add("siw0")
    link_del("siw0")
    changed(device, number, 1, 0, "iWARP goes, comes and goes")
    silent(device, "one event for three changes")
    link_add("siw0")
    changed(device, number, 1, 1, "iWARP is back")
    device.write(raw.record(raw.CLOSE_LISTENER, struct.pack("<II", number, 0)))
    device.expect(raw.LISTENER_CLOSED)
    link_del("rxe0")
    link_add("rxe0")
    silent(device, "a listener that was closed")
    device.close()


def wildcard_of_a_family():
    """As smbd listens: once for each family, which do not disturb each other."""
    for text in ("0.0.0.0", "::"):
        device, number = listening(text)
        changed(device, number, 1, 1, f"{text} at first")
        link_del("rxe0")
        changed(device, number, 0, 1, f"{text}, RoCE goes")
        link_add("rxe0")
        changed(device, number, 1, 1, f"{text}, RoCE comes")
        device.close()
    server = lib.Server("0.0.0.0")
    other, _ = listening("::")
    process = lib.peer("echo", lib.ROCE, "--sizes", "1000", "--timeout", 30 * lib.SLOW)
    server.serve(lambda: process.poll() is not None, 40)
    lib.ended_well("echo by a wildcard of IPv4", process)
    server.device.close()
    other.close()


def with_address():
    device, number = listening(lib.ROCE)
    changed(device, number, 1, 0, "an address of RoCE's")
    link_del("siw0")
    link_add("siw0")
    silent(device, "devices that it does not serve")
    link_del("rxe0")
    changed(device, number, 0, 0, "its device goes")
    link_add("rxe0")
    changed(device, number, 1, 0, "its device is back")
    process = lib.peer("hold", lib.ROCE, "--seconds", "100", "--end")
    _, _, body = device.expect(raw.CONNECTION_READY, 40 * lib.SLOW)
    device.write(raw.accept(body[16:32]))
    _, _, body = device.expect(raw.ACCEPTED, 20 * lib.SLOW)
    (connection,) = struct.unpack_from("<Q", body)
    # With a connection on it, whose end nobody reads meanwhile.
    link_del("rxe0")
    seen = set()
    while len(seen) < 2:
        opcode, _, _, body = device.next(20 * lib.SLOW)
        seen.add(opcode)
        if opcode == raw.DISCONNECTED:
            check("DISCONNECTED", struct.unpack_from("<QI", body) == (connection, lib.REASON_DEVICE))
    check(f"events {seen}", seen == {raw.DISCONNECTED, raw.LISTENER_CHANGED})
    process.kill()
    process.communicate()
    link_add("rxe0")
    changed(device, number, 1, 0, "and back again")
    device.close()
    peer_echo(lib.ROCE, "after all that")


def routing_on_it():
    """A device goes while a connection is being routed, and while a ticket is out."""
    front = routing.listener(lib.IWARP)
    speechless, offered = routing.Client(lib.IWARP), routing.Client(lib.IWARP)
    offered.send(routing.negotiate())
    ready = routing.expect(front, raw.CONNECTION_READY)
    link_del("siw0")
    routing.nothing_is_left()
    lib.refused("a ticket whose device went", 2, lambda: front.write(raw.accept(ready.ticket)))
    speechless.kill()
    offered.kill()
    link_add("siw0")
    changed_at_last(front)
    client = routing.Client(lib.IWARP)
    client.send(routing.negotiate())
    ready = routing.expect(front, raw.CONNECTION_READY)
    front.write(raw.accept(ready.ticket))
    connected = routing.expect(front, raw.ACCEPTED)
    routing.message(front, connected.number)
    routing.echo(client, front, connected.number, 100)
    client.disconnect()
    routing.ended(front, connected.number)
    front.close()


def changed_at_last(device):
    """Until the listener serves one iWARP device."""
    for _ in range(4):
        _, _, body = device.expect(raw.LISTENER_CHANGED, 20 * lib.SLOW)
        if struct.unpack("<IHH", body)[2] == 1:
            return
    check("no iWARP device comes", False)


def none_at_all():
    link_del("rxe0")
    link_del("siw0")
    device, number = listening()
    changed(device, number, 0, 0, "no devices")
    other = raw.Device()
    other.write(raw.listen(lib.ROCE))
    _, _, body = other.expect(raw.LISTENING)
    check("an address that no device has", struct.unpack("<II", body) == (5, 0))
    silent(other, "LISTEN failed")
    other.close()
    link_add("rxe0")
    changed(device, number, 1, 0, "the first comes")
    link_add("siw0")
    changed(device, number, 1, 1, "the second comes")
    device.close()


def failed():
    """Of a LISTEN that fails there is no LISTENER_CHANGED, and no slot stays taken."""
    first, _ = listening(lib.ROCE)
    second = raw.Device()
    for _ in range(3):
        second.write(raw.listen(lib.ROCE))
        _, _, body = second.expect(raw.LISTENING)
        check(f"in use: {struct.unpack('<II', body)}", struct.unpack("<II", body) == (4, 0))
    silent(second, "LISTEN failed")
    first.close()
    second.close()


wildcard()
wildcard_of_a_family()
with_address()
routing_on_it()
none_at_all()
failed()
check("contexts are left", lib.until(lambda: lib.statistics()["contexts"] == 0))
routing.nothing_is_left()
lib.finish()
