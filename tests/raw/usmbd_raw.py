# SPDX-License-Identifier: GPL-2.0-only
"""The bytes of /dev/usmbd, as docs/abi.md has them: struct, os and mmap, no library of ours."""

import mmap
import os
import select
import socket
import struct

HELLO, NOP = 0x0001, 0x0002
SET_PARAMETERS, SET_NEGOTIATE_TEMPLATE = 0x0010, 0x0011
SET_SESSION_ID, CLEAR_SESSION_ID, SET_CLIENT_GUID, CLEAR_CLIENT_GUID = (
    0x0012, 0x0013, 0x0014, 0x0015)
GET_MEMORY_PARAMETERS, REGISTER_MEMORY, UNREGISTER_MEMORY = 0x0020, 0x0021, 0x0022
LISTEN, CLOSE_LISTENER, ACCEPT, REJECT, CONNECT = 0x0030, 0x0031, 0x0032, 0x0033, 0x0034
SEND_PDU, RDMA_READ, RDMA_WRITE, DISCONNECT = 0x0040, 0x0041, 0x0042, 0x0043
QUERY_STATISTICS, LIST_CONNECTIONS, DROP = 0x0050, 0x0051, 0x0052

HELLO_DONE, NOP_DONE = 0x8001, 0x8002
MEMORY_PARAMETERS, MEMORY_REGISTERED, MEMORY_UNREGISTERED = 0x8020, 0x8021, 0x8022
LISTENING, LISTENER_CLOSED, LISTENER_CHANGED = 0x8030, 0x8031, 0x8032
CONNECTION_READY, ACCEPTED, CONNECTION_ROUTED, NEGOTIATE_ANSWERED = (
    0x8033, 0x8034, 0x8035, 0x8036)
CONNECTED = 0x8037
PDU_RECEIVED, PDU_SENT, RDMA_COMPLETE, DISCONNECTED, SEND_READY = (
    0x8040, 0x8041, 0x8042, 0x8043, 0x8044)
STATISTICS, CONNECTIONS = 0x8050, 0x8051

QUIET, INVALIDATE, RANGES = 1, 2, 4
INVALIDATED = 1
MODE_TICKET, MODE_ROUTE = 0, 1
ANY_ID = 0xffff
AT_MOST_ONE = 1
CLAIM_CLIENT_GUID, CLAIM_SESSION_ID = 1, 2
BUFFER_SIZE = 1 << 20
STATUS_PAGE_OFFSET = 1 << 40
VERSION = 0x00010000

HEADER = struct.Struct("<IHHQ")         # length, opcode, flags, user_data
BATCH = struct.Struct("<IIII")          # count, bytes, still queued, length of the next
RANGE = struct.Struct("<IIII")          # buffer, offset, length, reserved
DESCRIPTOR = struct.Struct("<QII")      # offset, token, length


def record(opcode, body=b"", flags=0, user_data=0):
    """One command, padded with zeroes to a multiple of 8."""
    padding = -len(body) % 8
    return HEADER.pack(16 + len(body) + padding, opcode, flags, user_data) + body + bytes(padding)


def address(text=None, port=0):
    """A SocketAddress; without a text, any."""
    if text is None:
        return struct.pack("<HHIII16x", 0, port, 0, 0, 0)
    if ":" in text:
        return struct.pack("<HHIII", 10, port, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, text)
    return struct.pack("<HHIII4s12x", 2, port, 0, 0, 0, socket.inet_aton(text))


def hello(version=VERSION, features=0, user_data=0):
    return record(HELLO, struct.pack("<IIQ", version, 0, features), user_data=user_data)


def set_parameters(**values):
    """Those that are not named stay as they are."""
    names = ["receive_credit_max", "send_credit_target", "max_send_size", "max_receive_size",
             "max_fragmented_recv_size", "max_read_write_size", "keepalive_interval", "reserved"]
    return record(SET_PARAMETERS, struct.pack("<8I", *(values.get(name, 0) for name in names)))


def set_negotiate_template(number, response, presumptions=()):
    """presumptions: (context type, id)."""
    body = struct.pack("<IIHHHH", number, len(response), len(presumptions), 0, 0, 0)
    body += b"".join(struct.pack("<HHI", *one, 0) for one in presumptions)
    return record(SET_NEGOTIATE_TEMPLATE, body + response)


def set_session_id(session_id):
    return record(SET_SESSION_ID, struct.pack("<Q", session_id))


def clear_session_id(session_id):
    return record(CLEAR_SESSION_ID, struct.pack("<Q", session_id))


def set_client_guid(guid):
    return record(SET_CLIENT_GUID, guid)


def clear_client_guid(guid):
    return record(CLEAR_CLIENT_GUID, guid)


def listen(text=None, port=0, iwarp_port=0, backlog=0, mode=MODE_TICKET, user_data=0):
    body = address(text, port) + struct.pack("<HHHH", iwarp_port, mode, backlog, 0)
    return record(LISTEN, body, user_data=user_data)


def close_listener(listener, user_data=0):
    return record(CLOSE_LISTENER, struct.pack("<II", listener, 0), user_data=user_data)


def register_memory(address, length, user_data=0):
    return record(REGISTER_MEMORY, struct.pack("<QQ", address, length), user_data=user_data)


def unregister_memory(handle, user_data=0):
    return record(UNREGISTER_MEMORY, struct.pack("<II", handle, 0), user_data=user_data)


def accept(ticket, user_data=0):
    return record(ACCEPT, ticket, user_data=user_data)


