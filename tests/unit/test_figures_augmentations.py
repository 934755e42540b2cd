"""The figure of the augmentations: every crop in two cuts, all with one meaning of grey, labels where they belong."""

import numpy as np
import pytest

from lsdflow.affinities import grow_boundary
from lsdflow.figures.augmentations import TINT, augmentation_panels, example_panels, outlined, plot_augmentations
from lsdflow.figures.panels import label_colours
from lsdflow.volumes import Roi, Volume

SHAPE = (6, 8, 10)


def crop(seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.2, 0.8, SHAPE).astype(np.float32), rng.integers(0, 4, SHAPE, dtype=np.uint64)


def panels(n):
    return [(f"crop number {i}", *crop(i)) for i in range(n)]


def picture(axes):
    return axes.images[0].get_array()


def test_labels_tint_the_image_and_stand_out_where_they_meet():
    grey = np.full((3, 4), 0.5)
    labels = np.array([[0, 0, 7, 7], [0, 0, 7, 7], [9, 9, 9, 9]])
    tint = {label: 0.5 * (1 - TINT) + TINT * label_colours(np.array(label)) for label in (7, 9)}
    strong = {label: label_colours(np.array(label)) for label in (7, 9)}
    background = [0.5, 0.5, 0.5]
    expected = [
        [background, background, strong[7], tint[7]],
        [background, background, strong[7], tint[7]],
        [strong[9], strong[9], strong[9], strong[9]],
    ]
    np.testing.assert_allclose(outlined(grey, labels), expected)


def test_every_crop_is_drawn_in_its_middle_section_and_row():
    crops = [(title, raw, np.zeros(SHAPE, np.uint8)) for title, raw, _ in panels(3)]
    figure = augmentation_panels(crops)
    low, high = np.percentile([raw[3] for _, raw, _ in crops], [0.5, 99.5])
    for place, (_, raw, _) in enumerate(crops):
        for axes, cut in zip(figure.axes[2 * place : 2 * place + 2], (raw[3], raw[:, 4]), strict=True):
            expected = np.clip((cut - low) / (high - low), 0, 1)
            np.testing.assert_allclose(picture(axes), np.repeat(expected[..., None], 3, axis=-1), atol=1e-6)


def test_a_darker_crop_is_drawn_darker():
    raw, labels = crop()
    figure = augmentation_panels([("as it is", raw, labels), ("dark", raw / 4, labels)])
    assert picture(figure.axes[2]).mean() < picture(figure.axes[0]).mean() - 0.1


def test_labels_are_laid_over_the_cut_that_they_are_of():
    raw, labels = np.full(SHAPE, 0.5), crop()[1]
    section, row = (picture(axes) for axes in augmentation_panels([("", raw, labels)]).axes)
    grey = section[labels[3] == 0][0]
    for found, cut in ((section, labels[3]), (row, labels[:, 4])):
        np.testing.assert_allclose(found, outlined(np.full(cut.shape, grey[0]), cut))


