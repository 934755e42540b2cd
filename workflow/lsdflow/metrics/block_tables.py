"""Contingency tables of the blocks of a region, so that any choice of blocks can be scored without the voxels."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import xlogy

from lsdflow.errors import UserError
from lsdflow.metrics.contingency import ContingencyTable

OVERLAP_SCORES = ("voi_split", "voi_merge", "voi_sum", "adapted_rand_error", "cremi_score")

# Of the values that are held at a time while draws are scored: 32 MiB.
_BATCH_VALUES = 2**22


@dataclass(frozen=True, eq=False)
class BlockTables:
    """The contingency tables of the blocks of a region, as one sparse table.

    Attributes
    ----------
    truths : uint64 (m,)
        Ids of the true objects, ascending; never 0.
    n_blocks : int
        Number of blocks, those without truth among them.
    cells : ContingencyTable
        Voxels of each segment in each cell; a cell is what lies of a true object in a block, and its id is
        1 + index into ``truths`` · ``n_blocks`` + index of the block.
    """

    truths: NDArray[np.uint64]
    n_blocks: int
    cells: ContingencyTable

    @classmethod
    def from_tables(cls, tables: Iterable[ContingencyTable]) -> BlockTables:
        """Of one table per block, in the order of the blocks; ids must mean the same in every block."""
        tables = list(tables)
        truths = np.unique(np.concatenate([t.truths for t in tables] or [np.empty(0, np.uint64)]))
        cells = [
            ContingencyTable(
                t.segments,
                _cell_ids(np.searchsorted(truths, t.truths), block, len(tables)),
                t.rows,
                t.columns,
                t.counts,
            )
            for block, t in enumerate(tables)
        ]
        return cls(truths, len(tables), ContingencyTable.merge(cells))

    @property
    def sizes(self) -> NDArray[np.float64]:
        """Voxels counted in each block, (n_blocks,)."""
        _, blocks = self._objects_and_blocks()
        return np.bincount(blocks, weights=self.cells.counts, minlength=self.n_blocks)

    def whole(self) -> ContingencyTable:
        """The table of the region: that of all blocks together."""
        objects, _ = self._objects_and_blocks()
        return ContingencyTable.from_pairs(
            self.cells.segments[self.cells.rows], self.truths[objects], self.cells.counts
        )

    def relabel(self, old_ids: ArrayLike, new_ids: ArrayLike) -> BlockTables:
        """The tables after every segment ``old_ids[i]`` has become ``new_ids[i]``, as `ContingencyTable.relabel`."""
        return replace(self, cells=self.cells.relabel(old_ids, new_ids))

    def joined(self, unit_of_block: ArrayLike) -> BlockTables:
        """The tables of larger blocks, each made of all blocks with the same number.

        Parameters
        ----------
        unit_of_block : integer (n_blocks,)
            The new block, from 0 on, of each block; such as `units_of_grid` gives.
        """
        unit_of_block = np.asarray(unit_of_block, np.int64)
        if unit_of_block.shape != (self.n_blocks,) or unit_of_block.min(initial=0) < 0:
            raise ValueError(f"there must be a number of 0 or more for each of the {self.n_blocks} blocks")
        n_units = int(unit_of_block.max(initial=-1)) + 1
        objects, blocks = self._objects_and_blocks()
        cells = ContingencyTable.from_pairs(
            self.cells.segments[self.cells.rows],
            _cell_ids(objects, unit_of_block[blocks], n_units),
            self.cells.counts,
        )
        return BlockTables(self.truths, n_units, cells)

    def scores(self, weights: ArrayLike) -> dict[str, NDArray[np.float64]]:
        """Scores of regions in which blocks occur any number of times.

        Ids keep their meaning: an object of two blocks, or of one that occurs twice, stays one object.

        Parameters
        ----------
        weights : (d, n_blocks)
            How often block j occurs in region i; each region must hold some truth.

        Returns
        -------
        dict of float64 (d,)
            By `OVERLAP_SCORES`; VOI in bits.
        """
        weights = np.asarray(weights, np.float64)
        if weights.ndim != 2 or weights.shape[1] != self.n_blocks:
            raise ValueError(f"weights must be (draws, {self.n_blocks}), not {weights.shape}")
        totals = weights @ self.sizes
        if not np.all(totals > 0):
            raise ValueError("some draw holds no voxel with truth")
        objects, blocks = self._objects_and_blocks()
        rows, counts = self.cells.rows, self.cells.counts.astype(np.float64)
        pairs, pair_of = np.unique(rows * max(len(self.truths), 1) + objects, return_inverse=True)
        (pair_logs, pair_squares), (segment_logs, segment_squares), (truth_logs, truth_squares) = (
            _sums(csr_array((counts, (index, blocks)), shape=(n, self.n_blocks)), weights)
            for index, n in ((pair_of, len(pairs)), (rows, len(self.cells.segments)), (objects, len(self.truths)))
        )
        # Differences of sums, here and below: what should be 0 may come out as -1e-15.
        split = np.maximum(truth_logs - pair_logs, 0) / totals
        merge = np.maximum(segment_logs - pair_logs, 0) / totals
        n_pairs = segment_squares + truth_squares - 2 * totals
        f_score = np.divide(2 * (pair_squares - totals), n_pairs, out=np.ones_like(totals), where=n_pairs > 0)
        error = np.maximum(1 - f_score, 0)
        voi = split + merge
        return dict(zip(OVERLAP_SCORES, (split, merge, voi, error, np.sqrt(voi * error)), strict=True))

    def save(self, path: str | os.PathLike) -> None:
        """Write to ``path``, a compressed NumPy archive."""
        # An open file, because numpy would append .npz to a name that lacks it.
        with open(path, "wb") as file:
            np.savez_compressed(
                file,
                truths=self.truths,
                n_blocks=np.int64(self.n_blocks),
                segments=self.cells.segments[self.cells.rows],
                cells=self.cells.truths[self.cells.columns],
                counts=self.cells.counts,
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> BlockTables:
        """Read what `save` wrote; `UserError` if there is no such file, or it is another."""
        try:
            with np.load(path, allow_pickle=False) as file:
                cells = ContingencyTable.from_pairs(file["segments"], file["cells"], file["counts"])
                return cls(file["truths"], int(file["n_blocks"]), cells)
        except FileNotFoundError as error:
            raise UserError(f"there is no file {path} with tables of blocks") from error
        except (AttributeError, EOFError, KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} holds no tables of blocks: make it again ({error})") from error

    def _objects_and_blocks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Index of the true object and of the block of each entry of ``cells``."""
        cells = self.cells.truths[self.cells.columns].astype(np.int64) - 1
        return np.divmod(cells, max(self.n_blocks, 1))


