"""The paper's numbers are drawn as it reports them, and one's own beside them, never mixed with them."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lsdflow.figures import paper, sizes
from lsdflow.figures.paper import INFERENCE, REPORTED, compute_table, inference_table, own_rows, paper_table
from lsdflow.figures.style import Palette
from lsdflow.network_cost import NetworkPass, flop_per_voxel
from lsdflow.network_shapes import NETWORKS

VOLUMES = [1260, 5832, 16003, 34012, 62099, 102503, 157464, 229221, 320014, 432081, 774543]

# As the LSD paper's site gives them (plots/csvs/zfinch), rounded: skeletons cut to the neuropil.
VOI_SUM = {
    "baseline": [0.397, 0.590, 0.773, 0.965, 1.164, 1.591, 1.943, 2.465, 2.826, 3.055, 3.856],
    "long_range": [0.866, 1.136, 1.290, 1.506, 1.862, 2.345, 2.731, 3.012, 3.432, 3.839, 4.358],
    "malis": [0.620, 0.800, 0.968, 1.238, 1.474, 1.651, 1.945, 2.347, 2.651, 2.969],
    "mtlsd": [0.259, 0.352, 0.477, 0.622, 0.792, 1.037, 1.331, 1.764, 2.179, 2.531, 3.420],
    "aclsd": [0.425, 0.655, 0.821, 0.973, 1.159, 1.322, 1.508, 1.716, 1.882, 2.037, 2.414],
    "acrlsd": [0.356, 0.520, 0.662, 0.792, 0.988, 1.168, 1.339, 1.540, 1.692, 1.867, 2.290],
    "ffn": [0.402, 0.484, 0.627, 0.795, 0.965, 1.130, 1.329, 1.534, 1.671, 1.853, 2.256],
}
# Benchmark ROI (Supplementary Table 2 of the paper): VOI split and merge, ERL in µm, normalised ERL.
BENCHMARK = {
    "baseline": (1.115, 2.741, 9.147, 0.038),
    "long_range": (2.072, 2.286, 9.517, 0.040),
    "mtlsd": (0.625, 2.794, 8.855, 0.037),
    "aclsd": (1.192, 1.222, 12.886, 0.054),
    "acrlsd": (0.944, 1.346, 12.667, 0.053),
    "ffn": (1.068, 1.188, 16.747, 0.070),
}
# Splits and merges on the three smallest ROIs.
MIN_CUT = {
    "baseline": [(15, 37), (37, 136), (81, 313)],
    "long_range": [(11, 111), (38, 464), (84, 961)],
    "malis": [(25, 119), (65, 416), (172, 899)],
    "mtlsd": [(13, 21), (35, 78), (79, 164)],
    "aclsd": [(18, 54), (36, 207), (100, 483)],
    "acrlsd": [(16, 45), (32, 157), (77, 342)],
}


@pytest.fixture(scope="module")
def reported():
    return paper_table(REPORTED)


@pytest.fixture
def own(tmp_path):
    """A table of one's own: two replicates of a known setup on two of the paper's ROIs, of an unknown one on one."""
    lines = []
    runs = [("mtlsd", 1.0, 1260), ("mtlsd", 1.0, 5832), ("mine", 2.0, 1260)]
    for (row, factor, volume), replicate in itertools.product(runs, (0, 1)):
        voi = factor * (0.5 + 0.1 * replicate) * volume / 1260
        costs = {"flop_per_voxel": 3e5, "mvx_per_s": 5.0, "device": "T4"}
        lines.append({"row": row, "replicate": replicate, "volume_um3": volume, "voi_sum": voi, **costs})
    path = tmp_path / "own.csv"
    pd.DataFrame(lines).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("method", VOI_SUM)
def test_voi_of_every_roi_is_the_reported_one(reported, method):
    rows = reported[reported["row"] == method]
    assert list(rows["volume_um3"]) == VOLUMES[: len(VOI_SUM[method])]
    assert list(rows["voi_sum"].round(3)) == VOI_SUM[method]
    assert np.allclose(rows["voi_split"] + rows["voi_merge"], rows["voi_sum"])


@pytest.mark.parametrize("method", BENCHMARK)
def test_benchmark_is_the_reported_one(reported, method):
    (row,) = reported[(reported["row"] == method) & (reported["roi"] == "benchmark_roi")].to_dict("records")
    numbers = (row["voi_split"], row["voi_merge"], row["expected_run_length"] / 1000, row["normalized_run_length"])
    assert tuple(round(n, 3) for n in numbers) == BENCHMARK[method]


def test_run_lengths_of_small_rois_are_the_reported_ones(reported):
    at = reported.set_index(["row", "roi"])
    lengths = {(m, r): round(at.loc[(m, r), "expected_run_length"] / 1000, 2) for m, r in at.index}
    assert lengths["mtlsd", "11_micron_roi"] == 13.85 and lengths["ffn", "25_micron_roi"] == 31.00
    assert lengths["baseline", "11_micron_roi"] == 12.95 and lengths["malis", "25_micron_roi"] == 22.61
    assert round(at.loc[("acrlsd", "11_micron_roi"), "normalized_run_length"], 3) == 0.748


def test_min_cut_counts_are_the_reported_ones(reported):
    counted = reported[reported["min_cut_splits"].notna()]
    found = {
        name: list(zip(rows["min_cut_splits"], rows["min_cut_merges"], strict=True))
        for name, rows in counted.groupby("row")
    }
    assert found == MIN_CUT


def test_every_method_has_one_line_per_roi_and_none_is_left_out(reported):
    assert not reported.duplicated(["row", "roi"]).any() and not reported["row"].isna().any()
    assert set(reported["row"]) == set(VOI_SUM)
    assert reported.groupby("row").size().to_dict() == {name: len(v) for name, v in VOI_SUM.items()}


def test_rois_are_cubes_of_the_named_edge(reported):
    cubes = reported[reported["roi"] != "benchmark_roi"].drop_duplicates("roi")
    edges = np.cbrt(cubes["volume_um3"])
    assert np.allclose(edges, [10.8, 18.0, 25.2, 32.4, 39.6, 46.8, 54.0, 61.2, 68.4, 75.6], atol=0.01)
    assert list(cubes["roi"]) == [f"{round(edge)}_micron_roi" for edge in edges]
    assert math.prod(paper.BENCHMARK_SHAPE) / paper.VOXELS_PER_UM3 == pytest.approx(774543, rel=1e-6)


def test_lines_that_are_left_out_repeat_others_or_are_long_range_without_padding():
    table = pd.read_csv(REPORTED)
    left_out = table[~table["file"].str.startswith("all_rois/")]
    without_padding = left_out["method"] == "longrange"
    assert set(left_out[without_padding]["threshold"]) == {0.04}
    keys = ["method", "run_type", "has_mask"]
    kept = table[table["file"].str.startswith("all_rois/")].set_index(keys).drop(columns="file")
    repeated = left_out[~without_padding].set_index(keys).drop(columns="file")
    pd.testing.assert_frame_equal(kept.loc[repeated.index], repeated)


def test_whole_skeletons_have_their_own_numbers_and_no_min_cut():
    table = paper_table(REPORTED, masked=False)
    benchmark = table[table["roi"] == "benchmark_roi"].set_index("row")["voi_sum"].round(3).to_dict()
    assert benchmark == {
        "baseline": 5.853,
        "long_range": 6.359,
        "mtlsd": 5.331,
        "aclsd": 4.004,
        "acrlsd": 4.159,
        "ffn": 2.516,
    }
    assert table["min_cut_splits"].isna().all() and len(table) == 76


def test_reported_operations_are_those_counted_from_the_network(reported):
    cost = reported.groupby("row")["flop_per_voxel"].agg(["min", "max"])
    assert np.allclose(cost["min"], cost["max"])
    shape = (96, 484, 484)
    assert cost.loc["baseline", "min"] == pytest.approx(
        flop_per_voxel([NetworkPass(NETWORKS["zebrafinch"], shape)]), rel=0.001
    )
    mtlsd = NetworkPass(NETWORKS["zebrafinch"], shape, head_channels=13, num_fmaps_out=14)
    assert cost.loc["mtlsd", "min"] == pytest.approx(flop_per_voxel([mtlsd]), rel=0.002)


def test_speeds_are_those_of_the_papers_table(reported):
    # Its column in µm³ per second and GPU.
    printed = {"lsd": 1.093, "baseline": 1.528, "long_range": 1.218, "malis": 1.515, "mtlsd": 1.404}
    printed |= {"aclsd": 1.174, "acrlsd": 0.854, "ffn": 0.07}
    speeds = inference_table(INFERENCE).set_index("row")["mvx_per_s"] * 1e6 / paper.VOXELS_PER_UM3
    assert speeds.to_dict() == {name: pytest.approx(speed, abs=0.0015) for name, speed in printed.items()}
    # Operations for the benchmark ROI, printed to three digits, are those of the table of scores.
    flop = pd.read_csv(INFERENCE).set_index("row")["tera_flop"]
    benchmark = reported[reported["roi"] == "benchmark_roi"].set_index("row")["tera_flop"]
    assert flop[benchmark.index].to_dict() == {name: pytest.approx(v, rel=0.001) for name, v in benchmark.items()}


def test_costs_stand_beside_the_voi_of_one_roi_and_of_ones_own_largest(reported, own):
    table = pd.concat([reported.assign(is_own=False), own_rows(own)], ignore_index=True)
    costs = compute_table(table, inference_table(INFERENCE))
    theirs = costs[~costs["is_own"]].set_index("row")
    assert theirs["voi_sum"].round(3).to_dict() == {name: values[9] for name, values in VOI_SUM.items()}
    assert theirs.loc["ffn", "device"] == "P100" and theirs.loc["ffn", "mvx_per_s"] == pytest.approx(0.0433, abs=1e-4)
    mine = costs[costs["is_own"]]
    assert list(mine["row"]) == ["mtlsd", "mtlsd", "mine", "mine"] and set(mine["device"]) == {"T4"}
    assert list(mine["voi_sum"]) == pytest.approx([0.5 * 5832 / 1260, 0.6 * 5832 / 1260, 1.0, 1.2])


def overlapping_numbers(figure):
    """Pairs of numbers at the axes, of one panel or two, that touch each other as they are drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = []
    for axes in [*figure.axes, *(top for panel in figure.axes for top in panel.child_axes)]:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            labels = [label for tick in ticks for label in (tick.label1, tick.label2) if label.get_visible()]
            boxes += [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in labels if t.get_text()]
    assert len(boxes) > 8
    return [(one[0], other[0]) for one, other in itertools.combinations(boxes, 2) if one[1].overlaps(other[1])]


