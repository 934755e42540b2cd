"""Affinities, masks, weights and grown boundaries against voxel-by-voxel versions of their definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, generate_binary_structure

from lsdflow.affinities import affinities, affinities_mask, affinity_weights, grow_boundary, offsets_on_axes
from lsdflow.errors import UserError


def naive_affinities(labels, offsets):
    """Affinity and mask, one voxel at a time."""
    shape = (len(offsets), *labels.shape)
    affinity, mask = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for n, offset in enumerate(offsets):
        for voxel in np.ndindex(labels.shape):
            neighbour = tuple(v + o for v, o in zip(voxel, offset, strict=True))
            if all(0 <= v < size for v, size in zip(neighbour, labels.shape, strict=True)):
                mask[(n, *voxel)] = 1
                affinity[(n, *voxel)] = labels[voxel] == labels[neighbour] and labels[voxel] != 0
    return affinity, mask


def naive_growth(labels, steps, only_xy=False, mask=None):
    """Erosion of each label by itself, masked-out voxels counted as that label."""
    structure = generate_binary_structure(labels.ndim, 1)
    if only_xy and labels.ndim == 3:
        structure[[0, 2]] = False
    is_kept = np.zeros(labels.shape, bool)
    for label in np.unique(labels[labels != 0]):
        is_label = labels == label
        if mask is not None:
            is_label |= mask == 0
        # scipy repeats until nothing changes when asked for no iteration.
        is_kept |= binary_erosion(is_label, structure, iterations=steps, border_value=1) if steps else is_label
    return np.where(is_kept, labels, 0)


def blobs(shape, seed, n_labels=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels + 1, [-(-n // 4) for n in shape])
    for axis in range(len(shape)):
        labels = np.repeat(labels, 4, axis)
    return labels[tuple(slice(n) for n in shape)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.lists(st.tuples(*[st.integers(-6, 6)] * 3), min_size=1, max_size=4),
)
def test_affinities_and_masks_equal_their_definition_for_any_offsets(seed, shape, offsets):
    labels = np.random.default_rng(seed).integers(0, 3, shape)
    expected, expected_mask = naive_affinities(labels, offsets)
    actual, mask = affinities(labels, offsets), affinities_mask(shape, offsets)
    assert actual.dtype == mask.dtype == np.uint8
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(mask, expected_mask)


def test_affinities_of_a_row_can_be_checked_by_hand():
    #                  0  5  5  7  0  0  7
    labels = np.array([[0, 5, 5, 7, 0, 0, 7]])
    np.testing.assert_array_equal(
        affinities(labels, [[0, -1], [0, 3]])[:, 0], [[0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0]]
    )


def test_affinities_tell_large_ids_apart():
    labels = np.array([[2**63, 2**63 + 1, 2**63 + 1]], np.uint64)
    np.testing.assert_array_equal(affinities(labels, [[0, -1]])[0, 0], [0, 0, 1])


def test_neighbourhood_of_the_paper_goes_backwards_distance_by_distance():
    assert offsets_on_axes([1, 3]) == [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [-3, 0, 0], [0, -3, 0], [0, 0, -3]]
    assert offsets_on_axes([(15, 27, 27)]) == [[-15, 0, 0], [0, -27, 0], [0, 0, -27]]
    assert offsets_on_axes([2], ndim=2) == [[-2, 0], [0, -2]]


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("only_xy", [False, True])
@pytest.mark.parametrize("shape", [(11, 13, 14), (13, 14), (1, 6, 7)])
def test_grown_boundaries_equal_the_erosion_of_each_label(shape, only_xy, steps):
    labels = blobs(shape, seed=1)
    np.testing.assert_array_equal(grow_boundary(labels, steps, only_xy=only_xy), naive_growth(labels, steps, only_xy))


@pytest.mark.parametrize(("steps", "only_xy", "seed"), list(itertools.product([0, 1, 2], [False, True], range(3))))
def test_grown_boundaries_spare_the_edge_of_the_mask(steps, only_xy, seed):
    labels = blobs((9, 13, 14), seed)
    mask = np.random.default_rng(seed).random(labels.shape) < (0.9, 0.5, 0.1)[seed]
    expected = naive_growth(labels, steps, only_xy, mask)
    np.testing.assert_array_equal(grow_boundary(labels, steps, only_xy=only_xy, mask=mask), expected)
    everything = np.ones(labels.shape, np.uint8)
    np.testing.assert_array_equal(
        grow_boundary(labels, steps, only_xy=only_xy, mask=everything), grow_boundary(labels, steps, only_xy=only_xy)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_grown_boundaries_keep_dtype_and_input(dtype):
    labels = blobs((8, 9, 10), seed=2).astype(dtype)
    labels[labels == 3] = np.iinfo(dtype).max
    before = labels.copy()
    for mask in (None, labels != 1):
        assert grow_boundary(labels, mask=mask).dtype == dtype
        np.testing.assert_array_equal(grow_boundary(labels, mask=mask), naive_growth(labels, 1, mask=mask))
    np.testing.assert_array_equal(labels, before)


def test_weights_give_both_classes_half_of_the_total():
    target = np.array([1, 1, 1, 0, 1, 0, 0, 1], np.uint8)
    mask = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.uint8)
    # Of four known affinities three are 1: they weigh 1 / (2 * 3/4), the one 0 weighs 1 / (2 * 1/4).
    weights = affinity_weights(target, mask)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 2 / 3, 2, 0, 0, 0, 0], rtol=1e-6)


def test_weights_use_one_fraction_for_all_channels_and_clip_it():
    target = np.zeros((2, 1, 1, 4), np.uint8)
    target[0] = 1
    np.testing.assert_allclose(affinity_weights(target, np.ones((1, 1, 4))), 1)
    np.testing.assert_allclose(affinity_weights(np.ones(4), np.ones(4)), 1 / (2 * 0.95), rtol=1e-6)
    np.testing.assert_allclose(affinity_weights(np.zeros(4), np.ones(4)), 1 / (2 * 0.95), rtol=1e-6)
    np.testing.assert_allclose(affinity_weights(np.ones(4), np.ones(4), clip=(0.2, 0.8)), 1 / 1.6, rtol=1e-6)


def test_weights_are_zero_where_nothing_is_known():
    np.testing.assert_array_equal(affinity_weights(np.ones((3, 2, 2, 2)), np.zeros((3, 2, 2, 2))), 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: affinities(np.ones((3, 3, 3)), [[-1, 0, 0]]), "labels must be integers, not float64"),
        (lambda: affinities(np.ones((3, 3, 3), int), [[-1, 0]]), r"must be \(n, 3\) integers .* not \(1, 2\)"),
        (lambda: affinities(np.ones((3, 3, 3), int), [[-0.5, 0, 0]]), "not .* float64"),
        (lambda: affinities_mask((3, 3, 3), [-1, 0, 0]), r"not \(3,\)"),
        (lambda: grow_boundary(np.ones((3, 3)), 1), "labels must be integers"),
        (lambda: grow_boundary(np.ones((3, 3), int), -1), "at least 0, not -1"),
        (lambda: offsets_on_axes([0]), "positive integer or 3 of them, not 0"),
        (lambda: offsets_on_axes([(1, 2)]), r"not \(1, 2\)"),
    ],
)
def test_unusable_input_is_refused_with_both_sides(call, message):
    with pytest.raises(UserError, match=message):
        call()
