# SPDX-License-Identifier: GPL-2.0-only
"""The rows of docs/abi.md, "The operations of 2013", and everything else that a server does: a function
for each, and for each event."""

import fcntl
import os
import select
import struct
import subprocess

import smb2
import usmbd_raw as raw
from serve import pattern
from world import (
    IWARP, ROCE, SLOW, Connection, Device, Peer, Placement, errno_of, eventually, own_memory, refused)

OPERATIONS, EVENTS = {}, {}
GUID, OTHER_GUID = bytes(range(1, 17)), bytes(range(17, 33))
SESSION = 0xfedcba0987654321
PORTS = {"port": 4450, "iwarp_port": 4451}


def operation(function):
    OPERATIONS[function.__name__] = function
    return function


def event(names):
    """This function shows these events."""
    def add(function):
        for name in names.split():
            assert name not in EVENTS, name
            EVENTS[name] = function
        return operation(function)
    return add


def rows(device):
    """Three ranges in buffers of their own: (ranges, the area)."""
    area = device.map_area(3)
    for buffer in range(3):
        area[buffer << 20] = 0
    return [(buffer, 1000 + buffer, 100000) for buffer in range(3)], area


def gather(area, ranges):
    return b"".join(area[(b << 20) + o:(b << 20) + o + n] for b, o, n in ranges)


def scatter(area, ranges, data):
    for buffer, offset, length in ranges:
        start = (buffer << 20) + offset
        area[start:start + length], data = data[:length], data[length:]


# A context alone.

@event("HELLO_DONE")
def hello_agrees_on_features():
    device = Device()
    device.write(raw.record(raw.NOP) * 2 + raw.hello(features=raw.AT_MOST_ONE | 1 << 60, user_data=5))
    # An answer overtakes, the unknown feature is missing, and read() gives one event at a time.
    _, user_data, body = device.expect(raw.HELLO_DONE)
    assert user_data == 5
    assert struct.unpack("<IIQ", body) == (raw.VERSION, 0, raw.AT_MOST_ONE), body.hex()
    assert raw.BATCH.unpack_from(os.read(device.fd, 4096)) == (1, 32, 1, 16)
    device.write(raw.hello(version=raw.VERSION + 9))
    assert struct.unpack("<IIQ", device.expect(raw.HELLO_DONE)[2]) == (raw.VERSION, 0, 0)
    device.close()


@event("NOP_DONE")
def the_batch_header_counts():
    device = Device()
    device.write(b"".join(raw.record(raw.NOP, user_data=n) for n in range(5)))
    batch = os.read(device.fd, 16 + 2 * 16)
    assert raw.BATCH.unpack_from(batch) == (2, 48, 3, 16), batch[:16].hex()
    assert [n for _, _, n, _ in raw.events(batch)] == [0, 1]
    assert raw.BATCH.unpack_from(os.read(device.fd, 4096)) == (3, 64, 0, 0)
    device.close()


@operation
def poll_tells_of_events():
    device = Device()
    poller = select.poll()
    poller.register(device.fd, select.POLLIN | select.POLLOUT)
    assert poller.poll(0) == [(device.fd, select.POLLOUT)]
    device.write(raw.record(raw.NOP))
    assert poller.poll(0) == [(device.fd, select.POLLIN | select.POLLOUT)]
    device.expect(raw.NOP_DONE)
    assert poller.poll(0) == [(device.fd, select.POLLOUT)]
    device.close()


@operation
def there_is_no_ioctl():
    device = Device()
    for number in (0, 0x5411, 0xc0185500):
        refused("ENOTTY", lambda n=number: fcntl.ioctl(device.fd, n, bytes(64)))
    device.works()
    device.close()


@event("MEMORY_PARAMETERS")
def memory_is_where_it_says():
    device = Device()
    device.write(raw.record(raw.GET_MEMORY_PARAMETERS, user_data=6))
    _, user_data, body = device.expect(raw.MEMORY_PARAMETERS)
    area, page, count, size, length, _ = struct.unpack("<QQIIII", body)
    assert (user_data, area, page, count, size, length) == (6, 0, 1 << 40, 64, 1 << 20, 4096)
    with device.map_area(count) as memory:
        assert len(memory) == 64 << 20 and memory[5 << 20] == 0
        memory[5 << 20] = 1
    assert struct.unpack_from("<I", device.map_status_page())[0] == raw.VERSION
    device.close()


