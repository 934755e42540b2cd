"""Curves over the size of the ROI: what is drawn is the mean and spread of the table, in the units of the labels."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lsdflow.errors import UserError
from lsdflow.figures import style
from lsdflow.figures.sizes import METRICS, grouped, log_axis, series, size_curves
from lsdflow.figures.style import Palette

PALETTE = Palette(["baseline", "mtlsd", "mine"], external=["ffn"])


@pytest.fixture
def table():
    """Two nets of two replicates and FFN, in three ROIs; FFN has no min-cut counts."""
    lines = []
    for row, replicate, factor in [
        ("mtlsd", 0, 1.0),
        ("mtlsd", 1, 1.5),
        ("baseline", 0, 2.0),
        ("baseline", 1, 2.2),
        ("ffn", math.nan, 1.1),
    ]:
        for volume in (8.0, 27.0, 125.0):
            split, merge = 0.1 * factor * volume**0.2, 0.02 * factor * volume**0.5
            counts = {"min_cut_splits": 3 * factor, "min_cut_merges": factor * volume} if row != "ffn" else {}
            scores = {"voi_split": split, "voi_merge": merge, "voi_sum": split + merge}
            runs = {"expected_run_length": 1000 * volume**0.3 / factor, "normalized_run_length": 0.9 / factor}
            lines.append({"row": row, "replicate": replicate, "volume_um3": volume, **scores, **runs, **counts})
    return pd.DataFrame(lines)


def panels(figure: Figure) -> dict:
    """Panels by the label of their vertical axis."""
    return {axes.get_ylabel(): axes for axes in figure.axes if axes.get_ylabel()}


def curves(axes) -> list:
    """Of each line its volumes, its heights and the lower and upper ends of its error bars."""
    found = []
    for container in axes.containers:
        line, _, (bars,) = container
        ends = np.array([segment[:, 1] if len(segment) else (np.nan, np.nan) for segment in bars.get_segments()])
        found.append((line, *line.get_data(), ends))
    return found


def legend_texts(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def test_lines_are_means_over_replicates_and_bars_their_sample_standard_deviation(table):
    axes = panels(size_curves(table, PALETTE))["VOI sum (bits)"]
    for (_, x, y, ends), name in zip(curves(axes), ("baseline", "mtlsd", "ffn"), strict=True):
        for index, volume in enumerate((8.0, 27.0, 125.0)):
            values = table[(table["row"] == name) & (table["volume_um3"] == volume)]["voi_sum"].to_numpy()
            mean = sum(values) / len(values)
            assert (x[index], y[index]) == (volume, pytest.approx(mean))
            if len(values) == 2:
                # Of two numbers it is their difference over √2.
                spread = abs(values[1] - values[0]) / math.sqrt(2)
                assert ends[index] == pytest.approx([mean - spread, mean + spread])
            else:
                assert np.isnan(ends[index]).all()


def test_run_lengths_are_in_micrometres(table):
    axes = panels(size_curves(table, PALETTE))["ERL (µm)"]
    _, _, heights, _ = curves(axes)[-1]
    assert heights == pytest.approx([8**0.3 / 1.1, 27**0.3 / 1.1, 125**0.3 / 1.1])


def test_there_is_a_panel_for_each_metric_that_has_numbers_in_the_order_asked_for(table):
    assert list(panels(size_curves(table, PALETTE))) == [metric.label for metric in METRICS.values()]
    asked = ["min_cut_merges", "voi_merge", "normalized_run_length"]
    table = table.drop(columns="voi_merge").assign(normalized_run_length=math.nan)
    assert list(panels(size_curves(table, PALETTE, metrics=asked))) == ["Min-cut merges"]


def test_a_table_without_numbers_is_refused_by_naming_what_is_missing(table):
    empty = table.drop(columns=["min_cut_splits"]).assign(min_cut_merges=math.nan)
    with pytest.raises(UserError, match="min_cut_splits or min_cut_merges against volume_um3"):
        size_curves(empty, PALETTE, metrics=["min_cut_splits", "min_cut_merges"])


def test_a_row_without_numbers_of_a_metric_has_no_line_there_and_no_place_in_its_legend(table):
    figure = size_curves(table, PALETTE, metrics=["min_cut_splits", "min_cut_merges"])
    assert len(curves(panels(figure)["Min-cut splits"])) == 2
    assert legend_texts(figure) == ["Baseline", "MtLSD"]


@pytest.mark.parametrize("count", range(1, 8))
def test_every_number_of_panels_has_one_legend_with_every_row(table, count):
    figure = size_curves(table, PALETTE, metrics=list(METRICS)[:count])
    assert legend_texts(figure) == ["Baseline", "MtLSD", "FFN"]


def test_own_rows_are_dashed_and_hollow_and_keep_the_colour_and_marker_of_their_name(table):
    own = table[table["row"] == "mtlsd"].assign(is_own=True, voi_sum=1.0)
    figure = size_curves(pd.concat([table.assign(is_own=False), own]), PALETTE, metrics=["voi_sum"])
    assert legend_texts(figure) == ["Baseline", "MtLSD", "FFN", "MtLSD (own)"]
    (_, reported, _, mine) = [line for line, *_ in curves(panels(figure)["VOI sum (bits)"])]
    assert to_rgb(reported.get_color()) == to_rgb(mine.get_color()) == to_rgb(PALETTE.colour("mtlsd"))
    assert reported.get_marker() == mine.get_marker() == PALETTE.marker("mtlsd")
    assert (reported.is_dashed(), mine.is_dashed()) == (False, True)
    assert to_rgb(mine.get_markerfacecolor()) == to_rgb("white") != to_rgb(reported.get_markerfacecolor())
    # The numbers of the two are not mixed.
    assert list(mine.get_ydata()) == [1.0, 1.0, 1.0]


def test_series_keep_the_order_of_the_experiment_and_every_line(table):
    found = series(table, PALETTE)
    assert [s.label for s in found] == ["Baseline", "MtLSD", "FFN"]
    assert sum(len(s.rows) for s in found) == len(table)


def test_few_sizes_are_the_ticks_and_above_them_stand_the_edges(table):
    figure = size_curves(table, PALETTE, metrics=["voi_sum"])
    axes = panels(figure)["VOI sum (bits)"]
    figure.draw_without_rendering()
    assert [t.get_text() for t in axes.get_xticklabels()] == ["8", "27", "125"]
    (top,) = axes.child_axes
    assert [t.get_text() for t in top.get_xticklabels()] == ["2", "3", "5"]
    # The edge of a volume stands right above it.
    for volume, edge in [(8, 2), (27, 3), (125, 5)]:
        below = axes.transData.transform((volume, 0))[0]
        assert top.transData.transform((edge, 0))[0] == pytest.approx(below, abs=0.1)


@pytest.mark.parametrize(
    ("volumes", "ticks"),
    [
        pytest.param((1260.0, 62099.0, 774543.0), ["1\u2009260", "62\u2009099", "774\u2009543"], id="few sizes"),
        pytest.param((100.0, 101.0, 102.0), ["100", "200"], id="sizes too close for their numbers"),
        pytest.param(tuple(np.geomspace(1260, 774543, 11)), ["10³", "10⁴", "10⁵", "10⁶"], id="decades"),
        pytest.param(tuple(np.geomspace(20, 1000, 11)), ["30", "100", "300", "1\u2009000"], id="many sizes"),
    ],
)
def test_ticks_are_sizes_where_these_are_few_and_round_numbers_elsewhere(volumes, ticks):
    table = pd.DataFrame({"row": "mtlsd", "volume_um3": volumes, "voi_sum": 1.0})
    figure = size_curves(table, PALETTE)
    figure.draw_without_rendering()
    axes = panels(figure)["VOI sum (bits)"]
    low, high = axes.get_xlim()
    shown = [t for t, at in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True) if low <= at <= high]
    assert [t.get_text() for t in shown] == ticks
    assert len(axes.child_axes[0].get_xticks()) >= 1


def test_counts_that_span_decades_are_logarithmic_others_start_at_zero(table):
    shown = panels(size_curves(table, PALETTE))
    # Splits do not depend on the ROI here, merges grow 16-fold.
    assert shown["Min-cut merges"].get_yscale() == "log"
    assert shown["Min-cut splits"].get_yscale() == "linear"
    for label in ("Min-cut splits", "VOI sum (bits)", "Normalised ERL"):
        assert shown[label].get_ylim()[0] == 0
    none = table.assign(min_cut_merges=table["min_cut_merges"].where(table["volume_um3"] > 8, 0))
    assert panels(size_curves(none, PALETTE))["Min-cut merges"].get_yscale() == "linear"


def test_counts_that_are_all_zero_can_be_drawn(table):
    axes = panels(size_curves(table.assign(min_cut_splits=0), PALETTE))["Min-cut splits"]
    assert axes.get_ylim() == (0, 1)


def test_every_mean_and_bar_lies_inside_its_panel(table):
    for axes in panels(size_curves(table, PALETTE)).values():
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        for _, x, y, ends in curves(axes):
            assert ((left < x) & (x < right)).all()
            assert ((bottom <= y) & (y <= top)).all() and not (ends[:, 1] > top).any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-4, 1e8), min_size=1, max_size=6))
def test_a_logarithmic_axis_holds_all_values_and_has_ticks_that_read_as_they_are(values):
    axes = Figure().subplots()
    log_axis(axes, "x", pd.Series(values))
    low, high = axes.get_xlim()
    assert low < min(values) <= max(values) < high and high / low >= 3.99
    ticks = [t for t in axes.xaxis.get_major_locator()() if low <= t <= high]
    assert ticks
    superscripts = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    for tick in ticks:
        text = axes.xaxis.get_major_formatter()(tick, 0)
        plain = text.replace("\u2009", "")
        read = 10.0 ** int(plain[2:].translate(superscripts)) if plain[-1] in "⁰¹²³⁴⁵⁶⁷⁸⁹" else float(plain)
        assert read == pytest.approx(tick)


def test_thousands_are_set_apart():
    assert [grouped(v) for v in (774543, 999.7, 999, 15.625, 0.3)] == [
        "774\u2009543",
        "1\u2009000",
        "999",
        "15.6",
        "0.3",
    ]


def test_a_figure_is_the_same_file_twice(tmp_path, table):
    first, second = (
        style.save(size_curves(table, PALETTE, metrics=["voi_sum"]), tmp_path / name / "sizes") for name in "ab"
    )
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
