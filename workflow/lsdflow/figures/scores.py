"""The comparison of setups: mean and spread over replicates as tables, VOI curves and bars."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lsdflow.figures import style
from lsdflow.figures.style import Palette

KINDS = {
    "network": "Networks (threshold selected on validation)",
    "fragments": "Fragments alone",
    "reference": "Without a network",
    "external": "External",
}


@dataclass(frozen=True)
class Column:
    """A column of the table: where its numbers are, heading, digits, whether it is a score, and which is best."""

    metric: str
    heading: str
    decimals: int
    is_score: bool = True
    is_highest_best: bool = False


COLUMNS = (
    Column("voi_split", "VOI split (bits)", 3),
    Column("voi_merge", "VOI merge (bits)", 3),
    Column("voi_sum", "VOI sum (bits)", 3),
    Column("adapted_rand_error", "Adapted Rand error", 3),
    Column("cremi_score", "CREMI score", 3),
    Column("expected_run_length", "ERL (nm)", 0, is_highest_best=True),
    Column("min_cut_splits", "Min-cut splits", 0),
    Column("min_cut_merges", "Min-cut merges", 0),
    Column("unsplittable", "Unsplittable fragments", 0),
    Column("threshold", "Threshold", 2, is_score=False),
)


def summarise(rows: pd.DataFrame, order: Sequence[str] = ()) -> pd.DataFrame:
    """Mean and spread over replicates of every number in ``rows``.

    Parameters
    ----------
    rows : one line per row of the comparison and replicate: ``row``, ``kind`` (``"network"``, ``"fragments"``,
        ``"reference"`` or ``"external"``), ``replicate`` (may be empty), and columns of numbers, NaN where a number
        does not exist.
    order : the experiment's setups; by default rows keep the order in which they first appear.

    Returns
    -------
    pandas.DataFrame
        One line per row and kind, networks first: ``row``, ``kind``, ``n`` (replicates), ``<metric>_mean`` and
        ``<metric>_std`` (sample standard deviation, ddof 1; NaN for a single replicate).

    Raises
    ------
    ValueError
        If a kind is unknown.
    """
    unknown = set(rows["kind"]) - set(KINDS)
    if unknown:
        raise ValueError(f"kinds of rows are {', '.join(KINDS)}, not {', '.join(sorted(map(str, unknown)))}")
    # The ends of intervals have no mean.
    metrics = [c for c in rows.columns if c not in ("row", "kind", "replicate") and not c.endswith(("_low", "_high"))]
    numbers = rows.assign(**{m: pd.to_numeric(rows[m]) for m in metrics})
    groups = numbers.groupby(["row", "kind"], sort=False)
    summary = pd.DataFrame({"n": groups.size()})
    for metric in metrics:
        summary[f"{metric}_mean"] = groups[metric].mean()
        summary[f"{metric}_std"] = groups[metric].std(ddof=1)
    summary = summary.reset_index()
    kinds, names = list(KINDS), Palette(order).sorted(list(summary["row"]))
    rank = sorted(range(len(summary)), key=lambda i: (kinds.index(summary["kind"][i]), names.index(summary["row"][i])))
    return summary.iloc[rank].reset_index(drop=True)


def format_number(mean: float, std: float, decimals: int) -> str:
    """``mean ± std`` as text; a dash for no number, no spread for a single replicate.

    ``decimals`` 0 stands for a count, whose mean has one decimal below 100.

    >>> format_number(0.12345, 0.0061, 3), format_number(12.5, 0.7, 0), format_number(7.0, float("nan"), 0)
    ('0.123 ± 0.006', '12.5 ± 0.7', '7')
    """
    if not math.isfinite(mean):
        return "–"
    if not math.isfinite(std):
        return f"{mean:.{decimals}f}"
    digits = 1 if decimals == 0 and mean < 100 else decimals
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


@dataclass(frozen=True)
class _Cell:
    text: str
    is_best: bool = False


def _table(summary: pd.DataFrame) -> tuple[list[str], list[tuple[str, list[list[_Cell]]]]]:
    """Headings, and for each kind its title and its lines of cells."""
    columns = [c for c in COLUMNS if f"{c.metric}_mean" in summary]
    networks = summary[summary["kind"] == "network"]
    best = {}
    for column in columns:
        means = networks[f"{column.metric}_mean"].dropna()
        # A comparison needs two, and readers compare what they see: what shows the same digits is equally good.
        if column.is_score and len(means) > 1:
            extreme = means.max() if column.is_highest_best else means.min()
            best[column.metric] = round(extreme, column.decimals or 1)
    groups = []
    for kind, title in KINDS.items():
        lines = []
        for _, line in summary[summary["kind"] == kind].iterrows():
            cells = [_Cell(style.label(line["row"]))]
            for c in columns:
                mean, std = line[f"{c.metric}_mean"], line[f"{c.metric}_std"]
                is_best = kind == "network" and round(mean, c.decimals or 1) == best.get(c.metric)
                cells.append(_Cell(format_number(mean, std, c.decimals), is_best))
            lines.append(cells + [_Cell(str(line["n"]))])
        if lines:
            groups.append((title, lines))
    return ["Segmentation", *(c.heading for c in columns), "Replicates"], groups


def _markdown_text(text: str) -> str:
    return "".join("\\" + c if c in "\\|*_`<[" else c for c in text)


def table_markdown(summary: pd.DataFrame) -> str:
    """The comparison as a Markdown table: mean ± std, kinds under headings, the networks' best numbers bold.

    Parameters
    ----------
    summary : what `summarise` gives.
    """
    headings, groups = _table(summary)
    lines = ["| " + " | ".join(headings) + " |", "|:---|" + "---:|" * (len(headings) - 1)]
    for title, rows in groups:
        lines.append(f"| *{title}* |" + " |" * (len(headings) - 1))
        for cells in rows:
            texts = [_markdown_text(c.text) for c in cells]
            lines.append(
                "| " + " | ".join(f"**{t}**" if c.is_best else t for t, c in zip(texts, cells, strict=True)) + " |"
            )
    return "\n".join(lines) + "\n"


def table_html(summary: pd.DataFrame) -> str:
    """The comparison as an HTML ``<table>``: mean ± std, kinds under headings, the networks' best numbers bold.

    Parameters
    ----------
    summary : what `summarise` gives.
    """
    headings, groups = _table(summary)
    parts = ["<table>", "<thead><tr>", *(f'<th scope="col">{html.escape(h)}</th>' for h in headings), "</tr></thead>"]
    for title, rows in groups:
        parts.append(f'<tbody><tr><th scope="colgroup" colspan="{len(headings)}">{html.escape(title)}</th></tr>')
        for name, *cells in rows:
            parts.append(f'<tr><th scope="row">{html.escape(name.text)}</th>')
            for cell in cells:
                text = html.escape(cell.text)
                parts.append(f"<td><strong>{text}</strong></td>" if cell.is_best else f"<td>{text}</td>")
            parts.append("</tr>")
        parts.append("</tbody>")
    return "\n".join([*parts, "</table>"]) + "\n"


def headline(summary: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """What the table shows, in a few sentences: the best network by VOI sum, and how the other kinds do.

    Parameters
    ----------
    summary : what `summarise` gives.
    pairs : ``first``, ``second``, ``metric`` and ``verdict`` (of the first) of all pairs, as of
        `lsdflow.metrics.intervals.comparison_matrix`: only what is separated is called better.
    """
    scored = summary.dropna(subset=["voi_sum_mean"])
    sentences = []
    networks = scored[scored["kind"] == "network"].sort_values("voi_sum_mean", kind="stable")
    if len(networks):
        best = networks.iloc[0]
        count = "one replicate" if best["n"] == 1 else f"{best['n']} replicates"
        rank = "the lowest VOI sum of the networks:" if len(networks) > 1 else "a VOI sum of"
        text = f"{style.label(best['row'])} has {rank} {_bits(best)} ({count})"
        if len(networks) > 1:
            text += ", then " + _listed(networks.iloc[1:]) + ". " + _separation(networks, pairs)
        sentences.append(text.rstrip(".") + ".")
    for kind, opening in (
        ("fragments", "Fragments alone, at best"),
        ("reference", "Without a network"),
        ("external", "External segmentations"),
    ):
        lines = scored[scored["kind"] == kind].sort_values("voi_sum_mean", kind="stable")
        if len(lines):
            # Fragments are worth a glance, not a list: the best of them will do.
            shown = lines.head(1) if kind == "fragments" else lines
            sentences.append(f"{opening}: {_listed(shown)}.")
    return " ".join(sentences)


def _separation(networks: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Which of the others the first network is better than, and from which it is not separated."""
    best, others = networks["row"].iloc[0], list(networks["row"].iloc[1:])
    voi = pairs[pairs["metric"] == "voi_sum"]
    better = set(voi.loc[(voi["first"] == best) & (voi["verdict"] == "better"), "second"])
    better |= set(voi.loc[(voi["second"] == best) & (voi["verdict"] == "worse"), "first"])
    beaten = [style.label(name) for name in others if name in better]
    even = [style.label(name) for name in others if name not in better]
    if not beaten:
        return "It is not separated from any other network"
    text = "It is better than " + ", ".join(beaten)
    return text + ("; not separated from " + ", ".join(even) if even else "")


