"""The figure of splits and merges, on a volume of which every voxel's colour is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from lsdflow.figures import style
from lsdflow.figures.errors import MAIN, PART, Surroundings, describe, error_panel, surrounding_box
from lsdflow.figures.panels import label_colours
from lsdflow.metrics.errors import COLUMNS
from lsdflow.roi import Roi

VOXEL_SIZE = (20, 10, 5)
BEGIN = (100, 200, 300)
RAW_XY, TRUTH_XY, SEGMENTATION_XY, RAW_XZ, TRUTH_XZ, SEGMENTATION_XZ = range(6)

# Voxels of 8 × 20 × 30, y x in any section. Object 1 reaches to x = 15 and object 2 from there on; object 3 is the
# last 6 of y.
IN_1, IN_2, IN_3 = (5, 5), (5, 25), (17, 5)


def error(kind, **more):
    row = {"kind": kind, "truth": 1, "segment": 8, "other": 2, "voxels": 34512, "bits": 0.1234}
    return row | dict(zip("zyx", (104, 205, 314), strict=True)) | more


def surroundings(kind):
    """Raw of 0; of a merge, objects 1 and 2 are segment 8; of a split, object 1 is segments 8 (z < 4) and 9."""
    truth = np.ones((8, 20, 30), np.uint64)
    truth[:, :, 15:] = 2
    truth[:, 14:] = 3
    segmentation = truth + 20
    if kind == "merge":
        segmentation[truth < 3] = 8
    else:
        segmentation[truth == 1] = 9
        segmentation[:4][truth[:4] == 1] = 8
    return Surroundings(np.zeros(truth.shape, np.uint8), truth, segmentation, BEGIN)


@pytest.fixture(scope="module")
def merge():
    return error_panel([error("merge")], [surroundings("merge")], VOXEL_SIZE)


@pytest.fixture(scope="module")
def split():
    return error_panel([error("split", other=9)], [surroundings("split")], VOXEL_SIZE)


def colour(figure, which, voxel):
    """Of a voxel of raw value 0: its colour times its strength."""
    return figure.axes[which].images[0].get_array()[voxel].tolist()


def times(strength, colour):
    return pytest.approx([strength * channel for channel in to_rgb(colour)])


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_a_merge_is_two_colours_in_the_truth_and_one_in_the_segmentation(merge):
    assert colour(merge, TRUTH_XY, IN_1) == times(0.6, PART)
    assert colour(merge, TRUTH_XY, IN_2) == times(0.6, MAIN)
    assert colour(merge, SEGMENTATION_XY, IN_1) == colour(merge, SEGMENTATION_XY, IN_2) == times(0.6, MAIN)


def test_a_split_is_one_colour_in_the_truth_and_two_in_the_segmentation(split):
    # The cut through z shows both segments.
    assert colour(split, TRUTH_XZ, (1, 5)) == colour(split, TRUTH_XZ, (6, 5)) == times(0.6, MAIN)
    assert colour(split, SEGMENTATION_XZ, (1, 5)) == times(0.6, PART)
    assert colour(split, SEGMENTATION_XZ, (6, 5)) == times(0.6, MAIN)


def test_all_else_is_faint_in_the_colours_of_the_panels(merge, split):
    for figure in (merge, split):
        for which in (TRUTH_XY, SEGMENTATION_XY):  # segment 23 is object 3
            assert colour(figure, which, IN_3) == times(0.2, label_colours(np.uint64(3)))


def test_the_part_ends_where_the_other_volume_says():
    # Object 1 goes on in segment 30, out of the merge.
    around = surroundings("merge")
    around.segmentation[:, :4, :15] = 30
    figure = error_panel([error("merge")], [around], VOXEL_SIZE)
    assert colour(figure, TRUTH_XY, (1, 5)) == times(0.35, PART)
    assert colour(figure, TRUTH_XY, (8, 5)) == times(0.6, PART)


def test_the_one_segment_or_object_is_outlined_in_the_other_picture(merge, split):
    assert [bool(axes.collections) for axes in merge.axes] == [False, True, False, False, False, False]
    assert [bool(axes.collections) for axes in split.axes] == [False, False, True, False, False, True]
    (vertices,) = (path.vertices for path in merge.axes[TRUTH_XY].collections[0].get_paths())
    # The segment ends between y 13 and 14, at 140 nm.
    np.testing.assert_allclose(vertices[:, 1], 140)


def test_label_0_leaves_the_image_as_it_is():
    around = surroundings("merge")
    around.raw[:] = np.arange(30, dtype=np.uint8)
    around.truth[:, 15:] = 0
    figure = error_panel([error("merge")], [around], VOXEL_SIZE)
    raw, truth = (figure.axes[which].images[0].get_array()[17] for which in (RAW_XY, TRUTH_XY))
    np.testing.assert_array_equal(raw, truth)
    assert raw[0, 0] == 0 and raw[-1, 0] == 1


def test_rings_stand_at_the_position_in_both_cuts(merge):
    for which, (first, second) in ((TRUTH_XY, (14, 5)), (TRUTH_XZ, (14, 4))):
        ring = merge.axes[which].lines[0]
        height = VOXEL_SIZE[1] if which == TRUTH_XY else VOXEL_SIZE[0]
        assert (ring.get_xdata()[0], ring.get_ydata()[0]) == ((first + 0.5) * 5, (second + 0.5) * height)


def test_sections_are_those_of_the_position():
    around = surroundings("merge")
    around.raw[4], around.raw[:, 5] = 100, 200
    figure = error_panel([error("merge")], [around], VOXEL_SIZE)
    section, cut = (figure.axes[which].images[0].get_array()[..., 0] for which in (RAW_XY, RAW_XZ))
    assert np.all(section[[4, 6]] == section[0, 0]) and section[0, 0] > 0 and np.all(section[5] > section[0, 0])
    assert np.all(cut == cut[0, 0]) and cut[0, 0] == section[5, 0]


def test_all_pictures_have_one_scale(merge):
    # 8 × 20, 20 × 10 and 30 × 5 nm: the longest is 200.
    assert {axes.get_xlim() for axes in merge.axes} == {(0, 200)}
    assert {axes.get_ylim() for axes in merge.axes} == {(200, 0)}
    assert merge.axes[RAW_XY].images[0].get_extent() == [0, 150, 200, 0]
    assert merge.axes[RAW_XZ].images[0].get_extent() == [0, 150, 160, 0]


def test_every_error_has_a_row_of_pictures_and_a_line():
    rows = [error("merge"), error("split", other=9), error("merge", z=101)]
    figure = error_panel(rows, [surroundings(row["kind"]) for row in rows], VOXEL_SIZE, title="MtLSD")
    assert len(figure.axes) == 18
    assert [text for text in texts(figure) if text.startswith(("merge", "split"))] == [describe(row) for row in rows]
    assert texts(figure)[0] == "MtLSD"
    heights = [axes.get_position().y1 for axes in figure.axes[::6]]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            error("merge", truth=12, other=57, segment=901),
            "merge: objects 12 and 57 in segment 901, 34\u202f512 voxels, 0.12 bits, at z 104 y 205 x 314",
        ),
        (
            error("split", truth=12, segment=901, other=33, voxels=5, bits=0.0501),
            "split: object 12 in segment 901 and segment 33, 5 voxels, 0.050 bits, at z 104 y 205 x 314",
        ),
        (
            error("split", segment=0, other=33, bits=0.00012),
            "split: object 1 in no segment and segment 33, 34\u202f512 voxels, 0.00012 bits, at z 104 y 205 x 314",
        ),
    ],
)
def test_an_error_in_words(row, text):
    assert describe(row) == text


def test_nothing_is_written_beyond_the_figure():
    long = error("merge", truth=2**31, other=2**31, segment=2**31, voxels=10**9, z=10**5, y=10**5, x=10**5)
    around = surroundings("merge")
    around = Surroundings(around.raw, around.truth, around.segmentation, (10**5 - 4,) * 3)
    figure = error_panel([long], [around], VOXEL_SIZE, title="a name")
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in [*figure.texts, *figure.legends, *figure.axes[0].texts]:
        box = text.get_window_extent(renderer)
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text


def test_a_setup_without_errors_gets_a_figure_that_says_so(tmp_path):
    figure = error_panel([], [], VOXEL_SIZE, title="Perfect")
    assert texts(figure) == ["Perfect", "no object is split and no segment holds two"]
    style.save(figure, tmp_path / "errors")


def test_a_single_section_is_drawn(tmp_path):
    around = surroundings("merge")
    one = Surroundings(around.raw[4:5], around.truth[4:5], around.segmentation[4:5], (104, 200, 300))
    style.save(error_panel([error("merge")], [one], VOXEL_SIZE), tmp_path / "errors")


def test_rows_may_come_from_the_table(tmp_path):
    row = dict.fromkeys(COLUMNS, 0.5) | error("merge")
    pd.DataFrame([row], columns=COLUMNS).to_csv(tmp_path / "errors.csv", index=False)
    (read,) = pd.read_csv(tmp_path / "errors.csv").to_dict("records")
    assert describe(read) == describe(row)


def test_the_figure_is_the_same_file_twice(tmp_path):
    for folder in ("a", "b"):
        style.save(error_panel([error("merge")], [surroundings("merge")], VOXEL_SIZE), tmp_path / folder / "errors")
    for ending in (".png", ".svg"):
        first, second = ((tmp_path / folder / f"errors{ending}").read_bytes() for folder in ("a", "b"))
        assert first == second


def test_volumes_that_do_not_fit_are_refused():
    around = surroundings("merge")
    with pytest.raises(ValueError, match="volumes of one shape"):
        error_panel(
            [error("merge")], [Surroundings(around.raw[1:], around.truth, around.segmentation, BEGIN)], VOXEL_SIZE
        )
    for place in ({"z": 99}, {"x": 330}):
        with pytest.raises(ValueError, match="is not in the"):
            error_panel([error("merge", **place)], [around], VOXEL_SIZE)


def test_a_box_has_the_position_in_its_middle_and_equal_edges_in_nm():
    box = surrounding_box((500, 600, 700), Roi((0, 0, 0), (1000, 1000, 1000)), (40, 4, 4), length=100)
    assert box == Roi((495, 550, 650), (505, 650, 750))


def test_a_box_at_the_border_is_moved_and_one_of_a_small_region_cut():
    region = Roi((170, 0, 0), (250, 250, 250))
    box = surrounding_box((171, 249, 100), region, (10, 10, 10), length=128)
    assert box == Roi((170, 122, 36), (250, 250, 164))


@given(
    st.tuples(*[st.tuples(st.integers(-20, 20), st.integers(1, 40))] * 3),
    st.tuples(*[st.integers(0, 39)] * 3),
    st.tuples(*[st.sampled_from([4, 10, 40])] * 3),
    st.integers(1, 60),
)
@settings(deadline=None, max_examples=50)
def test_a_box_lies_in_the_region_and_holds_the_position(edges, steps, voxel_size, length):
    region = Roi(tuple(b for b, _ in edges), tuple(b + n for b, n in edges))
    position = tuple(b + s % n for (b, n), s in zip(edges, steps, strict=True))
    box = surrounding_box(position, region, voxel_size, length=length)
    assert region.contains(box) and box.contains(Roi(position, tuple(p + 1 for p in position)))
