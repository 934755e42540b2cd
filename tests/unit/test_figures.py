"""Figures, tables and the page of the report, on invented scores small enough to check by hand."""

import base64
import itertools
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from skimage.color import deltaE_ciede2000, rgb2lab

from lsdflow.figures import style
from lsdflow.figures.page import page
from lsdflow.figures.panels import label_colours, panel, scale_bar_length, segment_colours
from lsdflow.figures.resources import time_and_memory
from lsdflow.figures.scores import (
    comparison_bars,
    format_number,
    headline,
    summarise,
    table_html,
    table_markdown,
    voi_curves,
)
from lsdflow.figures.style import FREE_COLOURS, KNOWN_LOOKS, Palette
from lsdflow.figures.training import smooth, training_curves

SETUPS = ["baseline", "mtlsd", "mine"]


@pytest.fixture
def rows():
    """Three nets of two replicates, fragments of one, the raw watershed, and FFN without min-cut numbers."""
    nan = math.nan
    columns = "row kind replicate threshold voi_split voi_merge adapted_rand_error min_cut_splits min_cut_merges"
    table = pd.DataFrame(
        [
            ("ffn", "external", nan, nan, 0.90, 0.72, 0.105, nan, nan),
            ("baseline", "network", 0, 0.50, 1.00, 0.50, 0.20, 10, 4),
            ("baseline", "network", 1, 0.60, 1.20, 0.30, 0.10, 13, 8),
            ("mtlsd", "network", 0, 0.40, 0.80, 0.20, 0.08, 6, 4),
            ("mtlsd", "network", 1, 0.40, 0.80, 0.40, 0.09, 6, 10),
            ("mine", "network", 0, 0.30, 0.90, 0.25, 0.07, 9, 9),
            ("mine", "network", 1, 0.30, 1.10, 0.35, 0.11, 9, 9),
            ("raw_watershed", "reference", nan, nan, 3.9, 1.9, 0.77, 210, 30),
            ("baseline", "fragments", 0, 0.0, 5.0, 0.1, 0.6, 900, 1),
            ("baseline", "fragments", 1, 0.0, 5.2, 0.1, 0.6, 910, 1),
        ],
        columns=columns.split(),
    )
    table["voi_sum"] = table["voi_split"] + table["voi_merge"]
    return table


@pytest.fixture
def curves():
    """Five thresholds per net and replicate; the selected one is one step beside the best."""
    parts = []
    for (s, name), replicate, part in itertools.product(enumerate(SETUPS), (0, 1), ("validation", "test")):
        threshold = np.linspace(0, 1, 5)
        split = 2.0 * (1 - threshold) + 0.3 + 0.1 * s + 0.02 * replicate
        merge = 0.1 + 3 * threshold**3 + (0 if part == "test" else 5)
        curve = pd.DataFrame({"threshold": threshold, "voi_split": split, "voi_merge": merge})
        curve["voi_sum"] = split + merge
        best = int(curve["voi_sum"].argmin())
        curve["is_best"] = np.arange(5) == best
        curve["is_selected"] = np.arange(5) == best + 1
        parts.append(curve.assign(row=name, replicate=replicate, part=part, adapted_rand_error=0.1))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def logs():
    """Logs as the training loop writes them: an output that a setup lacks is no column."""
    iteration = np.arange(10, 210, 10)
    random = np.random.default_rng(0)
    noisy = {r: np.exp(-iteration / 100) * random.uniform(0.8, 1.2, iteration.size) for r in (0, 1)}
    logs = {("baseline", r): {"affinities": noisy[r]} for r in (0, 1)}
    logs |= {("mtlsd", r): {"affinities": 0.9 * noisy[r], "lsds": 0.1 * noisy[r]} for r in (0, 1)}
    return {k: pd.DataFrame({"iteration": iteration, "loss": sum(v.values()), **v}) for k, v in logs.items()}


@pytest.fixture
def resources():
    return pd.DataFrame(
        [
            {"rule": "evaluate", "setup": "baseline", "seconds": 20.0, "max_rss_mb": "-"},
            {"rule": "train", "setup": "baseline", "seconds": 100.0, "max_rss_mb": 900.0},
            {"rule": "train", "setup": "mtlsd", "seconds": 140.0, "max_rss_mb": 1200.0},
            {"rule": "simulate_volume", "setup": math.nan, "seconds": 30.0, "max_rss_mb": 700.0},
        ]
    )


