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


def padded_affinities(labels, offset):
    """Affinity to one neighbour, of an array too large for voxel by voxel: background lies around it."""
    pads = [(max(0, -o), max(0, o)) for o in offset]
    there = np.pad(labels, pads)[
        tuple(slice(low + o, low + o + n) for (low, _), o, n in zip(pads, offset, labels.shape, strict=True))
    ]
    return (labels == there) & (labels != 0)


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


def naive_weights(target, mask, clip=(0.05, 0.95)):
    is_known = np.broadcast_to(mask, target.shape) != 0
    ones = np.count_nonzero(target[is_known])
    fraction = min(max(ones / is_known.sum() if is_known.any() else 0.0, clip[0]), clip[1])
    return np.where(is_known, np.where(target != 0, 1 / (2 * fraction), 1 / (2 * (1 - fraction))), 0).astype(np.float32)


def blobs(shape, seed, n_labels=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels + 1, [-(-n // 4) for n in shape])
    for axis in range(len(shape)):
        labels = np.repeat(labels, 4, axis)
    return labels[tuple(slice(n) for n in shape)]


# Ids that are alike in their lowest 16 or 32 bits, where there are more.
IDS = [0, 1, 255, 2**8, 2**16, 2**16 + 1, 2**31, 2**32, 2**32 + 1, 2**48, 2**63, 2**64 - 1, -1, -(2**16), -(2**63)]
DTYPES = [f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (1, 2, 4, 8)]
LAYOUTS = {
    "C": lambda labels: labels,
    "Fortran": np.asfortranarray,
    "backwards": lambda labels: labels[..., ::-1].copy()[..., ::-1],
    "part": lambda labels: np.pad(labels, 1, constant_values=1)[(slice(1, -1),) * labels.ndim],
    "unaligned": lambda labels: np.frombuffer(b"." + labels.tobytes(), labels.dtype, offset=1).reshape(labels.shape),
}


@st.composite
def label_arrays(draw):
    """Blobs of few ids, of any integers, in any layout, with 2 or 3 axes."""
    dtype, layout = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.sampled_from(list(LAYOUTS)))
    shape = draw(st.lists(st.integers(1, 7), min_size=2, max_size=3))
    limits = np.iinfo(dtype)
    ids = [i for i in IDS if limits.min <= i <= limits.max]
    used = np.array([0, *draw(st.lists(st.sampled_from(ids), min_size=1, max_size=3))], dtype)
    places = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, len(used), [-(-n // 2) for n in shape])
    for axis in range(len(shape)):
        places = np.repeat(places, 2, axis)
    return LAYOUTS[layout](used[places[tuple(slice(n) for n in shape)]])


@settings(max_examples=100, deadline=None)
@given(st.data(), label_arrays(), st.integers(1, 3))
def test_affinities_and_masks_equal_their_definition_for_any_offsets(data, labels, threads):
    offset = st.tuples(*[st.integers(-8, 8)] * labels.ndim)
    offsets = data.draw(st.lists(offset, min_size=1, max_size=4))
    expected, expected_mask = naive_affinities(labels, offsets)
    actual, mask = affinities(labels, offsets, threads=threads), affinities_mask(labels.shape, offsets)
    assert actual.dtype == mask.dtype == np.uint8
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(mask, expected_mask)


# A section in one block, several blocks per section, rows longer than a block.
@pytest.mark.parametrize("shape", [(5, 4, 3), (3, 150, 300), (3, 2, 40000), (300, 300)])
@pytest.mark.parametrize("high", [0, 2**20, 2**40])
def test_blocks_of_rows_and_threads_leave_no_trace(shape, high):
    labels = blobs(shape, seed=3)
    labels[-1, -1, ...] += high
    offsets = [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (1, 13, -17), (0, -2, 260), (2, 1, 0)]
    offsets = [offset[-labels.ndim :] for offset in offsets]
    expected = np.stack([padded_affinities(labels, offset) for offset in offsets])
    for threads in (1, 2, 3, 50):
        np.testing.assert_array_equal(affinities(labels, offsets, threads=threads), expected)
    expected = naive_growth(labels, 2)
    for threads in (1, 2, 3, 50):
        np.testing.assert_array_equal(grow_boundary(labels, 2, threads=threads), expected)


def test_offsets_of_any_length_lie_outside():
    labels = np.ones((2, 3, 4), int)
    offsets = [[sign * 2**power if a == axis else 0 for a in range(3)]
               for axis in range(3) for power in (2, 31, 32, 62) for sign in (-1, 1)]  # fmt: skip
    assert not affinities(labels, offsets).any()


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0)])
def test_nothing_comes_of_nothing(shape):
    labels = np.ones(shape, int)
    assert affinities(labels, [[-1] * len(shape)] * 2).shape == (2, *shape)
    assert affinities_mask(shape, np.empty((0, len(shape)), int)).shape == (0, *shape)
    assert grow_boundary(labels).shape == shape


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


@settings(max_examples=100, deadline=None)
@given(label_arrays(), st.integers(0, 3), st.booleans(), st.integers(1, 3))
def test_grown_boundaries_equal_the_erosion_for_any_integers(labels, steps, only_xy, threads):
    before = labels.copy()
    grown = grow_boundary(labels, steps, only_xy=only_xy, threads=threads)
    assert grown.dtype == labels.dtype
    assert not np.shares_memory(grown, labels)
    np.testing.assert_array_equal(grown, naive_growth(labels, steps, only_xy))
    np.testing.assert_array_equal(labels, before)


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


@settings(max_examples=100, deadline=None)
@given(
    st.data(),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 5), max_size=5),
    *[st.sampled_from([np.bool_, np.uint8, np.int64, np.float32])] * 2,
    st.floats(0, 1),
)
def test_weights_equal_their_definition_to_the_last_bit(data, seed, shape, dtype, mask_dtype, share):
    rng = np.random.default_rng(seed)
    target = (rng.random(shape) < share).astype(dtype)
    mask_shape = [data.draw(st.sampled_from([1, n])) for n in shape]
    mask = (rng.random(mask_shape[data.draw(st.integers(0, len(shape))) :]) < 0.7).astype(mask_dtype)
    np.testing.assert_array_equal(affinity_weights(target, mask), naive_weights(target, mask))


def test_weights_of_a_crop_are_those_of_its_copy():
    rng = np.random.default_rng(0)
    target, mask = rng.integers(0, 2, (2, 3, 9, 20, 300), np.uint8)
    target, mask = target[:, 2:-2, 3:-3, 4:-5], mask[:, 2:-2, 3:-3, 4:-5]
    target.flags.writeable = False
    expected = naive_weights(target, mask)
    np.testing.assert_array_equal(affinity_weights(target, mask), expected)
    np.testing.assert_array_equal(affinity_weights(target.copy(), mask.copy()), expected)
    np.testing.assert_array_equal(affinity_weights(target, mask[0]), naive_weights(target, mask[0]))


def test_weights_are_zero_where_nothing_is_known():
    np.testing.assert_array_equal(affinity_weights(np.ones((3, 2, 2, 2)), np.zeros((3, 2, 2, 2))), 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: affinities(np.ones((3, 3, 3)), [[-1, 0, 0]]), "labels must be integers, not float64"),
        (lambda: affinities(np.ones(3, int), [[-1]]), r"must be \(z, y, x\) or \(y, x\), not \(3,\)"),
        (lambda: grow_boundary(np.ones((3, 3, 3, 3), int)), r"not \(3, 3, 3, 3\)"),
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
