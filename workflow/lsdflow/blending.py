"""Overlapping windows on a lattice, and the weights that blend their predictions into one without seams.

Near its border a padded network sees zeros where there is tissue.  So each block of a grid is predicted with context
around it, and where the windows of neighbours overlap their predictions are averaged, each with less weight the nearer
its own border is.  The result at a voxel depends on the lattice alone, not on who computes which window when.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lsdflow.blocks import BlockGrid
from lsdflow.roi import Roi


@lru_cache(maxsize=256)
def axis_weights(index: int, count: int, length: int, context: int) -> NDArray[np.float32]:
    """Weights along one axis of window ``index`` of ``count``; those of all windows at a voxel add up to 1.

    Parameters
    ----------
    index, count : which window, and how many there are.
    length, context : of a block and of what its window sees on each side of it, voxels.

    Returns
    -------
    float32 (length + 2 * context,)
        A smooth step (3t² − 2t³) over the ``2 * context`` voxels shared with a neighbour, 1 where there is none.

    Examples
    --------
    >>> left, right = axis_weights(0, 2, 8, 2), axis_weights(1, 2, 8, 2)
    >>> [f"{weight:.2f}" for weight in left[-5:]]
    ['1.00', '0.96', '0.68', '0.32', '0.04']
    >>> [f"{weight:.2f}" for weight in right[:5]]
    ['0.04', '0.32', '0.68', '0.96', '1.00']
    """
    size, reach = length + 2 * context, -(-2 * context // length)
    place = np.arange(size) + 0.5

    def bump(other: int) -> NDArray[np.float64]:
        """The weight, before they are made to add up, that window ``other`` has at the places of this one."""
        there = place + (index - other) * length
        t = np.clip(np.minimum(there, size - there) / max(2 * context, 0.5), 0, 1)
        return t * t * (3 - 2 * t)

    total = sum(bump(other) for other in range(max(0, index - reach), min(count, index + reach + 1)))
    weights = (bump(index) / total).astype(np.float32)
    weights.flags.writeable = False
    return weights


class Lattice:
    """The windows of a grid: one around each block.

    Parameters
    ----------
    grid : the blocks; also for those that are cut by the far faces of the region the window is a whole one.
    context : what a window sees on each side of its block, z y x, in voxels; 0 for windows that do not overlap.
    """

    def __init__(self, grid: BlockGrid, context: Sequence[int]) -> None:
        self.grid, self.context = grid, tuple(int(c) for c in context)
        self.window_shape = tuple(b + 2 * c for b, c in zip(grid.block_shape, self.context, strict=True))
        # How many blocks further a window still has a say.
        self.reach = tuple(-(-c // b) for b, c in zip(grid.block_shape, self.context, strict=True))

    def position(self, index: int) -> tuple[int, int, int]:
        """Which block along z, y and x."""
        return tuple(int(p) for p in np.unravel_index(index, self.grid.counts_zyx))

    def window(self, index: int) -> Roi:
        """The box of a window, in voxels."""
        begin = tuple(b - c for b, c in zip(self.grid[index].begin, self.context, strict=True))
        return Roi(begin, tuple(b + n for b, n in zip(begin, self.window_shape, strict=True)))

    def weights(self, index: int) -> tuple[NDArray[np.float32], ...]:
        """The weights of a window along z, y and x; their product is that of a voxel."""
        shape = zip(self.position(index), self.grid.counts_zyx, self.grid.block_shape, self.context, strict=True)
        return tuple(axis_weights(*along) for along in shape)

    def around(self, index: int) -> list[int]:
        """The blocks that window ``index`` has a say in; just as well, the windows with a say in block ``index``.

        Ascending, ``index`` among them.
        """
        ranges = [
            range(max(0, p - r), min(n, p + r + 1))
            for p, r, n in zip(self.position(index), self.reach, self.grid.counts_zyx, strict=True)
        ]
        return [int(np.ravel_multi_index(place, self.grid.counts_zyx)) for place in product(*ranges)]

    def tiles(self, blocks: Collection[int], most_pending: int) -> Iterator[tuple[list[int], list[int]]]:
        """Cut the work on ``blocks`` such that never more than about ``most_pending`` blocks wait for windows.

        A block waits for a whole layer of windows behind it: wide layers are cut into columns, and windows that two
        columns need are computed for both.

        Yields
        ------
        (windows, blocks) : ascending, the windows to compute for the blocks of a column.
        """
        _, n_y, n_x = self.grid.counts_zyx
        layers = 1 + self.reach[0]
        if not any(self.reach) or layers * n_y * n_x <= most_pending:
            n_rows, n_columns = n_y, n_x
        else:
            side = max(1, math.isqrt(max(1, most_pending // layers)))
            n_columns = min(n_x, side)
            n_rows = max(1, min(n_y, most_pending // layers // n_columns))
        columns: dict[tuple[int, int], list[int]] = {}
        for index in sorted(blocks):
            _, y, x = self.position(index)
            columns.setdefault((y // n_rows, x // n_columns), []).append(index)
        for inside in columns.values():
            yield sorted({window for index in inside for window in self.around(index)}), inside