@operation
def contexts_of_a_process_share_the_area():
    one, other = Device(), Device()
    one.write(raw.record(raw.GET_MEMORY_PARAMETERS))
    count, = struct.unpack_from("<I", one.expect(raw.MEMORY_PARAMETERS)[2], 16)
    here, there = one.map_area(count), other.map_area(count)
    for buffer in (0, 7, count - 1):
        here[buffer << 20:(buffer << 20) + 5] = b"%05d" % buffer
        assert there[buffer << 20:(buffer << 20) + 5] == b"%05d" % buffer
    child = os.fork()
    if child == 0:
        mine = one.map_area(count)
        os._exit(mine[7 << 20] != 0)
    assert os.waitpid(child, 0)[1] == 0, "a child sees its parent's area"
    here.close()
    one.close()
    # The memory lives as long as another context has it.
    assert there[7 << 20:(7 << 20) + 5] == b"00007"
    there.close()
    other.close()


# Listeners.

@event("LISTENING LISTENER_CHANGED CONNECTION_READY")
def a_listener_announces():
    device = Device()
    device.write(raw.listen(ROCE, user_data=3))
    _, user_data, body = device.expect(raw.LISTENING)
    status, listener = struct.unpack("<II", body)
    assert (user_data, status) == (3, 0) and listener != 0
    _, _, body = device.expect(raw.LISTENER_CHANGED)
    assert struct.unpack("<IHH", body) == (listener, 1, 0), body.hex()
    other = Device()
    other.write(raw.listen("10.9.7.7", user_data=4))
    assert struct.unpack("<II", other.expect(raw.LISTENING)[2]) == (5, 0), "no such address"
    other.write(raw.listen(ROCE, user_data=4))
    assert struct.unpack("<II", other.expect(raw.LISTENING)[2]) == (4, 0), "in use"
    with Peer(ROCE):
        _, _, body = device.expect(raw.CONNECTION_READY)
        owner, fabric = struct.unpack_from("<II", body)
        assert (owner, fabric) == (listener, 2)
        assert body[32:] == raw.address(ROCE, 445) + body[64:96] + bytes(48)
        assert body[64:66] == b"\2\0" and body[80:84] == bytes([10, 9, 0, 2])
    other.close()
    device.close()


@event("LISTENER_CLOSED")
def a_closed_listener_is_gone():
    device = Device()
    listener = device.listen(ROCE)
    with Peer(ROCE) as peer:
        ticket = device.expect(raw.CONNECTION_READY)[2][16:32]
        device.write(raw.close_listener(listener, user_data=8))
        _, user_data, body = device.expect(raw.LISTENER_CLOSED)
        assert (user_data, struct.unpack("<II", body)) == (8, (listener, 0))
        refused("ENOENT", lambda: os.write(device.fd, raw.accept(ticket)))
        refused("ENOENT", lambda: os.write(device.fd, raw.close_listener(listener)))
        assert peer.process.wait(60 * SLOW) == 1, "the peer was not refused"
    device.listen(ROCE)
    device.works()
    device.close()


@event("ACCEPTED")
def a_ticket_is_good_once():
    for where, fabric in ((ROCE, 2), (IWARP, 3)):
        device = Device()
        with Connection(where, device=device) as connection:
            number, status, on = struct.unpack_from("<QII", connection.accepted)
            assert number == struct.unpack_from("<Q", connection.ready, 8)[0]
            assert (status, on) == (0, fabric)
            assert connection.accepted[40:] == connection.ready[32:96], "the addresses"
            for context in (device, connection.listening):
                refused("ENOENT", lambda c=context: os.write(c.fd, raw.accept(connection.ticket)))
            # It is in this context, and in no other.
            device.write(raw.send_pdu(number, b"hello"))
            assert connection.peer.receive() == b"hello"
            refused("ENOENT", lambda: os.write(connection.listening.fd, raw.send_pdu(number, b"x")))


@operation
def a_rejected_peer_is_told():
    device = Device()
    device.listen(ROCE)
    with Peer(ROCE) as peer:
        ticket = device.expect(raw.CONNECTION_READY)[2][16:32]
        device.write(raw.reject(ticket))
        refused("ENOENT", lambda: os.write(device.fd, raw.reject(ticket)))
        said = peer.line()
        assert peer.process.wait(60 * SLOW) == 1, said
    device.works()
    device.close()


