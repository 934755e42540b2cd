"""Targets that are computed block by block are those of the whole region."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.affinities import grow_boundary
from lsdflow.blocks import BlockGrid
from lsdflow.lsd import local_shape_descriptors
from lsdflow.targets import BlockTargets
from lsdflow.volumes import Roi, Volume


def grown_objects(shape, n_objects, seed):
    """Every voxel belongs to the nearest of some random points: compact objects without background."""
    rng = np.random.default_rng(seed)
    points = rng.random((n_objects, 3)) * shape
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = ((voxels[..., None, :] - points) ** 2).sum(axis=-1)
    return (distance.argmin(axis=-1) + 1).astype(np.uint64)


def whole_and_blocks(labels, voxel_size, roi, block_shape, sigma, downsample, steps, only_xy):
    """Boundaries and descriptors of a region, computed at once and put together from blocks."""
    boundaries = grow_boundary(labels[roi.slices], steps, only_xy=only_xy)
    whole = local_shape_descriptors(boundaries, sigma, voxel_size, downsample=downsample)
    targets = BlockTargets(Volume(labels, voxel_size), roi, sigma, downsample, steps, only_xy)
    pieces = np.full_like(boundaries, 99), np.full_like(whole, 99)
    grid = BlockGrid(roi, block_shape)
    for index in range(len(grid)):
        block = grid[index]
        inside = block.shift([-b for b in roi.begin]).slices
        pieces[0][inside], pieces[1][(slice(None), *inside)] = targets.compute(block)
    return (boundaries, whole), pieces


@pytest.mark.parametrize(
    ("voxel_size", "sigma", "downsample", "steps", "only_xy"),
    [
        ((10, 10, 10), 20, 1, 1, False),
        ((10, 10, 10), 20, 1, 0, False),
        ((10, 10, 10), 25, 1, 3, False),
        ((10, 10, 10), 20, 2, 1, False),
        ((10, 10, 10), 30, 3, 2, False),
        ((20, 9, 9), (40, 20, 27), 1, 1, True),
        ((20, 9, 9), 36, 2, 2, True),
    ],
)
def test_blocks_equal_the_whole_region(voxel_size, sigma, downsample, steps, only_xy):
    labels = grown_objects((40, 44, 50), 12, seed=1)
    # The region begins and the blocks end between picked voxels.
    roi = Roi((3, 5, 2), (38, 44, 49))
    expected, found = whole_and_blocks(labels, voxel_size, roi, (13, 20, 16), sigma, downsample, steps, only_xy)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(4, 24)] * 3),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_blocks_of_any_shape_equal_the_whole_region(seed, block_shape, downsample, steps):
    labels = grown_objects((18, 22, 24), 6, seed)
    roi = Roi((1, 0, 2), (18, 21, 24))
    expected, found = whole_and_blocks(labels, (10, 10, 10), roi, block_shape, 15, downsample, steps, False)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)


def test_labels_beyond_the_region_are_not_looked_at():
    labels = grown_objects((24, 24, 24), 6, seed=2)
    roi = Roi((4, 4, 4), (20, 20, 20))
    other = np.full_like(labels, 77)
    other[roi.slices] = labels[roi.slices]
    blocks = [
        BlockTargets(Volume(array, (10, 10, 10)), roi, 30).compute(Roi((4, 4, 4), (12, 12, 12)))
        for array in (labels, other)
    ]
    for one, another in zip(*blocks, strict=True):
        np.testing.assert_array_equal(one, another)


def test_no_more_than_the_block_with_its_context_is_read():
    class Watched:
        """Labels that note which box is asked for."""

        shape, asked = (400, 400, 400), []

        def __getitem__(self, key):
            self.asked.append([(k.start, k.stop) for k in key])
            return np.ones([k.stop - k.start for k in key], np.uint64)

    labels = Watched()
    targets = BlockTargets(Volume(labels, (10, 10, 10)), Roi((0, 0, 0), (400, 400, 400)), 30)
    targets.compute(Roi((0, 200, 380), (20, 220, 400)))
    assert labels.asked == [[(0, 20 + 10), (200 - 10, 220 + 10), (380 - 10, 400)]]


def test_number_of_threads_does_not_matter():
    labels = grown_objects((30, 30, 40), 9, seed=3)
    targets = BlockTargets(Volume(labels, (10, 10, 10)), Roi((0, 0, 0), (30, 30, 40)), 40)
    block = Roi((0, 0, 0), (30, 20, 40))
    for one, another in zip(targets.compute(block), targets.compute(block, threads=3), strict=True):
        np.testing.assert_array_equal(one, another)
