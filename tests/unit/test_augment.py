"""Symmetries move voxels and nothing else; grey values stay in range; all of it is repeatable."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.augment import Symmetry, random_intensity, random_symmetry

SYMMETRIES = st.builds(Symmetry, st.permutations(range(3)).map(tuple), st.tuples(*[st.booleans()] * 3))


def moved_index(symmetry, index, shape):
    """Where `Symmetry` takes the voxel ``index`` of an array of ``shape``: by definition, one axis at a time."""
    result = []
    for source, flip in zip(symmetry.axes, symmetry.flips, strict=True):
        result.append(shape[source] - 1 - index[source] if flip else index[source])
    return tuple(result)


@settings(max_examples=48, deadline=None)
@given(symmetry=SYMMETRIES)
def test_every_voxel_goes_where_axes_and_flips_say(symmetry):
    shape = (2, 3, 4)
    array = np.arange(24).reshape(shape)
    result = symmetry.apply(array)
    assert result.flags.c_contiguous
    for index in np.ndindex(shape):
        assert result[moved_index(symmetry, index, shape)] == array[index]


@settings(max_examples=48, deadline=None)
@given(symmetry=SYMMETRIES)
def test_channels_stay_in_place(symmetry):
    array = np.arange(48).reshape(2, 2, 3, 4)
    for channel, result in zip(array, symmetry.apply(array), strict=True):
        np.testing.assert_array_equal(result, symmetry.apply(channel))


@settings(max_examples=48, deadline=None)
@given(symmetry=SYMMETRIES)
def test_shape_before_becomes_the_shape_afterwards(symmetry):
    assert symmetry.apply(np.zeros(symmetry.shape_before((2, 3, 4)))).shape == (2, 3, 4)


def drawn(voxel_size, **options):
    rng = np.random.default_rng(0)
    return {random_symmetry(rng, voxel_size, **options) for _ in range(2000)}


@pytest.mark.parametrize(
    ("voxel_size", "options", "count"),
    [
        ((8, 8, 8), {}, 48),
        ((20, 9, 9), {}, 16),
        ((9, 20, 9), {}, 16),
        ((30, 9, 8), {}, 8),
        ((8, 8, 8), {"transpose": False}, 8),
        ((8, 8, 8), {"flip": False}, 6),
        ((20, 9, 9), {"flip": False, "transpose": False}, 1),
    ],
)
def test_all_symmetries_of_the_voxel_are_drawn_and_no_other(voxel_size, options, count):
    symmetries = drawn(voxel_size, **options)
    assert len(symmetries) == count
    for symmetry in symmetries:
        assert [voxel_size[axis] for axis in symmetry.axes] == list(voxel_size)


def test_symmetries_are_drawn_evenly():
    rng = np.random.default_rng(0)
    counts = {}
    for _ in range(48 * 200):
        symmetry = random_symmetry(rng, (8, 8, 8))
        counts[symmetry] = counts.get(symmetry, 0) + 1
    # Each is Poisson with mean 200: within five standard deviations.
    assert set(counts) == {
        Symmetry(axes, flips)
        for axes in itertools.permutations(range(3))
        for flips in itertools.product([False, True], repeat=3)
    }
    assert max(abs(c - 200) for c in counts.values()) < 5 * 200**0.5


def image(seed=0, shape=(3, 16, 16)):
    return np.random.default_rng(seed).uniform(0.3, 0.7, shape).astype(np.float32)


def test_intensity_without_strength_changes_nothing():
    raw = image()
    result = random_intensity(raw, np.random.default_rng(0), scale=0, shift=0, noise=0)
    np.testing.assert_allclose(result, raw, atol=1e-6)
    assert result.dtype == np.float32


def test_intensity_is_one_contrast_and_one_brightness_for_the_crop():
    raw = image()
    result = random_intensity(raw, np.random.default_rng(1), scale=0.1, shift=0.1, noise=0)
    factor, offset = np.polyfit(raw.ravel() - raw.mean(), result.ravel(), 1)
    np.testing.assert_allclose(result, (raw - raw.mean()) * factor + offset, atol=1e-5)
    assert 0.9 <= factor <= 1.1 and abs(offset - raw.mean()) <= 0.1
    assert factor != pytest.approx(1, abs=1e-3)


def test_section_wise_intensity_is_one_contrast_and_one_brightness_per_section():
    raw = image()
    result = random_intensity(raw, np.random.default_rng(1), scale=0.1, shift=0.1, noise=0, section_wise=True)
    factors = []
    for before, after in zip(raw, result, strict=True):
        factor, offset = np.polyfit(before.ravel() - before.mean(), after.ravel(), 1)
        np.testing.assert_allclose(after, (before - before.mean()) * factor + offset, atol=1e-5)
        assert 0.9 <= factor <= 1.1 and abs(offset - before.mean()) <= 0.1
        factors.append(factor)
    assert len({round(f, 4) for f in factors}) == 3


def test_noise_is_independent_of_the_voxel_and_no_stronger_than_asked():
    raw = np.full((16, 32, 32), 0.5, np.float32)
    deviations = [
        random_intensity(raw, np.random.default_rng(seed), scale=0, shift=0, noise=0.05).std() for seed in range(20)
    ]
    assert max(deviations) < 0.051
    assert len({round(float(d), 5) for d in deviations}) == 20


def test_intensity_stays_between_0_and_1_and_leaves_its_input_alone():
    raw = np.random.default_rng(0).uniform(0, 1, (4, 8, 8)).astype(np.float32)
    before = raw.copy()
    result = random_intensity(raw, np.random.default_rng(3), scale=0.5, shift=0.5, noise=0.5)
    assert result.min() >= 0 and result.max() <= 1
    np.testing.assert_array_equal(raw, before)


def test_same_generator_same_augmentation():
    options = {"scale": 0.1, "shift": 0.1, "noise": 0.1}
    first, second = (random_intensity(image(), np.random.default_rng(5), **options) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert random_symmetry(np.random.default_rng(5), (8, 8, 8)) == random_symmetry(np.random.default_rng(5), (8, 8, 8))
