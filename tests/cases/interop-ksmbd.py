#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# Each Negotiate Request of tests/peer/vectors/ is answered by the same bytes, or by the same end, as
# ksmbd does; where not, docs/protocol.md says so, and so does this.
# lanes: stock
# when: asked
# kernels: default
# timeout: 300

import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check  # noqa: E402

# What of ksmbd's answers is not ours; docs/protocol.md has to have the bytes, too.
# MaxFragmentedSize: half of what its receives hold (trap 8).
DIFFERENT = {
    "N03": "0001000100010000ff000a000000000000008000000400000004000000fe0100 (32 bytes)",
    "N04": "0001000100010000ff00ff0000000000000080005405000080000000c03f0000 (32 bytes)",
    "N05": "0001000100010000ff00ff0000000000000080005405000080000000c03f0000 (32 bytes)",
    "N06": "0001000100010000ff00010000000000000080008000000080000000c03f0000 (32 bytes)",
}
# As ksmbd has them.
PARAMETERS = {"receive_credit_max": 255, "send_credit_target": 255, "max_send_size": 1364,
              "max_receive_size": 1364, "max_fragmented_recv_size": 173910,
              "max_read_write_size": 8 << 20}


def requests():
    """Name of each vector that begins with a request, and the request."""
    name = None
    with open("/src/tests/peer/vectors/negotiate-requests.txt", encoding="ascii") as file:
        for line in file:
            words = line.split(maxsplit=1)
            if line[0] not in " #\n" and words[0] != "group":
                name = words[0]
            elif name and words and words[0] == "send":
                yield name, words[1].strip()
                name = None


def answers(serve):
    """What comes back for each request."""
    told = {}
    for name, request in requests():
        process = lib.peer("raw", "10.9.0.1", "--timeout", 8 * lib.SLOW, f"send:{request}", "show")
        serve(process)
        output, _ = process.communicate(timeout=60 * lib.SLOW)
        shown = [line[7:] for line in output.splitlines() if line.startswith("shown: ")]
        check(f"{name}: {output}", len(shown) == 1)
        told[name] = shown[0] if shown else output
    return told


def lab(*arguments):
    subprocess.run(["lab", *arguments], check=True, timeout=120 * lib.SLOW)


os.makedirs("/run/lab/log", exist_ok=True)
lab("ksmbd", "start")
# It listens on TCP first.
time.sleep(2)
theirs = answers(lambda process: process.wait(60))
lab("ksmbd", "stop")
server = lib.Server("10.9.0.1", **PARAMETERS)
ours = answers(lambda process: server.serve(lambda: process.poll() is not None, 60))
server.device.close()
for name, answer in theirs.items():
    if name in DIFFERENT:
        check(f"{name}: ksmbd {answer}", answer == DIFFERENT[name])
        check(f"{name}: ksmbd answers as we do", answer != ours[name])
    else:
        check(f"{name}: ksmbd {answer}, we {ours[name]}", answer == ours[name])
    print(name, answer, "/", "the same" if answer == ours[name] else ours[name])
check("no request was found", len(theirs) > 20)
lib.finish()
