# SPDX-License-Identifier: GPL-2.0-only
"""A function for each errno of each command that docs/abi.md has: the worked examples of what is
refused. The decorator says which pairs a function is for; run.py looks whether all are there."""

import mmap
import os
import select
import struct

import smb2
import usmbd_raw as raw
from world import (
    NOBODY, PAGE, ROCE, SLOW, Connection, Device, HalfReadable, Placement, errno_of, flood, in_child,
    interrupted, name_of, own_memory, refused)

PAIRS = {}

GUID, SESSION, TICKET = bytes(range(1, 17)), 0xfedcba0987654321, bytes(range(16))
RANGE, DESCRIPTOR = (0, 0, 4096), (0x1000, 1, 4096)

# A record of each command that is well-formed, whatever the device makes of it.
WELL_FORMED = {
    "HELLO": raw.hello(),
    "NOP": raw.record(raw.NOP),
    "SET_PARAMETERS": raw.set_parameters(),
    "SET_NEGOTIATE_TEMPLATE": raw.set_negotiate_template(0, smb2.negotiate_response()),
    "SET_SESSION_ID": raw.set_session_id(SESSION),
    "CLEAR_SESSION_ID": raw.clear_session_id(SESSION),
    "SET_CLIENT_GUID": raw.set_client_guid(GUID),
    "CLEAR_CLIENT_GUID": raw.clear_client_guid(GUID),
    "GET_MEMORY_PARAMETERS": raw.record(raw.GET_MEMORY_PARAMETERS),
    "REGISTER_MEMORY": raw.register_memory(0x1000, 4096),
    "UNREGISTER_MEMORY": raw.unregister_memory(0x80000000),
    "LISTEN": raw.listen(ROCE, port=4000, iwarp_port=4001),
    "CLOSE_LISTENER": raw.close_listener(77),
    "ACCEPT": raw.accept(TICKET),
    "REJECT": raw.reject(TICKET),
    "CONNECT": raw.connect("127.0.0.1", 4000),
    "SEND_PDU": raw.send_pdu(12345, b"hello"),
    "RDMA_READ": raw.rdma(raw.RDMA_READ, 12345, [RANGE], [DESCRIPTOR]),
    "RDMA_WRITE": raw.rdma(raw.RDMA_WRITE, 12345, [RANGE], [DESCRIPTOR]),
    "DISCONNECT": raw.disconnect(12345),
    "QUERY_STATISTICS": raw.query_statistics(),
    "LIST_CONNECTIONS": raw.list_connections(),
    "DROP": raw.drop(12345),
}


def pair(names, errno):
    """This function shows that these commands give that errno; it gets the command's name."""
    def add(function):
        for name in names.split():
            assert (name, errno) not in PAIRS, (name, errno)
            PAIRS[name, errno] = function
        return function
    return add


def write(device, record):
    return lambda: os.write(device.fd, record)


def on_new(errno, record):
    """A new context refuses it, and works afterwards."""
    device = Device()
    refused(errno, write(device, record))
    device.works()
    device.close()


# What every command has.

@pair(" ".join(WELL_FORMED), "EINVAL")
def malformed(name):
    """Wrong in the header. (fields.py goes through the bodies.)"""
    record = WELL_FORMED[name]
    length, opcode, flags, user_data = raw.HEADER.unpack_from(record)
    body = record[16:]
    wrong = [raw.HEADER.pack(length, opcode, flags | 0x8000, user_data) + body,
             raw.HEADER.pack(length + 4, opcode, flags, user_data) + body + bytes(4),
             raw.HEADER.pack(length + 8, opcode, flags, user_data) + body,
             raw.HEADER.pack(8, opcode, flags, user_data) + body, record[:15]]
    if body:
        wrong += [record[:-8], raw.HEADER.pack(length - 8, opcode, flags, user_data) + body[:-8]]
    device = Device()
    for record in wrong:
        refused("EINVAL", write(device, record))
    device.works()
    device.close()


def unreadable(name):
    """The call's own memory ends where the record's header, or its body, should begin."""
    record = WELL_FORMED[name]
    device = Device()
    for readable in {0, min(16, len(record) - 8)}:
        half = HalfReadable(record, readable)
        refused("EFAULT", write(device, half.view))
    device.works()
    device.close()


for _name in WELL_FORMED:
    if "EFAULT" not in PAGE.commands[_name].errnos:
        PAIRS[_name, "EFAULT"] = unreadable


# Event slots.

