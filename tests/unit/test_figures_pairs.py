"""The matrix of pairs, on invented differences."""

import math

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb

from lsdflow.figures import style
from lsdflow.figures.pairs import OPEN, pair_matrix
from lsdflow.figures.style import FREE_COLOURS, KNOWN_LOOKS, Palette
from lsdflow.metrics.block_tables import BlockTables
from lsdflow.metrics.contingency import contingency_table
from lsdflow.metrics.intervals import comparison_matrix

PALETTE = Palette(["baseline", "mtlsd", "mine"], external=["ffn_filled"])
LABELS = ["Baseline", "MtLSD", "mine", "FFN,\nbackground\nfilled"]


@pytest.fixture
def pairs():
    """All pairs of four, given with the external one first; those with it have no interval."""
    nan = math.nan
    lines = [
        ("ffn_filled", "baseline", -0.3, nan, nan, "not separated"),
        ("ffn_filled", "mtlsd", 0.0004, -0.25, 0.25, "not separated"),
        ("ffn_filled", "mine", 0.5, 0.1, 0.9, "worse"),
        ("baseline", "mtlsd", 0.2, 0.125, 0.275, "worse"),
        ("baseline", "mine", -0.7, -0.9, -0.5, "better"),
        ("mtlsd", "mine", -0.04, -0.1, 0.02, "not separated"),
    ]
    table = pd.DataFrame(lines, columns="first second difference low high verdict".split())
    return table.assign(metric="voi_sum", replicates=2)


def cells(figure):
    """Fill and texts of each cell, by its row and column."""
    axes = figure.axes[0]
    rows = [t.get_text() for t in axes.get_yticklabels()]
    columns = [t.get_text() for t in axes.get_xticklabels()]
    found = {}
    for patch in axes.patches:
        x, y = (round(c) for c in patch.get_center())
        inside = [t for t in axes.texts if abs(t.get_position()[0] - x) < 0.5 and abs(t.get_position()[1] - y) < 0.5]
        texts = [t.get_text() for t in sorted(inside, key=lambda t: t.get_position()[1])]
        found[rows[y], columns[x]] = (to_hex(patch.get_facecolor()).upper(), *texts)
    return found


def test_each_pair_has_one_cell_with_row_less_column(pairs):
    baseline, mtlsd, mine, ffn = LABELS
    assert cells(pair_matrix(pairs, PALETTE)) == {
        (mtlsd, baseline): (KNOWN_LOOKS["mtlsd"].colour, "−0.200", "[−0.275, −0.125]", "row better"),
        (mine, baseline): (KNOWN_LOOKS["baseline"].colour, "+0.700", "[+0.500, +0.900]", "column better"),
        (mine, mtlsd): (OPEN, "+0.040", "[−0.020, +0.100]", "not separated"),
        (ffn, baseline): (OPEN, "−0.300", "no interval", "not separated"),
        (ffn, mtlsd): (OPEN, "0.000", "[−0.250, +0.250]", "not separated"),
        (ffn, mine): (FREE_COLOURS[0], "+0.500", "[+0.100, +0.900]", "column better"),
    }


def test_lines_may_come_turned_round_or_as_dictionaries(pairs):
    turned = pairs.rename(columns={"first": "second", "second": "first"})
    turned[["difference", "low", "high"]] = -pairs[["difference", "high", "low"]]
    turned["verdict"] = turned["verdict"].replace({"better": "worse", "worse": "better"})
    expected = cells(pair_matrix(pairs, PALETTE))
    assert cells(pair_matrix(turned.iloc[::-1], PALETTE)) == expected
    assert cells(pair_matrix(pairs.to_dict("records"), PALETTE)) == expected


def test_only_the_metric_asked_for_is_drawn(pairs):
    both = pd.concat([pairs, pairs.assign(metric="cremi_score", difference=9.0)])
    figure = pair_matrix(both, PALETTE, "cremi_score")
    assert figure.axes[0].get_title(loc="left") == "CREMI score, row − column; lower is better"
    assert {texts[1].strip("+−") for texts in cells(figure).values()} == {"9.000"}
    with pytest.raises(ValueError, match="one of voi_split, .* not rand_split"):
        pair_matrix(pairs, PALETTE, "rand_split")


