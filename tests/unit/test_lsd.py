"""Local shape descriptors against a float64 evaluation of their definition, and the laws that they obey."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from lsdflow.errors import UserError
from lsdflow.lsd import context, local_shape_descriptors, transform_descriptors
from lsdflow.roi import Roi

SYMMETRIES = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))


def naive_descriptors(labels, sigma, voxel_size, downsample=1):
    """The definition, word for word, in float64: descriptors, and where both variances of a correlation exceed 0.05."""
    ndim = labels.ndim
    sigma = np.broadcast_to(np.asarray(sigma, float), ndim)
    voxel_size = np.broadcast_to(np.asarray(voxel_size, float), ndim)
    picked = labels[(slice(None, None, downsample),) * ndim]
    positions = np.meshgrid(
        *[np.arange(n) * v * downsample for n, v in zip(picked.shape, voxel_size, strict=True)], indexing="ij"
    )

    def window_sum(values):
        return gaussian_filter(values, sigma / voxel_size / downsample, mode="constant", cval=0, truncate=3.0)

    def at_full_resolution(channels):
        channels = np.asarray(channels)
        for axis in range(1, ndim + 1):
            channels = np.repeat(channels, downsample, axis)
        return channels[(slice(None), *(slice(n) for n in labels.shape))]

    pairs = list(itertools.combinations(range(ndim), 2))
    descriptors = np.zeros((2 * ndim + len(pairs) + 1, *labels.shape))
    is_sure = np.zeros((len(pairs), *labels.shape), bool)
    for label in np.unique(labels[labels != 0]):
        is_label = (picked == label).astype(float)
        mass = window_sum(is_label)
        divisor = np.where(mass == 0, 1, mass)
        means = [window_sum(x * is_label) / divisor for x in positions]

        def covariance(i, j, is_label=is_label, divisor=divisor, means=means):
            return window_sum(positions[i] * positions[j] * is_label) / divisor - means[i] * means[j]

        # No mass in the window: the documented constants.
        offsets = [
            np.where(mass == 0, 0.5, (m - x) / s * 0.5 + 0.5) for m, x, s in zip(means, positions, sigma, strict=True)
        ]
        variances = [np.maximum(covariance(i, i), 1e-3) for i in range(ndim)]
        correlations = [covariance(i, j) / np.sqrt(variances[i] * variances[j]) * 0.5 + 0.5 for i, j in pairs]
        wide = [v / w**2 > 0.05 for v, w in zip(variances, voxel_size, strict=True)]
        here = at_full_resolution(
            [*offsets, *(v / s**2 for v, s in zip(variances, sigma, strict=True)), *correlations, mass]
        )
        descriptors += np.clip(here, 0, 1) * (labels == label)
        is_sure |= at_full_resolution([wide[i] & wide[j] for i, j in pairs]) & (labels == label)
    return descriptors, is_sure


def assert_exact(labels, sigma, voxel_size, downsample=1):
    ndim = labels.ndim
    lsds = local_shape_descriptors(labels, sigma, voxel_size, downsample=downsample)
    expected, is_sure = naive_descriptors(labels, sigma, voxel_size, downsample)
    assert lsds.dtype == np.float32
    assert lsds.shape == expected.shape
    difference = np.abs(lsds - expected)
    assert difference[: 2 * ndim].max() <= 1e-5
    assert difference[-1].max() <= 1e-5
    assert (difference[2 * ndim : -1] * is_sure).max() <= 1e-4


def patches(shape, n_labels, seed, edge=4):
    """Labels, background among them, in blocks of ``edge`` voxels with frayed edges: many objects in several pieces."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, n_labels + 1, [-(-n // edge) for n in shape])
    labels = coarse
    for axis in range(len(shape)):
        labels = np.repeat(labels, edge, axis)
    labels = labels[tuple(slice(n) for n in shape)].copy()
    is_speckled = rng.random(shape) < 0.05
    labels[is_speckled] = rng.integers(0, n_labels + 1, is_speckled.sum())
    return labels


@pytest.mark.parametrize(
    ("shape", "sigma", "voxel_size"),
    [
        ((21, 24, 37), 50, 10),
        ((21, 24, 37), 20, 8),
        ((9, 30, 33), 120, (40, 16, 16)),
        ((17, 20, 23), (90, 40, 60), (20, 9, 11)),
        ((1, 18, 40), 30, 10),
        ((18, 40, 1), 30, 10),
        ((30, 41), 40, 8),
        ((30, 41), (80, 30), (9, 12)),
    ],
)
def test_descriptors_equal_the_definition_in_float64(shape, sigma, voxel_size):
    assert_exact(patches(shape, 4, seed=1), sigma, voxel_size)


