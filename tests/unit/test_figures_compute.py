"""Quality against cost: points lie where the table says, in the units of the labels."""

import math

import pandas as pd
import pytest

from lsdflow.errors import UserError
from lsdflow.figures.compute import quality_against_compute
from lsdflow.figures.style import Palette

PALETTE = Palette(["baseline", "aclsd"], external=["ffn"])


@pytest.fixture
def table():
    """A net of two replicates, one of one, and FFN, whose speed is not known."""
    columns = ["row", "replicate", "voi_sum", "flop_per_voxel", "mvx_per_s"]
    lines = [
        ("baseline", 0, 1.0, 2e5, 0.8),
        ("baseline", 1, 1.4, 2e5, 1.0),
        ("aclsd", 0, 0.9, 4e5, 0.4),
        ("ffn", math.nan, 0.8, 5e7, math.nan),
    ]
    return pd.DataFrame(lines, columns=columns)


def points(axes):
    """Per point its place and the ends of its horizontal and vertical bars."""
    found = []
    for container in axes.containers:
        line, _, bars = container
        ((x,), (y,)) = line.get_data()
        ends = [[tuple(map(float, end)) for end in bar.get_segments()[0]] for bar in bars]
        found.append((float(x), float(y), ends))
    return found


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_points_are_means_in_million_operations_and_bars_sample_standard_deviations(table):
    flop, speed = quality_against_compute(table, PALETTE).axes
    assert [p[:2] for p in points(flop)] == [pytest.approx(at) for at in ((0.2, 1.2), (0.4, 0.9), (50, 0.8))]
    (x, y, (across, along)), second = points(speed)
    assert (x, y) == (pytest.approx(0.9), pytest.approx(1.2))
    # Of two numbers it is their difference over √2.
    half_x, half_y = 0.2 / math.sqrt(2), 0.4 / math.sqrt(2)
    assert across == [pytest.approx((0.9 - half_x, 1.2)), pytest.approx((0.9 + half_x, 1.2))]
    assert along == [pytest.approx((0.9, 1.2 - half_y)), pytest.approx((0.9, 1.2 + half_y))]
    # One replicate has no bars.
    assert second == (0.4, 0.9, [])
    assert flop.get_xscale() == speed.get_xscale() == "log"
    assert "MFLOP per voxel" in flop.get_xlabel() and "MVx/s" in speed.get_xlabel()
    assert "bits" in flop.get_ylabel()


def test_all_points_lie_inside_and_quality_begins_at_zero(table):
    for axes in quality_against_compute(table, PALETTE).axes:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert bottom == 0
        for x, y, ends in points(axes):
            for end_x, end_y in [(x, y), *(end for bar in ends for end in bar)]:
                assert left < end_x < right and bottom < end_y < top


def test_devices_are_named_and_own_rows_marked(table):
    devices = table.assign(device=["T4", "T4", "V100", None], is_own=[True, True, False, False])
    assert legend_texts(quality_against_compute(devices, PALETTE)) == ["AcLSD, V100", "FFN", "Baseline (own), T4"]


def test_points_have_no_lines_in_the_legend(table):
    handles = quality_against_compute(table, PALETTE).legends[0].legend_handles
    assert {handle.get_linestyle() for handle in handles} == {"None"}
    assert [handle.get_marker() for handle in handles] == [PALETTE.marker(n) for n in ("baseline", "aclsd", "ffn")]


def test_a_cost_that_nobody_knows_has_no_panel(table):
    figure = quality_against_compute(table.drop(columns="mvx_per_s"), PALETTE)
    assert [axes.get_xlabel() for axes in figure.axes] == ["Computation (MFLOP per voxel)"]
    assert legend_texts(figure) == ["Baseline", "AcLSD", "FFN"]
    figure = quality_against_compute(table.assign(flop_per_voxel=math.nan), PALETTE)
    assert [axes.get_xlabel() for axes in figure.axes] == ["Speed of one device (MVx/s)"]
    assert legend_texts(figure) == ["Baseline", "AcLSD"]


def test_a_table_without_any_cost_is_refused(table):
    with pytest.raises(UserError, match="flop_per_voxel, mvx_per_s"):
        quality_against_compute(table[["row", "replicate", "voi_sum"]], PALETTE)
    with pytest.raises(UserError, match="no row"):
        quality_against_compute(table.assign(voi_sum=math.nan), PALETTE)
