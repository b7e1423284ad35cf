#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# Registered memory is read and written like the area's, messages are sent from either without a
# copy, contents checked by the peer; a process may end, or give memory up, under a transfer.
# lanes: stock
# kernels: default
# timeout: 400
"""Contents, end to end."""

import os
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import memorylib as own  # noqa: E402
from lib import check, raw  # noqa: E402

DEBUG = lib.SLOW > 1


def server(where, how):
    command = [sys.executable, __file__, how, str(where)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    check("the server listens", process.stdout.readline().strip() == "listening")
    return process


def play(what, *arguments, timeout=150):
    lib.ended_well(what, lib.peer(*arguments), timeout)


def contents(where, how):
    process = server(where, how)
    # placement.sh has the sizes up to 8 MiB; here are those around a page, a block, and two.
    sizes = "1,5000,300001" if DEBUG else "1,5000,300001,1048577,2100000"
    play(f"{how} over {where}", "placement", where, "--sizes", sizes)
    if not DEBUG:
        # As for placement.sh: siw has its own idea of small pieces.
        play(f"many ranges, {how} over {where}", "placement", where, "--sizes", 70000,
             "--descriptors", "1,40", "--ranges", 16, "--regions", 7, "--count", 2)
    play(f"invalidation, {how} over {where}", "placement", where, "--sizes", 5000,
         "--descriptors", 1, "--invalidate")
    for fault in ("short-descriptors", "wrong-key", "vanish"):
        play(f"{fault}, {how} over {where}", "placement", where, "--sizes", 30000,
             "--descriptors", 1, "--fault", fault)
    play(f"messages, {how} over {where}", "echo", where, "--count", 5,
         "--sizes", "1,2,100,1340,1341,4072,4096,65536,131072,1048576")
    play(f"large PDUs, {how} over {where}", "echo", where, "--count", 5,
         "--sizes", "1,4072,4073,65536,1048576", "--max-send", 4096, "--max-receive", 4096)
    play(f"several connections, {how} over {where}", "echo", where, "--connections", 3,
         "--count", 5, "--sizes", "1,5000,200000")
    process.terminate()
    check(f"the server's end, {how} over {where}", process.wait(20) == 0)


def request_of(device):
    """Accepts a connection, and takes the peer's request for a placement."""
    _, _, body = device.expect(raw.CONNECTION_READY, 60 * lib.SLOW)
    device.write(raw.accept(body[16:32]))
    _, _, body = device.expect(raw.ACCEPTED)
    connection = struct.unpack_from("<Q", body)[0]
    _, _, body = device.expect(raw.PDU_RECEIVED, 60 * lib.SLOW)
    message = body[24:24 + struct.unpack_from("<I", body, 16)[0]]
    _, _, count, length, seed, _ = own.serve.REQUEST.unpack_from(message)
    at = own.serve.REQUEST.size
    descriptors = [raw.DESCRIPTOR.unpack_from(message, at + 16 * n) for n in range(count)]
    return connection, length, seed, descriptors


def serve_one_and_vanish(where, length):
    """Answers one request from registered memory, and is gone with the write()."""
    device = raw.Device()
    device.listen(where)
    area = device.map_area(1)
    memory = own.Own(length + own.PAGE)
    handle = own.registered(device, memory.address + 1, length)
    print("listening", flush=True)
    connection, length, seed, descriptors = request_of(device)
    memory.map[1:1 + length] = own.serve.pattern(seed, length)
    # Both the data and the answer stand in memory of a process that will not be there.
    area[7:12] = b"w" + seed.to_bytes(4, "little")
    device.write(raw.rdma(raw.RDMA_WRITE, connection, [(handle, 0, length)], descriptors)
                 + raw.send_ranges(connection, [(0, 7, 5)]))
    os.kill(os.getpid(), signal.SIGKILL)


def exit_under_a_transfer(where):
    before = own.pinned()
    length = 300000 if DEBUG else 8 * own.MIB
    process = server(where, "vanish")
    play(f"a server that is gone, over {where}", "placement", where, "--sizes", length,
         "--operations", "write", "--descriptors", 1, "--ranges", 1, "--regions", 1)
    check("the server was killed", process.wait(20) == -signal.SIGKILL)
    check("pages are pinned for nobody", lib.until(lambda: own.pinned() == before))
    check("pages are counted for nobody", lib.until(lambda: own.memory("pages") == 0))


def unregister_under_a_transfer(where):
    """MEMORY_UNREGISTERED comes when the transfer is done; the handle is dead at once."""
    device = raw.Device()
    device.listen(where)
    area = device.map_area(1)
    length = 300000 if DEBUG else 8 * own.MIB
    memory = own.Own(length)
    before = own.pinned()
    handle = own.registered(device, memory.address, length)
    peer = lib.peer("placement", where, "--sizes", length, "--operations", "write",
                    "--descriptors", 1, "--ranges", 1, "--regions", 1)
    connection, length, seed, descriptors = request_of(device)
    memory.map[:length] = own.serve.pattern(seed, length)
    area[:1] = b"w"
    transfer = raw.rdma(raw.RDMA_WRITE, connection, [(handle, 0, length)], descriptors, user_data=1)
    device.write(transfer + raw.unregister_memory(handle, 2))
    lib.refused("a handle that was given up", 14, lambda: device.write(transfer))
    lib.refused("to give it up twice", 14, lambda: device.write(raw.unregister_memory(handle)))
    first = device.next(60 * lib.SLOW)
    second = device.next(60 * lib.SLOW)
    check("RDMA_COMPLETE comes first", first[0] == raw.RDMA_COMPLETE and first[2] == 1)
    check("and then MEMORY_UNREGISTERED", second[0] == raw.MEMORY_UNREGISTERED and second[2] == 2)
    check("nothing is counted then", own.counted() == 0)
    device.write(raw.send_pdu(connection, b"w" + seed.to_bytes(4, "little"), flags=raw.QUIET))
    lib.ended_well("the peer's contents", peer)
    # The peer's own memory has gone as well now.
    check("nothing is pinned then", lib.until(lambda: own.pinned() == before))
    device.close()


def order(where):
    """A message in ranges leaves after the RDMA_WRITE before it; they may share their memory."""
    device = raw.Device()
    device.listen(where)
    area = device.map_area(16)
    for round_number in range(3):
        length = [5000, 300000, 2 * own.MIB][round_number if not DEBUG else 0]
        peer = lib.peer("placement", where, "--sizes", length, "--operations", "write",
                        "--descriptors", 3, "--ranges", 1, "--regions", 1)
        connection, length, seed, descriptors = request_of(device)
        area[100:100 + length] = own.serve.pattern(seed, length)
        local, left, at = [], length, 100
        while left:
            size = min(left, own.MIB - at % own.MIB)
            local.append((at // own.MIB, at % own.MIB, size))
            left, at = left - size, at + size
        answer = b"w" + seed.to_bytes(4, "little")
        start = 8 * own.MIB - 3
        area[start:start + 5] = answer
        device.write(raw.rdma(raw.RDMA_WRITE, connection, local, descriptors, raw.QUIET)
                     + raw.send_ranges(connection, [(7, own.MIB - 3, 3), (8, 0, 1), (8, 1, 1)],
                                       user_data=9))
        _, user_data, body = device.expect(raw.PDU_SENT, 60 * lib.SLOW)
        check("PDU_SENT", user_data == 9 and struct.unpack_from("<QI", body) == (connection, 0))
        lib.ended_well(f"order, {length} bytes over {where}", peer)
        device.expect(raw.DISCONNECTED)
    device.close()


def devices_go():
    """`rdma link del` does not wait for those who have memory registered."""
    process = server(None, "mixed")
    for name, kind, netdev, where in (("rxe0", "rxe", "veth0", lib.ROCE), ("siw0", "siw", "veth2", lib.IWARP)):
        play(f"before {name} goes", "placement", where, "--sizes", 300000, "--descriptors", 1)
        begin = time.monotonic()
        subprocess.run(["rdma", "link", "del", name], check=True, timeout=60 * lib.SLOW)
        took = time.monotonic() - begin
        check(f"{name} went in {took:.1f} s", took < 10 * lib.SLOW)
        subprocess.run(["rdma", "link", "add", name, "type", kind, "netdev", netdev], check=True)
        again = ("placement", where, "--sizes", "300000", "--descriptors", "1", "--timeout", "5")
        check(f"registered again when {name} is back",
              lib.until(lambda: lib.peer(*again).wait() == 0, 40))
    process.terminate()
    process.wait(20)


if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    place = None if sys.argv[2] == "None" else sys.argv[2]
    if sys.argv[1] == "vanish":
        serve_one_and_vanish(place, 8 * own.MIB)
    else:
        own.Server(place, sys.argv[1] == "mixed").run()

# siw on the debug lane: see placement.sh.
for address in (lib.ROCE,) if DEBUG else (lib.ROCE, lib.IWARP):
    contents(address, "registered")
    contents(address, "mixed")
    order(address)
    unregister_under_a_transfer(address)
    exit_under_a_transfer(address)
if not DEBUG:
    devices_go()
check("nothing is counted in the end", lib.until(lambda: own.memory("pages") == 0))
lib.finish()
