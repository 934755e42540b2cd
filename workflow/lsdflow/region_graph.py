"""The region graph of fragments: which ones touch, and a histogram of the affinities between them."""

from __future__ import annotations

import os
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numba import njit

from lsdflow.errors import UserError
from lsdflow.fragments import check_affinities

BINS = 256


@dataclass(frozen=True)
class RegionGraph:
    """Fragments, the pairs of them that touch, and the affinities between each pair.

    Attributes
    ----------
    fragments : uint64 (k,)
        Ids of all fragments, also of those that touch no other; sorted.
    edges : uint64 (n, 2)
        Ids ``u < v`` of two fragments that touch; sorted, each pair once.
    counts : int32 (n, 256)
        Of each edge, how many affinities between its two fragments lie in each bin. Bin b holds the uint8 affinity b,
        or a floating point one in [b / 256, (b + 1) / 256) (1.0 in the last).
    """

    fragments: npt.NDArray[np.uint64]
    edges: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.int32]

    def save(self, path: str | os.PathLike) -> None:
        """Write to ``path`` (``.npz``), the histograms without their many empty bins."""
        edge_of_entry, bins = np.nonzero(self.counts)
        save_arrays(
            path,
            fragments=self.fragments,
            edges=self.edges,
            entries_per_edge=np.bincount(edge_of_entry, minlength=len(self.edges)).astype(np.uint16),
            bins=bins.astype(np.uint8),
            counts=self.counts[edge_of_entry, bins],
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> RegionGraph:
        """Read what `save` wrote; `UserError` if there is no region graph."""
        stored = load_arrays(path, ("fragments", "edges", "entries_per_edge", "bins", "counts"), "region graph")
        counts = np.zeros((len(stored["edges"]), BINS), np.int32)
        edge_of_entry = np.repeat(np.arange(len(counts)), stored["entries_per_edge"])
        counts[edge_of_entry, stored["bins"]] = stored["counts"]
        return cls(stored["fragments"], stored["edges"], counts)


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
        If the affinities are outside [0, 1], NaN, or of a wrong shape, or the fragments have another shape, are not
        integers or are negative.

    References
    ----------
    ``waterz/backend/region_graph.hpp`` and ``HistogramQuantileProvider.hpp``, whose bins these are.
    """
    affinities = np.ascontiguousarray(check_affinities(affinities))
    fragments = check_fragments(fragments)
    if fragments.shape != affinities.shape[1:]:
        raise UserError(
            f"the fragments must have the shape of the affinities, {affinities.shape[1:]}, not {fragments.shape}"
        )
    context = tuple(int(n) for n in context)
    if len(context) != 3 or any(not 0 <= c <= n for c, n in zip(context, fragments.shape, strict=True)):
        raise ValueError(f"context must be three numbers of planes within {fragments.shape}, not {context}")
    scale = 1.0 if affinities.dtype == np.uint8 else float(BINS)
    edges, counts = _count_affinities(affinities, fragments, scale, *context)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    return RegionGraph(_ids(fragments), edges[order], counts[order])


def merge_region_graphs(graphs: Sequence[RegionGraph]) -> RegionGraph:
    """The graph of a volume from those of its blocks: histograms of the same edge are added.

    Raises
    ------
    UserError
        If there are more affinities between two fragments than int32 can count.
    """
    if not graphs:
        # What a job without blocks has to say.
        return RegionGraph(np.empty(0, np.uint64), np.empty((0, 2), np.uint64), np.empty((0, BINS), np.int32))
    fragments = np.unique(np.concatenate([graph.fragments for graph in graphs]))
    edges = np.concatenate([graph.edges for graph in graphs])
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    is_first = np.ones(len(edges), bool)
    is_first[1:] = (edges[order[1:]] != edges[order[:-1]]).any(axis=1)
    merged_of_edge = np.empty(len(edges), np.int64)
    merged_of_edge[order] = np.cumsum(is_first) - 1
    counts = np.zeros((int(is_first.sum()), BINS), np.int32)
    totals = np.zeros(len(counts), np.int64)
    n_before = 0
    for graph in graphs:
        # Within one graph an edge comes once, so adding through an index loses nothing.
        rows = merged_of_edge[n_before : n_before + len(graph.edges)]
        counts[rows] += graph.counts
        totals[rows] += graph.counts.sum(axis=1, dtype=np.int64)
        n_before += len(graph.edges)
    if totals.max(initial=0) > np.iinfo(np.int32).max:
        raise UserError("two fragments share more affinities than int32 can count: use smaller fragments")
    return RegionGraph(fragments, edges[order][is_first], counts)


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
    """Read an ``.npz`` file with the arrays ``names``; `UserError` if it is not one that holds ``what``."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except FileNotFoundError as error:
        raise UserError(f"there is no {what} at {path}") from error
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise UserError(f"{path} holds no {what}: make it again ({error})") from error


def _ids(fragments: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The ids in ``fragments`` without 0, sorted."""
    flat = fragments.ravel()
    # Neighbours along x mostly share an id: one of each run is enough to sort.
    begins_run = np.ones(flat.size, bool)
    begins_run[1:] = flat[1:] != flat[:-1]
    ids = np.unique(flat[begins_run])
    return ids[ids > 0]


@njit(cache=True, nogil=True)
def _grown(rows):
    """``rows`` with room for twice as many."""
    more = np.zeros((2 * rows.shape[0], rows.shape[1]), rows.dtype)
    more[: rows.shape[0]] = rows
    return more


@njit(cache=True, nogil=True)
def _slot(u, v, edges, table):
    """Where in the hash ``table`` (a power of 2 long) edge (u, v) is, or the empty slot (-1) where it belongs."""
    # Odd constants without a pattern spread neighbouring ids over the upper half of the product.
    spread = (u * np.uint64(0x9E3779B97F4A7C15)) ^ (v * np.uint64(0xC2B2AE3D27D4EB4F))
    slot = np.int64(spread >> np.uint64(32)) & (len(table) - 1)
    while table[slot] >= 0 and (edges[table[slot], 0] != u or edges[table[slot], 1] != v):
        slot = (slot + 1) & (len(table) - 1)
    return slot


@njit(cache=True, nogil=True)
def _count_affinities(affinities, fragments, scale, context_z, context_y, context_x):
    """Edges in the order they are met, and histograms of ``scale`` times their affinities."""
    edges, counts, n_edges = np.zeros((64, 2), np.uint64), np.zeros((64, BINS), np.int32), 0
    # A hash table of its own: numba's dictionary takes a quarter of a minute to compile.
    table = np.full(4 * len(edges), -1)
    n_z, n_y, n_x = fragments.shape
    for axis in range(3):
        step_z, step_y, step_x = int(axis == 0), int(axis == 1), int(axis == 2)
        last_u, last_v, edge = np.uint64(0), np.uint64(0), 0
        for z in range(max(context_z, step_z), n_z):
            for y in range(max(context_y, step_y), n_y):
                # Rows, because one index is several times faster than three.
                uppers, lowers = fragments[z, y], fragments[z - step_z, y - step_y]
                row = affinities[axis, z, y]
                for x in range(max(context_x, step_x), n_x):
                    upper, lower = uppers[x], lowers[x - step_x]
                    if upper == lower or upper == 0 or lower == 0:
                        continue
                    u, v = min(upper, lower), max(upper, lower)
                    # Along a face between two fragments the same pair comes again and again.
                    if u != last_u or v != last_v:
                        last_u, last_v = u, v
                        slot = _slot(u, v, edges, table)
                        if table[slot] < 0:
                            if n_edges == len(edges):
                                edges, counts = _grown(edges), _grown(counts)
                                table = np.full(4 * len(edges), -1)
                                for e in range(n_edges):
                                    table[_slot(edges[e, 0], edges[e, 1], edges, table)] = e
                                slot = _slot(u, v, edges, table)
                            table[slot] = n_edges
                            edges[n_edges, 0], edges[n_edges, 1] = u, v
                            n_edges += 1
                        edge = table[slot]
                    counts[edge, min(int(row[x] * scale), BINS - 1)] += 1
    return edges[:n_edges].copy(), counts[:n_edges].copy()
