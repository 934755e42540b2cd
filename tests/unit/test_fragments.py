"""Fragments fill the mask, respect boundaries, and are as good as those of a reference watershed."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import watershed

from lsdflow.errors import UserError
from lsdflow.fragments import global_ids, watershed_fragments


def cells(shape=(32, 40, 48), n_cells=12, seed=0):
    """Labels of a Voronoi tessellation, and affinities as a network might predict them: noisy, wide boundaries."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, shape, (n_cells, 3))
    grid = np.stack(np.indices(shape), -1)
    labels = 1 + np.argmin([((grid - c) ** 2).sum(-1) for c in centres], axis=0)
    is_boundary = ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)
    noise = [ndimage.gaussian_filter(rng.normal(0, 0.5, shape), 0.7) for _ in range(3)]
    affinities = ndimage.gaussian_filter(np.where(is_boundary, 0.1, 0.9), 0.5) + np.stack(noise)
    return labels, np.clip(affinities, 0, 1).astype(np.float32)


def merge_error(fragments, labels):
    """H(labels | fragments) in bits: 0 if no fragment has two labels."""
    table = np.zeros((fragments.max() + 1, labels.max() + 1))
    np.add.at(table, (fragments.ravel().astype(int), labels.ravel()), 1 / labels.size)
    p = table[table > 0]
    q = np.broadcast_to(table.sum(1, keepdims=True), table.shape)[table > 0]
    return float((p * np.log2(q / p)).sum())


def reference_fragments(affinities, threshold=0.5, window=11):
    """The published steps, literally, with scipy and scikit-image."""
    distance = ndimage.distance_transform_edt(affinities[:3].mean(0) > threshold)
    seeds, _ = ndimage.label(ndimage.maximum_filter(distance, window) == distance)
    return watershed(distance.max() - distance, seeds)


def test_ids_are_dense_and_fill_the_volume():
    _, affinities = cells()
    fragments = watershed_fragments(affinities)
    assert fragments.dtype == np.uint64
    assert fragments.shape == affinities.shape[1:]
    assert np.array_equal(np.unique(fragments), np.arange(1, fragments.max() + 1))


@pytest.mark.parametrize("kind", ["noisy", "saturated", "binary"])
@pytest.mark.parametrize("seed", range(3))
def test_fragments_are_as_many_and_as_pure_as_those_of_the_reference(seed, kind):
    labels, affinities = cells(seed=seed)
    if kind == "saturated":
        affinities = np.clip((affinities - 0.3) / 0.4, 0, 1)
    if kind == "binary":
        affinities[:] = ndimage.maximum_filter(labels, 3) == ndimage.minimum_filter(labels, 3)
    fragments, reference = watershed_fragments(affinities), reference_fragments(affinities)
    assert fragments.max() == reference.max()
    assert merge_error(fragments, labels) <= merge_error(reference, labels)


def test_two_slabs_meet_in_the_middle_of_the_boundary_between_them():
    # Inside: x 0–11 and x 17–28; the boundary's middle is x = 14.
    affinities = np.ones((3, 16, 16, 29), np.float32)
    affinities[..., 12:17] = 0
    fragments = watershed_fragments(affinities, minimum_seed_distance=31)
    assert fragments.max() == 2
    assert (fragments[..., :14] == fragments[0, 0, 0]).all()
    assert (fragments[..., 15:] == fragments[0, 0, -1]).all()


def test_uint8_stands_for_fractions_of_255():
    _, affinities = cells()
    quantised = (affinities * 255).astype(np.uint8)
    np.testing.assert_array_equal(
        watershed_fragments(quantised), watershed_fragments(quantised.astype(np.float32) / np.float32(255))
    )


def test_long_range_channels_are_left_out_of_the_mean():
    _, affinities = cells()
    more = np.concatenate([affinities, np.zeros_like(affinities)])
    np.testing.assert_array_equal(watershed_fragments(more), watershed_fragments(affinities))
    assert not np.array_equal(watershed_fragments(more, channels=6), watershed_fragments(affinities))


def test_the_same_input_gives_the_same_fragments():
    _, affinities = cells()
    np.testing.assert_array_equal(watershed_fragments(affinities), watershed_fragments(affinities.copy()))


def test_every_voxel_of_the_mask_and_no_other_has_a_fragment():
    _, affinities = cells()
    mask = np.random.default_rng(0).random(affinities.shape[1:]) < 0.7
    fragments = watershed_fragments(affinities, mask=mask)
    np.testing.assert_array_equal(fragments > 0, mask)
    assert np.array_equal(np.unique(fragments), np.arange(fragments.max() + 1))


def test_a_mask_that_separates_is_never_crossed():
    affinities = np.ones((3, 8, 8, 21), np.float32)
    mask = np.ones((8, 8, 21), bool)
    mask[..., 10] = False
    fragments = watershed_fragments(affinities, mask=mask)
    assert not set(np.unique(fragments[..., :10])) & set(np.unique(fragments[..., 11:]))


