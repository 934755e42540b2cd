"""Training targets of a region, block by block: labels with grown boundaries, and their descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsdflow.affinities import grow_boundary
from lsdflow.lsd import context, local_shape_descriptors
from lsdflow.volumes import Roi, Volume


@dataclass(frozen=True)
class BlockTargets:
    """Makes the targets of any block of a region, as if the whole region had been done at once.

    Attributes
    ----------
    labels : integers (z, y, x); read around each block only.
    roi : the region, in voxels of ``labels``. Those beyond it, which may be for validation or test, are not looked at.
    sigma : window of the descriptors, nm: one number, or one per axis.
    downsample : as for `lsdflow.lsd.local_shape_descriptors`.
    steps, only_xy : as for `lsdflow.affinities.grow_boundary`.
    """

    labels: Volume
    roi: Roi
    sigma: float | Sequence[float]
    downsample: int = 1
    steps: int = 1
    only_xy: bool = False

    def compute(self, block: Roi, *, threads: int = 1) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
        """Labels (z, y, x) with grown boundaries, and their descriptors (10, z, y, x), of ``block``.

        Parameters
        ----------
        block : in voxels of ``labels``, inside the region.
        threads : how many share the work; the result is the same for any number.

        Raises
        ------
        UserError
            If the labels are not integers, are negative, or ``sigma`` or ``downsample`` is not positive.
        """
        # A block sees out from the picked voxels, which must be those that are picked of the whole region.
        picked = tuple(b - (b - r) % self.downsample for b, r in zip(block.begin, self.roi.begin, strict=True))
        # Around the window one voxel per step, where boundaries that reach in from outside are missed.
        margin = -(-self.steps // self.downsample) * self.downsample
        reach = context(self.sigma, self.labels.voxel_size, downsample=self.downsample)
        seen = Roi(picked, block.end).grow([r + margin for r in reach]).intersect(self.roi)
        labels = grow_boundary(self.labels.read(seen), self.steps, only_xy=self.only_xy)
        inner = block.shift([-b for b in seen.begin])
        lsds = local_shape_descriptors(
            labels, self.sigma, self.labels.voxel_size, downsample=self.downsample, roi=inner, threads=threads
        )
        return labels[inner.slices], lsds
