#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Which lines of the source the instructions of one function of the driver's are from, for each record.

profile.txt names the functions; this takes one apart, by the blocks that the plugin counted and the
debug information of the module that ran (KREL as for the bench). Inlined code counts for where it is
written, so core's and the kernel crate's own lines stand in the list, too."""

import argparse
import collections
import os
import re
import subprocess

import counted

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), "../../.."))
ROOTS = re.compile(r".*/(driver|abi|engine|rust|library)/")


def instructions(module, symbol):
    """(offset, text, source line) of each instruction of a function."""
    text = subprocess.run(["objdump", "-d", "-l", "--no-show-raw-insn", f"--disassemble={symbol}", module],
                          check=True, capture_output=True, text=True).stdout
    begin, where, result = None, "?", []
    for line in text.splitlines():
        if match := re.match(r"\s+([0-9a-f]+):\t(.*)", line):
            address = int(match[1], 16)
            begin = address if begin is None else begin
            result.append((address - begin, match[2], where))
        elif re.match(r"\S+:\d+", line):
            where = ROOTS.sub(r"\1/", line.split(" ", maxsplit=1)[0])
    return result


def runs_of(window, symbol, code):
    """How often each instruction ran."""
    begin = next(start for start, name, _ in window.symbols.rows if name == symbol)
    index = {offset: number for number, (offset, _, _) in enumerate(code)}
    ran = collections.Counter()
    for address, runs, total in window.blocks:
        first = index.get(address - begin)
        if first is not None and window.symbols.at(address)[0] == symbol:
            for number in range(first, first + total // max(runs, 1)):
                ran[number] += runs
    return ran


def main():
    """See the module's documentation."""
    build = os.path.join(TOP, "build")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("window", help="regular expression for the window's line in profile.txt")
    parser.add_argument("function", help="regular expression for the function; the hottest that matches")
    parser.add_argument("--code", action="store_true", help="each instruction that ran, in order")
    parser.add_argument("--run", default=os.path.join(build, "vm/bench-interface"), help="folder of the run")
    parser.add_argument("--module", default=os.path.join(build, "7.3.4+deb13-amd64-ioctl/usmbd.ko"))
    options = parser.parse_args()

    for what, window in counted.windows(options.run):
        title = ", ".join(f"{key} {value}" for key, value in what.items())
        if re.search(options.window, title):
            break
    else:
        parser.error(f"no window matches {options.window}")
    hottest = sorted((count, name) for (module, name), count in window.by_symbol().items()
                     if module == "usmbd" and re.search(options.function, name))
    if not hottest:
        parser.error(f"no function that ran there matches {options.function}")
    count, symbol = hottest[-1]
    code = instructions(options.module, symbol)
    ran = runs_of(window, symbol, code)
    print(f"== {title}\n{count / what['records']:9.1f}  {symbol}")
    if options.code:
        for number, (offset, text, where) in enumerate(code):
            if ran[number]:
                print(f"{ran[number] / what['records']:9.2f}  {offset:5x}  {text:60}  {where}")
        return
    lines = collections.Counter()
    for number, runs in ran.items():
        if number < len(code):
            lines[code[number][2]] += runs
    for where, runs in lines.most_common():
        print(f"{runs / what['records']:9.1f}  {where}")


if __name__ == "__main__":
    main()
