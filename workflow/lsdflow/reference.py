"""What segmentation yields without a network: affinities read off the grey values alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

# Grey values, as percentiles of the image, that count as certainly membrane and certainly inside a process.
PERCENTILES = (1.0, 90.0)


def grey_range(sample: NDArray) -> tuple[float, float]:
    """The grey values of certain membrane and certain inside, from a ``sample`` of the image."""
    low, high = np.percentile(sample, PERCENTILES)
    return float(low), float(max(high, low + 1))


def image_affinities(
    raw: NDArray[np.uint8], *, smoothing: Sequence[float], low: float, high: float
) -> NDArray[np.uint8]:
    """Affinities ``uint8 (3, z, y, x)`` to the neighbours before, from the image itself.

    Membranes are dark: the smoothed image, stretched from ``low`` to ``high``, is the chance that a voxel lies inside
    a process, and an affinity is the lower one of its two voxels.

    Parameters
    ----------
    raw : uint8 (z, y, x).
    smoothing : standard deviation of the Gaussian, voxels, z y x order.
    low, high : grey values that become 0 and 1, see `grey_range`.
    """
    inside = np.clip((gaussian_filter(raw.astype(np.float32), smoothing) - low) / (high - low), 0, 1)
    result = np.empty((3, *raw.shape), np.uint8)
    for axis in range(3):
        before = np.concatenate([inside.take([0], axis), np.delete(inside, -1, axis)], axis)
        result[axis] = np.minimum(inside, before) * 255
    return result
