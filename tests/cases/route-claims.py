#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# A claim is about listeners of its own network namespace and uid, has one owner, and ends with it.
# lanes: stock
# kernels: default
# timeout: 300
"""Claims: docs/abi.md, "Routing"."""

import errno
import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
import routelib as routing  # noqa: E402
from lib import check, raw, refused  # noqa: E402
from routelib import GUID, IWARP_PORT, PORT, SESSION, Client  # noqa: E402

ALICE, BOB = 1000, 1001
CLAIMS = 1024


def goes_to(what, where, wanted, others, port=0):
    """A client with GUID is `wanted`'s: by its claim, or by ticket at the listener (None, front)."""
    owner, front = wanted
    client = Client(where, "--port", port)
    client.send(routing.negotiate())
    if owner:
        connected = routing.expect(owner, raw.CONNECTION_ROUTED)
        routing.message(owner, connected.number)
    else:
        ready = routing.expect(front, raw.CONNECTION_READY)
        front.write(raw.record(raw.REJECT, ready.ticket))
        check(f"{what}: rejected", client.ended())
    for other in others:
        check(f"{what}: another hears of it", routing.quiet(other))
    client.disconnect()
    if owner:
        routing.ended(owner, connected.number)


def doubled():
    first, second = raw.Device(), routing.in_pid_namespace()
    for what, set_it, clear_it in (
            ("ClientGuid", raw.set_client_guid(GUID), raw.clear_client_guid(GUID)),
            ("session", raw.set_session_id(SESSION), raw.clear_session_id(SESSION))):
        refused(f"{what}: cleared without a claim", errno.ENOENT, lambda r=clear_it: first.write(r))
        first.write(set_it)
        refused(f"{what}: twice", errno.EEXIST, lambda r=set_it: first.write(r))
        refused(f"{what}: by a second", errno.EEXIST, lambda r=set_it: second.write(r))
        refused(f"{what}: a second clears it", errno.ENOENT, lambda r=clear_it: second.write(r))
        refused(f"{what}: still", errno.EEXIST, lambda r=set_it: second.write(r))
        first.write(clear_it)
        second.write(set_it)
        refused(f"{what}: changed hands", errno.EEXIST, lambda r=set_it: first.write(r))
    # The end of an owner, of whatever kind.
    second.kill()
    check("claims end with their owner", lib.until(lambda: taken(first, raw.set_client_guid(GUID))))
    first.write(raw.set_session_id(SESSION))
    first.close()
    third = raw.Device()
    third.write(raw.set_client_guid(GUID), raw.set_session_id(SESSION))
    third.close()
    for record, what in ((raw.set_client_guid(bytes(16)), "guid of zeroes"),
                         (raw.set_session_id(0), "session zero"),
                         (raw.clear_client_guid(bytes(16)), "clear guid of zeroes"),
                         (raw.clear_session_id(0), "clear session zero")):
        with raw_device() as device:
            refused(what, errno.EINVAL, lambda r=record: device.write(r))


class raw_device:
    def __enter__(self):
        self.device = raw.Device()
        return self.device

    def __exit__(self, *_):
        self.device.close()


def taken(device, record):
    try:
        device.write(record)
        return True
    except OSError as error:
        check(f"errno {error.errno}", error.errno == errno.EEXIST)
        return False


def limit():
    """A context has so many claims, of both kinds together; another has as many again."""
    first, second = raw.Device(), raw.Device()
    for device, salt in ((first, 1), (second, 2)):
        half = CLAIMS // 2
        device.write(*(raw.set_session_id(salt << 32 | number) for number in range(1, half + 1)))
        device.write(*(raw.set_client_guid(number.to_bytes(15, "little") + bytes([salt]))
                       for number in range(half)))
        refused("one session more", errno.ENOSPC, lambda d=device: d.write(raw.set_session_id(99 << 32)))
        refused("one guid more", errno.ENOSPC, lambda d=device: d.write(raw.set_client_guid(GUID)))
        refused("doubled at the limit", errno.EEXIST,
                lambda d=device, s=salt: d.write(raw.set_session_id(s << 32 | 1)))
        device.write(raw.clear_session_id(salt << 32 | 1), raw.set_session_id(98 << 32 | salt))
    first.close()
    second.close()


def users():
    """The same euid, or CAP_NET_ADMIN."""
    os.chmod("/dev/usmbd", 0o666)
    alice_front = routing.listener(device=routing.as_uid(ALICE), port=PORT, iwarp_port=IWARP_PORT)
    alice, bob, root = routing.as_uid(ALICE), routing.as_uid(BOB), routing.Local()
    low = raw.listen(mode=raw.MODE_ROUTE)
    refused("a low port without privileges", errno.EACCES, lambda: bob.write(low))
    where = lib.ROCE

    # Each can claim: nobody keeps others away.
    bob.write(raw.set_client_guid(GUID))
    goes_to("another uid's claim", where, (None, alice_front), [bob, root], PORT)
    root.write(raw.set_client_guid(GUID))
    goes_to("an administrator's claim", where, (root, None), [bob, alice_front], PORT)
    alice.write(raw.set_client_guid(GUID))
    goes_to("the listener's uid goes before", where, (alice, None), [bob, root, alice_front], PORT)
    second = routing.as_uid(ALICE)
    refused("a second one of the same uid", errno.EEXIST, lambda: second.write(raw.set_client_guid(GUID)))
    second.close()
    second = routing.Remote()
    refused("a second administrator", errno.EEXIST, lambda: second.write(raw.set_client_guid(GUID)))
    second.close()
    alice.write(raw.clear_client_guid(GUID))
    goes_to("the administrator's again", where, (root, None), [bob, alice], PORT)
    root.write(raw.clear_client_guid(GUID))
    goes_to("nobody's again", where, (None, alice_front), [bob, alice, root], PORT)

    # root's listeners are not for others.
    alice.write(raw.set_client_guid(GUID))
    root_front = routing.listener(where)
    goes_to("a user's claim on root's clients", where, (None, root_front), [alice, bob])
    for device in (alice_front, alice, bob, root, root_front):
        device.close()
    os.chmod("/dev/usmbd", 0o600)