@operation
def parameters_are_negotiated():
    with Connection(receive_credit_max=33, send_credit_target=44, max_send_size=1000,
                    max_receive_size=900, max_fragmented_recv_size=131072,
                    max_read_write_size=65536, keepalive_interval=100000) as connection:
        sizes = struct.unpack_from("<IIIIIHH", connection.accepted, 16)
        # The peer's own are cifs.ko's: 1364 bytes both ways, messages of 1 MiB.
        assert sizes == (1000, 900, 1 << 20, 131072, 65536, 33, 44), sizes
        page = connection.device.map_status_page()
        assert page[96:120] == connection.accepted[16:40], "the status page"
        connection.peer.start(bytes(131072))
        assert len(connection.message()) == 131072
        connection.peer.sent()


# Messages.

@event("PDU_RECEIVED PDU_SENT RDMA_COMPLETE")
def one_read_brings_many_events():
    with Placement("write", 4096) as placement:
        device, number = placement.device, placement.number
        area = device.map_area(1)
        area[0:4096] = pattern(placement.seed, 4096)
        device.write(raw.rdma(raw.RDMA_WRITE, number, [(0, 0, 4096)], placement.descriptors,
                              user_data=1),
                     raw.send_pdu(number, b"w" + struct.pack("<I", placement.seed), user_data=2),
                     raw.record(raw.NOP, user_data=3))
        said, _ = placement.peer.process.communicate(timeout=60 * SLOW)
        assert placement.peer.process.returncode == 0, said
        seen = {opcode: (user_data, body) for opcode, _, user_data, body
                in raw.events(os.read(device.fd, 1 << 16))}
        assert seen[raw.RDMA_COMPLETE] == (1, struct.pack("<QII", number, 0, 4096))
        assert seen[raw.PDU_SENT] == (2, struct.pack("<QII", number, 0, 0))
        assert seen[raw.NOP_DONE] == (3, b"")
        area.close()
    with Connection() as connection:
        for length in (1, 1340, 100000):
            connection.peer.start(pattern(length, length))
            assert connection.message() == pattern(length, length)
            connection.peer.sent()


@operation
def many_messages_in_one_write():
    for where in (ROCE, IWARP):
        with Connection(where) as connection:
            sizes = [1, 7, 8, 9, 1339, 1340, 1341, 5000]
            connection.device.write(*[raw.send_pdu(connection.number, pattern(n, n), user_data=n)
                                      for n in sizes])
            for size in sizes:
                assert connection.peer.receive() == pattern(size, size), size
                _, user_data, body = connection.device.expect(raw.PDU_SENT)
                assert (user_data, struct.unpack_from("<QI", body)[1]) == (size, 0)
            # QUIET: no event for what went well.
            connection.device.write(raw.send_pdu(connection.number, b"x", flags=raw.QUIET))
            assert connection.peer.receive() == b"x"
            connection.device.works()
            # From memory, in any number of ranges.
            area = connection.device.map_area(2)
            area[0:1 << 20] = pattern(5, 1 << 20)
            ranges = [(0, 16384 * n + n, 100 + n) for n in range(64)]
            area[1 << 20] = 1
            connection.device.write(raw.send_ranges(connection.number, ranges, user_data=9))
            wanted = b"".join(area[at:at + length] for _, at, length in ranges)
            assert connection.peer.receive() == wanted
            assert connection.device.expect(raw.PDU_SENT)[1] == 9
            area.close()


@event("SEND_READY")
def room_is_told():
    with Connection(ROCE, "--credits", 4, "--still") as connection:
        os.set_blocking(connection.device.fd, False)
        record = raw.send_pdu(connection.number, bytes(60000), flags=raw.QUIET)
        taken = 0
        while not errno_of(lambda: os.write(connection.device.fd, record)):
            taken += 1
            assert taken < 4096
        for _ in range(taken):
            assert len(connection.peer.receive()) == 60000
        _, user_data, body = connection.device.expect(raw.SEND_READY)
        assert (user_data, struct.unpack("<Q", body)[0]) == (0, connection.number)
        connection.device.write(record)


@event("DISCONNECTED")
def a_disconnect_reaches_the_peer():
    for where in (ROCE, IWARP):
        with Connection(where) as connection:
            connection.device.write(raw.disconnect(connection.number, user_data=9))
            assert connection.disconnected() == (9, 1)
            connection.peer.end()
            refused("ENOENT", lambda: os.write(connection.device.fd,
                                               raw.send_pdu(connection.number, b"x")))


# Transfers.