def _bits(line: pd.Series) -> str:
    return format_number(line["voi_sum_mean"], line["voi_sum_std"], 3) + " bits"


def _listed(lines: pd.DataFrame) -> str:
    return ", ".join(f"{style.label(line['row'])} {_bits(line)}" for _, line in lines.iterrows())


def voi_curves(curves: pd.DataFrame, rows: pd.DataFrame, palette: Palette) -> Figure:
    """VOI split against VOI merge over the thresholds on the test volume, a line per replicate.

    A filled marker is the threshold selected on validation, a ring the best VOI sum on the test volume. What has no
    threshold is a single point. The view shows where the marks are; the curves' ends may lie outside.

    Parameters
    ----------
    curves : ``row``, ``replicate``, ``part``, ``threshold``, ``voi_split``, ``voi_merge`` (bits), ``is_selected``,
        ``is_best``; of these, lines with ``part`` ``"test"`` are drawn.
    rows : the table that `summarise` takes, for the rows without a curve.
    palette : colours and markers.
    """
    test = curves[curves["part"] == "test"].sort_values("threshold", kind="stable")
    marked = test[test["is_selected"].astype(bool) | test["is_best"].astype(bool)]
    points = rows[rows["kind"].isin(["reference", "external"]) & ~rows["row"].isin(test["row"])]
    # A reference may be far off; the view follows the networks and what they are measured against.
    framed = pd.concat([marked, points[points["kind"] == "external"]])
    framed = points if framed.empty else framed
    limit_x, limit_y = (1.45 * max(framed[c].max(), 0.02) for c in ("voi_split", "voi_merge"))
    with style.context():
        figure = style.new_figure(8.0, 5.2)
        axes = figure.subplots()
        axes.set(xlim=(0, limit_x), ylim=(0, limit_y), xlabel="VOI split (bits)", ylabel="VOI merge (bits)")
        _equal_sums(axes, limit_x, limit_y)
        handles = []
        names = palette.sorted(list(test["row"]))
        for name in names:
            look = palette[name]
            curves_of_row = test[test["row"] == name]
            for _, curve in curves_of_row.groupby("replicate", sort=True, dropna=False):
                axes.plot(curve["voi_split"], curve["voi_merge"], color=look.colour, linewidth=1.2, alpha=0.55)
                best = curve[curve["is_best"].astype(bool)]
                selected = curve[curve["is_selected"].astype(bool)]
                axes.plot(best["voi_split"], best["voi_merge"], **_ring(look.colour))
                axes.plot(selected["voi_split"], selected["voi_merge"], **_filled(look))
            handles.append(Line2D([], [], color=look.colour, linewidth=1.2, **_marker(look), label=style.label(name)))
        for name in dict.fromkeys(points["row"]):
            of_row = points[points["row"] == name]
            axes.plot(of_row["voi_split"], of_row["voi_merge"], **_filled(palette[name]))
            x, y = of_row["voi_split"].max(), of_row["voi_merge"].max()
            outside = f"\n(outside: {x:.2f} | {y:.2f})" if x > limit_x or y > limit_y else ""
            handles.append(Line2D([], [], **_filled(palette[name]), label=style.label(name) + outside))
        if names:
            grey = style.Look(style.GREY, "o")
            handles += [
                Line2D([], [], linestyle="none", label=""),
                Line2D([], [], **_filled(grey), label="threshold selected\non validation"),
                Line2D([], [], **_ring(style.GREY), label="best VOI sum on test"),
                Line2D(
                    [], [], color=style.LIGHT_GREY, linewidth=0.8, linestyle=(0, (4, 3)), label="equal VOI sum (bits)"
                ),
            ]
        figure.legend(handles=handles, loc="outside right upper")
    return figure


