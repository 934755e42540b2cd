"""The region graph of fragments: which ones touch, and a histogram of the affinities between them."""

from __future__ import annotations

import os
import uuid
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lsdflow.errors import DamagedError, UserError
from lsdflow.fragments import check_affinities
from lsdflow.region_counts import BINS, add_up, append_histograms, count_affinities, histograms
from lsdflow.roi import Roi


@dataclass(frozen=True)
class RegionGraph:
    """Fragments, the pairs of them that touch, and the affinities between each pair.

    Attributes
    ----------
    fragments : uint64 (k,)
        Ids of all fragments, also of those that touch no other; sorted.
    sizes : int64 (k,)
        Voxels of each fragment; 0 if the context alone has any.
    edges : uint64 (n, 2)
        Ids ``u < v`` of two fragments that touch; sorted, each pair once.
    starts : int64 (n + 1,)
        The histogram of edge i are entries ``starts[i]`` to ``starts[i + 1]`` of `bins` and `counts`.
    bins : uint8 (m,)
        The bins that are not empty, ascending. Bin b holds the uint8 affinity b, or a floating point one in
        [b / 256, (b + 1) / 256) (1.0 in the last).
    counts : int32 (m,)
        How many affinities between the two fragments lie in the bin.
    """

    fragments: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.int64]
    edges: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    bins: npt.NDArray[np.uint8]
    counts: npt.NDArray[np.int32]

    def save(self, path: str | os.PathLike) -> None:
        """Write to ``path`` (``.npz``)."""
        save_arrays(path, **vars(self))

    @classmethod
    def load(cls, path: str | os.PathLike) -> RegionGraph:
        """Read what `save` wrote; `UserError` if there is no region graph."""
        return cls(**_arrays(path, [field.name for field in fields(cls)]))


def region_graph(
    affinities: npt.NDArray, fragments: npt.NDArray[np.uint64], *, context: Sequence[int] = (0, 0, 0)
) -> RegionGraph:
    """Find the fragments that touch, with the affinities between them.

    Channel c of the affinities at voxel v joins v and its lower neighbour along axis c; the first three channels
    (offsets [-1, 0, 0], [0, -1, 0], [0, 0, -1]) are used. Fragment 0 is no fragment.

    A volume may be cut into blocks: each is read with one voxel of context towards lower z, y and x (none at the
    volume's own faces), so that a pair of voxels is counted by the block that owns the upper one, and by no other.
    `merge_region_graphs` of the blocks' graphs then equals the graph of the whole volume.

    Parameters
    ----------
    affinities : float (n, z, y, x) in [0, 1], or uint8 that stand for value / 255
    fragments : uint64 (z, y, x)
    context : z y x
        How many of the first planes along each axis belong to the neighbouring block.

    Raises
    ------
    UserError
        If the affinities are outside [0, 1], NaN, of a wrong shape or more than int32 can count, or the fragments
        have another shape, are not integers or are negative.

    References
    ----------
    ``waterz/backend/region_graph.hpp`` and ``HistogramQuantileProvider.hpp``, whose bins these are.
    """
    affinities = check_affinities(affinities)
    shape = affinities.shape[1:]
    if affinities.size > np.iinfo(np.int32).max:
        raise UserError(f"{shape} voxels have more affinities than int32 can count: cut the volume into blocks")
    affinities, fragments = np.ascontiguousarray(affinities), check_fragments(fragments)
    if fragments.shape != shape:
        raise UserError(f"the fragments must have the shape of the affinities, {shape}, not {fragments.shape}")
    context = tuple(int(n) for n in context)
    if len(context) != 3 or any(not 0 <= c <= n for c, n in zip(context, shape, strict=True)):
        raise ValueError(f"context must be three numbers of planes within {shape}, not {context}")
    scale = 1.0 if affinities.dtype == np.uint8 else float(BINS)
    ids, sizes, pairs, entry_pairs, entry_bins = count_affinities(affinities, fragments, scale, *context)
    ends = np.stack([pairs >> np.uint64(32), pairs & np.uint64(2**32 - 1)], axis=1)
    edges, rows = _unique_edges(np.sort(ids[ends], axis=1))
    order = np.argsort(ids)
    return RegionGraph(ids[order], sizes[order], edges, *histograms(entry_pairs, entry_bins, rows))


def window_of_pairs(block: Roi) -> tuple[Roi, tuple[int, int, int]]:
    """What is read for the graph of ``block``, in voxels of the volume, and the context in it for `region_graph`.

    That is a voxel more towards lower coordinates: a pair of voxels belongs to the block of its upper one.
    """
    seen = Roi(tuple(max(0, b - 1) for b in block.begin), block.end)
    return seen, tuple(b - s for b, s in zip(block.begin, seen.begin, strict=True))


