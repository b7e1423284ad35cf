# SPDX-License-Identifier: GPL-2.0-only
"""The groups that were timed: transport and file service."""

import json
import os
import statistics

from results import bootstrap

#: Messages of 1 KiB a second, against perftest.
MESSAGE_TARGET = ">= 0.7"
#: The double ratio, by (job, jobs).
DOUBLE_TARGETS = {("read_1M", 1): ">= 1.0", ("write_1M", 1): ">= 1.0", ("randread_4k", 8): ">= 0.9",
                  ("randwrite_4k", 8): ">= 0.9"}


def runs(folder):
    """The lines of JSON of a run."""
    with open(os.path.join(folder, "out", "runs"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def transport(results, folder):
    """Operations a second on one connection, against perftest's queue pair."""
    groups = {}
    for run in runs(folder):
        key = run["operation"], run["size"], run["depth"]
        groups.setdefault(key, {}).setdefault(run["who"], []).append(run["per_second"])
    for (operation, size, depth), who in groups.items():
        params = {"operation": operation, "size": size, "depth": depth}
        ours, theirs = who["usmbd"], who.get("perftest", [])
        results.timed("transport", "operations a second", params | {"who": "usmbd"}, "1/s", ours)
        if not theirs:
            continue
        results.timed("transport", "operations a second", params | {"who": "perftest"}, "1/s", theirs)
        ratio = statistics.median(ours) / statistics.median(theirs)
        judged = (operation, size) == ("send", 1024)
        pairs = list(zip(ours, theirs))
        results.add("transport", "usmbd against perftest", params, "of its rate", ratio, kind="timed",
                    interval=bootstrap(pairs, ratio_of_medians), baseline=statistics.median(theirs),
                    ratio=ratio, target=MESSAGE_TARGET if judged else None)


def ratio_of_medians(pairs):
    """Of the first ones to the second ones."""
    return statistics.median(p[0] for p in pairs) / statistics.median(p[1] for p in pairs)


def double_ratio(rounds):
    """(usmbd / ksmbd over RDMA) / (smbd / ksmbd over TCP), of the medians over rounds."""
    medians = [statistics.median(value for one in rounds for value in one[index]) for index in range(4)]
    return medians[0] / medians[1] / (medians[2] / medians[3])


def files(results, folder):
    """fio on the four servers."""
    servers = [("smbd", "rdma"), ("ksmbd", "rdma"), ("smbd", "tcp"), ("ksmbd", "tcp")]
    jobs = {}
    for run in runs(folder):
        per_round = jobs.setdefault((run["job"], run["jobs"]), {}).setdefault(run["round"], {})
        value = run["iops"] if "4k" in run["job"] else run["kib_per_second"] / 1024
        per_round.setdefault((run["server"], run["fabric"]), []).append(value)
    for (job, count), per_round in jobs.items():
        unit = "IOPS" if "4k" in job else "MiB/s"
        params = {"job": job, "jobs": count}
        for server, fabric in servers:
            samples = [v for one in per_round.values() for v in one.get((server, fabric), [])]
            if samples:
                results.timed("file service", "fio", params | {"server": server, "over": fabric}, unit, samples)
        whole = [tuple(one[server] for server in servers) for one in per_round.values()
                 if all(server in one for server in servers)]
        if whole:
            value = double_ratio(whole)
            results.add("file service", "double ratio", params, "", value, kind="timed",
                        interval=bootstrap(whole, double_ratio), ratio=value,
                        target=DOUBLE_TARGETS.get((job, count)))