@pair("HELLO GET_MEMORY_PARAMETERS QUERY_STATISTICS LIST_CONNECTIONS", "EAGAIN")
def answers_unread(name):
    device = Device()
    os.write(device.fd, WELL_FORMED[name] * 16)
    refused("EAGAIN", write(device, WELL_FORMED[name]))
    for _ in range(16):
        device.next()
    device.write(WELL_FORMED[name])
    device.works()
    device.close()


@pair("NOP LISTEN UNREGISTER_MEMORY", "EAGAIN")
def no_slot(name):
    device = Device()
    if name == "UNREGISTER_MEMORY":
        area = device.map_area(1)
        memory, address = own_memory(4096)
        device.write(raw.register_memory(address, 4096))
        handle, = struct.unpack_from("<I", device.expect(raw.MEMORY_REGISTERED)[2])
        record = raw.unregister_memory(handle)
    else:
        record = WELL_FORMED[name]
    flood(device)
    refused("EAGAIN", write(device, record))
    device.works()
    device.write(record)
    device.works()
    if name == "UNREGISTER_MEMORY":
        memory.close()
        area.close()
    device.close()


@pair("REGISTER_MEMORY", "EAGAIN")
def no_slot_for_registration(_):
    device = Device()
    area = device.map_area(1)
    memory, address = own_memory(4096)
    flood(device)
    refused("EAGAIN", write(device, raw.register_memory(address, 4096)))
    device.works()
    device.write(raw.register_memory(address, 4096))
    device.expect(raw.MEMORY_REGISTERED)
    area.close()
    memory.close()
    device.close()


@pair("CLOSE_LISTENER", "EAGAIN")
def no_slot_for_an_end(_):
    device = Device()
    listener = device.listen(ROCE, port=4000, iwarp_port=4001)
    flood(device)
    refused("EAGAIN", write(device, raw.close_listener(listener)))
    device.works()
    device.write(raw.close_listener(listener))
    device.expect(raw.LISTENER_CLOSED)
    device.close()


# Names that are not known.

@pair("CLEAR_SESSION_ID CLEAR_CLIENT_GUID CLOSE_LISTENER ACCEPT REJECT SEND_PDU RDMA_READ RDMA_WRITE"
      " DISCONNECT DROP", "ENOENT")
def unknown(name):
    on_new("ENOENT", WELL_FORMED[name])


@pair("QUERY_STATISTICS", "ENOENT")
def unknown_connection(_):
    on_new("ENOENT", raw.query_statistics(12345))


@pair("SET_SESSION_ID SET_CLIENT_GUID", "EEXIST")
def claimed(name):
    record = WELL_FORMED[name]
    owner, other = Device(), Device()
    owner.write(record)
    refused("EEXIST", write(owner, record))
    refused("EEXIST", write(other, record))
    owner.close()
    # An owner's end ends its claims.
    other.write(record)
    other.works()
    other.close()


@pair("SET_SESSION_ID SET_CLIENT_GUID", "ENOSPC")
def too_many_claims(name):
    device = Device()

    def claim(number):
        if name == "SET_SESSION_ID":
            return raw.set_session_id(number)
        return raw.set_client_guid(struct.pack("<QQ", number, 0))
    os.write(device.fd, b"".join(claim(number) for number in range(1, 1025)))
    refused("ENOSPC", write(device, claim(1025)))
    device.works()
    device.write(WELL_FORMED["CLEAR" + name[3:]].replace(WELL_FORMED[name][16:], claim(9)[16:]))
    device.write(claim(1025))
    device.works()
    device.close()


# Listeners.

@pair("LISTEN", "EACCES")
def low_port(_):
    def work():
        device = Device()
        for ports in ({"port": 445, "iwarp_port": 5445}, {"port": 4450, "iwarp_port": 1023}):
            refused("EACCES", write(device, raw.listen(ROCE, **ports)))
        device.listen(ROCE, port=1024, iwarp_port=1025)
        device.works()
    os.chmod("/dev/usmbd", 0o666)
    in_child(work, uid=NOBODY)
    os.chmod("/dev/usmbd", 0o600)


@pair("LISTEN", "EMFILE")
def too_many_listeners(_):
    device = Device()
    for number in range(16):
        device.listen(ROCE, port=4000 + number, iwarp_port=4100 + number)
    refused("EMFILE", write(device, raw.listen(ROCE, port=4200, iwarp_port=4201)))
    device.works()
    device.close()


# Connections.

def ended(work):
    """A context whose connection has ended, with DISCONNECTED still to be read."""
    with Connection() as connection:
        connection.peer.disconnect()
        poller = select.poll()
        poller.register(connection.device.fd, select.POLLIN)
        assert poller.poll(20000 * SLOW), "no end comes"
        work(connection)
        assert connection.disconnected() == (0, 2)
        connection.device.works()