@pytest.fixture
def volumes():
    """Raw, truth of four quarters, and predictions of 6 × 8 × 10 voxels."""
    random = np.random.default_rng(1)
    raw = random.integers(0, 255, (6, 8, 10), dtype=np.uint8)
    truth = np.ones((6, 8, 10), dtype=np.uint64)
    truth[:, 4:] += 1
    truth[:, :, 5:] += 2
    channels = random.integers(0, 255, (10, 6, 8, 10), dtype=np.uint8)
    return raw, truth, channels[:3], channels, truth * 7, truth + 100


def colours_in(figure: Figure) -> dict[str, str]:
    """Legend entries and their colours."""
    handles = figure.legends[0].legend_handles
    return {
        t.get_text(): h.get_color() if hasattr(h, "get_color") else h.get_facecolor()
        for t, h in zip(figure.legends[0].get_texts(), handles, strict=True)
    }


# --- style -----------------------------------------------------------------------------------------------------------


def test_known_setups_look_the_same_in_every_experiment():
    assert Palette(["mine", "mtlsd"])["mtlsd"] == Palette(["baseline", "mtlsd"])["mtlsd"] == KNOWN_LOOKS["mtlsd"]


def test_no_two_setups_share_colour_or_marker():
    setups = {k: v for k, v in KNOWN_LOOKS.items() if k != "raw_watershed"}
    assert len({look.colour for look in setups.values()} | set(FREE_COLOURS)) == len(setups) + len(FREE_COLOURS)
    assert len({look.marker for look in setups.values()}) == len(setups)
    own = [f"mine{i}" for i in range(20)]
    assert len({Palette(own)[name] for name in own}) == 20


def test_an_unknown_setup_takes_the_next_free_look_in_the_order_of_the_experiment():
    first, second = Palette(["baseline", "b", "mtlsd", "a"]), Palette(["b", "a", "aclsd"])
    assert (first["b"], first["a"]) == (second["b"], second["a"])
    assert first.colour("b") == FREE_COLOURS[0] and first.colour("a") == FREE_COLOURS[1]


def test_external_segmentations_are_black_and_differ_by_marker():
    palette = Palette(SETUPS, external=["ffn", "manual"])
    assert palette.colour("ffn") == palette.colour("manual") == palette.colour("unheard_of") == "#000000"
    assert palette.marker("ffn") != palette.marker("manual")


