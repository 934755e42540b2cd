"""Merge functions: how two touching segments are scored, by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from lsdflow.errors import UserError
from lsdflow.region_counts import BINS

# As many affinities as there are: the mean of all.
ALL = int(np.iinfo(np.int64).max)
# From this many voxels on a segment is no longer small.
LARGE_SIZE = 1000


@dataclass(frozen=True)
class MergeFunction:
    """A score from 0 (join them first) to 1: 1 - a statistic of the affinities between two segments.

    Attributes
    ----------
    percentile : int
        The statistic is this percentile: of n sorted affinities, number ``percentile n // 100 + 1`` from below (n at
        most), as the middle of its bin. Negative: a mean instead.
    largest : int
        The statistic is the mean of this many of the largest affinities, with bin b as b / 255, which is exact for
        uint8 affinities and 1 / 256 off at worst for others.
    starts_with_maximum : bool
        Each edge of the region graph counts with its highest affinity only.
    has_size : bool
        The score is multiplied by min(1, n / 1000), where n are the voxels of the smaller segment: small ones are
        joined to something sooner than large ones with the same affinities between them.
    """

    percentile: int = -1
    largest: int = ALL
    starts_with_maximum: bool = False
    has_size: bool = False


_PERCENTILES = range(10, 91, 5)
MERGE_FUNCTIONS = {
    **{f"hist_quant_{q}": MergeFunction(q) for q in _PERCENTILES},
    **{f"hist_quant_{q}_initmax": MergeFunction(q, starts_with_maximum=True) for q in _PERCENTILES},
    **{f"hist_quant_{q}_min_size": MergeFunction(q, has_size=True) for q in (50, 75)},
    "max": MergeFunction(100),
    "mean": MergeFunction(),
    "mean_max_10": MergeFunction(largest=10),
    "mean_max_10_min_size": MergeFunction(largest=10, has_size=True),
    "mean_min_size": MergeFunction(has_size=True),
    "min": MergeFunction(0),
}


def find_merge_function(name: str) -> MergeFunction:
    """The merge function ``name``; `UserError` with all names if there is none."""
    try:
        return MERGE_FUNCTIONS[name]
    except KeyError:
        raise UserError(f"there is no merge function {name!r}; there are {', '.join(MERGE_FUNCTIONS)}") from None


@njit(cache=True, nogil=True)
def score(histogram, percentile, largest):
    """1 - statistic of the affinities of ``histogram``, int64 (256,), not empty."""
    total = histogram.sum()
    if percentile >= 0:
        pivot, seen = min(percentile * total // 100 + 1, total), np.int64(0)
        for bin_ in range(BINS):
            seen += histogram[bin_]
            if seen >= pivot:
                return 1.0 - (bin_ + 0.5) / BINS
    n_left, weighted = min(largest, total), np.int64(0)
    for bin_ in range(BINS - 1, -1, -1):
        n = min(histogram[bin_], n_left)
        weighted += bin_ * n
        n_left -= n
    return 1.0 - weighted / (255.0 * min(largest, total))
