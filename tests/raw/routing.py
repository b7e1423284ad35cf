# SPDX-License-Identifier: GPL-2.0-only
"""Routing: the rows of docs/abi.md's table that are about claims and templates, and their events.
Each byte of what the client sent and got is compared on both ends."""

import hashlib
import os
import struct

import smb2
import usmbd_raw as raw
from operations import EVENTS, event, operation
from world import IWARP, ROCE, Device, Peer, refused

GUID, OTHER_GUID = bytes(range(1, 17)), bytes(range(17, 33))
SESSION = 0xfedcba0987654321
PORTS = {"port": 4450, "iwarp_port": 4451}
PRESUMED = [(smb2.PREAUTHENTICATION, smb2.SHA_512), (smb2.ENCRYPTION, smb2.AES_128_GCM)]


class Router:
    """A listener that routes, with a template for 3.1.1, and a peer that talks SMB2 to it."""

    def __init__(self, where=ROCE, template=smb2.negotiate_response()):
        self.device = Device()
        self.template = template
        if template:
            self.device.write(raw.set_negotiate_template(2, template, PRESUMED))
        self.device.listen(where, mode=raw.MODE_ROUTE, **PORTS)
        self.peer = Peer(where, "--port", PORTS["port" if where == ROCE else "iwarp_port"])
        self.peer.connected()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.peer.__exit__()
        self.device.close()

    def negotiate(self, guid=GUID):
        self.request = smb2.negotiate_request(guid, message_id=1)
        self.peer.send(self.request)

    def answered(self):
        """The response that the peer got: the template, patched."""
        self.response = self.peer.receive()
        wanted = bytearray(self.template)
        wanted[smb2.MESSAGE_ID] = struct.pack("<Q", 1)
        wanted[smb2.SYSTEM_TIME] = self.response[smb2.SYSTEM_TIME]
        assert self.response == wanted, self.response.hex()
        time, = struct.unpack("<Q", self.response[smb2.SYSTEM_TIME])
        assert time > 130000000000000000, "SystemTime"

    def session_setup(self, session=SESSION):
        self.setup = smb2.session_setup_request(session, message_id=2)
        self.peer.send(self.setup)


def message(device, number):
    """The next message, which must be in one piece."""
    body = device.expect(raw.PDU_RECEIVED)[2]
    connection, total, offset, length, _ = struct.unpack_from("<QIIII", body)
    assert (connection, offset, length) == (number, 0, total)
    return body[24:24 + length]


def routed(device, claim, guid, session):
    """CONNECTION_ROUTED; the connection's number."""
    _, user_data, body = device.expect(raw.CONNECTION_ROUTED)
    number, matched = struct.unpack_from("<QI", body)
    assert (user_data, matched) == (0, claim)
    assert body[104:120] == guid and struct.unpack_from("<Q", body, 120)[0] == session
    return number


def answer(device, number):
    """NEGOTIATE_ANSWERED: the response."""
    body = device.expect(raw.NEGOTIATE_ANSWERED)[2]
    connection, length, template = struct.unpack_from("<QII", body)
    assert (connection, template) == (number, 2)
    return body[16:16 + length]


def preauthentication(*messages):
    """The hash of SMB 3.1.1 over these ([MS-SMB2] 3.3.5.4)."""
    value = bytes(64)
    for one in messages:
        value = hashlib.sha512(value + one).digest()
    return value


def still_talks(peer, device, number):
    device.write(raw.send_pdu(number, b"answer", flags=raw.QUIET))
    assert peer.receive() == b"answer"
    peer.send(b"next")
    assert message(device, number) == b"next"


@event("CONNECTION_ROUTED NEGOTIATE_ANSWERED")
def a_session_finds_its_context():
    for where in (ROCE, IWARP):
        owner = Device()
        owner.write(raw.set_session_id(SESSION), raw.set_session_id(SESSION + 1))
        with Router(where) as router:
            router.negotiate()
            router.answered()
            router.session_setup()
            number = routed(owner, raw.CLAIM_SESSION_ID, GUID, SESSION)
            request, response = message(owner, number), answer(owner, number)
            setup = message(owner, number)
            assert preauthentication(request, response, setup) == preauthentication(
                router.request, router.response, router.setup)
            still_talks(router.peer, owner, number)
        owner.close()


@operation
def a_client_finds_its_context():
    for where in (ROCE, IWARP):
        owner = Device()
        owner.write(raw.set_client_guid(GUID))
        with Router(where) as router:
            router.negotiate()
            number = routed(owner, raw.CLAIM_CLIENT_GUID, GUID, 0)
            assert message(owner, number) == router.request
            # NEGOTIATE is the owner's to answer.
            still_talks(router.peer, owner, number)
        owner.close()


def unclaimed(router, guid, session):
    """What matches nothing is offered to the listener's context, with its messages."""
    body = router.device.expect(raw.CONNECTION_READY)[2]
    assert any(body[96:120]) and body[120:136] == guid
    assert struct.unpack_from("<Q", body, 136)[0] == session
    router.device.write(raw.accept(body[16:32]))
    body = router.device.expect(raw.ACCEPTED)[2]
    number, status = struct.unpack_from("<QI", body)
    assert status == 0
    assert message(router.device, number) == router.request
    if session:
        assert answer(router.device, number) == router.response
        assert message(router.device, number) == router.setup
    still_talks(router.peer, router.device, number)


@operation
def a_template_answers_negotiate():
    with Router() as router:
        router.negotiate()
        router.answered()
        router.session_setup()
        unclaimed(router, GUID, SESSION)
        # Cleared, the next one is not answered.
        router.device.write(raw.set_negotiate_template(2, b""))
    with Router(template=None) as router:
        router.negotiate()
        unclaimed(router, GUID, 0)
    # A template that does not fit is not used: the request has no dialect 3.0.
    with Router(template=smb2.negotiate_response(smb2.DIALECT_300)) as router:
        router.negotiate()
        unclaimed(router, GUID, 0)


@operation
def a_claim_can_end():
    owner = Device()
    owner.write(raw.set_session_id(SESSION), raw.clear_session_id(SESSION))
    refused("ENOENT", lambda: os.write(owner.fd, raw.clear_session_id(SESSION)))
    with Router() as router:
        router.negotiate()
        router.answered()
        router.session_setup()
        unclaimed(router, GUID, SESSION)
    owner.works()
    owner.close()


@operation
def a_claim_on_a_client_can_end():
    owner = Device()
    owner.write(raw.set_client_guid(GUID), raw.clear_client_guid(GUID))
    refused("ENOENT", lambda: os.write(owner.fd, raw.clear_client_guid(GUID)))
    with Router(template=None) as router:
        router.negotiate()
        unclaimed(router, GUID, 0)
    owner.works()
    owner.close()


assert {"CONNECTION_ROUTED", "NEGOTIATE_ANSWERED"} <= set(EVENTS)
