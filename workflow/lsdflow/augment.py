"""Augmentations of a training crop: symmetries of the voxel grid, grey values, noise.

Labels only ever undergo symmetries here, so that targets computed beforehand can be transformed exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Symmetry:
    """A symmetry of the voxel grid: transpose to ``axes``, then flip the axes marked in ``flips``."""

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def apply(self, array: NDArray) -> NDArray:
        """The transformed ``([channel,] z, y, x)`` array, C-ordered; channels stay in place."""
        lead = array.ndim - 3
        moved = np.transpose(array, (*range(lead), *(a + lead for a in self.axes)))
        return np.ascontiguousarray(np.flip(moved, [lead + axis for axis, flip in enumerate(self.flips) if flip]))

    def shape_before(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The shape that an array must have so that it has ``shape`` afterwards."""
        before = [0, 0, 0]
        for target, source in enumerate(self.axes):
            before[source] = int(shape[target])
        return tuple(before)


def random_symmetry(
    rng: np.random.Generator, voxel_size: Sequence[float], *, flip: bool = True, transpose: bool = True
) -> Symmetry:
    """A random `Symmetry`; only axes of equal voxel size change places (16 symmetries where z differs, else 48)."""
    axes = [0, 1, 2]
    if transpose:
        for size in sorted(set(voxel_size)):
            group = [axis for axis in range(3) if voxel_size[axis] == size]
            for axis, source in zip(group, rng.permutation(group), strict=True):
                axes[axis] = int(source)
    flips = tuple(bool(f) for f in rng.integers(0, 2, 3)) if flip else (False, False, False)
    return Symmetry(tuple(axes), flips)


def random_intensity(
    raw: NDArray[np.float32],
    rng: np.random.Generator,
    *,
    scale: float,
    shift: float,
    noise: float,
    section_wise: bool = False,
) -> NDArray[np.float32]:
    """Random contrast, brightness and Gaussian noise on ``raw`` (z, y, x) in [0, 1].

    ``(raw − mean)·s + mean + d`` with s in 1 ± ``scale`` and d in ± ``shift`` (for each section of its own when
    ``section_wise``), then noise of a standard deviation drawn from [0, ``noise``]; clipped to [0, 1].
    """
    n = len(raw) if section_wise else 1
    mean = raw.mean(axis=(1, 2), keepdims=True) if section_wise else raw.mean()
    factor = rng.uniform(1 - scale, 1 + scale, (n, 1, 1)).astype(np.float32)
    offset = rng.uniform(-shift, shift, (n, 1, 1)).astype(np.float32)
    result = (raw - mean) * factor + mean + offset
    if noise > 0:
        result += rng.standard_normal(raw.shape, dtype=np.float32) * np.float32(rng.uniform(0, noise))
    return np.clip(result, 0, 1, out=result)
