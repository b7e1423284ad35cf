#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# Counters of one's own; every connection of the network namespace, and their end, for an admin alone.
# lanes: stock
# timeout: 200
"""docs/abi.md, QUERY_STATISTICS, LIST_CONNECTIONS, DROP; docs/operating.md, usmbdctl."""

import errno
import json
import os
import re
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw, refused  # noqa: E402

NEGOTIATING, ROUTING, OFFERED, SERVING, LINGERING, DRAINING = range(1, 7)
DROPPED = 10
OVERFLOW_UID = 65534


def statistics(device, connection=0):
    device.write(raw.query_statistics(connection, 77))
    flags, user_data, body = device.expect(raw.STATISTICS)
    check("STATISTICS echoes", (flags, user_data) == (0, 77) and len(body) == 96)
    check("STATISTICS is about", struct.unpack_from("<Q", body)[0] == connection)
    return raw.counters(body, 8)


def listed(device, after=0):
    """All connections after this one, batch by batch."""
    entries = []
    while True:
        device.write(raw.list_connections(after, 78))
        _, user_data, body = device.expect(raw.CONNECTIONS)
        more, left = raw.connections(body)
        check("CONNECTIONS is as long as it says", user_data == 78 and len(body) == 8 + 216 * len(more))
        entries += more
        if not left:
            return entries
        check("a full batch", len(more) == 32)
        after = more[-1]["number"]


def by_number(device, number):
    return next((entry for entry in listed(device) if entry["number"] == number), None)


def counters():
    """They count, for the connection and for the context, and stay when the connection is gone."""
    server = lib.Server(lib.ROCE)
    check("a new context: zero", not any(statistics(server.device).values()))
    refused("no such connection", errno.ENOENT,
            lambda: os.write(server.device.fd, raw.query_statistics(1 << 40)))
    process = lib.peer("echo", lib.ROCE, "--sizes", "1000,200000", "--count", 3)
    server.serve(lambda: server.reasons)
    lib.ended_well("echo", process)
    # Two sizes, three times, there and back. The peer goes when it has the last one; its device may
    # not have acknowledged that one by then, and it counts as not sent, as its event says.
    once = statistics(server.device)
    unsent = server.unsent
    check(f"not sent: {unsent}", unsent in ([], [200000]))
    check(f"messages {once}", (once["messages_sent"], once["messages_received"]) == (6 - len(unsent), 6))
    check(f"bytes {once}", once["message_bytes_sent"] == 603000 - sum(unsent)
          and once["message_bytes_received"] == 603000)
    check(f"PDUs {once}", once["pdus_received"] > 400 and once["pdus_sent"] > 400)
    module = lib.statistics()
    check(f"the module has more: {module}", all(module[name] >= once[name] for name in once))

    # Another one, still there: its own, and the sum.
    process = lib.peer("hold", lib.ROCE, "--seconds", 60)
    server.accepted.clear()
    server.serve(lambda: server.accepted)
    number = server.accepted[0]
    own = statistics(server.device, number)
    check(f"a new connection's {own}", own["pdus_received"] >= 1 and own["messages_received"] == 0)
    both = statistics(server.device)
    after = statistics(server.device, number)
    check(f"the sum {both}", all(own[name] <= both[name] - once[name] <= after[name] for name in once))
    other = raw.Device()
    refused("another context's connection", errno.ENOENT,
            lambda: os.write(other.fd, raw.query_statistics(number)))
    check("another context's sum", not any(statistics(other).values()))
    other.close()
    with open("/sys/kernel/debug/usmbd/connections", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(f"{number} "))
    words = dict(word.split("=") for word in line.split() if "=" in word)
    check(f"debugfs: {line}", " established " in line and words["phase"] == "serving"
          and all(int(words[name]) >= own[name] for name in own))
    with open(f"/proc/self/fdinfo/{server.device.fd}", encoding="ascii") as file:
        text = file.read()
    check(f"fdinfo: {text}", re.search(r"^listener:\t1 .*port=445 .*waiting=0 backlog=64$", text, re.M)
          and f"connection:\t{line.split(' phase=')[0]}" in text and "events-queued:\t0\n" in text
          and re.search(r"^command-bytes:\t0 of \d+$", text, re.M)
          and "area-buffers:\t0 of 64\n" in text)
    area = server.device.map_area(2)
    area[0], area[1 << 20] = 1, 1
    with open(f"/proc/self/fdinfo/{server.device.fd}", encoding="ascii") as file:
        check("fdinfo: the area", "area-buffers:\t2 of 64\n" in file.read())
    area.close()
    process.kill()
    process.communicate()
    server.serve(lambda: len(server.reasons) == 2)
    server.device.close()