def connect(text, port=0, local=None, user_data=0):
    return record(CONNECT, address(text, port) + address(local) + bytes(8), user_data=user_data)


def send_pdu(connection, payload, invalidate=None, flags=0, user_data=0):
    if invalidate is not None:
        flags |= INVALIDATE
    body = struct.pack("<QII", connection, len(payload), invalidate or 0) + payload
    return record(SEND_PDU, body, flags, user_data)


def reject(ticket):
    return record(REJECT, ticket)


def send_ranges(connection, ranges, length=None, invalidate=None, flags=0, user_data=0):
    """As send_pdu, for a message that stands in ranges; `length` if it is not their sum."""
    if invalidate is not None:
        flags |= INVALIDATE
    if length is None:
        length = sum(one[2] for one in ranges)
    body = struct.pack("<QII", connection, length, invalidate or 0)
    body += b"".join(RANGE.pack(*one, 0) for one in ranges)
    return record(SEND_PDU, body, flags | RANGES, user_data)


def rdma(opcode, connection, ranges, descriptors, flags=0, user_data=0):
    """ranges: (buffer, offset, length); descriptors: (offset, token, length)."""
    body = struct.pack("<QHHI", connection, len(ranges), len(descriptors), 0)
    body += b"".join(RANGE.pack(*r, 0) for r in ranges)
    body += b"".join(DESCRIPTOR.pack(*d) for d in descriptors)
    return record(opcode, body, flags, user_data)


def disconnect(connection, user_data=0):
    return record(DISCONNECT, struct.pack("<Q", connection), user_data=user_data)


def query_statistics(connection=0, user_data=0):
    return record(QUERY_STATISTICS, struct.pack("<Q", connection), user_data=user_data)


def list_connections(after=0, user_data=0):
    return record(LIST_CONNECTIONS, struct.pack("<Q", after), user_data=user_data)


def drop(connection, user_data=0):
    return record(DROP, struct.pack("<Q", connection), user_data=user_data)


COUNTERS = ["pdus_sent", "pdus_received", "messages_sent", "messages_received", "message_bytes_sent",
            "message_bytes_received", "rdma_reads", "rdma_read_bytes", "rdma_writes",
            "rdma_write_bytes", "remote_invalidations"]


def counters(body, at=0):
    """Counters, by their names."""
    return dict(zip(COUNTERS, struct.unpack_from("<11Q", body, at)))


def connections(body):
    """The entries of CONNECTIONS, and how many did not fit."""
    count, left = struct.unpack_from("<II", body)
    entries = []
    for at in range(8, 8 + 216 * count, 216):
        number, phase, fabric = struct.unpack_from("<QII", body, at)
        device = body[at + 80:at + 112].rstrip(b"\0").decode()
        uid, send_credits, receive_credits, memory = struct.unpack_from("<IHHQ", body, at + 112)
        entries.append({"number": number, "phase": phase, "fabric": fabric,
                        "local": body[at + 16:at + 48], "peer": body[at + 48:at + 80],
                        "device": device, "uid": uid, "send_credits": send_credits,
                        "receive_credits": receive_credits, "memory": memory,
                        "counters": counters(body, at + 128)})
    return entries, left


def events(batch):
    """The events of one read(): (opcode, flags, user_data, body)."""
    count, length, _, _ = BATCH.unpack_from(batch)
    assert length == len(batch), (length, len(batch))
    at = BATCH.size
    for _ in range(count):
        size, opcode, flags, user_data = HEADER.unpack_from(batch, at)
        yield opcode, flags, user_data, batch[at + HEADER.size:at + size]
        at += size
    assert at == length, (at, length)


class Device:
    """One open /dev/usmbd."""

    def __init__(self, flags=0, fd=None):
        self.fd = os.open("/dev/usmbd", os.O_RDWR | flags) if fd is None else fd
        self.queue = []

    def fileno(self):
        return self.fd

    def close(self):
        os.close(self.fd)

    def write(self, *records):
        """All of them: a batch may end early, and what then stands in the way is the rest's errno."""
        data = b"".join(records)
        while data:
            data = data[os.write(self.fd, data):]

    def read(self, size):
        """A batch of events."""
        return os.read(self.fd, size)

    def next(self, timeout=20.0, size=2 << 20):
        """The next event."""
        if not self.queue:
            ready, _, _ = select.select([self.fd], [], [], timeout)
            if not ready:
                raise TimeoutError("no event came")
            self.queue = list(events(self.read(size)))
        return self.queue.pop(0)

    def expect(self, opcode, timeout=20.0):
        """The next event, which must be this one: (flags, user_data, body).

        LISTENER_CHANGED may come at any time, and is passed over if it is not awaited.
        """
        got, flags, user_data, body = self.next(timeout)
        while got == LISTENER_CHANGED and opcode != got:
            got, flags, user_data, body = self.next(timeout)
        assert got == opcode, f"event {got:#x} and not {opcode:#x}: {body.hex()}"
        return flags, user_data, body

    def listen(self, text=None, **more):
        """Listens; the listener's number."""
        self.write(listen(text, **more))
        _, _, body = self.expect(LISTENING)
        status, number = struct.unpack("<II", body)
        assert status == 0, f"LISTEN: status {status}"
        return number

    def map_area(self, buffers):
        return mmap.mmap(self.fd, buffers * BUFFER_SIZE, mmap.MAP_SHARED,
                         mmap.PROT_READ | mmap.PROT_WRITE, offset=0)

    def map_status_page(self):
        return mmap.mmap(self.fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ, offset=STATUS_PAGE_OFFSET)