def merge_region_graphs(graphs: Iterable[RegionGraph | str | os.PathLike]) -> RegionGraph:
    """The graph of a volume from those of its blocks, in any order: sizes and histograms are added.

    Parameters
    ----------
    graphs : region graphs, or paths of saved ones
        Files are read twice, one after the other, so that memory holds the result and one of them: where there is
        much, name files rather than load them.

    Raises
    ------
    UserError
        If there is no region graph at a path, or two fragments have more affinities than int32 can count.
    """
    graphs = list(graphs)
    if not graphs:
        # What a job without blocks has to say.
        return region_graph(np.zeros((3, 1, 1, 1), np.uint8), np.zeros((1, 1, 1), np.uint64))
    parts = [_arrays(graph, ["fragments", "sizes", "edges", "starts"]) for graph in graphs]
    fragments, places = np.unique(np.concatenate([part["fragments"] for part in parts]), return_inverse=True)
    sizes = np.zeros(len(fragments), np.int64)
    np.add.at(sizes, places, np.concatenate([part["sizes"] for part in parts]))
    lengths = np.concatenate([np.diff(part["starts"]) for part in parts])
    edges = np.concatenate([part["edges"] for part in parts])
    del parts
    edges, rows = _unique_edges(edges)
    # There is room for all entries of all graphs: those of an edge come together, then equal bins become one.
    starts = np.zeros(len(edges) + 1, np.int64)
    np.add.at(starts[1:], rows, lengths)
    np.cumsum(starts, out=starts)
    bins, counts = np.empty(starts[-1], np.uint8), np.empty(starts[-1], np.int32)
    ends, n_before = starts[:-1].copy(), 0
    for graph in graphs:
        part = _arrays(graph, ["starts", "bins", "counts"])
        n_edges = len(part["starts"]) - 1
        append_histograms(rows[n_before : n_before + n_edges], *part.values(), ends, bins, counts)
        n_before += n_edges
    n_entries = add_up(starts, bins, counts)
    if n_entries < 0:
        raise UserError("two fragments have more affinities of one value than int32 can count: use smaller fragments")
    return RegionGraph(fragments, sizes, edges, starts, bins[:n_entries], counts[:n_entries])


def check_fragments(fragments: npt.NDArray) -> npt.NDArray[np.uint64]:
    """``fragments`` ``(z, y, x)`` as uint64, refused (`UserError`) if they cannot be ids."""
    fragments = np.asarray(fragments)
    if fragments.ndim != 3:
        raise UserError(f"fragments must be (z, y, x), not {fragments.shape}")
    if not np.issubdtype(fragments.dtype, np.integer):
        raise UserError(f"fragments must be integer ids, not {fragments.dtype}")
    if np.issubdtype(fragments.dtype, np.signedinteger) and fragments.size and fragments.min() < 0:
        raise UserError(f"fragments must be ids of 0 and above, but one is {fragments.min()}")
    return np.ascontiguousarray(fragments, np.uint64)


def save_arrays(path: str | os.PathLike, **arrays: npt.NDArray) -> None:
    """Write an ``.npz`` file in one step: there is the old one, or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(aside, "wb") as file:
            np.savez(file, **arrays)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def load_arrays(path: str | os.PathLike, names: Sequence[str], what: str) -> dict[str, npt.NDArray]:
    """Read an ``.npz`` file with the arrays ``names``; `UserError` if there is none, or it does not hold ``what``."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except FileNotFoundError as error:
        raise UserError(f"there is no {what} at {path}") from error
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise DamagedError(f"{path} holds no {what}: make it again ({error})", str(path)) from error


def _arrays(graph: RegionGraph | str | os.PathLike, names: Sequence[str]) -> dict[str, npt.NDArray]:
    """Some arrays of a region graph or of a saved one."""
    if isinstance(graph, RegionGraph):
        return {name: getattr(graph, name) for name in names}
    return load_arrays(graph, names, "region graph")


def _unique_edges(edges: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Sorted ``edges`` ``(n, 2)``, each once, and where each of the given ones is among them."""
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges = edges[order]
    is_first = np.ones(len(edges), bool)
    is_first[1:] = (edges[1:] != edges[:-1]).any(axis=1)
    rows = np.empty(len(edges), np.int64)
    rows[order] = np.cumsum(is_first) - 1
    return edges[is_first], rows