@pytest.mark.parametrize("value", [0, 1])
def test_a_volume_without_boundaries_is_one_fragment(value):
    fragments = watershed_fragments(np.full((3, 9, 8, 7), value, np.float32))
    assert (fragments == 1).all()


def test_an_empty_mask_gives_no_fragment():
    _, affinities = cells()
    fragments = watershed_fragments(affinities, mask=np.zeros(affinities.shape[1:], bool))
    assert not fragments.any()


@pytest.mark.parametrize("minimum_size", [1, 40])
def test_in_sections_is_every_section_by_itself_without_the_z_affinities(minimum_size):
    _, affinities = cells()
    affinities[0] = 0
    fragments = watershed_fragments(affinities, in_sections=True, minimum_size=minimum_size)
    assert np.array_equal(np.unique(fragments), np.arange(1, fragments.max() + 1))
    for z in range(3):
        alone = watershed_fragments(affinities[:, z : z + 1], in_sections=True, minimum_size=minimum_size)[0]
        np.testing.assert_array_equal(fragments[z] - fragments[z].min() + 1, alone)
        assert fragments[z].min() > (fragments[z - 1].max() if z else 0)


def test_small_fragments_go_to_their_neighbours():
    _, affinities = cells()
    before, after = (watershed_fragments(affinities, minimum_size=n) for n in (0, 1000))
    sizes = np.bincount(before.ravel())[1:]
    assert sizes.min() < 1000 <= np.bincount(after.ravel())[1:].min()
    assert after.max() == (sizes >= 1000).sum()
    # Those that were large enough keep their voxels.
    is_kept = np.isin(before, 1 + np.flatnonzero(sizes >= 1000))
    assert len(np.unique(np.stack([before[is_kept], after[is_kept]]), axis=1).T) == after.max()


def test_a_small_fragment_without_a_neighbour_stays():
    affinities = np.ones((3, 8, 8, 16), np.float32)
    mask = np.zeros((8, 8, 16), bool)
    mask[..., :10] = mask[0, 0, 15] = True
    fragments = watershed_fragments(affinities, mask=mask, minimum_size=10)
    np.testing.assert_array_equal(fragments > 0, mask)
    assert fragments.max() == 2


def test_a_wider_window_gives_fewer_fragments():
    _, affinities = cells()
    counts = [watershed_fragments(affinities, minimum_seed_distance=n).max() for n in (3, 10, 25)]
    assert counts[0] > counts[1] > counts[2]
    assert np.array_equal(
        watershed_fragments(affinities, minimum_seed_distance=(10, 11, 10)), watershed_fragments(affinities)
    )


def test_only_the_proportions_of_the_voxel_matter():
    _, affinities = cells()
    cubic, nm = (watershed_fragments(affinities, voxel_size=v) for v in (None, (8, 8, 8)))
    np.testing.assert_array_equal(cubic, nm)
    assert not np.array_equal(watershed_fragments(affinities, voxel_size=(40, 8, 8)), cubic)


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan, np.inf])
def test_a_value_that_is_no_affinity_is_refused(bad):
    affinities = np.full((3, 4, 4, 4), 0.5, np.float32)
    affinities[1, 2, 3, 0] = bad
    with pytest.raises(UserError, match="must lie in 0–1, but are (from|NaN)"):
        watershed_fragments(affinities)


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (4, 4, 4), (3, 4, 0, 4)])
def test_a_wrong_shape_is_refused(shape):
    with pytest.raises(UserError, match="affinities must"):
        watershed_fragments(np.zeros(shape, np.float32))


def test_integers_that_are_not_uint8_are_refused():
    with pytest.raises(UserError, match="not int64"):
        watershed_fragments(np.zeros((3, 4, 4, 4), np.int64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": np.ones((4, 4, 5), bool)}, r"\(4, 4, 4\), not \(4, 4, 5\)"),
        ({"threshold": 1.5}, "0–1, not 1.5"),
        ({"minimum_seed_distance": 0}, "minimum_seed_distance"),
        ({"voxel_size": (8, 8)}, "voxel_size"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        watershed_fragments(np.zeros((3, 4, 4, 4), np.float32), **options)


def test_ids_of_different_blocks_never_meet():
    fragments = np.array([[[0, 1, 8]]], np.uint64)
    np.testing.assert_array_equal(global_ids(fragments, 0, 8), fragments)
    np.testing.assert_array_equal(global_ids(fragments, 3, 8), [[[0, 25, 32]]])


def test_ids_that_a_block_cannot_have_are_refused():
    with pytest.raises(ValueError, match="id 9, but must have ids of at most 8"):
        global_ids(np.array([[[9]]], np.uint64), 0, 8)


def test_ids_that_would_overflow_are_refused():
    one = np.ones((1, 1, 1), np.uint64)
    assert int(global_ids(one, 2**34 - 2, 2**30).max()) == 2**64 - 2**31 + 1
    # The last id of the next block would be 2**64.
    with pytest.raises(UserError, match="block 17179869183 would exceed 18446744073709551615"):
        global_ids(one, 2**34 - 1, 2**30)
