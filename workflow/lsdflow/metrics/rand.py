"""Rand scores: how well pairs of voxels of one object stay together and apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lsdflow.metrics.contingency import ContingencyTable, contingency_table


@dataclass(frozen=True)
class RandScores:
    """Rand scores of a segmentation.

    Attributes
    ----------
    split : float
        Σ p_ij² / Σ t_j² with p the joint and t the truth's frequencies: the probability that two voxels of one true
        object share a segment.  1 is perfect.
    merge : float
        Σ p_ij² / Σ s_i² with s the segments' frequencies: the probability that two voxels of one segment share a true
        object.  1 is perfect.
    adapted_error : float
        1 - F-score of precision and recall of voxel pairs (Arganda-Carreras et al. 2015).  0 is perfect.  Unlike the
        two scores above it counts no voxel as its own partner, as is usual; 0 if no pair exists on either side.
    """

    split: float
    merge: float
    adapted_error: float


def rand_scores(segmentation: ArrayLike, truth: ArrayLike, *, ignore_segment_zero: bool = False) -> RandScores:
    """Rand split, Rand merge and the adapted Rand error.

    Parameters
    ----------
    segmentation, truth : integer arrays of one shape
        Voxels of truth 0 are ignored.
    ignore_segment_zero : bool
        Ignore also the voxels of segment 0, which otherwise count as one segment.

    Raises
    ------
    UserError
        If shapes differ, ids are not integers or negative, or the truth has no label.
    """
    return rand_from_table(contingency_table(segmentation, truth, ignore_segment_zero=ignore_segment_zero))


def rand_from_table(table: ContingencyTable) -> RandScores:
    """Rand scores of what ``table`` counts."""
    table.require_labels()
    # As floats: squares of voxel counts leave int64 for volumes beyond 3e9 voxels.
    joint = np.sum(np.square(table.counts, dtype=np.float64))
    of_segments = np.sum(np.square(table.segment_sizes))
    of_truths = np.sum(np.square(table.truth_sizes))
    pairs = of_segments + of_truths - 2 * table.total
    adapted_error = 1 - 2 * (joint - table.total) / pairs if pairs else 0.0
    return RandScores(float(joint / of_truths), float(joint / of_segments), float(adapted_error))