@pytest.mark.parametrize("downsample", [2, 3])
@pytest.mark.parametrize("shape", [(18, 24, 36), (19, 23, 37), (31, 38)])
def test_downsampled_descriptors_equal_the_definition_for_any_shape(shape, downsample):
    assert_exact(patches(shape, 4, seed=2), 60, 10, downsample)


@pytest.mark.parametrize("downsample", [1, 2])
def test_descriptors_equal_those_of_lsd_lite_up_to_its_single_precision(downsample):
    """Its moments are sums of squared positions in float32; the page of `make bench` says how far that carries."""
    stored = np.load(Path(__file__).parents[1] / "data" / "lsd_lite.npz")
    labels, expected = stored["labels"], stored[f"descriptors_{downsample}"]
    lsds = local_shape_descriptors(labels, (40, 30, 30), (10, 8, 8), downsample=downsample)
    exact, is_sure = naive_descriptors(labels, (40, 30, 30), (10, 8, 8), downsample)
    # lsd-lite sees objects without mass at the border of the window, where the definition has none.
    difference = np.abs(lsds - expected) * (exact[9] > 0)
    assert difference[[0, 1, 2, 3, 4, 5, 9]].max() <= 1e-4
    assert (difference[6:9] * is_sure).max() <= 1e-3


def test_2d_descriptors_equal_those_of_lsd_lite_up_to_its_single_precision():
    stored = np.load(Path(__file__).parents[1] / "data" / "lsd_lite.npz")
    lsds = local_shape_descriptors(stored["image"], 30, 8)
    _, is_sure = naive_descriptors(stored["image"], 30, 8)
    difference = np.abs(lsds - stored["descriptors_2d"])
    assert difference[[0, 1, 2, 3, 5]].max() <= 1e-4
    assert (difference[4:5] * is_sure).max() <= 1e-3


def test_one_object_wider_than_a_strip_equals_the_definition():
    z, y, x = np.ogrid[:20, :24, :75]
    labels = ((z - 9) ** 2 + (y - 10 - 4 * np.sin(x / 9)) ** 2 < 40).astype(np.int64)
    assert_exact(labels, 60, 10)
    assert_exact(labels.transpose(2, 0, 1), 60, 10)


def test_uniform_volume_has_the_published_values():
    lsds = local_shape_descriptors(np.ones((64, 64, 64), np.uint8), sigma=5, voxel_size=1)
    centre, face, corner = lsds[:, 32, 32, 32], lsds[:, 0, 32, 32], lsds[:, 0, 0, 0]
    np.testing.assert_allclose(centre, [0.5] * 3 + [0.98] * 3 + [0.5] * 3 + [1], atol=5e-3)
    np.testing.assert_allclose(face[[0, 3, 9]], [0.866, 0.372, 0.54], atol=6e-4)
    np.testing.assert_allclose(face[[1, 2]], 0.5, atol=1e-6)
    np.testing.assert_allclose(corner[[0, 1, 2]], face[0], atol=1e-6)
    np.testing.assert_allclose(corner[9], 0.157, atol=6e-4)


def test_background_is_zero_in_every_channel():
    labels = patches((9, 12, 20), 2, seed=3)
    lsds = local_shape_descriptors(labels, 30, 10)
    assert (lsds[:, labels == 0] == 0).all()
    assert (lsds[3:6, labels != 0] > 0).all()
    assert (local_shape_descriptors(np.zeros((4, 5, 6), int), 30, 10) == 0).all()


def test_position_in_the_array_does_not_matter():
    z, y, x = np.ogrid[:9, :11, :13]
    body = ((z - 4) ** 2 / 16 + (y - 5) ** 2 / 25 + (x - 6) ** 2 / 36 <= 1).astype(np.uint64)
    alone = local_shape_descriptors(body, 80, 8)
    for corner in [(0, 0, 0), (15, 3, 1), (16, 20, 500), (31, 29, 787)]:
        labels = np.zeros((40, 40, 800), np.uint64)
        box = tuple(slice(c, c + n) for c, n in zip(corner, body.shape, strict=True))
        labels[box] = body
        np.testing.assert_array_equal(local_shape_descriptors(labels, 80, 8)[(slice(None), *box)], alone)


def test_other_objects_do_not_matter():
    labels = patches((12, 16, 40), 5, seed=4)
    together = local_shape_descriptors(labels, 30, 10)
    apart = sum(local_shape_descriptors(np.where(labels == n, n, 0), 30, 10) for n in range(1, 6))
    np.testing.assert_array_equal(together, apart)


