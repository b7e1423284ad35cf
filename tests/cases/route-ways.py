#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# A connection goes to whoever claimed its client or its session, in whatever process, else by ticket; with every byte.
# lanes: stock
# kernels: default
# when: asked
# timeout: 600
"""Routing: docs/abi.md, "Routing"."""

import os
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import routelib as routing  # noqa: E402
from lib import check, raw  # noqa: E402
from routelib import GUID, SESSION, Client  # noqa: E402

FABRICS = {"10.9.0.1": 2, "fd00:9:0::1": 2, "10.9.1.1": 3, "fd00:9:1::1": 3}
TEMPLATE = routing.response()
FILETIME = 11644473600 * 10**7


def handed_over(what, connected, where, guid=GUID, session_id=0):
    check(f"{what}: fabric {connected.fabric}", connected.fabric == FABRICS[where])
    check(f"{what}: guid {connected.guid}", connected.guid == guid)
    check(f"{what}: session {connected.session_id:#x}", connected.session_id == session_id)
    port = 445 if connected.fabric == 2 else 5445
    check(f"{what}: our address", connected.local == raw.address(where, port))
    check(f"{what}: a peer's address", connected.peer[:2] == connected.local[:2] and any(connected.peer[2:]))


def by_client_guid(front, owner, where, *options, length=0):
    what = f"ClientGuid over {where} {options} {length}"
    request = routing.negotiate(length=length)
    owner.write(raw.set_client_guid(GUID))
    client = Client(where, *options)
    client.send(request)
    connected = routing.expect(owner, raw.CONNECTION_ROUTED)
    handed_over(what, connected, where)
    check(f"{what}: claim {connected.claim}", connected.claim == routing.CLAIM_CLIENT_GUID)
    wanted = min(64, options[1] if "--credits" in options else 255)
    check(f"{what}: credits {connected.credits}", connected.credits == wanted)
    check(f"{what}: the request", routing.message(owner, connected.number) == request)
    # It is not answered: its owner does that.
    answer = routing.response()
    owner.write(raw.send_pdu(connected.number, answer, flags=raw.QUIET))
    check(f"{what}: the owner's answer", client.receive() == answer)
    setup = routing.session_setup(0)
    client.send(setup)
    check(f"{what}: the next message", routing.message(owner, connected.number) == setup)
    routing.echo(client, owner, connected.number, 40000)
    check(f"{what}: the listener hears nothing of it", routing.quiet(front))
    client.disconnect()
    check(f"{what}: its end", routing.ended(owner, connected.number) == lib.REASON_PEER)
    owner.write(raw.clear_client_guid(GUID))


def check_answer(what, response, template, request):
    """MessageId, credits and SystemTime, and nothing else."""
    patched = bytearray(template)
    patched[24:32] = request[24:32]
    patched[14:16] = struct.pack("<H", max(1, min(struct.unpack_from("<H", request, 14)[0],
                                                  struct.unpack_from("<H", template, 14)[0])))
    patched[104:112] = response[104:112]
    check(f"{what}: the response: {response.hex()}", response == bytes(patched))
    (stamp,) = struct.unpack_from("<Q", response, 104)
    behind = time.time() - (stamp - FILETIME) / 10**7
    check(f"{what}: SystemTime is {behind} s ago", -1 < behind < 60 * lib.SLOW)


def by_session(front, owner, where, *options, token=b"spnego" * 30):
    """Behind a template. Both ends' preauthentication hashes agree."""
    what = f"session over {where} {options}"
    owner.write(raw.set_session_id(SESSION))
    request, setup = routing.negotiate(), routing.session_setup(token=token)
    client = Client(where, *options)
    client.send(request)
    response = client.receive()
    check_answer(what, response, TEMPLATE, request)
    check(f"{what}: nobody hears of it yet", routing.quiet(owner) and routing.quiet(front))
    client.send(setup)
    connected = routing.expect(owner, raw.CONNECTION_ROUTED)
    handed_over(what, connected, where, session_id=SESSION)
    check(f"{what}: claim {connected.claim}", connected.claim == routing.CLAIM_SESSION_ID)
    took_request = routing.message(owner, connected.number)
    took_response, template = routing.answered(owner, connected.number)
    took_setup = routing.message(owner, connected.number)
    check(f"{what}: template {template}", template == 2)
    check(f"{what}: the request", took_request == request)
    check(f"{what}: the response", took_response == response)
    check(f"{what}: SESSION_SETUP", took_setup == setup)
    check(f"{what}: preauthentication hashes",
          routing.preauth(request, response, setup)
          == routing.preauth(took_request, took_response, took_setup))
    routing.echo(client, owner, connected.number)
    check(f"{what}: the listener hears nothing of it", routing.quiet(front))
    owner.write(raw.disconnect(connected.number, 77))
    check(f"{what}: its end", routing.ended(owner, connected.number) == lib.REASON_LOCAL)
    check(f"{what}: the client's end", client.ended())
    owner.write(raw.clear_session_id(SESSION))


