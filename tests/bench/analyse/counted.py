# SPDX-License-Identifier: GPL-2.0-only
"""What the plugin counted (tests/bench/count), and where in the kernel that stands."""

import bisect
import json
import os
import re

USER_END = 1 << 63
#: Modules whose code is RDMA's: the providers, the core, and its doors to user space.
RDMA = {"rdma_rxe", "siw", "ib_core", "ib_cm", "rdma_cm", "iw_cm", "ib_uverbs", "rdma_ucm"}


class Symbols:
    """/proc/kallsyms of the guest."""

    def __init__(self, path):
        rows = []
        with open(path, encoding="utf-8") as file:
            for line in file:
                words = line.split()
                if len(words) < 3 or words[1] not in "tTwW":
                    continue
                module = words[3][1:-1] if len(words) > 3 else "kernel"
                rows.append((int(words[0], 16), words[2], module))
        rows.sort(key=lambda row: row[0])
        self.starts = [row[0] for row in rows]
        self.rows = rows

    def at(self, address):
        """Name, module, and whether the symbol begins there."""
        index = bisect.bisect_right(self.starts, address) - 1
        if index < 0:
            return "?", "kernel", False
        start, name, module = self.rows[index]
        return name, module, start == address


class Window:
    """One window: blocks of code that ran, as (address, runs, instructions)."""

    def __init__(self, symbols, blocks):
        self.symbols = symbols
        self.blocks = blocks

    def by_symbol(self):
        """Instructions of each (module, symbol) of the kernel."""
        sums = {}
        for address, _, instructions in self.blocks:
            if address >= USER_END:
                name, module, _ = self.symbols.at(address)
                sums[module, name] = sums.get((module, name), 0) + instructions
        return sums

    def by_part(self):
        """Instructions of usmbd, of RDMA's modules, of the rest of the kernel, and of user space."""
        parts = {"usmbd": 0, "rdma": 0, "kernel": 0, "user": 0}
        for (module, _), instructions in self.by_symbol().items():
            part = module if module == "usmbd" else "rdma" if module in RDMA else "kernel"
            parts[part] += instructions
        parts["user"] = sum(i for address, _, i in self.blocks if address < USER_END)
        return parts

    def of_module(self, module, pattern=""):
        """Instructions of a module, in symbols that match."""
        return sum(instructions for (where, name), instructions in self.by_symbol().items()
                   if where == module and re.search(pattern, name))

    def in_range(self, begin, end):
        """Instructions between two addresses."""
        return sum(i for address, _, i in self.blocks if begin <= address < end)

    def calls(self, module, pattern):
        """How often functions of a module were entered whose names match."""
        count = 0
        for address, runs, _ in self.blocks:
            if address >= USER_END:
                name, where, begins = self.symbols.at(address)
                if begins and where == module and re.search(pattern, name):
                    count += runs
        return count


def windows(folder):
    """The (description, Window) of each window in the folder of a run."""
    described = {}
    with open(os.path.join(folder, "out", "windows"), encoding="utf-8") as file:
        for line in file:
            what = json.loads(line)
            described[what["window"]] = what
    symbols = Symbols(os.path.join(folder, "out", "kallsyms"))
    result, number, blocks = [], None, []

    def finish():
        if number in described:
            result.append((described[number], Window(symbols, blocks)))

    with open(os.path.join(folder, "count"), encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[0] == "window":
                finish()
                number, blocks = int(words[1]), []
            else:
                blocks.append((int(words[0], 16), int(words[1]), int(words[2])))
    finish()
    missing = set(described) - {what["window"] for what, _ in result}
    if missing:
        raise SystemExit(f"{folder}: windows that nobody counted: {sorted(missing)}")
    return result
