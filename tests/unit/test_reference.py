"""Affinities off the image: dark is a boundary, bright is inside, and the lower of two voxels counts."""

import numpy as np

from lsdflow.reference import grey_range, image_affinities


def test_affinity_is_the_lower_of_a_voxel_and_the_one_before_it():
    raw = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    result = image_affinities(raw, smoothing=(0, 0, 0), low=0, high=255)
    assert result.dtype == np.uint8 and result.shape == (3, 3, 4, 5)
    for z, y, x in np.ndindex(raw.shape):
        for axis, before in enumerate([(max(z - 1, 0), y, x), (z, max(y - 1, 0), x), (z, y, max(x - 1, 0))]):
            # float32 may fall a hair below a whole grey value before the fraction is dropped.
            assert abs(int(result[axis, z, y, x]) - min(int(raw[z, y, x]), int(raw[before]))) <= 1


def test_dark_sheet_separates_across_it_and_nowhere_else():
    raw = np.full((4, 4, 9), 200, np.uint8)
    raw[:, :, 4] = 20
    affinities = image_affinities(raw, smoothing=(0, 0, 0), low=20, high=200)
    assert (affinities[2, :, :, [4, 5]] == 0).all()
    assert (np.delete(affinities[2], [4, 5], axis=2) == 255).all()
    assert (affinities[0, :, :, 4] == 0).all() and (affinities[0, :, :, 3] == 255).all()


def test_grey_values_beyond_the_range_are_certain():
    raw = np.array([0, 50, 100, 150, 255], np.uint8).reshape(1, 1, 5)
    affinities = image_affinities(raw, smoothing=(0, 0, 0), low=50, high=150)
    # Along z there is one section only: the affinity is the voxel itself.
    assert affinities[0].ravel().tolist() == [0, 0, 127, 255, 255]


def test_smoothing_is_per_axis():
    raw = np.zeros((5, 5, 5), np.uint8)
    raw[2, 2, 2] = 255
    affinities = image_affinities(raw, smoothing=(0, 0, 1), low=0, high=255)
    assert affinities[2, 2, 2].any()
    assert not affinities[:, [0, 1, 4]].any() and not affinities[2][:, [0, 1, 3, 4]].any()


def test_grey_range_spans_the_percentiles_and_is_never_empty():
    low, high = grey_range(np.arange(101))
    assert (low, high) == (1, 90)
    low, high = grey_range(np.full(10, 7))
    assert (low, high) == (7, 8)
    assert image_affinities(np.full((2, 2, 2), 7, np.uint8), smoothing=(1, 1, 1), low=low, high=high).max() == 0
