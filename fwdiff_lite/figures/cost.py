"""Figures and tables of 09_cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from IPython.display import Markdown
from matplotlib.figure import Figure

from fwdiff_lite import plotting

Lines = dict[str, list[float]]
Cost = Mapping[str, float]  # gigaflop, seconds, megabytes
Record = Mapping[str, Mapping]  # the parts of a recorded evaluation, by name

PART_COLOURS = {
    "context's encoder": plotting.CONTEXT,
    "deterministic render": plotting.BASELINE,
    "target's encoder": plotting.TARGET,
    "target's rays": plotting.OTHER,
    "novel view's rays": plotting.NOVEL,
}
QUANTITIES = {  # key -> (label, format of the total)
    "gigaflop": ("operations", "{:.1f} billion"),
    "seconds": ("time on this machine", "{:.1f} s"),
    "megabytes": ("kept for the backward pass", "{:.0f} MB"),
}
VARIANT_NAMES = {"unet": "the model of 06", "supersampled_maps": "2 x 2 rays a pixel, finer maps"}


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markdown:
    """A table; its first column is aligned to the left, all others to the right."""
    lines = [columns, [":--", *["--:"] * (len(columns) - 1)], *rows]
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))


# --- one scene --------------------------------------------------------------------------------------------------------


def plot_parts(computations: Mapping[str, Mapping[str, Cost]]) -> Figure:
    """A panel for each computation, with a bar for each quantity: the shares of its parts, and the total at the right.

    computations: title -> part -> its costs, all of them with the same quantities; parts have the names of PART_COLOURS
    """
    rows = [len(next(iter(parts.values()))) for parts in computations.values()]
    fig, axes = plt.subplots(
        len(computations),
        1,
        figsize=(9, 1.1 + 0.55 * sum(rows)),
        height_ratios=rows,
        squeeze=False,
        layout="constrained",
    )
    for ax, (title, parts) in zip(axes[:, 0], computations.items(), strict=True):
        quantities = [key for key in QUANTITIES if key in next(iter(parts.values()))]
        totals = {key: sum(cost[key] for cost in parts.values()) for key in quantities}
        left = [0.0] * len(quantities)
        for part, cost in parts.items():
            shares = [cost[key] / totals[key] for key in quantities]
            ax.barh(quantities, shares, left=left, color=PART_COLOURS[part], label=part, height=0.7)
            for i, (start, share) in enumerate(zip(left, shares, strict=True)):
                if share >= 0.04:
                    ax.text(start + share / 2, i, f"{share:.0%}", ha="center", va="center", color="white", fontsize=9)
            left = [start + share for start, share in zip(left, shares, strict=True)]
        for i, key in enumerate(quantities):
            ax.text(1.01, i, QUANTITIES[key][1].format(totals[key]), va="center", fontsize=9)
        ax.set(title=title, xlim=(0, 1.16), xticks=[], yticks=range(len(quantities)))
        ax.set_yticklabels([QUANTITIES[key][0] for key in quantities])
        ax.invert_yaxis()
        ax.grid(False)
        ax.spines[["bottom"]].set_visible(False)
    handles = {
        label: handle
        for ax in axes[:, 0]
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=5, fontsize=9)
    return fig


def show_parts(parts: Mapping[str, float]) -> None:
    """Shows the operations of a training step by part, in billions."""
    fig, ax = plt.subplots(figsize=(8, 2.4), layout="constrained")
    ax.barh(list(parts), list(parts.values()), color=[PART_COLOURS[part] for part in parts])
    ax.set(xlabel="operations, billions", title=f"{sum(parts.values()):.1f} billion in all", xlim=(0, 40))
    ax.invert_yaxis()
    plt.show()


def plot_memory(
    sweep: Mapping[tuple[int, int], Cost], chunked: Mapping[int, Cost], plain: Cost, checkpointed: Cost
) -> Figure:
    """Peak memory of rendering rays with its backward pass: against the points, and against the number of chunks.

    sweep: (rays, samples a ray) -> cost; chunked: number of chunks -> cost with checkpoints
    plain, checkpointed: the same render in one piece, without and with one checkpoint
    """
    fig, (growth, chunks, time) = plt.subplots(1, 3, figsize=(10.5, 3.3), layout="constrained")
    for samples, marker in zip(sorted({s for _, s in sweep}), "o^sD", strict=False):
        points = [(r * s, cost["peak_megabytes"]) for (r, s), cost in sweep.items() if s == samples]
        growth.plot(*zip(*points, strict=True), marker, color=plotting.TRUE, label=f"{samples} samples a ray")
    growth.set(xlabel="rays x samples", ylabel="peak memory, MB", xlim=(0, None), ylim=(0, None))
    growth.legend()
    for ax, key, label in ((chunks, "peak_megabytes", "peak memory, MB"), (time, "seconds", "time, s")):
        counts = list(chunked)
        ax.axhline(plain[key], color=plotting.MUTED, lw=1.5, label="no checkpoint")
        ax.plot([1, *counts], [checkpointed[key], *(chunked[n][key] for n in counts)], "o-", color=plotting.OTHER,
                label="checkpoints")  # fmt: skip
        ax.set(xscale="log", xlabel="chunks of rays", ylabel=label, ylim=(0, 1.15 * max(
            cost[key] for cost in (plain, checkpointed, *chunked.values()))))  # fmt: skip
        ax.set_xticks([1, *counts], [str(n) for n in [1, *counts]])
        ax.xaxis.set_minor_locator(plt.NullLocator())
    chunks.legend()
    return fig


def plot_sampling_time(measured: Mapping[int, float], once: float, one_step: float) -> Figure:
    """Seconds of a sample against the number of steps, with the line of its two parts.

    once: seconds of what is computed once; one_step: of one step
    """
    fig, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
    last = max(measured)
    ax.plot([0, last], [once, once + last * one_step], color=plotting.MUTED, label="once + steps x one step")
    ax.plot(list(measured), list(measured.values()), "o", color=plotting.SAMPLES, label="samples, measured")
    ax.set(xlabel="sampling steps", ylabel="seconds", xticks=list(measured), xlim=(0, None), ylim=(0, None))
    ax.legend(loc="upper left")
    return fig


# --- recorded on GPUs -------------------------------------------------------------------------------------------------


def costs_per_scene(
    sweep: Mapping[str, Mapping[str, float]], settings: Mapping[str, Sequence[int]]
) -> dict[str, Lines]:
    """The cost of a training step for one scene, by setting and kind of cost: a list over the setting's values.

    sweep: the recorded steps by "setting_value": batch, seconds, gigaflop, gigabytes, gigabytes_moved
    """
    costs = {}
    for name, values in settings.items():
        steps = [sweep[f"{name}_{value}"] for value in values]
        costs[name] = {
            key: [s[key] / s["batch"] for s in steps] for key in ("gigaflop", "gigabytes_moved", "gigabytes")
        }
        costs[name]["milliseconds"] = [1e3 * s["seconds"] / s["batch"] for s in steps]
    return costs


def plot_costs(costs: Mapping[str, Lines], settings: Mapping[str, Sequence[int]]) -> Figure:
    """A row of panels for each cost, with its own unit, and a column for each setting.

    costs: the result of costs_per_scene over the setting's values
    """
    names = {"rays": "rays a picture", "samples": "samples a ray", "views": "context views", "side": "pixels a side"}
    units = {
        "gigaflop": "operations,\nbillions",
        "gigabytes_moved": "bytes moved,\nGB",
        "milliseconds": "time,\nmilliseconds",
        "gigabytes": "memory,\nGB",
    }
    fig, axes = plt.subplots(
        len(units), len(settings), figsize=(10, 7), sharex="col", sharey="row", squeeze=False, layout="constrained"
    )
    for row, (key, unit) in zip(axes, units.items(), strict=True):
        for ax, (name, values) in zip(row, settings.items(), strict=True):
            ax.plot(values, costs[name][key], "o-", color=plotting.TRUE)
            ax.set(xticks=values)
            ax.tick_params(axis="x", labelsize=8)
        row[0].set(ylabel=unit, ylim=(0, 1.1 * max(max(costs[name][key]) for name in settings)))
    for ax, name in zip(axes[-1], settings, strict=True):
        ax.set_xlabel(names[name])
    return fig


def rate_table(rows: Sequence[Mapping]) -> Markdown:
    """A row for each recorded training.

    rows: name, device, gpus, rate (scenes a second), gigaflop (of a scene), peak_gigaflop_a_second (of one device; None
        if unknown), gigabytes (memory of one device)
    """
    cells = []
    for row in rows:
        speed = row["rate"] * row["gigaflop"] / row["gpus"]
        peak = row["peak_gigaflop_a_second"]
        share = f"{speed / peak:.1%}" if peak else ""
        cells.append([row["name"], row["device"], str(row["gpus"]), f"{row['rate']:,.0f}", f"{row['gigaflop']:.1f}",
                      f"{speed / 1e3:.0f}", share, f"{row['gigabytes']:.0f}"])  # fmt: skip
    titles = ["training", "card", "GPUs", "scenes a second", "billion operations a scene",
              "trillion operations a second and GPU", "share of the peak", "memory, GB"]  # fmt: skip
    return markdown_table(titles, cells)


def gpu_runs(record: Record) -> dict[int, Mapping]:
    """The recorded runs of a training on 1, 2, 4, ... GPUs, with warm caches."""
    return {run["processes"]: run for name, run in record.items() if name.startswith("gpus_")}


def plot_scaling(records: Mapping[str, Record]) -> Figure:
    """Scenes a second against the number of GPUs, a panel for each variant, with the line of perfect scaling.

    The bars are the slowest and the fastest part of each training.
    """
    fig, axes = plt.subplots(1, len(records), figsize=(4.6 * len(records), 3.2), squeeze=False, layout="constrained")
    for ax, (name, record) in zip(axes[0], records.items(), strict=True):
        runs = gpu_runs(record)
        counts, rates = list(runs), [run["rate"] for run in runs.values()]
        windows = [run["window_rates"] for run in runs.values()]
        errors = [[max(0, r - min(w)) for r, w in zip(rates, windows, strict=True)],
                  [max(0, max(w) - r) for r, w in zip(rates, windows, strict=True)]]  # fmt: skip
        ax.plot([0, counts[-1]], [0, counts[-1] * rates[0]], color=plotting.MUTED, label="N times one GPU")
        ax.errorbar(counts, rates, errors, fmt="o", color=plotting.TRUE, capsize=3, label="measured")
        ax.set(title=VARIANT_NAMES[name], xlabel="GPUs", ylabel="scenes a second", xticks=counts)
        ax.set(xlim=(0, None), ylim=(0, None))
        ax.legend(loc="upper left")
    return fig


def scaling_table(records: Mapping[str, Record]) -> Markdown:
    """What a step on N GPUs consists of, and what starting costs: a row for each recorded run."""
    rows = []
    for name, record in records.items():
        alone = record["gpus_1"]["rate"]
        for count, run in gpu_runs(record).items():
            step = run["batch"] * count / run["rate"]
            all_reduce = f"{1e3 * run['all_reduce_seconds']:.1f}" if "all_reduce_seconds" in run else ""
            rows.append([VARIANT_NAMES[name], str(count), f"{run['rate'] / alone:.2f}", f"{1e3 * step:.0f}",
                         f"{1e3 * run['batch_seconds']:.0f}", all_reduce,
                         f"{run['first_step_seconds']:.0f}"])  # fmt: skip
        rows.append([VARIANT_NAMES[name] + ", empty cache", "1", "", "", "", "",
                     f"{record['cold']['first_step_seconds']:.0f}"])  # fmt: skip
    titles = ["training", "GPUs", "times one GPU", "a step, ms", "its batch alone, ms", "its all-reduce alone, ms",
              "first step, s"]  # fmt: skip
    return markdown_table(titles, rows)


def plot_quality(records: Mapping[str, Record], angles: Sequence[int], etas: Sequence[int]) -> Figure:
    """The energy score of samples over that of true draws against milliseconds a scene: a panel for each angle.

    A point for each number of steps, which stands below the axis; eta 0 is DDIM, eta 1 ancestral sampling.
    """
    fig, axes = plt.subplots(
        len(records), len(angles), figsize=(4.6 * len(angles), 3.2 * len(records)), squeeze=False, layout="constrained"
    )
    colours = {0: plotting.DDIM, 1: plotting.ANCESTRAL}
    for row, (name, record) in zip(axes, records.items(), strict=True):
        steps = sorted(int(key.rpartition("_")[2]) for key in record if key.startswith("seconds_"))
        ms = [1e3 * record[f"seconds_{n}"]["seconds"] / record[f"seconds_{n}"]["batch"] for n in steps]
        for ax, angle in zip(row, angles, strict=True):
            for eta in etas:
                values, low, high = zip(*(record[f"eta_{eta}_steps_{n}"][str(angle)] for n in steps), strict=True)
                errors = [[v - e for v, e in zip(values, low, strict=True)],
                          [e - v for v, e in zip(values, high, strict=True)]]  # fmt: skip
                ax.errorbar(ms, values, errors, fmt="o-", color=colours[eta], capsize=3, label=f"eta {eta}")
            ax.axhline(1, color=plotting.MUTED, lw=1, label="true draws")
            ax.set(title=f"{VARIANT_NAMES[name]}, target at {angle}°", xscale="log", xlabel="milliseconds a scene")
            ax.set_xticks(ms, [f"{x:.0f}\n{n} steps" for x, n in zip(ms, steps, strict=True)])
            ax.xaxis.set_minor_locator(plt.NullLocator())
        row[0].set_ylabel("energy score over that of true draws")
        row[0].legend()
    return fig
