# SPDX-License-Identifier: GPL-2.0-only
"""The plots, each as SVG and as PNG."""

import os

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

COLOURS = {"usmbd": "#0b5fa5", "rdma": "#b0b0b0", "kernel": "#e0912f", "user": "#5a9e4b"}


def save(figure, folder, name):
    """Both formats. No date, so that the same results make the same file."""
    figure.tight_layout()
    figure.savefig(os.path.join(folder, f"{name}.svg"), metadata={"Date": None})
    figure.savefig(os.path.join(folder, f"{name}.png"), dpi=150)
    pyplot.close(figure)


def interface(results, folder):
    """Instructions per record over records a call, for each way."""
    rows = results.select("interface", "instructions per record", part="all")
    kinds = [kind for kind in dict.fromkeys(row["params"]["kind"] for row in rows)
             if kind != "bare" and not kind.startswith("event ")]
    if not kinds:
        return
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 4), squeeze=False)
    for kind, axis in zip(kinds, axes[0]):
        for way, mark in (("write", "o-"), ("ioctl batch", "s--"), ("ioctl", "D"), ("io_uring", "x")):
            points = sorted((row["params"]["records_per_call"], row["value"]) for row in rows
                            if row["params"]["kind"] == kind and row["params"]["way"] == way)
            if points:
                axis.plot(*zip(*points), mark, label=way, markersize=5)
        axis.set(title=kind, xlabel="records a call", xscale="log")
        axis.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], labels=["1", "2", "4", "8", "16", "32", "64", "128"])
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("instructions per record, whole guest")
    axes[0][-1].legend()
    save(figure, folder, "interface")


def parts(results, folder):
    """Where the instructions of a record are."""
    kinds = ("NOP", "SEND_PDU 64 B", "SEND_PDU 1 KiB", "RDMA_WRITE 64 KiB")
    figure, axis = pyplot.subplots(figsize=(7, 4))
    left = [0.0] * len(kinds)
    for part in ("usmbd", "kernel", "user"):
        values = [results.value("interface", "instructions per record", kind=kind, way="write",
                                records_per_call=32, part=part) or 0 for kind in kinds]
        axis.barh(kinds, values, left=left, color=COLOURS[part], label=part)
        left = [a + b for a, b in zip(left, values)]
    axis.set_xlabel("instructions per record, write() of 32 (without RDMA's modules)")
    axis.legend()
    save(figure, folder, "parts")


def transport(results, folder):
    """Our rate over perftest's."""
    rows = results.select("transport", "usmbd against perftest")
    if not rows:
        return
    figure, axis = pyplot.subplots(figsize=(7, 4))
    for operation in ("send", "write", "read"):
        own = sorted((row for row in rows if row["params"]["operation"] == operation),
                     key=lambda row: row["params"]["size"])
        if not own:
            continue
        sizes, values = [row["params"]["size"] for row in own], [row["value"] for row in own]
        spans = [row["interval"] or [row["value"]] * 2 for row in own]
        errors = [[max(0, v - s[0]) for v, s in zip(values, spans)],
                  [max(0, s[1] - v) for v, s in zip(values, spans)]]
        axis.errorbar(sizes, values, yerr=errors, marker="o", capsize=3, label=operation)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(xscale="log", xlabel="bytes", ylabel="usmbd / perftest")
    axis.set_ylim(bottom=0)
    axis.legend()
    save(figure, folder, "transport")


def requests(results, folder):
    """Instructions in the transport for one request, ours and ksmbd's."""
    rows = results.select("requests", "instructions in the transport, smbd's against ksmbd's")
    if not rows:
        return
    names = [f"{row['params']['operation']}\n{row['params']['size'] // 1024} KiB" for row in rows]
    figure, axis = pyplot.subplots(figsize=(8, 4))
    places = range(len(rows))
    axis.bar([place - 0.2 for place in places], [row["value"] for row in rows], 0.4,
             color=COLOURS["usmbd"], label="usmbd.ko and preload")
    axis.bar([place + 0.2 for place in places], [row["baseline"] for row in rows], 0.4,
             color=COLOURS["kernel"], label="ksmbd's transport, smbdirect.ko, rdma_rw")
    axis.set_xticks(list(places), labels=names)
    axis.set_ylabel("instructions a request")
    axis.legend()
    save(figure, folder, "requests")


def files(results, folder):
    """fio on the four servers, and the double ratio."""
    rows = results.select("file service", "fio")
    if not rows:
        return
    jobs = list(dict.fromkeys((row["params"]["job"], row["params"]["jobs"]) for row in rows))
    figure, axes = pyplot.subplots(1, len(jobs), figsize=(2.2 * len(jobs), 4), squeeze=False)
    for (job, count), axis in zip(jobs, axes[0]):
        own = [row for row in rows if (row["params"]["job"], row["params"]["jobs"]) == (job, count)]
        names = [f"{row['params']['server']}\n{row['params']['over']}" for row in own]
        values = [row["value"] for row in own]
        spans = [row["interval"] or [row["value"]] * 2 for row in own]
        errors = [[max(0, v - s[0]) for v, s in zip(values, spans)],
                  [max(0, s[1] - v) for v, s in zip(values, spans)]]
        axis.bar(names, values, yerr=errors, capsize=3, color=[COLOURS["usmbd"]] + [COLOURS["rdma"]] * 3)
        axis.set_title(f"{job} x{count}\n{own[0]['unit']}", fontsize=9)
        axis.tick_params(axis="x", labelsize=6)
    save(figure, folder, "files")


def scale(results, folder):
    """Instructions per message over connections."""
    figure, axis = pyplot.subplots(figsize=(6, 4))
    drawn = False
    for part in ("usmbd", "kernel"):
        points = sorted((row["params"]["connections"], row["value"])
                        for row in results.select("scale", "instructions per message", part=part))
        if points:
            axis.plot(*zip(*points), "o-", color=COLOURS[part], label=part)
            drawn = True
    if drawn:
        axis.set(xscale="log", xlabel="connections", ylabel="instructions per message")
        axis.set_ylim(bottom=0)
        axis.legend()
        save(figure, folder, "scale")
    else:
        pyplot.close(figure)


def draw(results, folder):
    """All of them, as far as there is something to draw."""
    for plot in (interface, parts, transport, requests, files, scale):
        plot(results, folder)
