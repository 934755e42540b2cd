"""Quality against what it costs: operations per voxel, counted, and the speed of prediction, measured."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lsdflow.errors import UserError
from lsdflow.figures import style
from lsdflow.figures.sizes import log_axis, series
from lsdflow.figures.style import Palette

# Columns of the table, their factor to the unit of the axis, and its label.
COSTS = {
    "flop_per_voxel": (1e-6, "Computation (MFLOP per voxel)"),
    "mvx_per_s": (1.0, "Speed of one device (MVx/s)"),
}


def quality_against_compute(table: pd.DataFrame, palette: Palette) -> Figure:
    """VOI sum against operations per voxel and against measured speed; down is better, left cheap, right fast.

    A marker is the mean over replicates; error bars are their sample standard deviation (ddof 1) where there are
    several.

    Parameters
    ----------
    table : a line per row and replicate: ``row``, ``voi_sum`` (bits), ``flop_per_voxel`` and ``mvx_per_s`` (either may
        be missing or NaN); ``is_own`` as in `sizes.series`; ``device``, where it is given, is named in the legend.
    palette : colours, markers and order of the rows.

    Raises
    ------
    UserError
        If the table has no row with both a VOI sum and a cost.
    """
    table = table[table["voi_sum"].notna()]
    shown = [c for c in COSTS if c in table and table[c].notna().any()]
    if not shown:
        raise UserError(f"the table has no row with a voi_sum and one of {', '.join(COSTS)}")
    points = series(table[table[shown].notna().any(axis=1)], palette)
    with style.context():
        figure = style.new_figure(2.4 + 3.3 * len(shown), 3.4)
        grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, column in zip(grid, shown, strict=True):
            scale, text = COSTS[column]
            for point in points:
                rows = point.rows.dropna(subset=[column])
                if rows.empty:
                    continue
                cost, voi = rows[column] * scale, rows["voi_sum"]
                bars = {"xerr": _spread(cost), "yerr": _spread(voi), "elinewidth": 1.0, "capsize": 2.5}
                axes.errorbar(cost.mean(), voi.mean(), **bars, **point.line)
            log_axis(axes, "x", table[column].dropna() * scale)
            axes.set_xlabel(text)
            axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
        grid[0].set_ylabel("VOI sum (bits)")
        grid[0].set_ylim(0, 1.06 * (grid[0].get_ylim()[1] or 1.0))
        handles = []
        for point in points:
            devices = point.rows["device"].dropna().unique() if "device" in point.rows else []
            text = ", ".join([point.label, *devices])
            handles.append(Line2D([], [], **{**point.line, "linestyle": "none"}, label=text))
        figure.legend(handles=handles, loc="outside right center")
    return figure


def _spread(values: pd.Series) -> float | None:
    """The sample standard deviation; None for a single value, which has none."""
    return values.std(ddof=1) if len(values) > 1 else None