@pair("SEND_PDU RDMA_READ RDMA_WRITE DISCONNECT", "ENOTCONN")
def behind_the_end(name):
    def work(connection):
        record = bytearray(WELL_FORMED[name])
        record[16:24] = struct.pack("<Q", connection.number)
        refused("ENOTCONN", write(connection.device, record))
    ended(work)


@pair("SEND_PDU", "EMSGSIZE")
def message_too_long(_):
    with Connection(ROCE, "--max-fragmented", 131072) as connection:
        record = raw.send_pdu(connection.number, bytes(131073))
        refused("EMSGSIZE", write(connection.device, record))
        connection.device.write(raw.send_pdu(connection.number, bytes(131072), flags=raw.QUIET))
        assert len(connection.peer.receive()) == 131072
        connection.device.works()


@pair("RDMA_READ RDMA_WRITE", "EMSGSIZE")
def transfer_too_long(name):
    with Connection(max_read_write_size=65536) as connection:
        area = connection.device.map_area(1)
        area[0] = 1
        record = raw.rdma(getattr(raw, name), connection.number, [(0, 0, 65537)],
                          [(0x1000, 1, 1 << 20)])
        refused("EMSGSIZE", write(connection.device, record))
        connection.device.works()
        area.close()


def no_room(connection):
    """Messages for a peer that takes none, until there is no room: such a record, and how many it
    will take."""
    os.set_blocking(connection.device.fd, False)
    record = raw.send_pdu(connection.number, bytes(65536), flags=raw.QUIET)
    for taken in range(4096):
        if (number := errno_of(write(connection.device, record))):
            assert name_of(number) == "EAGAIN", name_of(number)
            return record, taken
    raise AssertionError("256 MiB were taken for a peer that takes nothing")


def many(connection, record):
    """Takes what has no payload: up to as many as may wait."""
    os.set_blocking(connection.device.fd, False)
    for _ in range(1 << 16):
        if (number := errno_of(write(connection.device, record))):
            assert name_of(number) == "EAGAIN", name_of(number)
            return
    raise AssertionError("65536 were taken")


@pair("SEND_PDU", "EAGAIN")
def send_queue_full(_):
    with Connection(ROCE, "--credits", 4, "--still") as connection:
        record, taken = no_room(connection)
        # Once the peer takes them, SEND_READY tells that there is room.
        for _ in range(taken):
            connection.peer.receive()
        connection.device.expect(raw.SEND_READY)
        connection.device.write(record)
        flood(connection.device)
        refused("EAGAIN", write(connection.device, raw.send_pdu(connection.number, b"x")))
        connection.device.works()


@pair("SEND_PDU", "EINTR")
def waiting_message(_):
    with Connection(ROCE, "--credits", 4, "--still") as connection:
        record, _ = no_room(connection)
        os.set_blocking(connection.device.fd, True)
        assert interrupted(write(connection.device, record)), "it did not wait"
        connection.device.works()


def full_of_transfers(name):
    """A connection whose queue has no room for another transfer, and a transfer."""
    if name == "RDMA_READ":
        # Of 8 MiB, so that each takes its time.
        connection = Placement("read", 8 << 20)
        descriptors = connection.descriptors
    else:
        # Behind a message that the peer has no credits for, it waits as long as one wants.
        connection = Connection(ROCE, "--credits", 4, "--still")
        descriptors = [(0x1000, 1, 8 << 20)]
        no_room(connection)
    # Kept, or it would be unmapped on return, and whoever finds room finds no memory.
    connection.area = connection.device.map_area(8)
    for buffer in range(8):
        connection.area[buffer << 20] = 1
    ranges = [(buffer, 0, 1 << 20) for buffer in range(8)]
    record = raw.rdma(getattr(raw, name), connection.number, ranges, descriptors, flags=raw.QUIET)
    many(connection, record)
    return connection, record


@pair("RDMA_READ RDMA_WRITE", "EAGAIN")
def transfers_full(name):
    connection, record = full_of_transfers(name)
    with connection:
        for _ in range(20):
            flood(connection.device)
            if (got := errno_of(write(connection.device, record))):
                break
            # One of those under way was done meanwhile, and its slot came free.
            many(connection, record)
        assert name_of(got) == "EAGAIN", name_of(got)
        connection.device.write(raw.disconnect(connection.number))
        connection.disconnected()
        connection.device.works()


@pair("RDMA_READ RDMA_WRITE", "EINTR")
def waiting_transfer(name):
    connection, record = full_of_transfers(name)
    with connection:
        for _ in range(20):
            os.set_blocking(connection.device.fd, True)
            if interrupted(write(connection.device, record), 0.05):
                break
            # One of those under way was done meanwhile.
            many(connection, record)
        else:
            raise AssertionError("it did not wait")
        connection.device.write(raw.disconnect(connection.number))
        connection.disconnected()
        connection.device.works()


