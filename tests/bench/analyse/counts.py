# SPDX-License-Identifier: GPL-2.0-only
"""The groups whose instructions were counted: interface and scale."""

from counted import windows

GROUP = "interface"
PARTS = ("usmbd", "rdma", "kernel", "user")
#: What the driver itself may execute for one record.
DRIVER_TARGETS = {"NOP": 300, "SEND_PDU 64 B": 1500, "RDMA_WRITE 64 KiB": 1200}
#: Records a call at which the driver's own work is judged.
JUDGED_AT = 32


def grouped(described):
    """Lists of what was counted under one description, without the window's number."""
    groups = {}
    for what, window in described:
        key = tuple((name, value) for name, value in what.items() if name != "window")
        groups.setdefault(key, []).append(window)
    return [(dict(key), members) for key, members in groups.items()]


def interface(results, folder):
    """Instructions of each command, by each way to hand it over."""
    groups = grouped(windows(folder))
    for what, members in groups:
        params = {"kind": what["kind"], "way": what["way"]}
        for name in ("records_per_call", "records_per_write"):
            if what.get(name) is not None:
                params[name] = what[name]
        parts = [window.by_part() for window in members]
        for part in PARTS:
            results.counted(GROUP, "instructions per record", params | {"part": part}, "instructions",
                            [sums[part] / what["records"] for sums in parts],
                            target=driver_target(what, part))
        results.counted(GROUP, "instructions per record", params | {"part": "all"}, "instructions",
                        [sum(sums.values()) / what["records"] for sums in parts])
        if what["way"] == "write" and what["kind"].startswith("SEND_PDU"):
            calls = [window.calls("usmbd", "10write_iter") * 1000 / what["records"]
                     for window in members]
            results.counted(GROUP, "system calls per 1000 records", params, "calls", calls,
                            target=f"== {1000 / what['records_per_call']}")
    judge_ways(results)
    return groups


def driver_target(what, part):
    """The target of this row, if it has one."""
    if part != "usmbd":
        return None
    if what["kind"].startswith("event ") and what["way"] == "read" \
            and what["records_per_call"] == JUDGED_AT:
        return "<= 200"
    most = DRIVER_TARGETS.get(what["kind"])
    if most and what["way"] == "write" and what["records_per_call"] == JUDGED_AT:
        return f"<= {most}"
    return None


def judge_ways(results):
    """The ways against each other. Of NOP: nothing else goes on meanwhile."""
    def cost(way, records=None, kind="NOP"):
        params = {"kind": kind, "way": way, "part": "all"}
        if records is not None:
            params["records_per_call"] = records
        return results.value(GROUP, "instructions per record", **params)

    entry = cost("empty ioctl()", kind="bare")
    if None in (entry, cost("ioctl", 1), cost("write", 1), cost("write", 32)):
        return
    saved = cost("ioctl", 1) - cost("write", 32)
    results.add(GROUP, "saved per record at 32 a call, over the entry cost of an ioctl()", {"kind": "NOP"},
                "instructions", saved, baseline=entry, ratio=saved / entry, target=">= 0.9")
    results.add(GROUP, "write() of one record minus ioctl() of one", {"kind": "NOP"}, "instructions",
                cost("write", 1) - cost("ioctl", 1), target="<= 120")
    for row in results.select(GROUP, "instructions per record", kind="NOP", way="ioctl batch", part="all"):
        records = row["params"]["records_per_call"]
        more = (cost("write", records) - row["value"]) * records
        results.add(GROUP, "write() minus the batched ioctl(), a call",
                    {"kind": "NOP", "records_per_call": records}, "instructions", more, target="<= 120")


def scale(results, folder):
    """Messages among many connections, and memory of idle ones."""
    per_message = {}
    groups = grouped(windows(folder))
    for what, members in groups:
        params = {"connections": what["connections"], "records_per_call": what["records_per_call"]}
        parts = [window.by_part() for window in members]
        for part in PARTS:
            samples = [sums[part] / what["records"] for sums in parts]
            results.counted("scale", "instructions per message", params | {"part": part},
                            "instructions", samples)
        own = sorted(sums["usmbd"] / what["records"] for sums in parts)
        per_message[what["connections"]] = own[len(own) // 2]
        results.add("scale", "memory of an idle connection",
                    {"connections": what["connections"], "credits": what["credits"]}, "KiB",
                    what["memory"] / 1024, target="<= 256")
    if 16 in per_message and 256 in per_message:
        results.add("scale", "instructions per message in usmbd, 256 connections against 16", {},
                    "instructions", per_message[256], baseline=per_message[16],
                    ratio=per_message[256] / per_message[16], target="<= 1.1")
    return groups


def profile(groups, title, top=30):
    """Where the instructions of usmbd are, per record, as text lines."""
    lines = []
    for what, members in groups:
        sums = {}
        for window in members:
            for (module, name), instructions in window.by_symbol().items():
                if module == "usmbd":
                    sums[name] = sums.get(name, 0) + instructions
        count = len(members) * what["records"]
        lines.append(f"== {title}: " + ", ".join(f"{k} {v}" for k, v in what.items() if v is not None))
        for name, instructions in sorted(sums.items(), key=lambda item: -item[1])[:top]:
            lines.append(f"{instructions / count:10.1f}  {name}")
    return lines
