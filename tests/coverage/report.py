#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""report.py TOP MODULE SEEN...: which basic blocks of usmbd.ko have run, by source file.

SEEN are copies of /sys/kernel/debug/usmbd_coverage. A block counts for the innermost function of ours
that it was inlined into; what has none (generics of the kernel crate and of core, which stand in the
module) is left out, as are init and exit, whose text is not recorded, and the C files. A line has run
when one of its blocks has. Lines that have not are listed in MISSED, beside the first SEEN.
"""
import bisect
import collections
import os
import re
import subprocess
import sys

HOOK = "__sanitizer_cov_trace_pc"
CALL = 4        # A relocation is that of the call's operand, the return address follows it.


def sites(module):
    """Return addresses of the calls in .text."""
    text = subprocess.run(["readelf", "-rW", module], check=True, capture_output=True, text=True).stdout
    here, found = False, []
    for line in text.splitlines():
        if line.startswith("Relocation section"):
            here = "'.rela.text'" in line
        elif here and HOOK in line:
            found.append(int(line.split()[0], 16) + CALL)
    return sorted(found)


def places(top, module, addresses):
    """(file, line) of ours for each address, or None."""
    asked = "\n".join(hex(address - 1) for address in addresses)
    text = subprocess.run(["addr2line", "-e", module, "-j", ".text", "-aif"], input=asked, check=True,
                          capture_output=True, text=True).stdout
    found, current = [], None
    for line in text.splitlines():
        if re.match(r"0x[0-9a-f]{16}$", line):
            found.append(None)
            continue
        place = re.match(rf"{re.escape(top)}/((?:driver|abi)/.*\.rs):(\d+)", os.path.normpath(line))
        if place and found[-1] is None:
            found[-1] = place[1], int(place[2])
    assert len(found) == len(addresses)
    return found


def main(top, module, *files):
    seen = set()
    for name in files:
        with open(name, encoding="ascii") as file:
            seen.update(int(line, 16) for line in file)
    all_sites = sites(module)
    strange = [at for at in seen if all_sites[bisect.bisect_left(all_sites, at) % len(all_sites)] != at]
    if strange:
        sys.exit(f"coverage: {len(strange)} places are not of this build of {module}")
    lines = collections.defaultdict(lambda: [0, 0])
    for at, place in zip(all_sites, places(top, module, all_sites)):
        if place:
            lines[place][0] += at in seen
            lines[place][1] += 1
    by_file = collections.defaultdict(lambda: [0, 0, 0, 0])
    missed = []
    for (file, line), (ran, blocks) in sorted(lines.items()):
        sums = by_file[file]
        sums[0] += ran > 0
        sums[1] += 1
        sums[2] += ran
        sums[3] += blocks
        if not ran:
            with open(f"{top}/{file}", encoding="utf-8") as source:
                text = source.read().splitlines()[line - 1].strip() if line else ""
            missed.append(f"{file}:{line}: {text}")
    with open(os.path.join(os.path.dirname(files[0]), "MISSED"), "w", encoding="utf-8") as out:
        out.write("\n".join(missed) + "\n")

    def row(name, ran, of, blocks, of_blocks):
        print(f"{name:48} {ran:5} of {of:5} lines {100 * ran // of:4} %  {blocks:5} of {of_blocks:5} blocks")
    for file, sums in sorted(by_file.items()):
        row(file, *sums)
    row("all", *[sum(column) for column in zip(*by_file.values())])


main(*sys.argv[1:])