def answers_overtake():
    """Answers come before what waited already; sixteen may wait."""
    device = raw.Device(os.O_NONBLOCK)
    device.write(raw.record(raw.NOP, user_data=1), raw.query_statistics(user_data=2),
                 raw.list_connections(user_data=3))
    order = [device.next()[2] for _ in range(3)]
    check(f"answers first: {order}", order == [2, 3, 1])
    taken = os.write(device.fd, raw.query_statistics() * 20) // 24
    check(f"answers that may wait: {taken}", taken == 16)
    for record in (raw.query_statistics(), raw.list_connections(), raw.hello()):
        refused("one more", errno.EAGAIN, lambda r=record: os.write(device.fd, r))
    refused("a buffer for 32 entries is 8 KiB at most", errno.EMSGSIZE, lambda: os.read(device.fd, 16 + 111))
    check("all of them", len(list(raw.events(os.read(device.fd, 1 << 16)))) == 16)
    device.close()


def phases():
    """LIST_CONNECTIONS sees every phase, whoever has it; DROP ends it in every phase."""
    admin = raw.Device()
    first = max((entry["number"] for entry in listed(admin)), default=0)
    server = lib.Server(lib.ROCE, keepalive_interval=3600000)

    def fresh():
        return [entry for entry in listed(admin) if entry["number"] > first]

    def dropped(what, process, number):
        admin.write(raw.drop(number))
        check(f"{what}: gone", lib.until(lambda: by_number(admin, number) is None))
        refused(f"{what}: DROP of what is gone", errno.ENOENT, lambda: os.write(admin.fd, raw.drop(number)))
        process.communicate(timeout=60 * lib.SLOW)

    # No Negotiate Request.
    process = lib.peer("raw", lib.ROCE, "expect-end")
    check("negotiating", lib.until(lambda: [e["phase"] for e in fresh()] == [NEGOTIATING]))
    entry = fresh()[0]
    check(f"its entry: {entry}", entry["fabric"] == 2 and entry["device"] == "rxe0"
          and entry["uid"] == OVERFLOW_UID and entry["memory"] > 0
          and entry["local"] == raw.address(lib.ROCE, 445)
          and entry["peer"][:2] == b"\2\0" and entry["peer"][16:20] == bytes([10, 9, 0, 2]))
    dropped("negotiating", process, entry["number"])

    # A ticket is out.
    process = lib.peer("raw", lib.ROCE, "negotiate", "expect-end")
    _, _, body = server.device.expect(raw.CONNECTION_READY)
    number = struct.unpack_from("<Q", body, 8)[0]
    entry = by_number(admin, number)
    check(f"offered: {entry}", entry["phase"] == OFFERED and entry["uid"] == OVERFLOW_UID)
    dropped("offered", process, number)
    refused("the ticket of what was dropped", errno.ENOENT,
            lambda: os.write(server.device.fd, raw.accept(body[16:32])))

    # A context has it, one that somebody else opened; its poll() says that this was no orderly end.
    os.chown("/dev/usmbd", 1234, 0)
    os.seteuid(1234)
    device = raw.Device()
    os.seteuid(0)
    os.chown("/dev/usmbd", 0, 0)
    process = lib.peer("hold", lib.ROCE, "--seconds", 100)
    number = server.accept_one(device)
    # Credits come with the peer's first data transfer.
    check("send credits", lib.until(lambda: by_number(admin, number)["send_credits"] > 0))
    entry = by_number(admin, number)
    check(f"serving: {entry}", entry["phase"] == SERVING and entry["uid"] == 1234 and entry["receive_credits"] > 0
          and entry["memory"] > 50000 and entry["counters"]["pdus_received"] >= 1)
    for what, call in (("LIST_CONNECTIONS", raw.list_connections()), ("DROP", raw.drop(number))):
        refused(f"{what} without CAP_NET_ADMIN", errno.EPERM, lambda c=call: os.write(device.fd, c))
    os.seteuid(1234)
    admin.write(raw.drop(number))           # The opener's authority, whoever calls.
    os.seteuid(0)
    _, _, body = device.expect(raw.DISCONNECTED)
    check(f"its owner learns why: {body.hex()}", struct.unpack_from("<QI", body) == (number, DROPPED))
    check("and that it was no orderly end", lib.poll_now(device.fd) & lib.POLLERR)
    process.communicate(timeout=60 * lib.SLOW)
    check("its page too", struct.unpack_from("<II", device.map_status_page(), 12) == (3, DROPPED))
    device.close()

    # Its context was closed, and the peer takes nothing: it lingers.
    process = lib.peer("raw", lib.ROCE, "negotiate", "send:" + "FF0001000000000000000000"
                       "180000000100000000000000 45", "expect-messages:1", "expect-end")
    device = raw.Device()
    number = server.accept_one(device)
    device.expect(raw.PDU_RECEIVED)
    device.write(raw.send_pdu(number, bytes(100000), flags=raw.QUIET))
    device.close()
    entry = by_number(admin, number)
    check(f"lingering: {entry}", entry["phase"] == LINGERING and entry["uid"] == OVERFLOW_UID)
    dropped("lingering", process, number)

    server.device.close()
    admin.close()


