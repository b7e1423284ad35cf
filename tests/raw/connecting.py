# SPDX-License-Identifier: GPL-2.0-only
"""CONNECT: what it is answered by, and what is refused. (tests/cases/connect.py goes further.)"""

import os
import struct

import usmbd_raw as raw
from errnos import WELL_FORMED, pair
from memoryless import without_memory
from operations import event
from world import ROCE, Device, errno_of, name_of, refused

# Nobody has it: whoever connects to it waits for some seconds.
NOBODY_THERE = "10.9.0.77"


class Pair:
    """Two contexts with a connection between them, over the RoCE device of this side."""

    def __init__(self):
        self.server, self.client = Device(), Device()
        self.server.listen(ROCE)
        self.client.write(raw.connect(ROCE, user_data=5))
        ticket = self.server.expect(raw.CONNECTION_READY)[2][16:32]
        self.server.write(raw.accept(ticket))
        self.accepted = self.server.expect(raw.ACCEPTED)[2]
        _, self.user_data, self.connected = self.client.expect(raw.CONNECTED)
        self.number, self.status = struct.unpack_from("<QI", self.connected)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.server.close()


@event("CONNECTED")
def a_client_connects():
    with Pair() as pair:
        assert (pair.user_data, pair.status) == (5, 0), (pair.user_data, pair.status)
        # Fabric and addresses, as the other side has them, the addresses crossed.
        assert pair.connected[12:16] == pair.accepted[12:16]
        assert pair.connected[40:72] == pair.accepted[72:104]
        assert pair.connected[72:104] == pair.accepted[40:72] == raw.address(ROCE, 445)
        # Not QUIET: that one would fail with an event if it were not done when the connection ends.
        pair.client.write(raw.send_pdu(pair.number, b"hello", user_data=8))
        _, user_data, body = pair.client.expect(raw.PDU_SENT)
        assert (user_data, *struct.unpack_from("<QI", body)) == (8, pair.number, 0)
        assert pair.server.expect(raw.PDU_RECEIVED)[2][24:29] == b"hello"
        pair.client.write(raw.disconnect(pair.number, user_data=6))
        _, user_data, body = pair.client.expect(raw.DISCONNECTED)
        assert (user_data, *struct.unpack_from("<QI", body)) == (6, pair.number, 1)
    device = Device()
    device.write(raw.connect(ROCE, 4000, user_data=7))
    _, user_data, body = device.expect(raw.CONNECTED)
    number, status = struct.unpack_from("<QI", body)
    assert (user_data, number, status) == (7, 0, 8), (user_data, number, status)
    assert not any(body[12:72]) and body[72:] == raw.address(ROCE, 4000), body.hex()
    device.works()
    device.close()


@pair("RDMA_READ RDMA_WRITE", "EOPNOTSUPP")
def a_client_places_nothing(name):
    with Pair() as pair:
        record = bytearray(WELL_FORMED[name])
        record[16:24] = struct.pack("<Q", pair.number)
        refused("EOPNOTSUPP", lambda: os.write(pair.client.fd, record))
        pair.client.works()


@pair("CONNECT", "EAGAIN")
def too_many_connects(_):
    device = Device()
    device.write(*[raw.connect(NOBODY_THERE) for _ in range(64)])
    refused("EAGAIN", lambda: os.write(device.fd, raw.connect(NOBODY_THERE)))
    assert struct.unpack_from("<QI", device.expect(raw.CONNECTED)[2]) == (0, 9)
    while (got := errno_of(lambda: os.write(device.fd, raw.connect(NOBODY_THERE)))):
        assert name_of(got) == "EAGAIN", name_of(got)
        device.expect(raw.CONNECTED)
    device.close()


@pair("CONNECT", "ENOMEM")
def connect_without_memory(name):
    device = Device()
    without_memory(device, raw.connect(NOBODY_THERE), rehearsal=[WELL_FORMED[name]])
    device.close()