def test_ids_do_not_matter_however_large():
    labels = patches((9, 12, 20), 3, seed=5)
    expected = local_shape_descriptors(labels, 30, 10)
    ids = np.array([0, 2**63 + 5, 2**32 + 1, 7], np.uint64)
    np.testing.assert_array_equal(local_shape_descriptors(ids[labels], 30, 10), expected)
    # Neighbouring ids that float64 cannot tell apart.
    ids = np.array([0, 2**63, 2**63 + 1, 2**63 + 2], np.uint64)
    for downsample in (1, 2):
        np.testing.assert_array_equal(
            local_shape_descriptors(ids[labels], 30, 10, downsample=downsample),
            local_shape_descriptors(labels, 30, 10, downsample=downsample),
        )
    for dtype in (np.uint8, np.int16, np.int32, np.int64, ">u4"):
        np.testing.assert_array_equal(local_shape_descriptors(labels.astype(dtype), 30, 10), expected)


def test_memory_layout_does_not_matter():
    labels = patches((9, 12, 20), 3, seed=6)
    expected = local_shape_descriptors(labels, 30, 10)
    np.testing.assert_array_equal(local_shape_descriptors(np.asfortranarray(labels), 30, 10), expected)
    padded = np.zeros((9, 24, 20), labels.dtype)
    padded[:, ::2] = labels
    np.testing.assert_array_equal(local_shape_descriptors(padded[:, ::2], 30, 10), expected)


def test_number_of_threads_does_not_matter():
    labels = patches((20, 24, 70), 30, seed=7)
    expected = local_shape_descriptors(labels, 30, 10)
    np.testing.assert_array_equal(local_shape_descriptors(labels, 30, 10, threads=3), expected)


def test_specks_of_one_voxel_have_no_variance_and_the_windows_peak_as_size():
    labels = np.zeros((12, 12, 40), np.int64)
    labels[::4, ::4, ::5] = np.arange(1, 73).reshape(3, 3, 8)
    lsds = local_shape_descriptors(labels, sigma=40, voxel_size=10)[:, labels != 0]
    distance = np.arange(-12, 13)
    peak = 1 / np.exp(-(distance**2) / 32).sum()
    np.testing.assert_allclose(lsds[[0, 1, 2, 6, 7, 8]], 0.5)
    np.testing.assert_allclose(lsds[3:6], 1e-3 / 40**2, rtol=1e-5)
    np.testing.assert_allclose(lsds[9], peak**3, rtol=1e-5)


def test_objects_between_the_picks_are_points_without_mass():
    labels = np.ones((8, 8, 8), np.int64)
    labels[3, 3, 3] = 2
    lsds = local_shape_descriptors(labels, 40, 10, downsample=2)
    np.testing.assert_allclose(lsds[:, 3, 3, 3], [0.5] * 3 + [1e-3 / 40**2] * 3 + [0.5] * 3 + [0], rtol=1e-5)
    only_missed = np.zeros((8, 8, 8), np.int64)
    only_missed[3, 3, 3] = 2
    np.testing.assert_array_equal(
        local_shape_descriptors(only_missed, 40, 10, downsample=2)[:, 3, 3, 3], lsds[:, 3, 3, 3]
    )
    assert_exact(np.random.default_rng(8).integers(0, 40, (9, 10, 11)), 30, 10, downsample=3)


def test_a_block_with_context_has_the_descriptors_of_the_whole():
    labels = patches((30, 42, 50), 5, seed=9, edge=7)
    for sigma, voxel_size, downsample in [(25, 10, 1), ((40, 30, 20), (20, 10, 8), 2)]:
        whole = local_shape_descriptors(labels, sigma, voxel_size, downsample=downsample)
        margin = context(sigma, voxel_size, downsample=downsample)
        begin, end = (14, 20, 22), (16, 22, 28)
        block = labels[tuple(slice(b - m, e + m) for b, e, m in zip(begin, end, margin, strict=True))]
        lsds = local_shape_descriptors(block, sigma, voxel_size, downsample=downsample)
        inside = tuple(slice(m, m + e - b) for b, e, m in zip(begin, end, margin, strict=True))
        expected = whole[(slice(None), *(slice(b, e) for b, e in zip(begin, end, strict=True)))]
        np.testing.assert_allclose(lsds[(slice(None), *inside)], expected, atol=1e-6)


@pytest.mark.parametrize("downsample", [1, 2, 3])
@pytest.mark.parametrize("shape", [(30, 42, 50), (42, 50)])
def test_a_roi_has_the_descriptors_of_the_whole(shape, downsample):
    labels = patches(shape, 5, seed=13, edge=7)
    whole = local_shape_descriptors(labels, 30, 10, downsample=downsample)
    for begin, end in [((0, 0, 0), (30, 42, 50)), ((0, 5, 11), (7, 6, 50)), ((28, 20, 1), (30, 42, 34))]:
        roi = Roi(begin[-len(shape) :], end[-len(shape) :])
        lsds = local_shape_descriptors(labels, 30, 10, downsample=downsample, roi=roi, threads=2)
        np.testing.assert_allclose(lsds, whole[(slice(None), *roi.slices)], rtol=0, atol=1e-6)


