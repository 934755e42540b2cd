"""The figure of the local shape descriptors, on a ball, a rod and a slab small enough to check against sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.quiver import Quiver

from lsdflow.figures import style
from lsdflow.figures.descriptors import descriptor_panel, mean_offsets
from lsdflow.figures.panels import label_colours, panel
from lsdflow.lsd import local_shape_descriptors

VOXEL_SIZE = (20, 10, 8)
SIGMA = (60, 40, 32)
RAW, LABELS, WINDOW, ARROWS, OFFSET, VARIANCE, PEARSON, SIZE = range(8)


@pytest.fixture(scope="module")
def volumes():
    """Raw, labels and descriptors of 9 × 40 × 50 voxels."""
    raw = np.random.default_rng(0).integers(0, 255, (9, 40, 50), dtype=np.uint8)
    z, y, x = np.indices(raw.shape)
    labels = np.zeros(raw.shape, dtype=np.uint64)
    labels[(z - 4) ** 2 * 4 + (y - 20) ** 2 + (x - 25) ** 2 < 100] = 7
    labels[(y - x - 12) ** 2 < 16] = 3
    labels[:, :, 40:] = 2**40
    return raw, labels, local_shape_descriptors(labels, SIGMA, VOXEL_SIZE)


@pytest.fixture(scope="module")
def figure(volumes):
    return descriptor_panel(*volumes, VOXEL_SIZE, sigma=SIGMA)


def picture(figure, which):
    return figure.axes[which].images[0].get_array()


def window_of(figure):
    """The voxel (y, x) of the window, and the tip of its arrow (y, x) in nm."""
    cross = figure.axes[WINDOW].lines[0]
    x, y = cross.get_xdata()[0] / VOXEL_SIZE[2] - 0.5, cross.get_ydata()[0] / VOXEL_SIZE[1] - 0.5
    assert (x, y) == (round(x), round(y))
    return (round(y), round(x)), figure.axes[WINDOW].texts[0].xy[::-1]


@pytest.mark.parametrize(("which", "first"), [(OFFSET, 0), (VARIANCE, 3), (PEARSON, 6)])
def test_three_channels_in_order_are_red_green_blue_without_stretch(figure, volumes, which, first):
    lsds = volumes[2]
    np.testing.assert_allclose(picture(figure, which), np.moveaxis(lsds[first : first + 3, 4], 0, -1))


def test_size_is_shown_from_0_to_1_beside_a_colour_bar(figure, volumes):
    _, labels, lsds = volumes
    image = figure.axes[SIZE].images[0]
    is_object = labels[4] != 0
    np.testing.assert_array_equal(image.get_array().data[is_object], lsds[9, 4][is_object])
    assert image.get_clim() == (0, 1)
    (bar,) = figure.axes[SIZE].child_axes
    assert [t.get_text() for t in bar.get_yticklabels()] == ["0", "0.5", "1"]


def test_background_is_black_in_every_descriptor(volumes):
    raw, labels, lsds = volumes
    figure = descriptor_panel(raw, labels, np.where(labels == 0, np.float32(0.3), lsds), VOXEL_SIZE, sigma=SIGMA)
    is_background = labels[4] == 0
    for which in (OFFSET, VARIANCE, PEARSON, SIZE):
        image = figure.axes[which].images[0]
        colours = image.to_rgba(image.get_array(), norm=which == SIZE)[..., :3]
        assert not colours[is_background].any() and colours[~is_background].any()


def test_labels_look_as_in_the_other_figures(figure, volumes):
    raw, labels, _ = volumes
    # Raw is stretched over both cuts there: a cut that is a line of the section changes next to nothing.
    other = panel(raw[4:5], labels[4:5])
    assert np.abs(picture(figure, LABELS) - picture(other, 1)).max() < 0.02


def test_titles_name_the_channels_in_order_and_sigma(figure, volumes):
    titles = [axes.get_title() for axes in figure.axes[:8]]
    for which, text in {OFFSET: "z y x as RGB", VARIANCE: "zz yy xx as RGB", PEARSON: "zy zx yx as RGB"}.items():
        assert text in titles[which]
    assert "σ = 60, 40, 32 nm" in titles[WINDOW]
    assert "σ = 80 nm" in descriptor_panel(*volumes, VOXEL_SIZE, sigma=80).axes[WINDOW].get_title()


def test_the_section_is_the_middle_one_or_the_one_asked_for(volumes):
    raw = volumes[0]
    last = descriptor_panel(*volumes, VOXEL_SIZE, sigma=SIGMA, section=8)
    low, high = np.percentile(raw[8], [0.5, 99.5])
    np.testing.assert_allclose(picture(last, RAW)[..., 0], np.clip((raw[8] - low) / (high - low), 0, 1))
    np.testing.assert_allclose(picture(last, OFFSET)[..., 2], volumes[2][2, 8])
    assert last.axes[RAW].images[0].get_extent() == [0, 400, 400, 0]


def test_the_window_is_drawn_to_scale_in_the_image_and_enlarged(figure):
    (y, x), _ = window_of(figure)
    for which in (RAW, WINDOW):
        (ellipse,) = (p for p in figure.axes[which].patches if isinstance(p, Ellipse))
        assert (ellipse.width, ellipse.height) == (2 * 32, 2 * 40)
        assert ellipse.center == pytest.approx(((x + 0.5) * 8, (y + 0.5) * 10))
    frame = [p for p in figure.axes[RAW].patches if isinstance(p, Rectangle)][-1]
    (left, right), (bottom, top) = figure.axes[WINDOW].get_xlim(), figure.axes[WINDOW].get_ylim()
    assert frame.get_bbox().extents == pytest.approx((left, top, right, bottom))
    # All of the window is in view, here as high as 6 sigma, and the picture has the others' proportions.
    assert (right - left, bottom - top) == pytest.approx((240, 240))
    assert 0 <= left and right <= 400 and 0 <= top and bottom <= 400


def test_the_window_stays_in_the_image_when_sigma_is_large(volumes):
    figure = descriptor_panel(*volumes, VOXEL_SIZE, sigma=1000)
    assert (figure.axes[WINDOW].get_xlim(), figure.axes[WINDOW].get_ylim()) == ((0, 400), (400, 0))


def test_the_arrow_of_the_window_ends_at_the_centre_of_mass(figure, volumes):
    labels = volumes[1]
    (y, x), tip = window_of(figure)
    voxel = (4, y, x)
    assert labels[voxel] != 0
    # The centre of mass under the window as a plain sum over the object's voxels.
    distances = np.moveaxis(np.indices(labels.shape), 0, -1) - voxel
    is_near = np.all(np.abs(distances) <= [int(3 * s / v + 0.5) for s, v in zip(SIGMA, VOXEL_SIZE, strict=True)], -1)
    weights = np.exp(-np.sum((distances * VOXEL_SIZE / np.array(SIGMA)) ** 2, axis=-1) / 2)
    weights *= is_near & (labels == labels[voxel])
    expected = [np.average(distances[..., a] * VOXEL_SIZE[a], weights=weights) for a in (1, 2)]
    moved = np.array(tip) - [(y + 0.5) * 10, (x + 0.5) * 8]
    np.testing.assert_allclose(moved, expected, atol=0.01)
    # The voxel is a telling example.
    assert np.hypot(moved[0] / 40, moved[1] / 32) >= 0.6


def test_the_window_is_at_an_object_when_the_middle_is_background():
    labels = np.zeros((1, 20, 20), dtype=np.uint8)
    labels[0, 2:8, 12:19] = 5
    lsds = local_shape_descriptors(np.repeat(labels, 5, axis=0), SIGMA, VOXEL_SIZE)[:, 2:3]
    (y, x), _ = window_of(descriptor_panel(labels, labels, lsds, VOXEL_SIZE, sigma=SIGMA))
    assert labels[0, y, x] == 5


def test_the_object_under_the_window_fades_as_the_gaussian_does(figure, volumes):
    labels = volumes[1][4]
    (y, x), _ = window_of(figure)
    shown, dark = picture(figure, WINDOW), picture(figure, ARROWS)
    colour = label_colours(labels[y, x])
    np.testing.assert_allclose(shown[y, x], colour)
    is_same = labels == labels[y, x]
    np.testing.assert_array_equal(shown[~is_same], dark[~is_same])
    rows, columns = np.nonzero(is_same)
    weight = np.exp(-(((rows - y) * 10 / 40) ** 2 + ((columns - x) * 8 / 32) ** 2) / 2)[:, None]
    np.testing.assert_allclose(shown[is_same], weight * colour + (1 - weight) * dark[is_same])


def test_arrows_point_to_the_centre_of_a_ball(figure):
    (arrows,) = (c for c in figure.axes[ARROWS].collections if isinstance(c, Quiver))
    from_centre = arrows.XY - [25.5 * 8, 20.5 * 10]
    is_in_ball = np.hypot(*(from_centre / [8, 10]).T) < 7
    vectors = np.stack([arrows.U, arrows.V], axis=-1)[is_in_ball]
    inward = -from_centre[is_in_ball]
    cosines = np.sum(vectors * inward, axis=1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(inward, axis=1)
    assert len(cosines) > 10
    # A cell's mean is the offset at its middle voxel but for the cells that the ball's border cuts.
    assert np.median(cosines) > 0.95 and cosines.min() > 0.5


def test_a_section_of_few_lines_has_arrows():
    labels = np.ones((1, 2, 96), dtype=np.uint8)
    figure = descriptor_panel(labels, labels, np.full((10, 1, 2, 96), 0.6), (1, 1, 1), sigma=4)
    (arrows,) = (c for c in figure.axes[ARROWS].collections if isinstance(c, Quiver))
    assert len(arrows.U) == 16


def test_the_title_says_how_long_the_longest_arrow_is(volumes):
    raw, labels, _ = volumes
    # (0.8 - 0.5) * 2 * 40 nm along y and (0.3 - 0.5) * 2 * 32 nm along x: hypot(24, 12.8) = 27.2 nm.
    lsds = np.where(labels == 0, 0, np.array([0.5, 0.8, 0.3, *[0.5] * 7])[:, None, None, None])
    figure = descriptor_panel(raw, labels, lsds, VOXEL_SIZE, sigma=SIGMA)
    assert "longest arrow: 27 nm" in figure.axes[ARROWS].get_title()
    (arrows,) = (c for c in figure.axes[ARROWS].collections if isinstance(c, Quiver))
    np.testing.assert_allclose(arrows.U / arrows.V, -12.8 / 24)
    assert arrows.V.min() > 0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_mean_offsets_equal_a_loop_over_cells(seed, cell):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, random.integers(1, 15, 2))
    offsets = random.normal(size=(2, *labels.shape))
    expected = []
    for top in range(0, labels.shape[0] - cell[0] + 1, cell[0]):
        for left in range(0, labels.shape[1] - cell[1] + 1, cell[1]):
            y, x = top + cell[0] // 2, left + cell[1] // 2
            box = (slice(top, top + cell[0]), slice(left, left + cell[1]))
            if labels[y, x] != 0:
                own = labels[box] == labels[y, x]
                expected.append((y, x, offsets[0][box][own].mean(), offsets[1][box][own].mean()))
    found = np.stack(mean_offsets(labels, offsets, cell), axis=-1)
    np.testing.assert_allclose(found, np.reshape(expected, (-1, 4)), atol=1e-12)


def test_equal_input_gives_equal_files(tmp_path, volumes):
    for folder in ("a", "b"):
        style.save(descriptor_panel(*volumes, VOXEL_SIZE, sigma=SIGMA), tmp_path / folder / "descriptors")
    for name in ("descriptors.png", "descriptors.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_section_without_objects_is_drawn(tmp_path):
    nothing = np.zeros((3, 5, 40), dtype=np.uint8)
    style.save(descriptor_panel(nothing, nothing, np.zeros((10, 3, 5, 40)), (1, 1, 1), sigma=2), tmp_path / "empty")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw, labels, lsds: (raw, labels[1:], lsds), r"one shape, not \(9, 40, 50\) and \(8, 40, 50\)"),
        (lambda raw, labels, lsds: (raw[0], labels[0], lsds[:, 0]), "must be volumes"),
        (lambda raw, labels, lsds: (raw, labels, lsds[:6]), r"\(10, 9, 40, 50\), not float32 of \(6, 9, 40, 50\)"),
        (lambda raw, labels, lsds: (raw, labels, (255 * lsds).astype(np.uint8)), "must be floats .* not uint8"),
    ],
)
def test_volumes_that_do_not_fit_are_refused(volumes, change, message):
    with pytest.raises(ValueError, match=message):
        descriptor_panel(*change(*volumes), VOXEL_SIZE, sigma=SIGMA)