def _marker(look: style.Look) -> dict:
    return {"marker": look.marker, "markersize": 8, "markeredgecolor": "white", "markeredgewidth": 0.8}


def _filled(look: style.Look) -> dict:
    return {"linestyle": "none", "color": look.colour, **_marker(look), "zorder": 4}


def _ring(colour: str) -> dict:
    shape = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "markeredgewidth": 1.4}
    return {"linestyle": "none", "color": colour, **shape, "zorder": 3}


def _equal_sums(axes: Axes, limit_x: float, limit_y: float) -> None:
    """Faint diagonals of equal VOI sum, each with its number where it leaves through the top or the right."""
    for level in MaxNLocator(9).tick_values(0, limit_x + limit_y):
        if not 0 < level < limit_x + limit_y:
            continue
        axes.plot([0, level], [level, 0], color=style.LIGHT_GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        text = {"color": style.GREY, "fontsize": 9, "textcoords": "offset points", "annotation_clip": False}
        if limit_y <= level:
            axes.annotate(f"{level:g}", (level - limit_y, limit_y), (0, 3), ha="center", va="bottom", **text)
        else:
            axes.annotate(f"{level:g}", (0, level), (4, 1), ha="left", va="bottom", **text)


@dataclass(frozen=True)
class _Bar:
    """One bar: where it stands, its look, and the numbers behind it."""

    position: float
    label: str
    colour: str
    is_framed: bool
    rows: pd.DataFrame


def comparison_bars(rows: pd.DataFrame, palette: Palette) -> Figure:
    """VOI, adapted Rand error, run length and min-cut counts of every row: means as bars, replicates as dots.

    VOI and min-cut bars are split (full colour) plus merge (hatched); the error bar is the sample standard deviation
    of the sum over replicates; fragments are paler. A bar that would dwarf the networks' is cut at the edge, its
    value written there.

    Parameters
    ----------
    rows : the table that `summarise` takes.
    palette : colours, and the order of the networks.
    """
    bars = _bars(rows, palette)
    panels = [
        ("Variation of information", "bits", ["voi_split", "voi_merge"]),
        ("Adapted Rand error", "1 − F-score", ["adapted_rand_error"]),
        ("Expected run length", "nm; longer is better", ["expected_run_length"]),
        ("Min-cut metric", "number of splits and merges", ["min_cut_splits", "min_cut_merges"]),
    ]
    panels = [p for p in panels if all(m in rows and rows[m].notna().any() for m in p[2])]
    with style.context():
        figure = style.new_figure(4.0 + 2.3 * len(panels), 1.6 + 0.36 * (bars[-1].position + 1))
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, unit, metrics) in zip(grid, panels, strict=True):
            axes.set_title(title)
            axes.set_xlabel(unit)
            axes.grid(axis="x", color="#E6E6E6", linewidth=0.8)
            axes.tick_params(axis="y", length=0)
            _draw_bars(axes, bars, metrics)
        grid[0].set_yticks([b.position for b in bars], [b.label for b in bars])
        grid[0].set_ylim(bars[-1].position + 0.7, -0.7)
        handles = [
            Patch(facecolor=style.GREY, label="split"),
            Patch(facecolor="white", edgecolor=style.GREY, hatch="////", label="merge"),
        ]
        if any(len(bar.rows) > 1 for bar in bars):
            handles.append(Line2D([], [], linestyle="none", label="one replicate", **_DOT))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