# Memory.

def bad_ranges(connection, command):
    """Ranges that are not the caller's."""
    device = connection.device
    refused("EFAULT", write(device, command([RANGE])))
    area = device.map_area(4)
    area[0] = 1
    for what in ([(1, 0, 8)], [(64, 0, 8)], [(0x80000000, 0, 8)], [(0, (1 << 20) - 8, 9)],
                 [(0, 0, 0), (0, 0, 8)], [(0, 0xffffffff, 2)], [(0, 0, 8), (1, 0, 8)]):
        refused("EFAULT", write(device, command(what)))
    # Another process's number is nobody's here.
    record = command([(0, 0, 8)])
    in_child(lambda: refused("EFAULT", write(device, record)))
    area.close()
    refused("EFAULT", write(device, record))
    device.works()


@pair("RDMA_READ RDMA_WRITE", "EFAULT")
def not_our_memory(name):
    unreadable(name)
    with Connection() as connection:
        bad_ranges(connection, lambda ranges: raw.rdma(
            getattr(raw, name), connection.number, ranges, [(0x1000, 1, 1 << 20)]))
        record = raw.rdma(getattr(raw, name), connection.number, [RANGE], [DESCRIPTOR])
        for readable in (32, 48):
            half = HalfReadable(record, readable)
            refused("EFAULT", write(connection.device, half.view))
        connection.device.works()


@pair("SEND_PDU", "EFAULT")
def not_our_message(_):
    unreadable("SEND_PDU")
    with Connection() as connection:
        bad_ranges(connection, lambda ranges: raw.send_ranges(
            connection.number, ranges, length=max(sum(one[2] for one in ranges), 1)))
        half = HalfReadable(raw.send_pdu(connection.number, bytes(8192)), 4096)
        refused("EFAULT", write(connection.device, half.view))
        connection.device.works()


@pair("REGISTER_MEMORY", "EFAULT")
def not_our_registration(_):
    unreadable("REGISTER_MEMORY")
    device = Device()
    memory, address = own_memory(8192)
    refused("EFAULT", write(device, raw.register_memory(address, 8192)))
    area = device.map_area(1)
    other = Device()
    refused("EFAULT", write(other, raw.register_memory(address, 8192)))
    # A child has not mapped it.
    in_child(lambda: refused("EFAULT", write(device, raw.register_memory(address, 8192))))
    refused("EFAULT", write(device, raw.register_memory(0x1000, 4096)))
    refused("EFAULT", write(device, raw.register_memory(address, 1 << 20)))
    fixed, where = own_memory(4096, prot=mmap.PROT_READ)
    refused("EFAULT", write(device, raw.register_memory(where, 4096)))
    device.write(raw.register_memory(address + 1, 8190))
    device.expect(raw.MEMORY_REGISTERED)
    device.works()
    for one in (fixed, memory, area):
        one.close()
    other.close()
    device.close()


@pair("UNREGISTER_MEMORY", "EFAULT")
def not_our_handle(_):
    unreadable("UNREGISTER_MEMORY")
    device = Device()
    memory, address = own_memory(4096)
    refused("EFAULT", write(device, raw.unregister_memory(0x80000000)))
    area = device.map_area(1)
    for handle in (0, 63, 0x80000000, 0xffffffff):
        refused("EFAULT", write(device, raw.unregister_memory(handle)))
    device.write(raw.register_memory(address, 4096))
    handle, = struct.unpack_from("<I", device.expect(raw.MEMORY_REGISTERED)[2])
    in_child(lambda: refused("EFAULT", write(device, raw.unregister_memory(handle))))
    device.write(raw.unregister_memory(handle))
    refused("EFAULT", write(device, raw.unregister_memory(handle)))
    device.expect(raw.MEMORY_UNREGISTERED)
    device.works()
    area.close()
    memory.close()
    device.close()


# Operators.

@pair("LIST_CONNECTIONS DROP", "EPERM")
def no_operator(name):
    def work():
        device = Device()
        refused("EPERM", write(device, WELL_FORMED[name]))
        device.works()
    os.chmod("/dev/usmbd", 0o666)
    in_child(work, uid=NOBODY)
    os.chmod("/dev/usmbd", 0o600)
    # The opener's power counts, whoever calls.
    device = Device()
    expected = "ENOENT" if name == "DROP" else "no error"

    def call():
        got = name_of(errno_of(write(device, WELL_FORMED[name])))
        assert got == expected, got
    in_child(call, uid=NOBODY)
    device.works()
    device.close()
