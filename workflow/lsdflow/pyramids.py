"""Coarser copies of volumes, for viewers: which axes are halved at each level, and what a coarse voxel holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from lsdflow.roi import AXES, Roi
from lsdflow.stores import write_box

# A level that is no longer than this along any axis is an overview: nothing coarser is needed.
OVERVIEW = 64
# Below this edge, files are so small that another level saves a viewer nothing.
SMALLEST_SHARD = 16


def level_factors(
    shape_zyx: Sequence[int], voxel_size: Sequence[float], shard_zyx: Sequence[int] | None = None
) -> list[tuple[int, int, int]]:
    """How many voxels of the full resolution a voxel of each coarser level spans along z, y and x.

    Axes are halved whose voxels are less than √2 times as long as the shortest: those within sections first where
    sections are thick, all of them as soon as voxels are roughly cubes.

    Parameters
    ----------
    shape_zyx : extent in voxels.
    voxel_size : nm, z y x order.
    shard_zyx : what one job writes; then each level's part of it is whole voxels of that level, which may leave the
        coarsest level larger than an overview.

    Examples
    --------
    >>> level_factors((100, 1000, 1000), (40, 10, 10))
    [(1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16)]
    >>> level_factors((500, 500, 500), (8, 8, 8), shard_zyx=(100, 100, 100))
    [(2, 2, 2), (4, 4, 4)]
    """
    levels, factors = [], (1, 1, 1)
    while True:
        extent = [-(-n // f) for n, f in zip(shape_zyx, factors, strict=True)]
        if max(extent) <= OVERVIEW:
            return levels
        edges = [v * f if n > 1 else math.inf for v, f, n in zip(voxel_size, factors, extent, strict=True)]
        steps = [2 if edge < math.sqrt(2) * min(edges) else 1 for edge in edges]
        factors = tuple(f * s for f, s in zip(factors, steps, strict=True))
        if shard_zyx is not None:
            halved = [(n, f) for n, f, s in zip(shard_zyx, factors, steps, strict=True) if s == 2]
            if any(n % f or n // f < SMALLEST_SHARD for n, f in halved):
                return levels
        levels.append(factors)


def mean(values: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """The mean of each ``steps`` (1 or 2 along z, y, x) voxels, for images; whole numbers where the image has these.

    Where the last voxel has no neighbour, it counts alone.
    """
    corners = _corners(values, steps)
    averages = sum(corner.astype(np.float64) for corner in corners) / len(corners)
    return (np.rint(averages) if values.dtype.kind in "ui" else averages).astype(values.dtype)


def majority(labels: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """The most frequent label of each ``steps`` (1 or 2 along z, y, x) voxels; of equals, the first in C order.

    Background is a label like any other.  Where the last voxel has no neighbour, it counts alone.
    """
    corners = _corners(labels, steps)
    found = corners[0].copy()
    # Most voxels lie inside of objects, where there is nothing to count.
    is_mixed = np.logical_or.reduce([corner != corners[0] for corner in corners])
    candidates = np.stack([corner[is_mixed] for corner in corners])
    counts = sum((candidates == candidate).astype(np.uint8) for candidate in candidates)
    found[is_mixed] = np.take_along_axis(candidates, counts.argmax(axis=0)[None], axis=0)[0]
    return found


METHODS: dict[str, Callable[[np.ndarray, Sequence[int]], np.ndarray]] = {"mean": mean, "majority": majority}


def _corners(values: np.ndarray, steps: Sequence[int]) -> list[np.ndarray]:
    """Views of the first, second, … voxel of each ``steps`` voxels."""
    # An odd last voxel is repeated: as often as any other of its coarse voxel, so neither mean nor majority change.
    missing = [(0, -n % s) for n, s in zip(values.shape[-3:], steps, strict=True)]
    if np.any(missing):
        values = np.pad(values, [(0, 0)] * (values.ndim - 3) + missing, mode="edge")
    firsts = product(*map(range, steps))
    return [values[(..., *(slice(b, None, s) for b, s in zip(first, steps, strict=True)))] for first in firsts]


@dataclass(frozen=True)
class Pyramid:
    """The coarser levels of a stored volume.

    Attributes
    ----------
    method : the name in `METHODS` of how a level is made of the one below.
    arrays : the Zarr arrays of the levels, finest first.
    factors : their `level_factors`.
    """

    method: str
    arrays: tuple[Any, ...]
    factors: tuple[tuple[int, int, int], ...]

    def check(self, roi: Roi, shape_zyx: Sequence[int]) -> None:
        """ValueError unless ``roi``, in voxels of the full resolution, is whole voxels of every level."""
        for axis, begin, end, n, factor in zip(AXES, roi.begin, roi.end, shape_zyx, self.factors[-1], strict=True):
            if begin % factor or (end % factor and end != n):
                raise ValueError(f"{axis} {begin}–{end} is not whole voxels of the coarsest level ({factor} of these)")

    def write(self, roi: Roi, values: np.ndarray) -> None:
        """Write the part of each level that lies in ``roi``, made of the ``values`` there."""
        below = (1, 1, 1)
        for array, factors in zip(self.arrays, self.factors, strict=True):
            values = METHODS[self.method](values, [f // b for f, b in zip(factors, below, strict=True)])
            begin = tuple(b // f for b, f in zip(roi.begin, factors, strict=True))
            end = tuple(-(-e // f) for e, f in zip(roi.end, factors, strict=True))
            write_box(array, Roi(begin, end), values)
            below = factors