def by_ticket(front, owner, where, template):
    what = f"ticket over {where}, {'a' if template else 'no'} template"
    request, setup = routing.negotiate(b"somebody unknown"), routing.session_setup(0x1234)
    client = Client(where)
    client.send(request)
    response = client.receive() if template else None
    if template:
        client.send(setup)
    ready = routing.expect(front, raw.CONNECTION_READY)
    handed_over(what, ready, where, b"somebody unknown", 0x1234 if template else 0)
    check(f"{what}: credits {ready.credits}", ready.credits == 4)
    check(f"{what}: the listener", ready.listener == front.number)
    owner.write(raw.accept(ready.ticket, 99))
    _, user_data, body = owner.expect(raw.ACCEPTED, 20 * lib.SLOW)
    accepted = routing.Connected(raw.ACCEPTED, body)
    check(f"{what}: ACCEPTED {user_data} {accepted.status}", (user_data, accepted.status) == (99, 0))
    check(f"{what}: credits {accepted.credits}", accepted.credits == 64)
    check(f"{what}: sizes", accepted.sizes[:5] == ready.sizes[:5])
    number = accepted.number
    check(f"{what}: the number", number == ready.number)
    check(f"{what}: the request", routing.message(owner, number) == request)
    if template:
        check(f"{what}: the response", routing.answered(owner, number) == (response, 2))
        check(f"{what}: SESSION_SETUP", routing.message(owner, number) == setup)
    lib.refused(f"{what}: the ticket is good once", 2, lambda: owner.write(raw.accept(ready.ticket)))
    routing.echo(client, owner, number)
    client.disconnect()
    routing.ended(owner, number)


def rejected(front, where):
    client = Client(where)
    client.send(routing.negotiate(b"somebody unknown"))
    ready = routing.expect(front, raw.CONNECTION_READY)
    front.write(raw.record(raw.REJECT, ready.ticket))
    check(f"REJECT over {where}", client.ended())
    lib.refused("REJECT: the ticket is gone", 2, lambda: front.write(raw.accept(ready.ticket)))


front, owner = routing.listener(device=routing.in_pid_namespace()), routing.in_pid_namespace()
small = ("--max-send", 128, "--max-receive", 128)
for where in routing.ADDRESSES:
    by_client_guid(front, owner, where)
    by_ticket(front, owner, where, False)
    front.write(raw.set_negotiate_template(2, TEMPLATE, [(1, 1), (2, 1), (8, raw.ANY_ID)]))
    by_session(front, owner, where)
    by_ticket(front, owner, where, True)
    front.write(raw.set_negotiate_template(2, b""))
rejected(front, lib.ROCE)
rejected(front, lib.IWARP)

# Messages of many PDUs, up to what is held.
by_client_guid(front, owner, lib.ROCE, *small, length=20000)
by_client_guid(front, owner, lib.IWARP, length=65536)
by_client_guid(front, owner, lib.ROCE, "--credits", 1, length=65536)
front.write(raw.set_negotiate_template(2, TEMPLATE))
by_session(front, owner, lib.ROCE, *small, token=os.urandom(30000))
by_session(front, owner, lib.IWARP, token=os.urandom(60000))

# The longest template.
TEMPLATE = routing.response()
TEMPLATE += bytes(4096 - len(TEMPLATE))
front.write(raw.set_negotiate_template(2, TEMPLATE))
by_session(front, owner, lib.ROCE, *small)
by_session(front, owner, lib.IWARP)

# The listener's own context may be the owner.
front.write(raw.set_session_id(SESSION))
client = Client(lib.ROCE)
client.send(routing.negotiate())
response = client.receive()
client.send(routing.session_setup())
connected = routing.expect(front, raw.CONNECTION_ROUTED)
routing.message(front, connected.number)
check("in one's own context: the response", routing.answered(front, connected.number) == (response, 2))
routing.message(front, connected.number)
client.disconnect()
routing.ended(front, connected.number)

front.close()
owner.close()
routing.nothing_is_left()
lib.finish()
