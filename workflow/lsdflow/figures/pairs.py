"""Which setups differ: every pair with its difference and interval, coloured only where one of the two is better."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from lsdflow.figures import style
from lsdflow.figures.style import Palette

OPEN = "#EFEFEF"
_CELL_INCHES = (1.5, 0.92)
_WIDTH, _HEIGHT = 0.92, 0.9  # of what is filled, in cells
_LETTERS = 14


@dataclass(frozen=True)
class _Scale:
    """How differences of a score are written: heading, which way is better, factor to the unit shown, and digits."""

    heading: str
    direction: str = "lower is better"
    factor: float = 1.0
    decimals: int = 3


_SCALES = {
    "voi_split": _Scale("VOI split (bits)"),
    "voi_merge": _Scale("VOI merge (bits)"),
    "voi_sum": _Scale("VOI sum (bits)"),
    "adapted_rand_error": _Scale("Adapted Rand error"),
    "cremi_score": _Scale("CREMI score"),
    "expected_run_length": _Scale("Expected run length (µm)", "higher is better", 1e-3, 2),
}


def pair_matrix(pairs: pd.DataFrame | Sequence[Mapping], palette: Palette, metric: str = "voi_sum") -> Figure:
    """The differences of all pairs of setups in one score, with their intervals: a cell per pair, row less column.

    A cell has the colour of the better setup; where neither is better, it is grey.

    Parameters
    ----------
    pairs : table or lines
        As `lsdflow.metrics.intervals.comparison_matrix` returns them: ``first``, ``second``, ``metric``,
        ``difference``, ``low``, ``high`` (nm for run lengths), ``verdict``.  Lines of other metrics are not drawn.
    palette : colours, and the order of the setups.
    metric : the score.

    Raises
    ------
    ValueError
        If the metric is unknown.
    """
    if metric not in _SCALES:
        raise ValueError(f"the metric must be one of {', '.join(_SCALES)}, not {metric}")
    lines = [line for line in _lines(pairs) if line["metric"] == metric]
    names = palette.sorted([name for line in lines for name in (line["first"], line["second"])])
    place = {name: i for i, name in enumerate(names)}
    # At least one cell, for the experiment of a single setup.
    n = max(len(names) - 1, 1)
    with style.context():
        figure = style.new_figure(max(1.6 + _CELL_INCHES[0] * n, 5.5), 1.4 + _CELL_INCHES[1] * n)
        axes = figure.subplots()
        scale = _SCALES[metric]
        axes.set_title(f"{scale.heading}, row − column; {scale.direction}", loc="left")
        axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=8)
        axes.set_xticks(range(len(names[:-1])), [_wrapped(name) for name in names[:-1]])
        axes.set_yticks(range(len(names[1:])), [_wrapped(name) for name in names[1:]])
        for line in lines:
            _draw_cell(axes, line, place, palette)
        if not lines:
            axes.text(0, 0, "no two setups to compare", ha="center", va="center", color=style.GREY)
            return figure
        _draw_strips(axes, names, palette)
        handles = [
            Patch(
                facecolor=OPEN,
                edgecolor=style.LIGHT_GREY,
                label="not separated: the interval holds 0, or there is none",
            ),
            Patch(facecolor=style.GREY, label="in the colour of the better setup: it does not hold 0"),
        ]
        figure.legend(handles=handles, loc="outside lower center")
    return figure


def _lines(pairs: pd.DataFrame | Sequence[Mapping]) -> list[Mapping]:
    return pairs.to_dict("records") if isinstance(pairs, pd.DataFrame) else list(pairs)


def _draw_cell(axes: Axes, line: Mapping, place: Mapping[str, int], palette: Palette) -> None:
    row, column = line["first"], line["second"]
    difference, low, high = line["difference"], line["low"], line["high"]
    better = {"better": row, "worse": column}.get(line["verdict"])
    if place[row] < place[column]:
        row, column = column, row
        difference, low, high = -difference, -high, -low
    scale = _SCALES[line["metric"]]
    x, y = place[column], place[row] - 1
    fill = palette.colour(better) if better else OPEN
    edge = "none" if better else style.LIGHT_GREY
    axes.add_patch(Rectangle((x - _WIDTH / 2, y - _HEIGHT / 2), _WIDTH, _HEIGHT, fc=fill, ec=edge, lw=0.8))
    interval = f"[{_signed(low, scale)}, {_signed(high, scale)}]" if math.isfinite(low) else "no interval"
    # In words, too: colours look alike to some readers, and segmentations from elsewhere are all black.
    verdict = {row: "row better", column: "column better"}.get(better, "not separated")
    texts = (
        (-0.23, 12, "bold", _signed(difference, scale)),
        (0.03, 9.5, "normal", interval),
        (0.26, 9.5, "normal", verdict),
    )
    for down, size, weight, text in texts:
        look = {"fontsize": size, "fontweight": weight, "color": _ink_on(fill)}
        axes.text(x, y + down, text, ha="center", va="center", **look)


def _draw_strips(axes: Axes, names: Sequence[str], palette: Palette) -> None:
    """A strip of the setup's colour beside each name at the axes."""
    look = {"linewidth": 4, "solid_capstyle": "butt", "clip_on": False}
    for i, (column, row) in enumerate(zip(names[:-1], names[1:], strict=True)):
        along_x, along_y = (i - _WIDTH / 2, i + _WIDTH / 2), (i - _HEIGHT / 2, i + _HEIGHT / 2)
        axes.plot(along_x, (0, 0), color=palette.colour(column), transform=axes.get_xaxis_transform(), **look)
        axes.plot((0, 0), along_y, color=palette.colour(row), transform=axes.get_yaxis_transform(), **look)


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(style.label(name), _LETTERS, break_long_words=False))


def _signed(value: float, scale: _Scale) -> str:
    """With its sign, but none for what rounds to 0."""
    text = f"{abs(value) * scale.factor:.{scale.decimals}f}"
    if float(text) == 0:
        return text
    return ("−" if value < 0 else "+") + text


def _ink_on(colour: str) -> str:
    """White or black, whichever stands out more by the contrast ratio of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"