@pytest.mark.parametrize(("n", "n_columns"), [(1, 1), (7, 7), (8, 4), (13, 7), (15, 5)])
def test_panels_stand_in_lines_of_equal_length_and_no_axes_are_empty(n, n_columns):
    figure = augmentation_panels(panels(n))
    assert len(figure.axes) == 2 * n and all(len(axes.images) == 1 for axes in figure.axes)
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes[::2]]
    assert titles == [f"crop number {i}" for i in range(n)]
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert places[0].get_gridspec().ncols == n_columns
    for i, place in enumerate(places):
        line, column = divmod(i // 2, n_columns)
        assert (place.rowspan.start, place.colspan.start) == (2 * line + i % 2, column)


def test_the_voxel_size_gives_the_proportions_and_a_scale_bar():
    plain = augmentation_panels(panels(2))
    assert not plain.axes[0].texts
    assert plain.axes[0].images[0].get_extent() == [0, 10, 8, 0]
    figure = augmentation_panels(panels(2), (30, 20, 10))
    assert [axes.images[0].get_extent() for axes in figure.axes[:2]] == [[0, 100, 160, 0], [0, 100, 180, 0]]
    # Of 100 nm at most a third.
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["20 nm"]


def test_equal_crops_give_equal_files(tmp_path):
    first = plot_augmentations(panels(2), tmp_path / "a" / "augmentations", (8, 8, 8))
    second = plot_augmentations(panels(2), tmp_path / "b" / "augmentations", (8, 8, 8))
    assert [path.name for path in first] == ["augmentations.png", "augmentations.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_an_image_without_contrast_is_drawn():
    figure = augmentation_panels([("flat", np.zeros(SHAPE), np.zeros(SHAPE, np.uint8))])
    assert not picture(figure.axes[0]).any()


def test_crops_that_do_not_fit_are_refused():
    raw, labels = crop()
    with pytest.raises(ValueError, match="no panel"):
        augmentation_panels([])
    with pytest.raises(ValueError, match=r"\(6, 8, 10\), not \(6, 8, 10\) and \(6, 8, 9\) of 'cut'"):
        augmentation_panels([("whole", raw, labels), ("cut", raw, labels[..., 1:])])
    with pytest.raises(ValueError, match="volumes of one shape"):
        augmentation_panels([("flat", raw[0], labels[0])])


# --- what is drawn ---------------------------------------------------------------------------------------------------

MOVES = ["flip and transpose", "elastic", "rotation", "shift", "slip"]
CHANGES = ["missing", "dark", "out of focus", "intensity", "intensity per section", "noise", "grown boundaries"]
GREY = np.array([120, 20, 220], np.uint8)


def telling_volumes(shape, voxel_size):
    """Blocks of two labels, and an image whose grey values tell them: dark 1, bright 2."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(1, 3, [-(-n // 6) for n in shape], dtype=np.uint64)
    labels = np.kron(blocks, np.ones((6, 6, 6), np.uint64))[tuple(slice(n) for n in shape)]
    return Volume(GREY[labels], voxel_size), Volume(labels, voxel_size)


CASES = {
    "large": ((110, 100, 120), (8.0, 8.0, 8.0), Roi((5, 0, 10), (105, 100, 120)), (96, 96, 96), 13),
    "tiny": ((16, 24, 24), (10.0, 10.0, 10.0), Roi.of_shape((16, 24, 24)), (16, 24, 24), 13),
    "within more": ((40, 60, 50), (10.0, 10.0, 10.0), Roi((12, 20, 14), (28, 44, 36)), (16, 22, 22), 13),
    "thick sections": ((40, 100, 110), (40.0, 4.0, 4.0), Roi.of_shape((40, 100, 110)), (16, 96, 96), 13),
    "no equal lengths": ((30, 40, 50), (30.0, 20.0, 10.0), Roi.of_shape((30, 40, 50)), (30, 40, 50), 12),
    "equal along z and x": ((20, 24, 30), (10.0, 20.0, 10.0), Roi.of_shape((20, 24, 30)), (20, 24, 20), 12),
    "one section": ((1, 30, 30), (10.0, 10.0, 10.0), Roi.of_shape((1, 30, 30)), (1, 30, 30), 13),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys(), scope="module")
def example(request):
    shape, voxel_size, roi, expected_shape, n_panels = request.param
    raw, labels = telling_volumes(shape, voxel_size)
    return raw, labels, roi, expected_shape, n_panels, example_panels(raw, labels, roi)


def test_there_is_a_panel_for_every_augmentation_that_the_voxels_allow(example):
    raw, _, _, shape, n_panels, made = example
    titles = [title for title, *_ in made]
    moves = list(MOVES)
    if raw.voxel_size[1] != raw.voxel_size[2]:
        moves.remove("rotation")
    if len(set(raw.voxel_size)) == 3:
        moves[0] = "flip"
    assert titles == ["original", *moves, *CHANGES] and len(titles) == n_panels
    for _, image, labels in made:
        assert image.shape == labels.shape == shape and image.dtype == np.float32
        assert 0 <= image.min() and image.max() <= 1


def test_the_original_is_the_centre_of_the_region(example):
    raw, labels, roi, shape, _, ((_, image, truth), *_) = example
    begin = [b + (n - m) // 2 for b, n, m in zip(roi.begin, roi.shape, shape, strict=True)]
    box = Roi.of_shape(shape).shift(begin)
    np.testing.assert_allclose(image, raw.read(box) / 255, atol=1e-6)
    np.testing.assert_array_equal(truth, labels.read(box))


def test_what_moves_moves_image_and_labels_alike(example):
    *_, made = example
    _, _, truth = made[0]
    for title, image, labels in made[1:]:
        if title not in [*MOVES, "flip"]:
            continue
        assert np.any(labels != truth), title
        for label in (1, 2):
            # Pure grey is that of voxels of one label; labels are unknown beyond the volume, where the image is not.
            is_pure = (np.abs(image - GREY[label] / 255) < 1e-5) & (labels != 0)
            assert is_pure.any() and np.all(labels[is_pure] == label), title
            is_sure = grow_boundary(labels, 2) == label
            assert np.mean(np.abs(image[is_sure] - GREY[label] / 255) < 1e-5) > 0.95, title


def test_what_changes_the_image_shows_in_the_middle_section(example):
    *_, made = example
    _, image, truth = made[0]
    middle = len(image) // 2
    for title, changed, labels in made:
        if title == "grown boundaries":
            np.testing.assert_array_equal(changed, image)
            assert np.any(labels[middle] != truth[middle]) and np.all((labels == truth) | (labels == 0))
        elif title in CHANGES:
            np.testing.assert_array_equal(labels, truth)
            assert np.abs(changed[middle] - image[middle]).mean() > 0.03, title


def test_examples_are_always_the_same(example):
    raw, labels, roi, *_, made = example
    for (title, *first), (again, *second) in zip(made, example_panels(raw, labels, roi), strict=True):
        assert title == again
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)


def test_examples_are_drawn(example):
    raw, *_, made = example
    assert len(augmentation_panels(made, raw.voxel_size).axes) == 2 * len(made)
