# SPDX-License-Identifier: GPL-2.0-only
"""The group `requests`: what an SMB2 READ and WRITE cost the server's transport.

Both ends are in one kernel. usmbd.ko is the server's alone. smbdirect.ko and RDMA's modules work for the
client, too; its part is what they do while smbd serves, when the server uses usmbd.ko, so that is
subtracted from what they do while ksmbd serves."""

import os
import re
from collections import Counter

from counted import windows

GROUP = "requests"
#: Of one 1 MiB READ through smbd.
TARGETS = {"work requests": 3, "doorbells": 1, "signalled completions": 1, "wake-ups": 2,
           "system calls": 4}
LINE = re.compile(r"^\s*(?P<task>.+)-(?P<pid>\d+)\s+\[\d+\]\s+\S+\s+[\d.]+: (?P<event>\w+): (?P<rest>.*)$")
CALL = re.compile(r"NR (?P<number>\d+) \((?P<first>[0-9a-f]+),")
#: System calls whose first argument is a descriptor, of those that smbd and the library make on one: read,
#: write, fstat, ioctl, readv, writev, recvmsg, sendmsg, fcntl, preadv2, pwritev2. Of others the trace shows what
#: was left in the register.
ON_DESCRIPTOR = {0, 1, 5, 16, 19, 20, 46, 47, 72, 327, 328}
POST = re.compile(r"requests=(?P<requests>\d+) signalled=(?P<signalled>\d+)")
#: What ksmbd.ko has of the transport, and RDMA's helper that it uses.
KSMBD_TRANSPORT = r"smb_direct|smbd_direct|rdma"
RDMA_RW = r"^rdma_rw_"


def processes(path):
    """Descriptors of the device by process, and where the preload library stands."""
    descriptors, ranges = {}, set()
    with open(path, encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if words[0] == "fd":
                descriptors.setdefault(int(words[1]), set()).add(int(words[2]))
            elif words[0] == "map" and "x" in words[3] and line.rstrip().endswith("libusmbd_preload.so"):
                begin, end = words[2].split("-")
                ranges.add((int(begin, 16), int(end, 16)))
    return descriptors, ranges


def counted(results, folder):
    """Instructions in the transport, per request."""
    _, ranges = processes(os.path.join(folder, "out", "processes"))
    groups = {}
    for what, window in windows(folder):
        groups[what["server"], what["operation"], what["size"]] = what, window
    for (server, operation, size), (what, window) in groups.items():
        if server != "smbd":
            continue
        params = {"operation": operation, "size": size}
        each = what["records"]
        driver = window.of_module("usmbd") / each
        preload = sum(window.in_range(*one) for one in ranges) / each
        results.add(GROUP, "instructions in usmbd.ko", params | {"server": "smbd"}, "instructions", driver)
        results.add(GROUP, "instructions in the preload library", params | {"server": "smbd"},
                    "instructions", preload)
        results.add(GROUP, "turns of the driver's work item", params | {"server": "smbd"}, "turns",
                    window.calls("usmbd", r"10ConnectionNt\w*8WorkItem3run$") / each)
        _, other = groups["ksmbd", operation, size]
        direct = (other.of_module("smbdirect") - window.of_module("smbdirect")) / each
        helper = (other.of_module("ib_core", RDMA_RW) - window.of_module("ib_core", RDMA_RW)) / each
        own = other.of_module("ksmbd", KSMBD_TRANSPORT) / each
        doorbells = (other.calls("rdma_rxe", "^rxe_post_send$")
                     - window.calls("rdma_rxe", "^rxe_post_send$")) / each
        theirs = direct + helper + own
        for name, value in (("smbdirect.ko", direct), ("rdma_rw", helper), ("ksmbd.ko's transport", own)):
            results.add(GROUP, f"instructions in {name}", params | {"server": "ksmbd"}, "instructions", value)
        results.add(GROUP, "doorbells more than smbd's", params | {"server": "ksmbd"}, "doorbells", doorbells)
        target = "<= 1.0" if (operation, size) == ("READ", 4096) else None
        results.add(GROUP, "instructions in the transport, smbd's against ksmbd's", params, "instructions",
                    driver + preload, baseline=theirs, ratio=(driver + preload) / theirs if theirs else None,
                    target=target)
    return [(what, [window]) for what, window in groups.values()]


def traced_windows(path):
    """Counters of what happened between the notes, by the window's number."""
    result, number = {}, None
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            match = LINE.match(line)
            if not match:
                continue
            rest = match["rest"]
            if match["event"] == "tracing_mark_write":
                words = rest.split()
                number = int(words[2]) if words[:2] == ["usmbd-bench", "begin"] else None
                if number is not None:
                    result[number] = []
            elif number is not None:
                result[number].append((match["task"].strip(), int(match["pid"]), match["event"], rest))
    return result


def traced(results, folder):
    """Work requests, doorbells, completions, wake-ups and system calls of smbd, per request."""
    import json
    descriptors, _ = processes(os.path.join(folder, "out", "processes"))
    with open(os.path.join(folder, "out", "windows"), encoding="utf-8") as file:
        described = [json.loads(line) for line in file]
    happened = traced_windows(os.path.join(folder, "out", "trace.smbd"))
    for what in described:
        if what["server"] != "smbd":
            continue
        sums = Counter()
        for task, pid, event, rest in happened.get(what["window"], []):
            if event == "usmbd_post":
                post = POST.search(rest)
                sums["doorbells"] += 1
                sums["work requests"] += int(post["requests"])
                sums["signalled completions"] += int(post["signalled"])
            elif event == "sched_waking" and re.match(r"comm=smbd", rest):
                sums["wake-ups"] += 1
            elif event == "sys_enter" and task.startswith("smbd"):
                sums["all system calls of smbd"] += 1
                call = CALL.search(rest)
                if (call and int(call["number"]) in ON_DESCRIPTOR
                        and int(call["first"], 16) in descriptors.get(pid, ())):
                    sums["system calls"] += 1
        params = {"operation": what["operation"], "size": what["size"], "server": "smbd"}
        judged = (what["operation"], what["size"]) == ("READ", 1 << 20)
        for name in list(TARGETS) + ["all system calls of smbd"]:
            target = f"<= {TARGETS[name]}" if judged and name in TARGETS else None
            results.add(GROUP, name, params, "a request", sums[name] / what["records"], target=target)
