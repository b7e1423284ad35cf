#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# What peers do that keep all rules and make as much work as they can does not cost a good connection
# more than a fifth of what usmbd's time serves it; and none of them takes more memory than was configured.
# lanes: stock
# when: asked
# kernels: default
# timeout: 300
"""usmbd's time is that of a connection's turns, between the workqueue's trace events, which the kernel's
histograms gather for each work item. The good connection echoes all the while, and its messages are counted.

What a message costs is the number of turns for it times the middle turn's time. Not their sum: a turn that is
interrupted by the packets of the attackers has the time of the interrupts in it, which are rxe's and siw's."""

import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw  # noqa: E402

TRACING = "/sys/kernel/tracing"
SECONDS = int(os.environ.get("USMBD_TEST_TIME", 6))
# Of a connection with the default parameters: its receives, queues and copies that wait, in bytes.
MEMORY = 4 << 20
PORT = 5000
ATTACKS = ["fragments", "keepalives", "connects", "open"]


def trace(path, text, flags=os.O_TRUNC):
    # Not open(): to append it seeks, which these files refuse.
    fd = os.open(f"{TRACING}/{path}", os.O_WRONLY | flags)
    os.write(fd, text.encode() + b"\n")
    os.close(fd)


def module_text():
    with open("/proc/kallsyms", encoding="ascii") as file:
        symbols = [line.split() for line in file if line.rstrip().endswith("[usmbd]")]
    text = [int(symbol[0], 16) for symbol in symbols if symbol[1] in "tT"]
    return min(text), max(text)


# The debug lane's kernel has no histograms, and its time is the checkers': there it is seen only that the
# good connection goes on, and what memory is taken.
MEASURES = os.path.exists(f"{TRACING}/synthetic_events")
START = "events/workqueue/workqueue_execute_start/trigger"
END = "events/workqueue/workqueue_execute_end/trigger"
TURN = "events/synthetic/usmbd_turn"


def triggers():
    first, last = module_text()
    ours = f"if function >= {first:#x} && function <= {last:#x}"
    return [(START, f"hist:keys=common_pid:began=common_timestamp.usecs {ours}"),
            (END, "hist:keys=common_pid:took=common_timestamp.usecs-$began,item=work:"
             f"onmatch(workqueue.workqueue_execute_start).usmbd_turn($item,$took) {ours}"),
            (f"{TURN}/trigger", "hist:keys=item,took:size=65536")]


def turns():
    """{work item: {microseconds: turns that took so long}}"""
    if not MEASURES:
        return {}
    with open(f"{TRACING}/{TURN}/hist", encoding="ascii") as file:
        text = file.read()
    found = {}
    for item, took, count in re.findall(r"\{ item:\s*(\d+), took:\s*(\d+) \} hitcount:\s*(\d+)", text):
        found.setdefault(int(item), {})[int(took)] = int(count)
    return found


def difference(last, first):
    return {took: count - first.get(took, 0) for took, count in last.items() if count > first.get(took, 0)}


def middle(times):
    """Of {microseconds: turns}, what at most half of the turns take longer than: between whole numbers as
    the turns of that time are."""
    half, before = sum(times.values()) / 2, 0
    for took, count in sorted(times.items()):
        if before + count >= half:
            return took + (half - before) / count
        before += count
    return 0.0


def served():
    """Messages of each connection, and the most memory that one has."""
    device = raw.Device()
    entries, after = [], 0
    while True:
        device.write(raw.list_connections(after))
        _, _, body = device.expect(raw.CONNECTIONS)
        some, left = raw.connections(body)
        entries += some
        if not left:
            break
        after = some[-1]["number"]
    device.close()
    return ({entry["number"]: entry["counters"]["messages_sent"] for entry in entries},
            max([entry["memory"] for entry in entries], default=0))


def measure(good, item=None):
    """The good connection's work item, messages, turns and microseconds of its middle turn, what all others
    took, and the most memory of one connection."""
    before, _ = served()
    at_first = turns()
    time.sleep(SECONDS)
    at_last = turns()
    after, memory = served()
    spent = {one: difference(times, at_first.get(one, {})) for one, times in at_last.items()}
    sums = {one: sum(took * count for took, count in times.items()) for one, times in spent.items()}
    if item is None and MEASURES:
        item = max(sums, key=sums.get)
    mine = spent.get(item, {})
    others = sum(took for one, took in sums.items() if one != item)
    return item, after[good] - before[good], sum(mine.values()), middle(mine), others, memory


def main():
    if MEASURES:
        trace("synthetic_events", "usmbd_turn u64 item; u64 took", os.O_APPEND)
        for where, what in triggers():
            trace(where, what)
    servers = [subprocess.Popen(["/build/stage/bin/echo", "--quiet", *more]) for more in
               ([lib.ROCE], [f"{lib.ROCE}:{PORT}", "--iwarp-port", str(PORT + 1)])]
    good_peer = lib.peer("echo", lib.ROCE, "--sizes", "1000", "--count", 10_000_000)
    check("no connection", lib.until(lambda: len(served()[0]) == 1))
    good = next(iter(served()[0]))
    time.sleep(1)
    item, messages, count, took, _, _ = measure(good)
    alone = messages / max(count * took, 1)
    print(f"alone: {messages} messages, {count} turns of {took:.1f} us: {1e6 * alone:.0f} for a second")
    for how in ATTACKS:
        pest = lib.peer("pester", lib.ROCE, "--port", PORT, "--how", how, "--connections", 4,
                        "--seconds", SECONDS + 4)
        time.sleep(2)
        _, messages, count, took, others, memory = measure(good, item)
        output, _ = pest.communicate(timeout=100 * lib.SLOW)
        share = messages / max(count * took, 1) / alone
        print(f"{how}: {messages} messages, {count} turns of {took:.1f} us: {100 * share:.0f} % of alone; "
              f"others took {others} us; {memory} bytes of one connection at most; {output.strip()}")
        check(f"{how}: {100 * share:.0f} % of what it was alone", share >= 0.8 or not MEASURES)
        check(f"{how}: no message of the good connection went", messages > 0)
        check(f"{how}: {memory} bytes of memory", memory <= MEMORY)
        check(f"{how}: the good connection stays", good in served()[0])
    good_peer.kill()
    good_peer.communicate()
    for server in servers:
        server.terminate()
        server.wait()
    if MEASURES:
        for where, what in reversed(triggers()):
            trace(where, "!" + what)
        trace("synthetic_events", "!usmbd_turn u64 item; u64 took", os.O_APPEND)


main()
lib.finish()