@pytest.mark.parametrize(
    "simulation",
    [
        pytest.param(np.eye(3), id="full colour vision"),
        # Machado, Oliveira & Fernandes (2009), severity 1, for linear RGB.
        pytest.param(
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            id="protanopia",
        ),
        pytest.param(
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
            id="deuteranopia",
        ),
    ],
)
def test_colours_of_setups_stay_apart_for_colour_blind_readers(simulation):
    colours = [look.colour for look in KNOWN_LOOKS.values()] + ["#000000", *FREE_COLOURS]
    srgb = np.array([to_rgb(c) for c in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(simulation).T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
    distances = {
        (colours[i], colours[j]): float(deltaE_ciede2000(lab[i], lab[j]))
        for i, j in itertools.combinations(range(len(colours)), 2)
    }
    # About 2 is the least difference that is seen side by side, 10 is seen at a glance.
    assert min(distances.values()) > 8, min(distances, key=distances.get)


def test_labels_are_the_papers_names_and_unknown_names_stay():
    assert [style.label(n) for n in ("acrlsd", "raw_watershed", "my_net")] == ["AcRLSD", "Watershed on raw", "my_net"]


def test_every_figure_is_the_same_file_twice(tmp_path, rows, curves, logs, resources, volumes):
    palette = Palette(SETUPS, external=["ffn"])
    makers = {
        "curves": lambda: voi_curves(curves, rows, palette),
        "bars": lambda: comparison_bars(rows, palette),
        "training": lambda: training_curves(logs, palette),
        "resources": lambda: time_and_memory(resources, palette),
        "panel.0.29": lambda: panel(*volumes, title="MtLSD", voxel_size=(10, 10, 10)),
    }
    for name, make in makers.items():
        first, second = style.save(make(), tmp_path / "a" / name), style.save(make(), tmp_path / "b" / name)
        assert [p.name for p in first] == [f"{name}.png", f"{name}.svg"]
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes(), one.name


def test_a_setup_has_one_colour_in_all_figures(rows, curves, logs, resources):
    palette = Palette(SETUPS, external=["ffn"])
    figures = [voi_curves(curves, rows, palette), training_curves(logs, palette), time_and_memory(resources, palette)]
    for name in ("baseline", "mtlsd"):
        seen = {to_rgb(colours_in(figure)[style.label(name)]) for figure in figures}
        bars = comparison_bars(rows, palette).axes[0].patches
        place = palette.sorted(SETUPS).index(name)
        seen |= {b.get_facecolor()[:3] for b in bars if round(b.get_y() + b.get_height() / 2, 6) == place}
        assert seen - {(1.0, 1.0, 1.0)} == {to_rgb(palette.colour(name))}


def test_a_name_with_a_dollar_sign_is_not_a_formula(tmp_path, rows):
    rows = rows.replace({"row": {"mine": "a$b$_{"}})
    style.save(comparison_bars(rows, Palette(["a$b$_{"])), tmp_path / "bars")


# --- scores ----------------------------------------------------------------------------------------------------------


def test_summary_is_mean_and_sample_deviation_as_by_hand(rows):
    summary = summarise(rows, SETUPS).set_index(["row", "kind"])
    baseline = summary.loc["baseline", "network"]
    # VOI sums 1.5 and 1.5; min-cut splits 10 and 13: mean 11.5, deviation 3 / √2; errors 0.2 and 0.1.
    assert baseline["n"] == 2
    assert baseline["voi_sum_mean"] == pytest.approx(1.5) and baseline["voi_sum_std"] == pytest.approx(0, abs=1e-12)
    assert baseline["min_cut_splits_mean"] == 11.5
    assert baseline["min_cut_splits_std"] == pytest.approx(3 / math.sqrt(2))
    assert baseline["adapted_rand_error_std"] == pytest.approx(0.1 / math.sqrt(2))
    ffn = summary.loc["ffn", "external"]
    assert ffn["voi_sum_mean"] == pytest.approx(1.62) and math.isnan(ffn["voi_sum_std"])
    assert math.isnan(ffn["min_cut_splits_mean"]) and ffn["n"] == 1


def test_summary_lists_networks_in_the_experiments_order_then_the_other_kinds(rows):
    summary = summarise(rows.iloc[::-1], SETUPS)
    assert list(zip(summary["row"], summary["kind"], strict=True)) == [
        ("baseline", "network"),
        ("mtlsd", "network"),
        ("mine", "network"),
        ("baseline", "fragments"),
        ("raw_watershed", "reference"),
        ("ffn", "external"),
    ]


def test_summary_reads_empty_cells_of_text_columns_as_missing(rows):
    text = rows.astype(object).where(rows.notna(), "")
    pd.testing.assert_frame_equal(summarise(text), summarise(rows), check_dtype=False)


def test_an_unknown_kind_of_row_is_refused(rows):
    with pytest.raises(ValueError, match="not guess"):
        summarise(rows.replace({"kind": {"external": "guess"}}))


@pytest.mark.parametrize(
    ("mean", "std", "decimals", "text"),
    [
        (1.2345, 0.0567, 3, "1.234 ± 0.057"),
        (1.2345, math.nan, 3, "1.234"),
        (11.5, 2.1213, 0, "11.5 ± 2.1"),
        (905.4, 7.07, 0, "905 ± 7"),
        (12.0, math.nan, 0, "12"),
        (math.nan, math.nan, 3, "–"),
    ],
)
def test_numbers_have_sensible_digits(mean, std, decimals, text):
    assert format_number(mean, std, decimals) == text


def test_markdown_table_marks_the_best_network_of_each_score(rows):
    lines = table_markdown(summarise(rows, SETUPS)).splitlines()
    cells = {line.split(" | ")[0].strip("| "): [c.strip(" |") for c in line.split(" | ")[1:]] for line in lines}
    assert len({line.count("|") for line in lines}) == 1
    assert "*Networks (threshold selected on validation)*" in cells
    # VOI merge 0.3 ± 0.1 of mtlsd and 0.3 of mine are equally good; FFN's lower Rand error is not a network's.
    assert cells["MtLSD"][:3] == ["**0.800 ± 0.000**", "**0.300 ± 0.141**", "**1.100 ± 0.141**"]
    assert cells["mine"][1] == "**0.300 ± 0.071**"
    assert cells["FFN"] == ["0.900", "0.720", "1.620", "0.105", "–", "–", "–", "1"]
    assert cells["mine"][6] == "0.30 ± 0.00"  # a threshold is no score
    assert cells["Watershed on raw"][3:6] == ["0.770", "210", "30"]


def test_html_table_holds_the_same_cells_as_the_markdown_table(rows):
    summary = summarise(rows, SETUPS)
    in_html = re.findall(r"<strong>(.*?)</strong>", table_html(summary))
    in_markdown = re.findall(r"\*\*(.*?)\*\*", table_markdown(summary))
    assert in_html == in_markdown and len(in_html) >= 6


def test_tables_escape_names(rows):
    summary = summarise(rows.replace({"row": {"mine": "<b>|x_y"}}))
    assert "<b>" not in table_html(summary) and "&lt;b&gt;|x_y" in table_html(summary)
    assert r"\<b>\|x\_y" in table_markdown(summary)


def test_a_single_network_is_not_called_best(rows):
    assert "**" not in table_markdown(summarise(rows[rows["row"].isin(["baseline", "ffn"])]))


def test_tables_leave_out_scores_that_were_not_asked_for(rows):
    text = table_markdown(summarise(rows.drop(columns=["min_cut_splits", "min_cut_merges"])))
    assert "VOI sum" in text and "Min-cut" not in text


def pairs(*verdicts):
    """A table of pairs from (first, second, verdict)."""
    return pd.DataFrame([(*v, "voi_sum") for v in verdicts], columns=["first", "second", "verdict", "metric"])


def test_headline_names_the_network_with_the_lowest_voi_sum(rows):
    text = headline(summarise(rows, SETUPS), pairs(("baseline", "mtlsd", "not separated")))
    assert text.startswith("MtLSD has the lowest VOI sum of the networks: 1.100 ± 0.141 bits (2 replicates), then mine")
    assert "It is not separated from any other network. " in text
    assert "External segmentations: FFN 1.620 bits." in text


def test_headline_says_better_only_of_what_is_separated(rows):
    text = headline(summarise(rows, SETUPS), pairs(("baseline", "mtlsd", "worse"), ("mtlsd", "mine", "not separated")))
    assert "It is better than Baseline; not separated from mine" in text


def test_voi_curves_draw_test_curves_only_with_both_marks_in_view(rows, curves):
    axes = voi_curves(curves, rows, Palette(SETUPS, ["ffn"])).axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 5]
    assert len(drawn) == 6
    assert max(line.get_ydata().max() for line in drawn) < 5  # the validation curves lie above 5
    for which in ("is_selected", "is_best"):
        for _, mark in curves[(curves["part"] == "test") & curves[which]].iterrows():
            assert mark["voi_split"] < axes.get_xlim()[1] and mark["voi_merge"] < axes.get_ylim()[1]


def test_voi_curves_say_when_a_reference_lies_outside(rows, curves):
    entries = colours_in(voi_curves(curves.assign(voi_split=0.4), rows, Palette(SETUPS, ["ffn"])))
    assert "Watershed on raw\n(outside: 3.90 | 1.90)" in entries and "FFN" in entries


def test_bars_end_at_the_mean_sum_and_dots_stand_at_the_replicates(rows):
    axes = comparison_bars(rows, Palette(SETUPS)).axes[0]
    ends = {}
    for bar in axes.patches:
        place = round(bar.get_y() + bar.get_height() / 2, 3)
        ends[place] = max(ends.get(place, 0), bar.get_x() + bar.get_width())
    assert ends[1.0] == pytest.approx(1.1)  # mtlsd, the second network: 1.0 and 1.2
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert any(np.allclose(d, [1.0, 1.2]) for d in dots)


def test_bars_need_neither_replicates_nor_min_cut_numbers(tmp_path, rows):
    few = rows[(rows["replicate"] != 1) & (rows["kind"] != "fragments")].drop(columns=["min_cut_splits"])
    figure = comparison_bars(few, Palette(SETUPS))
    assert [a.get_title() for a in figure.axes] == ["Variation of information", "Adapted Rand error"]
    style.save(figure, tmp_path / "bars")


# --- training and resources ------------------------------------------------------------------------------------------


def test_smoothing_keeps_constants_and_straight_lines():
    assert np.allclose(smooth(pd.Series(np.full(200, 3.0))), 3)
    line = pd.Series(np.arange(200.0))
    assert np.allclose(smooth(line)[20:-20], line[20:-20])
    assert np.allclose(smooth(line[:5]), line[:5])


def test_training_has_a_panel_per_output_and_a_line_per_replicate(logs):
    affinities, lsds = training_curves(logs, Palette(SETUPS)).axes
    assert (affinities.get_title(), len(affinities.lines)) == ("Affinities", 4)
    assert (lsds.get_title(), len(lsds.lines)) == ("LSDs", 2)
    assert affinities.get_yscale() == "log"


@pytest.fixture
def validations():
    """Of baseline two, with the best in the middle and at both ends; of mtlsd one without a segmentation, one empty."""
    columns = ["iteration", "loss", "voi_split", "voi_merge", "voi_sum", "threshold", "seconds"]
    tables = {
        ("mtlsd", 0): pd.DataFrame({"iteration": [100], "loss": [0.1]}),
        ("mtlsd", 1): pd.DataFrame(columns=columns),
    }
    for replicate, scores in enumerate(([3.0, math.nan, 1.0, 2.0], [2.0, 2.5, 3.0, 2.0])):
        table = pd.DataFrame({"iteration": [50, 100, 150, 200], "voi_sum": scores})
        tables["baseline", replicate] = table
    return tables


def test_validations_have_a_panel_with_the_kept_network_marked(logs, validations):
    *losses, panel = training_curves(logs, Palette(SETUPS), validations).axes
    assert [a.get_title() for a in losses] == ["Affinities", "LSDs"]
    assert (panel.get_title(), panel.get_ylabel(), panel.get_yscale()) == ("Validation", "VOI sum (bits)", "linear")
    seen = [(line.get_xdata().tolist(), line.get_ydata().tolist(), line.get_markevery()) for line in panel.lines]
    assert seen == [([50, 150, 200], [3, 1, 2], [1]), ([50, 100, 150, 200], [2, 2.5, 3, 2], [0])]
    assert {line.get_color() for line in panel.lines} == {Palette(SETUPS).colour("baseline")}


def test_without_scores_there_is_no_panel_of_validations(logs, validations):
    for none in ({}, {run: table for run, table in validations.items() if run[0] == "mtlsd"}):
        assert [a.get_title() for a in training_curves(logs, Palette(SETUPS), none).axes] == ["Affinities", "LSDs"]


def test_time_is_summed_over_jobs_and_memory_is_the_largest_jobs(resources):
    time, memory = time_and_memory(resources, Palette(SETUPS)).axes
    assert [t.get_text() for t in time.get_yticklabels()] == ["simulate volume", "train", "evaluate"]
    assert time.get_xlabel() == "minutes" and memory.get_xlabel() == "MB"
    assert [t.get_text() for t in time.texts] == ["0.5", "4", "0.33"]  # train: 100 s + 140 s
    assert [t.get_text() for t in memory.texts] == ["700", "1200", "–"]


# --- panels ----------------------------------------------------------------------------------------------------------


def test_an_id_has_the_same_colour_everywhere_and_zero_is_black():
    ids = np.array([0, 1, 2, 3, 2**63], dtype=np.uint64)
    colours = label_colours(ids)
    assert np.array_equal(label_colours(ids[::-1]), colours[::-1])
    assert np.array_equal(label_colours(ids[:4].astype(np.int32)), colours[:4])
    assert not colours[0].any() and len(np.unique(colours, axis=0)) == 5
    # Pinned: figures of one release must not change colours in the next.
    assert (label_colours(np.array(1)) * 255).round().astype(int).tolist() == [40, 192, 67]


def test_segments_wear_the_colour_of_their_object_and_errors_do_not():
    #                    one object   halved by a split  two objects merged   background
    truth = np.array([[[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 4], [0, 0, 0, 0]]])
    found = np.array([[[9, 9, 9, 9], [5, 5, 5, 6], [7, 7, 7, 7], [8, 8, 8, 0]]])
    ids, colours = segment_colours(found, truth)
    of = dict(zip(ids.tolist(), colours, strict=True))
    true = label_colours(np.array([0, 1, 2, 3, 4]))
    assert np.array_equal(of[9], true[1])
    assert np.array_equal(of[5], true[2]) and not any(np.array_equal(of[6], c) for c in true)
    assert np.array_equal(of[7], true[3])
    assert not any(np.array_equal(of[8], c) for c in true) and not of[0].any()


def test_panel_shows_two_cuts_of_what_is_given_in_true_proportion(volumes):
    figure = panel(*volumes, title="MtLSD", voxel_size=(40, 10, 10))
    titles = [a.get_title().split("\n")[0] for a in figure.axes[:6]]
    assert titles == ["raw", "truth", "affinities", "LSDs", "fragments", "segmentation"]
    assert figure.axes[0].images[0].get_array().shape == (8, 10, 3)
    assert figure.axes[6].images[0].get_array().shape == (6, 10, 3)
    assert figure.axes[6].images[0].get_extent() == [0, 100, 240, 0]
    raw, truth, affinities, _, fragments, segmentation = volumes
    assert len(panel(raw, truth, affinities, None, fragments, segmentation).axes) == 10


def test_panel_shows_affinities_in_red_green_blue(volumes):
    raw, _, affinities, *_ = volumes
    figure = panel(raw, affinities=affinities, section=2)
    assert np.allclose(figure.axes[1].images[0].get_array()[3, 4], affinities[:, 2, 3, 4] / 255)
    as_fractions = panel(raw, affinities=affinities / 255, section=2)
    assert np.allclose(as_fractions.axes[1].images[0].get_array(), figure.axes[1].images[0].get_array())


def test_panel_paints_a_perfect_segmentation_like_the_truth(volumes):
    raw, truth, *_ = volumes
    figure = panel(raw, truth=truth, segmentation=truth[...] * 1000)
    assert np.allclose(figure.axes[1].images[0].get_array(), figure.axes[2].images[0].get_array())


def test_panel_refuses_volumes_of_another_shape(volumes):
    raw, truth, *_ = volumes
    with pytest.raises(ValueError, match=r"truth must be .*\(6, 8, 10\), not \(6, 8, 9\)"):
        panel(raw, truth[..., :9])


def test_panel_of_a_flat_image_is_drawn(tmp_path):
    style.save(panel(np.zeros((2, 4, 4)), segmentation=np.zeros((2, 4, 4), dtype=np.uint8)), tmp_path / "flat")


@pytest.mark.parametrize(("width", "length"), [(2500, 500), (600, 200), (599, 100), (3000, 1000), (16, 5)])
def test_scale_bar_is_a_round_number_up_to_a_third(width, length):
    assert scale_bar_length(width) == pytest.approx(length)


# --- page ------------------------------------------------------------------------------------------------------------


class _Outline(HTMLParser):
    """Tags left open, image sources, and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.tags, self.text = [], [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def picture(tmp_path):
    return style.save(panel(np.zeros((2, 4, 4))), tmp_path / "picture")[0]


def test_page_embeds_its_images_and_loads_nothing(rows, picture):
    table = table_html(summarise(rows, SETUPS))
    text = page("Comparison", [("Seed", 7)], table, [("Pictures", "A caption.", picture), ("", "More.", picture)])
    outline = _Outline(text)
    assert outline.open == [] and "script" not in outline.tags and "link" not in outline.tags
    for image in outline.images:
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == picture.read_bytes()
    assert len(outline.images) == 2 and all(i["alt"] for i in outline.images)
    assert not re.search(r"https?://|url\(", text)


def test_page_opens_with_the_table_then_figures_then_facts(rows, picture):
    summary = summarise(rows, SETUPS)
    text = page(
        "T",
        [("Seed", 7)],
        table_html(summary),
        [("Pictures", "C", picture)],
        lead=headline(summary, pairs()),
        table_note="Note.",
    )
    seen = _Outline(text).text
    places = [seen.index(s) for s in ("MtLSD has the lowest", "VOI split (bits)", "Note.", "Pictures", "Seed")]
    assert places == sorted(places)


def test_page_escapes_everything_but_the_table(picture):
    evil = '<script>alert("x")</script>&'
    text = page(evil, [(evil, evil)], "<table></table>", [(evil, evil, picture)], lead=evil, table_note=evil)
    outline = _Outline(text)
    assert "script" not in outline.tags and "table" in outline.tags
    assert outline.text.count(evil) == 8  # two titles, lead, note, heading, caption, label, value
    assert outline.images[0]["alt"] == evil


def test_page_refuses_what_is_not_a_png(tmp_path):
    (tmp_path / "a.png").write_text("<svg/>")
    with pytest.raises(ValueError, match="not a PNG"):
        page("T", [], "", [("", "", tmp_path / "a.png")])