@operation
def writes_of_many_ranges_and_descriptors():
    for where in (ROCE, IWARP):
        with Placement("write", 300000, descriptors=16, where=where) as placement:
            device, number = placement.device, placement.number
            ranges, area = rows(device)
            scatter(area, ranges, pattern(placement.seed, 300000))
            # In two commands of one write(): the first has a part of the first descriptor's bytes.
            address, token, length = placement.descriptors[0]
            device.write(raw.rdma(raw.RDMA_WRITE, number, [(0, 1000, 1)], [(address, token, 1)],
                                  user_data=1),
                         raw.rdma(raw.RDMA_WRITE, number, [(0, 1001, 99999)] + ranges[1:],
                                  [(address + 1, token, length - 1)] + placement.descriptors[1:],
                                  user_data=2))
            for user_data, length in ((1, 1), (2, 299999)):
                _, got, body = device.expect(raw.RDMA_COMPLETE)
                assert (got, struct.unpack("<QII", body)) == (user_data, (number, 0, length))
            placement.answer()
            area.close()


@operation
def reads_of_many_ranges_and_descriptors():
    for where in (ROCE, IWARP):
        with Placement("read", 300000, descriptors=16, where=where) as placement:
            device, number = placement.device, placement.number
            ranges, area = rows(device)
            # 4095 descriptors, most of nothing: as many as one SMB2 request can carry.
            descriptors = placement.descriptors + [(0, 0, 0)] * (4095 - 16)
            device.write(raw.rdma(raw.RDMA_READ, number, ranges, descriptors, user_data=4))
            _, got, body = device.expect(raw.RDMA_COMPLETE)
            assert (got, struct.unpack("<QII", body)) == (4, (number, 0, 300000))
            assert gather(area, ranges) == pattern(placement.seed, 300000)
            placement.answer(gather(area, ranges))
            area.close()


def keys():
    """The memory regions that the device has, each with its keys."""
    listed = subprocess.run(["rdma", "resource", "show", "mr", "dev", "rxe0"], check=True,
                            capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if "usmbd" in line]


@operation
def transfers_register_nothing():
    with Placement("write", 65536) as placement:
        device, number = placement.device, placement.number
        area = device.map_area(2)
        area[0:65536] = pattern(placement.seed, 65536)

        def move():
            device.write(raw.rdma(raw.RDMA_WRITE, number, [(0, 0, 65536)], placement.descriptors))
            assert struct.unpack("<QII", device.expect(raw.RDMA_COMPLETE)[2])[1:] == (0, 65536)
        move()
        before = keys()
        assert before, "no key is seen"
        for _ in range(20):
            move()
        assert keys() == before, "keys came or went"
        placement.answer()
        area.close()


# Memory of one's own.

@event("MEMORY_REGISTERED")
def own_memory_moves():
    for where in (ROCE, IWARP):
        for operation_name in ("write", "read"):
            with Placement(operation_name, 100001, descriptors=3, where=where) as placement:
                device, number = placement.device, placement.number
                area = device.map_area(1)
                memory, address = own_memory(1 << 20)
                device.write(raw.register_memory(address + 77, 500000, user_data=5))
                _, user_data, body = device.expect(raw.MEMORY_REGISTERED)
                handle, _, length = struct.unpack("<IIQ", body)
                assert (user_data, length) == (5, 500000) and handle >= 1 << 31
                # Beside a buffer of the area.
                area[10:11] = b"x"
                ranges = [(handle, 3, 100000), (0, 10, 1)]
                if operation_name == "write":
                    data = pattern(placement.seed, 100001)
                    memory[80:100080], area[10:11] = data[:100000], data[100000:]
                opcode = raw.RDMA_WRITE if operation_name == "write" else raw.RDMA_READ
                device.write(raw.rdma(opcode, number, ranges, placement.descriptors))
                body = device.expect(raw.RDMA_COMPLETE)[2]
                assert struct.unpack("<QII", body)[1:] == (0, 100001)
                refused("EFAULT", lambda: os.write(device.fd, raw.send_ranges(
                    number, [(handle, 499999, 2)])))
                moved = memory[80:100080] + area[10:11]
                placement.answer(moved if operation_name == "read" else None)
                memory.close()
                area.close()
    # A message from there.
    with Connection() as connection:
        area = connection.device.map_area(1)
        memory, address = own_memory(1 << 16)
        memory[:] = pattern(9, 1 << 16)
        connection.device.write(raw.register_memory(address, 1 << 16))
        handle, = struct.unpack_from("<I", connection.device.expect(raw.MEMORY_REGISTERED)[2])
        connection.device.write(raw.send_ranges(connection.number, [(handle, 5, 60000)]))
        assert connection.peer.receive() == memory[5:60005]
        memory.close()
        area.close()