_DOT = {"marker": "o", "markersize": 4.5, "markerfacecolor": "white", "markeredgecolor": "black"}


def _bars(rows: pd.DataFrame, palette: Palette) -> list[_Bar]:
    bars, position = [], 0.0
    for kind in KINDS:
        of_kind = rows[rows["kind"] == kind]
        for name in palette.sorted(list(of_kind["row"])):
            suffix = ", fragments" if kind == "fragments" else ""
            is_framed = kind in ("network", "external")
            of_row = of_kind[of_kind["row"] == name]
            colour = palette.colour(name)
            if kind == "fragments":
                colour = to_hex(0.5 * np.array(to_rgb(colour)) + 0.5)
            bars.append(_Bar(position, style.label(name) + suffix, colour, is_framed, of_row))
            position += 1
        position += 0.5 if len(of_kind) else 0
    return bars


def _draw_bars(axes: Axes, bars: list[_Bar], metrics: list[str]) -> None:
    totals = [b.rows[metrics].sum(axis=1, skipna=False).dropna() for b in bars]
    framed = [t.max() for b, t in zip(bars, totals, strict=True) if b.is_framed and len(t)]
    longest = max((t.max() for t in totals if len(t)), default=1.0)
    limit = 1.12 * longest
    if framed and longest > 3 * max(framed) > 0:
        limit = 2 * max(framed)
    limit = limit or 1.0
    axes.set_xlim(0, limit)
    for bar, total in zip(bars, totals, strict=True):
        if total.empty:
            axes.text(0.01 * limit, bar.position, "–", color=style.GREY, va="center")
            continue
        means = bar.rows[metrics].mean()
        axes.barh(bar.position, means.iloc[0], height=0.72, color=bar.colour)
        if len(metrics) == 2:
            axes.barh(
                bar.position,
                means.iloc[1],
                left=means.iloc[0],
                height=0.72,
                facecolor="white",
                edgecolor=bar.colour,
                hatch="////",
                linewidth=0.8,
            )
        if total.mean() > limit:
            note = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            text = f"{total.mean():.2f} ▸" if total.mean() < 100 else f"{total.mean():.0f} ▸"
            axes.text(0.98 * limit, bar.position, text, ha="right", va="center", fontsize=9, bbox=note)
            continue
        if len(total) > 1:
            axes.errorbar(total.mean(), bar.position, xerr=total.std(ddof=1), color="black", capsize=3, linewidth=1.1)
            # Side by side, so that equal replicates are seen to be two.
            spread = np.linspace(-0.18, 0.18, len(total)) + bar.position
            axes.plot(total, spread, linestyle="none", zorder=4, **_DOT)