def many_and_another_network():
    """More than one event holds; and only one's own network namespace."""
    server = lib.Server(lib.ROCE)
    admin = raw.Device()
    before = len(listed(admin))
    # With all checkers on, so many at once would not be negotiated in time.
    many = 40 if lib.SLOW == 1 else 4
    process = lib.peer("echo", lib.ROCE, "--sizes", "1000", "--connections", many, "--count", 100000)
    server.serve(lambda: len(server.accepted) == many, 60)
    entries = listed(admin)
    numbers = [entry["number"] for entry in entries]
    check(f"{len(entries)} connections in order", len(entries) == before + many and numbers == sorted(numbers))
    check("those after one", [entry["number"] for entry in listed(admin, numbers[-3])] == numbers[-2:])
    check("none after the last", listed(admin, numbers[-1]) == [])

    # From the client's network, nothing of it is seen or ended.
    child = os.fork()
    if child == 0:
        fd = os.open("/run/netns/client", os.O_RDONLY)
        os.setns(fd, 0)
        other = raw.Device()
        good = listed(other) == []
        try:
            other.write(raw.drop(numbers[0]))
            good = False
        except OSError as error:
            good = good and error.errno == errno.ENOENT
        # What was opened before still belongs to where it was opened.
        good = good and len(listed(admin)) == before + many
        os._exit(0 if good else 1)
    check("another network namespace", os.waitpid(child, 0)[1] == 0)
    for number in numbers:
        admin.write(raw.drop(number))
    server.serve(lambda: len(server.reasons) == many, 60)
    check(f"reasons {set(server.reasons)}", set(server.reasons) == {DROPPED})
    process.kill()
    process.communicate()
    # Root of a user namespace of its own has CAP_NET_ADMIN there, not here; in a network namespace that
    # it made it has, and sees nothing of ours.
    ctl = subprocess.run(["unshare", "--user", "--map-root-user", "usmbdctl", "list"],
                         capture_output=True, text=True, check=False)
    check(f"another user namespace: {ctl}", ctl.returncode == 1)
    server.device.close()
    admin.close()


def ctl(*arguments):
    return subprocess.run(["usmbdctl", *map(str, arguments)], capture_output=True, text=True, check=False)


def command():
    """usmbdctl shows the same, and says what to do where it cannot."""
    server = lib.Server(lib.ROCE)
    process = lib.peer("hold", lib.ROCE, "--seconds", 100)
    server.serve(lambda: server.accepted)
    number = server.accepted[0]
    result = ctl("list")
    lines = result.stdout.splitlines()
    check(f"list: {result}", result.returncode == 0 and len(lines) == 2
          and lines[0].startswith("NUMBER") and re.match(rf"{number}\s+serving\s+RoCE\s+rxe0\s+10\.9\.0\.1:445\s+10\.9\.0\.2:\d+\s+0\s", lines[1]))
    entry = json.loads(ctl("list", "--json").stdout)[0]
    check(f"list --json: {entry}", entry["connection"] == number and entry["phase"] == "serving"
          and entry["local"] == "10.9.0.1:445" and entry["counters"]["messages_received"] == 0)
    check("statistics", "messages_received       0\n" in ctl("statistics", number).stdout)
    check("statistics --json", json.loads(ctl("--json", "statistics").stdout)["pdus_received"] >= 1)
    limits = json.loads(ctl("limits", "--json").stdout)
    check(f"limits: {limits}", limits["version"] == "1.0" and limits["area_buffers"] == 64)
    result = ctl("drop", number + 1000)
    check(f"drop of nothing: {result}", result.returncode == 1 and "no connection" in result.stderr)
    result = ctl("drop", number)
    check(f"drop: {result}", result.returncode == 0 and result.stdout == "")
    server.serve(lambda: server.reasons)
    check(f"reasons {server.reasons}", server.reasons == [DROPPED])
    process.communicate(timeout=60 * lib.SLOW)
    result = subprocess.run(["setpriv", "--reuid", "1234", "--clear-groups", "usmbdctl", "list"],
                            capture_output=True, text=True, check=False)
    check(f"a user without the device: {result}", result.returncode == 1 and "may not be opened" in result.stderr)
    os.chmod("/dev/usmbd", 0o666)
    result = subprocess.run(["setpriv", "--reuid", "1234", "--clear-groups", "usmbdctl", "list"],
                            capture_output=True, text=True, check=False)
    check(f"a user without CAP_NET_ADMIN: {result}", result.returncode == 1 and "CAP_NET_ADMIN" in result.stderr)
    os.chmod("/dev/usmbd", 0o600)
    server.device.close()
    check("all gone", lib.until(lambda: lib.statistics()["connections"] == 0))
    subprocess.run(["rmmod", "usmbd"], check=True)
    result = ctl("list")
    check(f"without the module: {result}", result.returncode == 1 and "modprobe usmbd" in result.stderr)
    subprocess.run(["insmod", "/build/usmbd.ko"], check=True)
    check("wrong usage", ctl("drop").returncode == 2 and ctl().returncode == 2)


for part in (counters, answers_overtake, phases, many_and_another_network, command):
    print(part.__name__, flush=True)
    part()
lib.finish()
