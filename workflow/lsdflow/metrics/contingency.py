"""How often each segment meets each true object: the one table that VOI and Rand scores are computed from.

Counting is additive over blocks (`ContingencyTable.merge`), and a table of fragments becomes the table of any
segmentation made of them by a group-by (`ContingencyTable.relabel`), so a sweep over thresholds passes over the voxels
once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsdflow.errors import UserError


@dataclass(frozen=True, eq=False)
class ContingencyTable:
    """Voxel counts of all pairs (segment, true object) that occur, as a sparse matrix.

    Attributes
    ----------
    segments : uint64 (k,)
        Ids of the segments, ascending; 0 is a segment like any other.
    truths : uint64 (m,)
        Ids of the true objects, ascending; never 0.
    rows, columns : int64 (n,)
        Index into ``segments`` and ``truths`` of each pair, ordered by row, then column; each pair is listed once.
    counts : int64 (n,)
        Number of voxels of each pair, at least 1.
    """

    segments: NDArray[np.uint64]
    truths: NDArray[np.uint64]
    rows: NDArray[np.int64] = field(repr=False)
    columns: NDArray[np.int64] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)

    @property
    def total(self) -> int:
        """Number of voxels counted."""
        return int(self.counts.sum())

    @property
    def segment_sizes(self) -> NDArray[np.float64]:
        """Voxels of each segment, (k,); whole numbers, exact below 2⁵³."""
        return np.bincount(self.rows, weights=self.counts, minlength=len(self.segments))

    @property
    def truth_sizes(self) -> NDArray[np.float64]:
        """Voxels of each true object, (m,); whole numbers, exact below 2⁵³."""
        return np.bincount(self.columns, weights=self.counts, minlength=len(self.truths))

    @classmethod
    def from_pairs(cls, segments: ArrayLike, truths: ArrayLike, counts: ArrayLike) -> ContingencyTable:
        """The table of pairs of ids (n,), (n,) with their counts (n,); equal pairs are added up."""
        segment_ids, rows = np.unique(np.asarray(segments, np.uint64), return_inverse=True)
        truth_ids, columns = np.unique(np.asarray(truths, np.uint64), return_inverse=True)
        return cls._from_indices(segment_ids, truth_ids, rows, columns, np.asarray(counts, np.int64))

    @classmethod
    def _from_indices(cls, segment_ids, truth_ids, rows, columns, counts) -> ContingencyTable:
        width = max(len(truth_ids), 1)
        pairs, pair_of = np.unique(rows * width + columns, return_inverse=True)
        sums = np.bincount(pair_of, weights=counts, minlength=len(pairs)).astype(np.int64)
        return cls(segment_ids, truth_ids, pairs // width, pairs % width, sums)

    @staticmethod
    def merge(tables: Iterable[ContingencyTable]) -> ContingencyTable:
        """The table of all blocks together; ids must mean the same in every block."""
        tables = list(tables)
        return ContingencyTable.from_pairs(
            np.concatenate([t.segments[t.rows] for t in tables] or [np.empty(0, np.uint64)]),
            np.concatenate([t.truths[t.columns] for t in tables] or [np.empty(0, np.uint64)]),
            np.concatenate([t.counts for t in tables] or [np.empty(0, np.int64)]),
        )

    def relabel(self, old_ids: ArrayLike, new_ids: ArrayLike) -> ContingencyTable:
        """The table after every segment ``old_ids[i]`` has become ``new_ids[i]``; equal new ids are one segment.

        Parameters
        ----------
        old_ids, new_ids : (n,) integers
            A lookup table, such as fragment → segment at a threshold; may list ids that do not occur here.  0 stays 0
            unless it is listed.

        Raises
        ------
        ValueError
            If a segment of the table other than 0 is not listed.
        """
        old_ids, new_ids = np.asarray(old_ids, np.uint64), np.asarray(new_ids, np.uint64)
        if old_ids.shape != new_ids.shape or old_ids.ndim != 1:
            raise ValueError(f"old and new ids must be (n,) and (n,), not {old_ids.shape} and {new_ids.shape}")
        order = np.argsort(old_ids, kind="stable")
        place = np.searchsorted(old_ids, self.segments, sorter=order)
        found = place < len(old_ids)
        found[found] = old_ids[order[place[found]]] == self.segments[found]
        missing = self.segments[~found & (self.segments != 0)]
        if len(missing):
            raise ValueError(f"{len(missing)} segments have no new id, the first of them {missing[0]}")
        renamed = np.zeros_like(self.segments)
        renamed[found] = new_ids[order[place[found]]]
        segment_ids, new_rows = np.unique(renamed, return_inverse=True)
        return self._from_indices(segment_ids, self.truths, new_rows[self.rows], self.columns, self.counts)

    def without_segment_zero(self) -> ContingencyTable:
        """The table of those voxels only that the segmentation labels."""
        kept = self.segments[self.rows] != 0
        return self.from_pairs(self.segments[self.rows[kept]], self.truths[self.columns[kept]], self.counts[kept])

    def require_labels(self) -> None:
        """Raise a `UserError` if nothing was counted, for then no score is defined."""
        if self.total == 0:
            raise UserError(
                "the truth has no label where it is compared (it is 0 everywhere, or the segmentation is 0 wherever it "
                "is not): compare a region that both label"
            )


def contingency_table(
    segmentation: ArrayLike, truth: ArrayLike, *, ignore_segment_zero: bool = False
) -> ContingencyTable:
    """Count the voxels that each segment shares with each true object.

    Parameters
    ----------
    segmentation, truth : integer arrays of one shape
        Ids from 0 to 2⁶⁴ - 1.  Voxels of truth 0 are ignored.
    ignore_segment_zero : bool
        Ignore also the voxels of segment 0, which otherwise count as one segment.

    Returns
    -------
    ContingencyTable
        Empty where the truth is 0 throughout, so that blocks without labels add nothing.

    Raises
    ------
    UserError
        If shapes differ, or ids are not integers or negative.
    """
    segmentation, truth = np.asarray(segmentation), np.asarray(truth)
    if segmentation.shape != truth.shape:
        raise UserError(
            f"segmentation and truth must have the same shape, not {segmentation.shape} and {truth.shape}: "
            "crop them to the same region"
        )
    for name, labels in (("segmentation", segmentation), ("truth", truth)):
        if labels.dtype.kind not in "ui":
            raise UserError(f"the {name} must hold integer ids, not {labels.dtype}: convert it to uint64")
    segments, truths, lengths = _runs(segmentation.ravel(), truth.ravel())
    for name, ids in (("segmentation", segments), ("truth", truths)):
        if ids.dtype.kind == "i" and len(ids) and ids.min() < 0:
            raise UserError(f"the {name} must hold ids of 0 or more, not {ids.min()}: relabel it")
    kept = truths != 0
    if ignore_segment_zero:
        kept &= segments != 0
    return ContingencyTable.from_pairs(segments[kept], truths[kept], lengths[kept])


def _runs(segments: NDArray, truths: NDArray) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    # Labels are constant over many voxels in a row: sorting runs instead of voxels is what makes counting fast.
    if len(segments) == 0:
        return segments, truths, np.empty(0, np.int64)
    changes = segments[1:] != segments[:-1]
    changes |= truths[1:] != truths[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    return segments[starts], truths[starts], np.diff(starts, append=len(segments))
