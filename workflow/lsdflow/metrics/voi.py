"""Variation of information: how much a segmentation splits and merges the true objects, in bits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsdflow.metrics.contingency import ContingencyTable, contingency_table


class NormalizedVoi(NamedTuple):
    """Scores between 0 (perfect) and 1 that do not grow with the number of objects.

    ``split`` and ``merge`` are the two parts of the VOI over the joint entropy; ``distance`` is the normalised
    information distance, 1 - I(segmentation; truth) / max(H(segmentation), H(truth)).
    """

    split: float
    merge: float
    distance: float


def variation_of_information(
    segmentation: ArrayLike, truth: ArrayLike, *, ignore_segment_zero: bool = False
) -> tuple[float, float]:
    """Split and merge parts of the variation of information (Meilă 2007).

    Parameters
    ----------
    segmentation, truth : integer arrays of one shape
        Voxels of truth 0 are ignored.
    ignore_segment_zero : bool
        Ignore also the voxels of segment 0, which otherwise count as one segment.

    Returns
    -------
    split, merge : float
        Conditional entropies H(segmentation | truth) and H(truth | segmentation), bits; both 0 for a perfect
        segmentation.

    Raises
    ------
    UserError
        If shapes differ, ids are not integers or negative, or the truth has no label.

    Examples
    --------
    >>> variation_of_information([2, 2, 2, 2], [1, 1, 2, 2])
    (0.0, 1.0)
    """
    return voi_from_table(contingency_table(segmentation, truth, ignore_segment_zero=ignore_segment_zero))


def normalized_voi(segmentation: ArrayLike, truth: ArrayLike, *, ignore_segment_zero: bool = False) -> NormalizedVoi:
    """Normalised variation of information and information distance (Vinh et al. 2010).

    Parameters
    ----------
    segmentation, truth, ignore_segment_zero : as for `variation_of_information`

    Raises
    ------
    UserError
        If shapes differ, ids are not integers or negative, or the truth has no label.

    Examples
    --------
    >>> normalized_voi([2, 2, 2, 2], [1, 1, 2, 2])
    NormalizedVoi(split=0.0, merge=1.0, distance=1.0)
    """
    return normalized_voi_from_table(contingency_table(segmentation, truth, ignore_segment_zero=ignore_segment_zero))


def voi_from_table(table: ContingencyTable) -> tuple[float, float]:
    """Split and merge parts of the variation of information, bits, of what ``table`` counts."""
    table.require_labels()
    return (
        _conditional_entropy(table, table.truth_sizes[table.columns]),
        _conditional_entropy(table, table.segment_sizes[table.rows]),
    )


def normalized_voi_from_table(table: ContingencyTable) -> NormalizedVoi:
    """Normalised variation of information and information distance of what ``table`` counts."""
    split, merge = voi_from_table(table)
    of_segments, of_truths = _entropy(table.segment_sizes), _entropy(table.truth_sizes)
    joint, larger = of_truths + split, max(of_segments, of_truths)
    # Where both sides are a single object there is no information to lose.
    return NormalizedVoi(
        split / joint if joint else 0.0,
        merge / joint if joint else 0.0,
        1 - (of_truths - merge) / larger if larger else 0.0,
    )


def _conditional_entropy(table: ContingencyTable, whole_of_pair: NDArray[np.float64]) -> float:
    # Summed pair by pair, not as a difference of two entropies: no term is negative, and perfect is exactly 0.
    return float(np.sum(table.counts * np.log2(whole_of_pair / table.counts)) / table.total)


def _entropy(sizes: NDArray[np.float64]) -> float:
    return float(np.sum(sizes * np.log2(sizes.sum() / sizes)) / sizes.sum())