@pytest.mark.parametrize("name", paper.FIGURES)
def test_numbers_on_the_axes_do_not_run_into_each_other(reported, name):
    figure = sizes.size_curves(reported, Palette(list(VOI_SUM)[:-1], external=["ffn"]), **paper.FIGURES[name])
    assert overlapping_numbers(figure) == []


def test_rois_without_counts_take_no_room_on_the_axis_of_counts(reported):
    figure = sizes.size_curves(reported, Palette(list(MIN_CUT)), **paper.FIGURES["zebrafinch_mincut"])
    for axes in figure.axes:
        assert list(axes.get_xticks()) == VOLUMES[:3] and axes.get_xlim()[1] < VOLUMES[3]


def test_the_command_draws_all_figures_and_writes_all_numbers(tmp_path, own, capsys):
    paper.main([str(tmp_path / "out"), "--rows", str(own)])
    names = [*paper.FIGURES, "zebrafinch_compute"]
    expected = {f"{name}.{ending}" for name in names for ending in ("png", "svg")} | {"zebrafinch.md"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == expected
    assert str(tmp_path / "out") in capsys.readouterr().out

    lines = (tmp_path / "out/zebrafinch.md").read_text(encoding="utf-8").splitlines()
    voi = lines[lines.index("## VOI sum (bits)") :]
    cells = {c[1].strip(): [x.strip() for x in c[2:-1]] for c in (line.split("|") for line in voi[4:12])}
    assert cells["Baseline"] == [f"{v:.3f}" for v in VOI_SUM["baseline"]]
    assert cells["MALIS"][-1] == "–"
    # 0.5 and 0.6 have mean 0.55 and standard deviation 0.0707.
    assert cells["MtLSD (own)"][0] == "0.550 ± 0.071" and cells["MtLSD (own)"][2:] == ["–"] * 9
    costs = lines[lines.index("## Cost") :]
    assert "| AcRLSD | 1.867 | 1.827 | 0.527 | V100 |" in costs
    assert any(
        line.startswith("| mine (own) |") and line.endswith("| 0.300 ± 0.000 | 5.000 ± 0.000 | T4 |") for line in costs
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,voi_sum\nmine,1\n", "lacks volume_um3"),
        ("voi_sum\n1\n", "lacks row and volume_um3"),
        ("row,volume_um3,threshold\nmine,8,0.5\n", "has no score"),
        ("row,volume_um3,voi_sum\nmine,8,low\n", "the column voi_sum must hold numbers"),
        ("row,volume_um3,voi_sum\nmine,0,1\n", "volume_um3 must be positive"),
        ("row,volume_um3,voi_sum\nmine,,1\n", "volume_um3 must be positive"),
        ("", "cannot read the rows"),
        (None, "cannot read the rows"),
    ],
)
def test_a_table_of_ones_own_that_cannot_be_used_is_named_without_a_traceback(tmp_path, text, message):
    path = tmp_path / "own.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        paper.main([str(tmp_path / "out"), "--rows", str(path)])
    assert message in str(stopped.value) and "own.csv" in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_rows_of_one_name_in_two_tables_are_no_replicates(tmp_path, own):
    other = tmp_path / "other.csv"
    other.write_text("row,volume_um3,voi_sum\nmine,8,1\n")
    with pytest.raises(SystemExit, match="both have a row 'mine'"):
        paper.main([str(tmp_path / "out"), "--rows", str(own), str(other)])
