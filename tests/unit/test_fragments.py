"""Fragments fill the mask, respect boundaries, and are as good as those of a reference watershed."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import watershed
from volumes_for_tests import cells

from lsdflow.errors import UserError
from lsdflow.fragments import Place, watershed_fragments


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
def test_fragments_are_about_as_many_and_as_pure_as_those_of_the_reference(seed, kind):
    labels, affinities = cells(seed=seed)
    if kind == "saturated":
        affinities = np.clip((affinities - 0.3) / 0.4, 0, 1)
    if kind == "binary":
        affinities[:] = ndimage.maximum_filter(labels, 3) == ndimage.minimum_filter(labels, 3)
    fragments, reference = watershed_fragments(affinities), reference_fragments(affinities)
    # Of two seeds as deep as each other in one window, the reference keeps both; it drowns what has no seed.
    assert 0.7 * reference.max() <= fragments.max() <= 1.1 * reference.max()
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


def test_a_thin_neurite_beside_a_thick_one_is_not_flooded_from_it():
    # Within the window the thick one is deeper everywhere, so the thin one has no seed of its own depth.
    affinities = np.ones((3, 24, 24, 30), np.float32)
    affinities[..., 16] = 0
    affinities[..., 19:] = 0
    fragments = watershed_fragments(affinities, minimum_seed_distance=21)
    assert not set(np.unique(fragments[..., :16])) & set(np.unique(fragments[..., 17:19]))


def test_an_outside_wider_than_the_window_has_fragments_of_its_own():
    affinities = np.zeros((3, 20, 20, 60), np.float32)
    affinities[..., :10] = affinities[..., 50:] = 1
    fragments = watershed_fragments(affinities, minimum_seed_distance=7)
    assert fragments[10, 10, 30] not in fragments[..., :10] and fragments[10, 10, 30] not in fragments[..., 50:]
    np.testing.assert_array_equal(fragments[10, 10, 12], fragments[10, 10, 5])
    narrow = watershed_fragments(affinities, minimum_seed_distance=61)
    assert set(np.unique(narrow)) == set(np.unique(narrow[..., :10])) | set(np.unique(narrow[..., 50:]))


def test_fragments_of_low_affinity_are_taken_away_and_no_others():
    _, affinities = cells()
    affinities[..., :20] *= 0.4
    before, after = (watershed_fragments(affinities, minimum_affinity=a) for a in (0, 0.45))
    means = np.bincount(before.ravel(), affinities.mean(0).ravel())[1:] / np.bincount(before.ravel())[1:]
    assert 0 < (means < 0.45).sum() < len(means)
    np.testing.assert_array_equal(after > 0, means[before.astype(int) - 1] >= 0.45)
    assert np.array_equal(np.unique(after), np.arange(after.max() + 1))


def test_ids_in_a_place_are_those_of_the_seeds_in_the_volume():
    _, affinities = cells()
    plain = watershed_fragments(affinities)
    placed = watershed_fragments(affinities, place=Place((10, 20, 30), (100, 200, 300)))
    assert len(np.unique(np.stack([plain.ravel(), placed.ravel()]), axis=1).T) == plain.max() == len(np.unique(placed))
    for fragment in np.unique(placed):
        seed = np.array(np.unravel_index(int(fragment) - 1, (100, 200, 300))) - (10, 20, 30)
        assert placed[tuple(seed)] == fragment


def test_ids_of_sections_in_a_place_are_seeds_in_their_own_section():
    _, affinities = cells()
    placed = watershed_fragments(affinities, in_sections=True, place=Place((4, 0, 0), (100, 40, 48)))
    sections = (placed - np.uint64(1)) // np.uint64(40 * 48)
    np.testing.assert_array_equal(sections, np.broadcast_to(np.arange(4, 36)[:, None, None], placed.shape))


def test_ids_reach_the_last_of_uint64_and_not_beyond():
    last = Place((2**21 - 1, 2**21 - 1, 2**22 - 2), (2**21, 2**21, 2**22 - 1))
    assert last.ids(np.array([0]), (1, 1, 1)).tolist() == [2**21 * 2**21 * (2**22 - 1)]
    with pytest.raises(UserError, match="would exceed 18446744073709551615, the largest of uint64"):
        Place((0, 0, 0), (2**22, 2**21, 2**21))