def test_context_is_three_sigma_rounded_as_the_filter_does():
    assert context(80, 8) == (30, 30, 30)
    assert context(120, (20, 9, 9)) == (18, 40, 40)
    assert context(120, (20, 9, 9), downsample=2) == (18, 40, 40)
    assert context(50, 10, ndim=2) == (15, 15)


@pytest.mark.parametrize(("axes", "flips"), SYMMETRIES)
def test_transformed_descriptors_are_those_of_transformed_labels(axes, flips):
    labels = patches((10, 13, 19), 3, seed=10)
    sigma, voxel_size = np.array([40, 30, 35]), np.array([20, 9, 10])
    moved = np.flip(np.transpose(labels, axes), [axis for axis in range(3) if flips[axis]])
    expected = local_shape_descriptors(moved, sigma[list(axes)], voxel_size[list(axes)])
    lsds = local_shape_descriptors(labels, sigma, voxel_size)
    np.testing.assert_allclose(transform_descriptors(lsds, flips=flips, axes=axes), expected, atol=1e-5)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=2)))
def test_transformed_2d_descriptors_are_those_of_transformed_labels(axes, flips):
    labels = patches((13, 19), 3, seed=11)
    moved = np.flip(np.transpose(labels, axes), [axis for axis in range(2) if flips[axis]])
    transformed = transform_descriptors(local_shape_descriptors(labels, 30, 10), flips=flips, axes=axes)
    np.testing.assert_allclose(transformed, local_shape_descriptors(moved, 30, 10), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SYMMETRIES), st.integers(0, 2**32 - 1))
def test_every_symmetry_is_undone_by_its_inverse(symmetry, seed):
    axes, flips = symmetry
    lsds = local_shape_descriptors(patches((5, 6, 7), 3, seed), 20, 10)
    back = tuple(int(n) for n in np.argsort(axes))
    moved = transform_descriptors(lsds, flips=flips, axes=axes)
    undone = transform_descriptors(transform_descriptors(moved, flips=flips), axes=back)
    np.testing.assert_allclose(undone, lsds, atol=1e-6)


def test_transforming_leaves_its_input_alone():
    lsds = local_shape_descriptors(patches((5, 6, 7), 3, seed=12), 20, 10)
    before = lsds.copy()
    transform_descriptors(lsds, flips=(True, True, False), axes=(0, 2, 1))
    np.testing.assert_array_equal(lsds, before)


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (np.ones((3, 3, 3), np.float32), {}, "integers, not float32"),
        (-np.ones((3, 3, 3), np.int32), {}, "negative, but the smallest is -1"),
        (np.ones((2, 3, 3, 3), np.int32), {}, r"\(z, y, x\) or \(y, x\), not of 4 axes"),
        (np.ones((3, 3, 3), np.int32), {"sigma": 0}, "sigma must be positive"),
        (np.ones((3, 3, 3), np.int32), {"sigma": (10, 10)}, "sigma must be one number or 3"),
        (np.ones((3, 3), np.int32), {"voxel_size": (9, 9, 9)}, "voxel_size must be one number or 2"),
        (np.ones((3, 3, 3), np.int32), {"voxel_size": float("nan")}, "voxel_size must be positive"),
        (np.ones((3, 3, 3), np.int32), {"downsample": 0}, "downsample must be a positive integer, not 0"),
        (
            np.ones((3, 3, 3), np.int32),
            {"roi": Roi((0, 0, 0), (3, 3, 4))},
            r"inside the labels, which have \(3, 3, 3\)",
        ),
        (np.ones((3, 3, 3), np.int32), {"roi": Roi((0, 2, 0), (3, 2, 3))}, r"not \(0, 2, 0\) to \(3, 2, 3\)"),
        (np.ones((3, 3, 3), np.int32), {"downsample": 1.5}, "downsample must be a positive integer, not 1.5"),
    ],
)
def test_unusable_input_is_refused_with_both_sides(labels, arguments, message):
    with pytest.raises(UserError, match=message):
        local_shape_descriptors(labels, **({"sigma": 30, "voxel_size": 10} | arguments))


def test_transforming_what_are_no_descriptors_is_refused():
    with pytest.raises(ValueError, match="10, z, y, x"):
        transform_descriptors(np.zeros((9, 3, 3, 3), np.float32))
    with pytest.raises(ValueError, match="floating point"):
        transform_descriptors(np.zeros((10, 3, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="permutation"):
        transform_descriptors(np.zeros((10, 3, 3, 3), np.float32), axes=(0, 0, 1))
