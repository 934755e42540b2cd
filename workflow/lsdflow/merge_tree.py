"""The merge tree: a whole agglomeration in one, of which a segmentation at any threshold is a lookup."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr
from numba import njit
from zarr.codecs import BloscCodec, Crc32cCodec

from lsdflow.errors import UserError
from lsdflow.hash_table import number_of, with_room
from lsdflow.region_graph import check_fragments
from lsdflow.stores import CheckedStore, damaged


@dataclass(frozen=True)
class MergeTree:
    """The whole hierarchy of an agglomeration: a segmentation at any threshold is a lookup.

    A merge takes place at threshold t if its score is at most t, as the LSD paper's code has it (waterz itself
    merges below t only; the two differ where t is a score to the last bit). Scores never decrease from merge to
    merge, so a higher threshold never splits what a lower one has joined.

    Attributes
    ----------
    merge_function : str
        What the edges were scored by.
    fragments : uint64 (k,)
        Ids of all fragments, sorted.
    edges : uint64 (n, 2)
        Edges ``u < v`` of the region graph.
    scores : float32 (n,)
        Of each edge, the score of the merge that first joined its ends; inf if none did.
    merges : uint64 (m, 2)
        In the order they were made: ids ``u < v`` of the segments joined, each named by its smallest fragment. The
        new one is ``u``.
    merge_scores : float32 (m,)
        Of each merge; sorted.
    """

    merge_function: str
    fragments: npt.NDArray[np.uint64]
    edges: npt.NDArray[np.uint64]
    scores: npt.NDArray[np.float32]
    merges: npt.NDArray[np.uint64]
    merge_scores: npt.NDArray[np.float32]

    def segments(self, threshold: float) -> npt.NDArray[np.uint64]:
        """The segment of each of `fragments` at ``threshold``: the id of the smallest fragment in it.

        Raises
        ------
        UserError
            If the threshold is outside [0, 1].
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"the agglomeration threshold must be in 0–1, not {threshold}")
        # Compared as float32, which the scores are: a threshold of 0.3 must not be below a score of 0.3.
        n_merges = np.searchsorted(self.merge_scores, np.float32(threshold), side="right")
        indices = np.searchsorted(self.fragments, self.merges[:n_merges])
        return self.fragments[_roots(len(self.fragments), indices)]

    def segmentation(self, fragments: npt.NDArray[np.uint64], threshold: float) -> npt.NDArray[np.uint64]:
        """The volume ``fragments`` ``(z, y, x)``, all or part of those agglomerated, with segment ids; 0 stays 0.

        Raises
        ------
        UserError
            If the threshold is outside [0, 1], or the volume has a fragment that the tree does not know.
        """
        return look_up(fragments, self.fragments, self.segments(threshold))

    def save(self, path: str | os.PathLike) -> None:
        """Write to ``path``, a Zarr group, in one step: there is the old one, the new one or none, never a part."""
        path = Path(path)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            group = zarr.create_group(aside, zarr_format=3)
            for name in _ARRAYS:
                values = getattr(self, name)
                array = group.create_array(
                    name,
                    shape=values.shape,
                    dtype=values.dtype,
                    chunks=(_ROWS, *values.shape[1:]),
                    compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()],
                    # A file that was left out, because all is 0, could not be told from one that was lost.
                    config={"write_empty_chunks": True},
                )
                array[...] = values
            counts = {name: len(getattr(self, name)) for name in ("fragments", "edges", "merges")}
            group.attrs.update({"merge_function": self.merge_function, "counts": counts})
            _move(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> MergeTree:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            If there is nothing at ``path``.
        DamagedError
            If a file of it is missing, or was cut off or changed; or if it is something else.
        """
        if not Path(path).exists():
            raise UserError(f"there is no merge tree at {path}")
        try:
            group = zarr.open_group(CheckedStore(path, read_only=True), mode="r", zarr_format=3)
            arrays = {name: group[name] for name in _ARRAYS}
            if any(array.nchunks_initialized < array.nchunks for array in arrays.values()):
                raise damaged(str(path), "a file is missing")
            return cls(group.attrs["merge_function"], **{name: array[...] for name, array in arrays.items()})
        except (FileNotFoundError, NotADirectoryError, KeyError) as error:
            raise damaged(str(path), error) from error
        except (ValueError, RuntimeError) as error:
            raise damaged(str(path), error) from error


def look_up(
    fragments: npt.NDArray[np.uint64], ids: npt.NDArray[np.uint64], segments: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """The volume ``fragments`` ``(z, y, x)`` with the segment of each fragment; 0 stays 0.

    `MergeTree.segmentation` for many blocks at one threshold.

    Parameters
    ----------
    fragments : uint64 (z, y, x)
    ids, segments : uint64 (k,)
        `MergeTree.fragments`, and what `MergeTree.segments` returned.

    Raises
    ------
    UserError
        If the volume has a fragment that is not among ``ids``.
    """
    fragments = check_fragments(fragments)
    # NumPy asks for large pages, and numba does not.
    segmentation = np.empty_like(fragments)
    unknown = _look_up(fragments, segmentation, ids, segments)
    if unknown:
        raise UserError(f"fragment {unknown} is not in the merge tree, which was made from other fragments")
    return segmentation


_ARRAYS = ("fragments", "edges", "scores", "merges", "merge_scores")
# Rows of one file.
_ROWS = 2**20


def _move(folder: Path, path: Path) -> None:
    """Rename ``folder`` to ``path``; what is there is removed, also if other processes do the same."""
    while True:
        try:
            folder.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        old = folder.with_name(f"{folder.name}.old")
        with contextlib.suppress(FileNotFoundError):
            path.rename(old)
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()


@njit(cache=True, nogil=True)
def _roots(n_fragments, merges):
    """Of each fragment, the smallest of its segment after ``merges``."""
    root = np.arange(n_fragments)
    # Backwards, because u of a merge is joined to others later, if at all: its root is known by now.
    for i in range(len(merges) - 1, -1, -1):
        root[merges[i, 1]] = root[merges[i, 0]]
    return root


@njit(cache=True, nogil=True)
def _look_up_row(row, out, seen, values, n_seen, table, ids, segments):
    """Write the segments of a row to ``out``; ``values`` are those of the fragments ``seen`` so far.

    Returns the number of fragments seen, and the one, seen last, that is not in the sorted ``ids`` (0 if none).
    """
    last, segment = np.uint64(0), np.uint64(0)
    for x in range(len(row)):
        # Neighbours mostly share an id.
        if row[x] != last:
            last, segment = row[x], np.uint64(0)
            if last != 0:
                number = number_of(last, seen, n_seen, table)
                if number == n_seen:
                    at = np.searchsorted(ids, last)
                    if at == len(ids) or ids[at] != last:
                        return n_seen, last
                    values[number] = segments[at]
                    n_seen += 1
                segment = values[number]
        out[x] = segment
    return n_seen, np.uint64(0)


@njit(cache=True, nogil=True)
def _look_up(fragments, out, ids, segments):
    """Write the segment of every voxel to ``out``; returns a fragment that is not in the sorted ``ids``, 0 if none."""
    n_x = fragments.shape[2]
    seen, table = with_room(np.empty(0, np.uint64), 0, n_x)
    values, n_seen = np.empty(len(seen), np.uint64), 0
    for z in range(fragments.shape[0]):
        for y in range(fragments.shape[1]):
            if n_seen + n_x > len(seen):
                seen, table = with_room(seen, n_seen, n_x)
                values = np.concatenate((values, np.empty(len(seen) - len(values), np.uint64)))
            n_seen, unknown = _look_up_row(fragments[z, y], out[z, y], seen, values, n_seen, table, ids, segments)
            if unknown:
                return unknown
    return np.uint64(0)
