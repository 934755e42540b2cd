"""What the run cost: time and peak memory per stage, from Snakemake's benchmark files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lsdflow.figures import style
from lsdflow.figures.style import Palette

# The order of the work; rules that are not here follow as they come.
RULES = (
    "download",
    "import_volume",
    "simulate_volume",
    "import_segmentation",
    "create_targets",
    "lsd_targets",
    "train",
    "create_predictions",
    "predict",
    "raw_affinities",
    "create_fragments",
    "fragments",
    "region_graph",
    "merge_tree",
    "skeletons",
    "evaluate",
    "run_length",
    "select_threshold",
    "create_segmentation",
    "segmentation",
    "min_cut",
    "score_parts",
    "sizes",
    "errors",
    "score_external",
    "score_parts_external",
    "sizes_external",
    "errors_external",
    "intervals",
    "compare",
)
SHARED = "shared by all"


def time_and_memory(resources: pd.DataFrame, palette: Palette) -> Figure:
    """Time summed over the jobs of each rule, stacked by setup, and the peak memory of its largest job.

    Parameters
    ----------
    resources : a line per job: ``rule``, ``setup`` (empty for jobs that all setups share), ``seconds``,
        ``max_rss_mb`` (empty where a job was too short to be measured).
    palette : colours, and the order of the setups.
    """
    table = resources.assign(
        setup=resources["setup"].where(resources["setup"].notna() & (resources["setup"] != ""), SHARED),
        seconds=pd.to_numeric(resources["seconds"], errors="coerce"),
        megabytes=pd.to_numeric(resources["max_rss_mb"], errors="coerce"),
    )
    rules = Palette(RULES).sorted(list(table["rule"]))
    setups = [SHARED] * (SHARED in set(table["setup"])) + palette.sorted([s for s in table["setup"] if s != SHARED])
    seconds = table.pivot_table(index="rule", columns="setup", values="seconds", aggfunc="sum", fill_value=0.0)
    seconds = seconds.reindex(index=rules, columns=setups, fill_value=0.0)
    memory = table.groupby("rule")["megabytes"].max().reindex(rules)
    time_unit, time_scale = _time_unit(seconds.sum(axis=1).max())
    memory_unit, memory_scale = ("GB", 1024) if memory.max() >= 2000 else ("MB", 1)
    with style.context():
        figure = style.new_figure(10.5, 1.2 + 0.36 * len(rules))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        base = pd.Series(0.0, index=rules)
        for setup in setups:
            width = seconds[setup] / time_scale
            left.barh(range(len(rules)), width, left=base, height=0.72, color=_colour(setup, palette))
            base += width
        right.barh(range(len(rules)), memory / memory_scale, height=0.72, color=style.GREY)
        _numbers(left, list(base))
        _numbers(right, list(memory / memory_scale))
        left.set(title="Time, summed over jobs", xlabel=time_unit)
        right.set(title="Peak memory of a job", xlabel=memory_unit)
        left.set_yticks(range(len(rules)), [r.replace("_", " ") for r in rules])
        left.set_ylim(len(rules) - 0.4, -0.6)
        handles = [Patch(color=_colour(s, palette), label=s if s == SHARED else style.label(s)) for s in setups]
        figure.legend(handles=handles, loc="outside right upper")
    return figure


def _colour(setup: str, palette: Palette) -> str:
    return style.LIGHT_GREY if setup == SHARED else palette.colour(setup)


def _time_unit(longest: float) -> tuple[str, float]:
    """Unit and its seconds, such that the longest time is a handy number."""
    if longest < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if longest < 3 * 3600 else ("hours", 3600.0)


def _numbers(axes: Axes, values: Sequence[float]) -> None:
    """The value of each bar at its end, a dash where it is not known."""
    lengths = [0.0 if math.isnan(v) else v for v in values]
    longest = max(lengths) or 1.0
    axes.set_xlim(0, 1.2 * longest)
    axes.tick_params(axis="y", length=0)
    for position, (value, length) in enumerate(zip(values, lengths, strict=True)):
        axes.text(length + 0.012 * longest, position, _short(value), va="center", fontsize=9)


def _short(value: float) -> str:
    """Two digits or all before the point: 0.034, 3.4, 34, 340; a dash for NaN."""
    if math.isnan(value):
        return "–"
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.2g}" if value >= 0.001 else f"{value:.0e}"
