"""CREMI's score and its border mask."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsdflow.errors import UserError
from lsdflow.metrics import border_mask, cremi_score


def naive_mask(truth, distance, voxel_size):
    """The definition, voxel by voxel: no voxel on a border lies within the distance in the same section."""
    counted = np.ones(truth.shape, bool)
    for z, section in enumerate(truth):
        padded = np.pad(section, 1, mode="edge")
        border = [
            (y, x)
            for y, x in np.ndindex(section.shape)
            if any(padded[y + 1 + dy, x + 1 + dx] != section[y, x] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)))
        ]
        for y, x in np.ndindex(section.shape):
            for v, u in border:
                if math.hypot((y - v) * voxel_size[1], (x - u) * voxel_size[2]) <= distance:
                    counted[z, y, x] = False
    return counted


def blocky_labels(seed, shape=(2, 12, 14)):
    coarse = np.random.default_rng(seed).integers(0, 4, (shape[0], -(-shape[1] // 5), -(-shape[2] // 5)))
    return coarse.repeat(5, axis=1).repeat(5, axis=2)[:, : shape[1], : shape[2]].astype(np.uint64)


def test_score_is_the_geometric_mean():
    assert cremi_score(0.8, 0.2) == pytest.approx(0.4)
    assert cremi_score(0, 0) == 0
    assert cremi_score(1e-3, -1e-16) == 0  # a perfect error after rounding


def test_mask_of_a_straight_border():
    #   1 1 1 1 2 2 2 2    the two middle voxels lie on the border, at 10 nm each
    truth = np.array([[[1, 1, 1, 1, 2, 2, 2, 2]]])
    for distance, removed in ((0, 0), (5, 2), (10, 4), (19.9, 4), (20, 6), (100, 8)):
        mask = border_mask(truth, distance, (40, 10, 10))
        assert np.count_nonzero(~mask) == removed
        np.testing.assert_array_equal(mask, mask[..., ::-1])


def test_edge_of_the_image_and_other_sections_are_no_border():
    truth = np.repeat([1, 2, 3], 25).reshape(3, 5, 5)
    assert border_mask(truth, 1000, (4, 4, 4)).all()


def test_background_has_borders_like_any_object():
    truth = np.array([[[0, 0, 0, 7, 7, 7]]])
    np.testing.assert_array_equal(border_mask(truth, 1, (1, 1, 1)), [[[1, 0, 0, 0, 0, 1]]])


@pytest.mark.parametrize("voxel_size", [(40, 4, 4), (8, 8, 16), (1, 3, 2)])
@pytest.mark.parametrize("distance", [1, 8, 12.5, 16])
def test_mask_is_that_of_the_definition(distance, voxel_size):
    truth = blocky_labels(0)
    mask = border_mask(truth, distance, voxel_size)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, naive_mask(truth, distance, voxel_size))


@settings(deadline=None, max_examples=25)
@given(hnp.arrays(np.uint8, (2, 5, 6), elements=st.integers(0, 2)), st.integers(1, 40))
def test_mask_of_any_labels_is_that_of_the_definition(truth, distance):
    np.testing.assert_array_equal(border_mask(truth, distance, (9, 7, 7)), naive_mask(truth, distance, (9, 7, 7)))


def test_larger_tolerance_counts_no_more():
    truth = blocky_labels(1, (3, 30, 30))
    masks = [border_mask(truth, d, (1, 1, 1)) for d in (0, 1, 2, 3)]
    for wide, narrow in zip(masks[1:], masks, strict=False):
        assert np.all(narrow | ~wide)
        assert wide.sum() < narrow.sum()


def test_limit_is_met_exactly_whatever_the_voxel_size():
    # (3, 4) voxels are 5 voxels away, which floating point nm would make a little more than 5 voxel sizes
    truth = np.ones((1, 9, 9), int)
    truth[0, 0, 0] = 2
    for size in (0.1, 4.4, 7.3):
        assert not border_mask(truth, 5 * size, (1, size, size))[0, 3, 5]  # 5 from (0, 1), which is on the border


def test_bad_input_is_refused_with_what_is_wrong():
    truth = np.ones((2, 3, 4), int)
    with pytest.raises(UserError, match=r"\(z, y, x\), not \(3, 4\)"):
        border_mask(truth[0], 1, (1, 1, 1))
    with pytest.raises(UserError, match="border tolerance.*not -1"):
        border_mask(truth, -1, (1, 1, 1))
    for wrong in ((1, 1), (1, 0, 1)):
        with pytest.raises(UserError, match="three positive lengths"):
            border_mask(truth, 1, wrong)