def namespaces():
    """Another network namespace is another world, for root as well, and for its own root."""
    front = routing.listener(lib.ROCE)
    elsewhere = routing.Remote("unshare", "--net")
    own_root = routing.Remote("unshare", "--user", "--map-root-user")
    # In the listener's namespace, but an administrator only in its own.
    elsewhere.write(raw.set_client_guid(GUID))
    goes_to("another network namespace", lib.ROCE, (None, front), [elsewhere])
    here = routing.Local()
    here.write(raw.set_client_guid(GUID))
    goes_to("the same id in two namespaces", lib.ROCE, (here, None), [elsewhere, front])
    here.close()
    # euid 0 outside: the same uid as the listener's, whatever it is called inside.
    own_root.write(raw.set_client_guid(GUID))
    goes_to("root in a user namespace of root's", lib.ROCE, (own_root, None), [elsewhere, front])
    for device in (front, elsewhere, own_root):
        device.close()


def dying():
    """Owners and listeners that end before, while and after a connection is handed over."""
    front = routing.listener(lib.ROCE)
    front.write(raw.set_negotiate_template(0, routing.response()))

    owner = routing.in_pid_namespace()
    owner.write(raw.set_session_id(SESSION))
    client = Client(lib.ROCE)
    client.send(routing.negotiate())
    client.receive()
    owner.kill()
    lib.until(lambda: lib.statistics()["contexts"] == 1)
    client.send(routing.session_setup())
    ready = routing.expect(front, raw.CONNECTION_READY)
    check("an owner that died before: by ticket", ready.session_id == SESSION)
    front.write(raw.record(raw.REJECT, ready.ticket))
    check("rejected", client.ended())

    owner = routing.in_pid_namespace()
    owner.write(raw.set_client_guid(GUID))
    client = Client(lib.ROCE)
    client.send(routing.negotiate())
    # It never reads.
    time.sleep(1)
    owner.kill()
    check("an owner that died with all unread: the client's end", client.ended())

    # A claim that is taken back while the client speaks.
    owner = routing.Local()
    owner.write(raw.set_client_guid(GUID))
    client = Client(lib.ROCE)
    owner.write(raw.clear_client_guid(GUID))
    client.send(routing.negotiate(GUID, (0x0302,)))
    ready = routing.expect(front, raw.CONNECTION_READY)
    check("a claim taken back in time", ready.guid == GUID)
    # And one that comes too late: the ticket is out.
    owner.write(raw.set_client_guid(GUID))
    check("a claim that comes too late", routing.quiet(owner))
    owner.write(raw.accept(ready.ticket))
    connected = routing.expect(owner, raw.ACCEPTED)
    routing.message(owner, connected.number)
    routing.echo(client, owner, connected.number, 100)
    client.disconnect()
    routing.ended(owner, connected.number)

    # A listener that is closed: who is on the way is dropped, who arrived stays.
    arrived = Client(lib.ROCE)
    arrived.send(routing.negotiate())
    connected = routing.expect(owner, raw.CONNECTION_ROUTED)
    routing.message(owner, connected.number)
    on_the_way, offered = Client(lib.ROCE), Client(lib.ROCE)
    offered.send(routing.negotiate(b"somebody unknown", (0x0302,)))
    ready = routing.expect(front, raw.CONNECTION_READY)
    front.write(raw.record(raw.CLOSE_LISTENER, front.number.to_bytes(8, "little")))
    front.expect(raw.LISTENER_CLOSED)
    check("its unfinished connections end", on_the_way.ended() and offered.ended())
    refused("their tickets are gone", errno.ENOENT, lambda: owner.write(raw.accept(ready.ticket)))
    check("nothing comes behind LISTENER_CLOSED", routing.quiet(front))
    routing.echo(arrived, owner, connected.number, 100)
    arrived.disconnect()
    routing.ended(owner, connected.number)
    owner.close()
    front.close()
    routing.nothing_is_left()


def racing():
    """Claims and owners come and go while clients connect: each client is somebody's, or ends."""
    front = routing.listener(lib.ROCE)
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            owner = routing.Local()
            try:
                owner.write(raw.set_client_guid(GUID))
                owner.next(0.02)
            except (OSError, TimeoutError):
                pass
            owner.close()

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    offered = 0
    for _ in range(10):
        client = Client(lib.ROCE)
        if check(f"connected: {client.said}", client.connected):
            client.step("send " + routing.negotiate().hex())
            try:
                ready = routing.expect(front, raw.CONNECTION_READY, 1)
                front.write(raw.record(raw.REJECT, ready.ticket))
                offered += 1
            except TimeoutError:
                pass
            check("its end", client.ended(30))
        client.kill()
    stop.set()
    for thread in threads:
        thread.join()
    print(f"{offered} of 10 by ticket")
    front.close()
    routing.nothing_is_left()


doubled()
limit()
users()
namespaces()
dying()
racing()
check("contexts are left", lib.until(lambda: lib.statistics()["contexts"] == 0))
lib.finish()