def _cell_ids(objects: NDArray, blocks: NDArray | int, n_blocks: int) -> NDArray[np.uint64]:
    return (1 + objects * n_blocks + blocks).astype(np.uint64)


def _sums(counts: csr_array, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Σ n log₂ n and Σ n² over the rows' weighted counts n, for each draw."""
    logs, squares = np.empty(len(weights)), np.empty(len(weights))
    step = max(1, _BATCH_VALUES // max(counts.shape[0], 1))
    for start in range(0, len(weights), step):
        batch = slice(start, start + step)
        n = counts @ weights[batch].T
        logs[batch] = xlogy(n, n).sum(axis=0) / math.log(2)
        squares[batch] = np.einsum("ij,ij->j", n, n)
    return logs, squares


def units_of_grid(counts_zyx: Sequence[int], *, at_least: int = 8) -> NDArray[np.int64]:
    """Group the blocks of a grid into few boxes of neighbours, for `BlockTables.joined`.

    Parameters
    ----------
    counts_zyx : blocks along each axis, as of `lsdflow.blocks.BlockGrid`; blocks are numbered with x fastest.
    at_least : boxes wanted; there are fewer if there are fewer blocks.

    Returns
    -------
    int64 (blocks,)
        The box of each block.

    Examples
    --------
    >>> units_of_grid((1, 2, 4), at_least=4)
    array([0, 0, 1, 1, 2, 2, 3, 3])
    """
    pieces = [1] * len(counts_zyx)
    while math.prod(pieces) < min(at_least, math.prod(counts_zyx)):
        # Where boxes are longest, in blocks, they are cut once more; an axis cut into single blocks is at its end.
        axis = max(range(len(pieces)), key=lambda i: counts_zyx[i] / pieces[i])
        pieces[axis] += 1
    positions = np.indices(counts_zyx).reshape(len(pieces), -1)
    boxes = [position * n // count for position, n, count in zip(positions, pieces, counts_zyx, strict=True)]
    return np.ravel_multi_index(boxes, pieces).astype(np.int64)