@event("MEMORY_UNREGISTERED")
def own_memory_ends():
    with Connection(ROCE, "--credits", 4, "--still") as connection:
        device = connection.device
        area = device.map_area(1)
        memory, address = own_memory(1 << 16)
        device.write(raw.register_memory(address, 1 << 16))
        handle, = struct.unpack_from("<I", device.expect(raw.MEMORY_REGISTERED)[2])
        device.write(raw.send_ranges(connection.number, [(handle, 0, 1 << 16)], flags=raw.QUIET),
                     raw.unregister_memory(handle, user_data=6))
        # The message is sent first, for which the peer has to give credits.
        refused("EFAULT", lambda: os.write(device.fd, raw.unregister_memory(handle)))
        assert not device.readable(0.5), "it is still being sent"
        assert len(connection.peer.receive()) == 1 << 16
        _, user_data, body = device.expect(raw.MEMORY_UNREGISTERED)
        assert (user_data, struct.unpack("<II", body)) == (6, (handle, 0))
        refused("EFAULT", lambda: os.write(device.fd, raw.send_ranges(
            connection.number, [(handle, 0, 1)])))
        memory.close()
        area.close()


# Operators.

@event("STATISTICS")
def counters_count():
    # Until its second request is answered, the peer stays.
    with Placement("write", "4096,1") as placement:
        device, number = placement.device, placement.number
        area = device.map_area(1)

        def place(length):
            area[0:length] = pattern(placement.seed, length)
            device.write(raw.rdma(raw.RDMA_WRITE, number, [(0, 0, length)], placement.descriptors))
            device.expect(raw.RDMA_COMPLETE)

        def query(which, user_data=0):
            device.write(raw.query_statistics(which, user_data=user_data))
            _, answered, body = device.expect(raw.STATISTICS)
            assert (answered, struct.unpack_from("<Q", body)[0]) == (user_data, which)
            return raw.counters(body, 8)

        place(4096)
        device.write(raw.send_pdu(number, b"w" + struct.pack("<I", placement.seed), flags=raw.QUIET))
        placement.await_request()
        # A message counts when it has completed, which may be after its answer came.
        eventually(lambda: query(number)["messages_sent"] == 1)
        for which in (number, 0):
            counted = query(which, user_data=which + 1)
            wanted = {"rdma_writes": 1, "rdma_write_bytes": 4096, "rdma_reads": 0,
                      "messages_received": 2, "messages_sent": 1, "message_bytes_sent": 5}
            assert {name: counted[name] for name in wanted} == wanted, counted
            assert counted["pdus_received"] >= 2 and counted["pdus_sent"] >= 1
        place(1)
        placement.answer()
        assert placement.disconnected() == (0, 2)
        # The context's sums stay.
        assert query(0)["rdma_writes"] == 2
        area.close()


@event("CONNECTIONS")
def an_operator_sees_connections():
    with Connection() as one, Connection(IWARP) as other:
        device = Device()
        device.write(raw.list_connections(user_data=3))
        _, user_data, body = device.expect(raw.CONNECTIONS)
        entries, left = raw.connections(body)
        assert (user_data, left) == (3, 0)
        listed = {entry["number"]: entry for entry in entries}
        assert set(listed) == {one.number, other.number}, entries
        entry = listed[one.number]
        assert (entry["phase"], entry["fabric"], entry["device"], entry["uid"]) == (4, 2, "rxe0", 0)
        assert entry["local"] + entry["peer"] == one.accepted[40:104]
        assert entry["memory"] > 0 and entry["receive_credits"] > 0
        device.write(raw.list_connections(min(listed)))
        entries, left = raw.connections(device.expect(raw.CONNECTIONS)[2])
        assert [entry["number"] for entry in entries] == [max(listed)] and left == 0
        device.close()


@operation
def an_operator_drops():
    device = Device()
    with Connection() as connection:
        device.write(raw.drop(connection.number))
        assert connection.disconnected() == (0, 10)
        connection.peer.end()
        refused("ENOENT", lambda: os.write(device.fd, raw.drop(connection.number)))
    device.works()
    device.close()
