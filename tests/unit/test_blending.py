"""Weights of windows add up to 1, fade to 0 at a window's own border, and tiles hold all that is needed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.blending import Lattice, axis_weights
from lsdflow.blocks import BlockGrid
from lsdflow.volumes import Roi

LENGTHS = st.integers(1, 9)


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 6), length=LENGTHS, context=st.integers(0, 9))
def test_weights_of_all_windows_at_a_voxel_add_up_to_1(count, length, context):
    total = np.zeros(count * length + 2 * context)
    for index in range(count):
        weights = axis_weights(index, count, length, context)
        assert weights.shape == (length + 2 * context,) and (weights > 0).all()
        total[index * length : index * length + len(weights)] += weights
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_weights_fade_to_the_windows_own_border_and_meet_in_the_middle():
    weights = axis_weights(1, 3, 10, 4)
    assert weights[0] < 0.02 and weights[-1] < 0.02
    assert (np.diff(weights[:8]) > 0).all() and (weights[8:10] == 1).all()
    np.testing.assert_allclose(weights, weights[::-1], atol=1e-6)
    # The face between two blocks lies between these voxels.
    assert weights[3] + weights[4] == pytest.approx(1)


def test_there_is_nothing_to_fade_into_at_the_faces_of_the_region():
    assert (axis_weights(0, 2, 10, 4)[:10] == 1).all()
    assert (axis_weights(0, 1, 10, 4) == 1).all()


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    block=st.tuples(*[st.integers(2, 5)] * 3),
    context=st.tuples(*[st.integers(0, 6)] * 3),
    most=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_tiles_hold_every_block_once_and_all_windows_that_reach_it(shape, block, context, most, seed):
    grid = BlockGrid(Roi((3, 1, 2), tuple(n + b for n, b in zip(shape, (3, 1, 2), strict=True))), block)
    lattice = Lattice(grid, context)
    wanted = [i for i in range(len(grid)) if np.random.default_rng([seed, i]).random() < 0.6]
    found, boxes = [], [lattice.window(index) for index in range(len(grid))]
    for windows, blocks in lattice.tiles(wanted, most):
        assert windows == sorted(set(windows)) and blocks == sorted(blocks)
        found += blocks
        needed = {w for b in blocks for w, box in enumerate(boxes) if box.overlaps(grid[b])}
        assert needed <= set(windows)
        assert set(windows) <= {w for b in blocks for w in lattice.around(b)}
    assert sorted(found) == wanted


@pytest.mark.parametrize("most", [3, 8, 20])
def test_never_more_blocks_wait_than_asked_for(most):
    lattice = Lattice(BlockGrid(Roi.of_shape((8, 14, 14)), (2, 2, 2)), (1, 1, 1))
    for windows, blocks in lattice.tiles(range(len(lattice.grid)), most):
        waiting, said, largest = {}, set(blocks), 0
        for window in windows:
            for block in set(lattice.around(window)) & said:
                waiting[block] = waiting.get(block, 0) + 1
                if waiting[block] == len(lattice.around(block)):
                    del waiting[block]
            # Blocks behind hold a whole window, those ahead a slice of it.
            largest = max(largest, len(waiting))
        assert not waiting
        # A row, a corner, and what lies ahead come on top.
        assert largest <= 2 * most + 10