def test_run_lengths_are_in_micrometres(pairs):
    long = pairs.assign(metric="expected_run_length", difference=1234.0, low=-100.0, high=2500.0)
    figure = pair_matrix(long.iloc[[3]], PALETTE, "expected_run_length")
    title = "Expected run length (µm), row − column; higher is better"
    assert figure.axes[0].get_title(loc="left") == title
    [(_, *texts)] = cells(figure).values()
    assert texts[:2] == ["−1.23", "[−2.50, +0.10]"]


def test_text_stands_out_from_every_colour(pairs):
    for name in KNOWN_LOOKS:
        line = {**pairs.iloc[3].to_dict(), "second": name, "first": "mine"}
        for text in pair_matrix([line], PALETTE).axes[0].texts:
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(PALETTE.colour(name))]
            luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
            lighter, darker = sorted([luminance, 1.0 if text.get_color() == "white" else 0.0], reverse=True)
            # The contrast that the Web Content Accessibility Guidelines ask for normal text.
            assert (lighter + 0.05) / (darker + 0.05) > 4.5, name


@pytest.mark.parametrize("n_setups", [2, 4, 8])
def test_texts_stay_in_their_cells_and_names_beside_them(n_setups):
    names = [f"setup_{i}" for i in range(n_setups)]
    line = {"metric": "voi_sum", "difference": -1.234, "low": -2.345, "high": -0.123, "verdict": "better"}
    pairs = [{**line, "first": a, "second": b} for i, a in enumerate(names) for b in names[i + 1 :]]
    figure = pair_matrix(pairs, Palette(names))
    canvas, axes = FigureCanvasAgg(figure), figure.axes[0]
    with style.context():
        canvas.draw()
    renderer = canvas.get_renderer()
    patches = [p.get_window_extent(renderer) for p in axes.patches]
    assert len(axes.texts) == 3 * len(patches) == 3 * n_setups * (n_setups - 1) // 2
    for text in axes.texts:
        box = text.get_window_extent(renderer)
        assert any(p.x0 < box.x0 and box.x1 < p.x1 and p.y0 < box.y0 and box.y1 < p.y1 for p in patches), text
    left = min(p.x0 for p in patches)
    for label in axes.get_yticklabels():
        assert 0 <= label.get_window_extent(renderer).x0 and label.get_window_extent(renderer).x1 < left


def test_a_single_setup_is_a_figure_that_says_so():
    axes = pair_matrix(comparison_matrix({"baseline": {}}), PALETTE).axes[0]
    assert [t.get_text() for t in axes.texts] == ["no two setups to compare"]
    assert len(axes.patches) == 0
    empty = pd.DataFrame(columns="first second metric difference low high verdict".split())
    assert len(pair_matrix(empty, PALETTE).axes[0].texts) == 1


def test_the_figure_draws_what_comparison_matrix_returns_and_repeats_to_the_byte(tmp_path):
    truth = [[b + 1] * 4 + [b + 101] * 4 for b in range(8)]
    halved = [[b + 1] * 2 + [b + 201] * 2 + [b + 101] * 4 for b in range(8)]
    good, bad = (
        BlockTables.from_tables(contingency_table(s, t) for s, t in zip(segments, truth, strict=True))
        for segments in (truth, halved)
    )
    rows = comparison_matrix({"mtlsd": {0: good, 1: good}, "baseline": {0: bad, 1: bad}})
    files = [style.save(pair_matrix(rows, PALETTE), tmp_path / str(i)) for i in range(2)]
    assert files[0][0].read_bytes() == files[1][0].read_bytes()
    assert files[0][1].read_bytes() == files[1][1].read_bytes()
    [(fill, *texts)] = cells(pair_matrix(rows, PALETTE)).values()
    # Half of each block's voxels are in an object cut in two: half a bit.
    assert (fill, *texts) == (KNOWN_LOOKS["mtlsd"].colour, "−0.500", "[−0.500, −0.500]", "row better")
