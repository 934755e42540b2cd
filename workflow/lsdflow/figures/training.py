"""Training curves: the loss per output and the validations over iterations, one line per replicate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from lsdflow.figures import style
from lsdflow.figures.style import Look, Palette

TITLES = {"affinities": "Affinities", "lsds": "LSDs", "loss": "All outputs"}


def smooth(values: pd.Series) -> pd.Series:
    """The centred running mean over a twentieth of ``values`` (at least one, an odd number), shorter at the ends."""
    window = max(1, len(values) // 20) // 2 * 2 + 1
    return values.rolling(window, center=True, min_periods=1).mean()


def training_curves(
    logs: Mapping[tuple[str, int], pd.DataFrame],
    palette: Palette,
    validations: Mapping[tuple[str, int], pd.DataFrame] = MappingProxyType({}),
) -> Figure:
    """Losses over iterations on a logarithmic axis, smoothed; a panel per output, a line per replicate.

    Where networks were validated, a panel more shows the VOI sum, marked where it is least: that network is kept.

    Parameters
    ----------
    logs : by (setup, replicate), the training log: ``iteration``, ``loss``, and ``affinities`` and ``lsds`` (the loss
        of each output; missing or NaN where a setup lacks it).
    palette : colours, and the order of the setups.
    validations : by (setup, replicate), ``iteration`` and ``voi_sum`` in bits (missing or NaN where nothing was
        segmented).
    """
    outputs = [o for o in ("affinities", "lsds") if any(_has(log, o) for log in logs.values())] or ["loss"]
    scored = {run: table for run, table in validations.items() if _has(table, "voi_sum")}
    names = palette.sorted([name for name, _ in logs])
    n_panels = len(outputs) + bool(scored)
    with style.context():
        figure = style.new_figure(2.2 + 4.2 * n_panels, 4.0)
        panels = figure.subplots(1, n_panels, squeeze=False)[0]
        for axes, output in zip(panels, outputs, strict=False):
            for name, seen in _in_order(logs, names, output):
                axes.plot(seen["iteration"], smooth(seen[output]), **_line(palette[name]), markevery=[-1])
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(style.plain_numbers())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_formatter("")
            axes.set(title=TITLES[output], ylabel="loss (running mean)")
        for name, seen in _in_order(scored, names, "voi_sum"):
            # The first of equal ones is kept.
            best = int(seen["voi_sum"].to_numpy().argmin())
            panels[-1].plot(seen["iteration"], seen["voi_sum"], **_line(palette[name]), markevery=[best])
        if scored:
            panels[-1].set(title="Validation", ylabel="VOI sum (bits)")
        for axes in panels:
            axes.grid(axis="y", which="major", color="#E6E6E6", linewidth=0.8)
            axes.set_xlabel("iteration")
            axes.set_xlim(left=0)
        handles = [Line2D([], [], **_line(palette[name]), label=style.label(name)) for name in names]
        figure.legend(handles=handles, loc="outside right upper")
    return figure


def _in_order(
    tables: Mapping[tuple[str, int], pd.DataFrame], names: Sequence[str], column: str
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Setup and the rows that have ``column`` of every run that has any, in the order of the setups."""
    for name in names:
        for (setup, _), table in sorted(tables.items(), key=lambda item: str(item[0])):
            if setup == name and _has(table, column):
                yield name, table.dropna(subset=[column])


def _has(log: pd.DataFrame, output: str) -> bool:
    return output in log and bool(log[output].notna().any())


def _line(look: Look) -> dict:
    mark = {"marker": look.marker, "markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.6}
    return {"color": look.colour, "linewidth": 1.1, "alpha": 0.85, **mark}
