"""Agglomeration of fragments along their region graph, kept as a merge tree that knows every threshold at once."""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from lsdflow.errors import UserError
from lsdflow.region_graph import BINS, RegionGraph, check_fragments, load_arrays, region_graph, save_arrays

_MEAN = -1


@dataclass(frozen=True)
class _MergeFunction:
    """How an edge is scored: by a percentile of its affinities (`_MEAN`: their mean), of all or of the highest only."""

    percentile: int
    starts_with_maximum: bool = False


MERGE_FUNCTIONS = {
    **{f"hist_quant_{q}": _MergeFunction(q) for q in (10, 25, 50, 75, 90)},
    **{f"hist_quant_{q}_initmax": _MergeFunction(q, starts_with_maximum=True) for q in (10, 25, 50, 75, 90)},
    "mean": _MergeFunction(_MEAN),
}


@dataclass(frozen=True)
class MergeTree:
    """The whole hierarchy of an agglomeration: a segmentation at any threshold is a lookup.

    A merge takes place at threshold t if its score is at most t, as the LSD paper's code has it (waterz itself
    merges below t only; the two differ where t is a score to the last bit). Scores never decrease from merge to
    merge, so a higher threshold never splits what a lower one has joined.

    Attributes
    ----------
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
        fragments = check_fragments(fragments)
        segmentation, unknown = _look_up(fragments.ravel(), self.fragments, self.segments(threshold))
        if unknown:
            raise UserError(f"fragment {unknown} is not in the merge tree, which was made from other fragments")
        return segmentation.reshape(fragments.shape)

    def save(self, path: str | os.PathLike) -> None:
        """Write to ``path`` (``.npz``)."""
        save_arrays(path, **{name: getattr(self, name) for name in _TREE_ARRAYS})

    @classmethod
    def load(cls, path: str | os.PathLike) -> MergeTree:
        """Read what `save` wrote; `UserError` if there is no merge tree."""
        return cls(**load_arrays(path, _TREE_ARRAYS, "merge tree"))


_TREE_ARRAYS = ("fragments", "edges", "scores", "merges", "merge_scores")


def agglomerate(graph: RegionGraph, *, merge_function: str = "hist_quant_75") -> MergeTree:
    """Join the two fragments or segments with the highest affinity between them, again and again.

    An edge's score is 1 - statistic of the affinities along it, and the lowest score goes first, the oldest of equal
    ones before the others. When two segments are joined, the edges that both have to a third become one, with their
    histograms added; it keeps the lower score for its place in the queue and is scored anew when its turn comes.

    Parameters
    ----------
    graph : the region graph.
    merge_function : one of `MERGE_FUNCTIONS`
        ``hist_quant_q``: of n sorted affinities, number ``q n // 100 + 1`` from below, as the middle of its bin.
        ``hist_quant_q_initmax``: the same, but each edge of the region graph counts with its highest affinity only.
        ``mean``: with bin b as b / 255, which is exact for uint8 affinities and 1 / 256 off at worst for others.

    Raises
    ------
    UserError
        If there is no such merge function.

    References
    ----------
    ``waterz/backend/IterativeRegionMerging.hpp`` and ``HistogramQuantileProvider.hpp``, here with the semantics of
    ``discretize_queue=256`` (for ``mean``: of an exact queue).
    """
    try:
        function = MERGE_FUNCTIONS[merge_function]
    except KeyError:
        raise UserError(
            f"there is no merge function {merge_function!r}; there are {', '.join(sorted(MERGE_FUNCTIONS))}"
        ) from None
    counts = graph.counts.copy()
    if function.starts_with_maximum:
        counts[:] = 0
        highest = BINS - 1 - np.argmax(graph.counts[:, ::-1] > 0, axis=1)
        counts[np.arange(len(counts)), highest] = 1
    if counts.sum(dtype=np.int64) > np.iinfo(counts.dtype).max:
        # In the end one histogram may hold them all.
        counts = counts.astype(np.int64)
    ends = np.searchsorted(graph.fragments, graph.edges)
    scores, merges, merge_scores = _merge_all(ends, counts, len(graph.fragments), function.percentile)
    return MergeTree(
        graph.fragments,
        graph.edges,
        scores.astype(np.float32),
        graph.fragments[merges],
        merge_scores.astype(np.float32),
    )


def build_merge_tree(
    affinities: npt.NDArray, fragments: npt.NDArray[np.uint64], *, merge_function: str = "hist_quant_75"
) -> MergeTree:
    """The merge tree of a volume: `region_graph` and `agglomerate` in one.

    Parameters
    ----------
    affinities : float (n, z, y, x) in [0, 1], or uint8 that stand for value / 255
        The first three channels join a voxel to its lower neighbour along z, y and x.
    fragments : uint64 (z, y, x)
        0 is no fragment.
    merge_function : see `agglomerate`.

    Raises
    ------
    UserError
        If there is no such merge function, or the arrays are not what they must be (see `region_graph`).
    """
    return agglomerate(region_graph(affinities, fragments), merge_function=merge_function)


@njit(cache=True, nogil=True)
def _roots(n_fragments, merges):
    """Of each fragment, the smallest of its segment after ``merges``."""
    root = np.arange(n_fragments)
    # Backwards, because u of a merge is joined to others later, if at all: its root is known by now.
    for i in range(len(merges) - 1, -1, -1):
        root[merges[i, 1]] = root[merges[i, 0]]
    return root


@njit(cache=True, nogil=True)
def _look_up(volume, ids, values):
    """``values`` of the sorted ``ids`` for every voxel, and one id that is missing (0 if none)."""
    out = np.zeros(len(volume), values.dtype)
    last_id, last_value = np.uint64(0), np.uint64(0)
    for i in range(len(volume)):
        # Neighbours mostly share an id.
        if volume[i] != last_id:
            last_id = volume[i]
            last_value = np.uint64(0)
            if last_id != 0:
                at = np.searchsorted(ids, last_id)
                if at == len(ids) or ids[at] != last_id:
                    return out, last_id
                last_value = values[at]
        out[i] = last_value
    return out, np.uint64(0)


@njit(cache=True, nogil=True)
def _score(counts, percentile):
    """1 - statistic of one edge's histogram."""
    total = np.int64(0)
    for count in counts:
        total += count
    if percentile == _MEAN:
        weighted = np.int64(0)
        for i in range(BINS):
            weighted += i * np.int64(counts[i])
        return 1.0 - weighted / (255.0 * total)
    pivot = percentile * total // 100 + 1
    seen = np.int64(0)
    for i in range(BINS):
        seen += counts[i]
        if seen >= pivot:
            return 1.0 - (i + 0.5) / BINS
    return 1.0


# The edges of each node are a doubly linked list of half-edges: half-edge 2e + k of edge e lies in the list of node
# ends[e, k]. So an edge moves from one node to another in constant time, with no memory allocated.


@njit(cache=True, nogil=True)
def _link(half, node, first, after, before, degrees):
    after[half], before[half] = first[node], -1
    if first[node] >= 0:
        before[first[node]] = half
    first[node] = half
    degrees[node] += 1


@njit(cache=True, nogil=True)
def _unlink(half, node, first, after, before, degrees):
    if before[half] >= 0:
        after[before[half]] = after[half]
    else:
        first[node] = after[half]
    if after[half] >= 0:
        before[after[half]] = before[half]
    degrees[node] -= 1


@njit(cache=True, nogil=True)
def _edge_between(a, b, ends, first, after, degrees):
    """The edge of nodes a and b, -1 if they do not touch."""
    if degrees[a] > degrees[b]:
        a, b = b, a
    half = first[a]
    while half >= 0:
        if ends[half // 2, 1 - half % 2] == b:
            return half // 2
        half = after[half]
    return -1


@njit(cache=True, nogil=True)
def _merge_all(ends, counts, n_nodes, percentile):
    """Agglomerate until no edge is left; ``ends`` (n, 2) are indices of nodes, ``counts`` is used up.

    Returns the score at which each edge's ends were joined, the merges as pairs of the segments' smallest nodes, and
    their scores.
    """
    ends = ends.copy()
    n_edges = len(ends)
    first = np.full(n_nodes, -1)
    degrees = np.zeros(n_nodes, np.int64)
    after, before = np.full(2 * n_edges, -1), np.full(2 * n_edges, -1)
    # The node that holds a segment's list is the one with the longer list; the segment's name is its smallest node.
    name = np.arange(n_nodes)
    scores = np.empty(n_edges)
    queue = [(0.0, 0, 0) for _ in range(0)]
    for e in range(n_edges):
        for k in range(2):
            _link(2 * e + k, ends[e, k], first, after, before, degrees)
        scores[e] = _score(counts[e], percentile)
        queue.append((scores[e], e, e))
    heapq.heapify(queue)
    n_queued = n_edges

    is_stale, is_deleted = np.zeros(n_edges, np.bool_), np.zeros(n_edges, np.bool_)
    absorbed_by = np.arange(n_edges)
    joined_at = np.full(n_edges, np.inf)
    merges = np.empty((max(n_nodes - 1, 0), 2), np.int64)
    merge_scores = np.empty(max(n_nodes - 1, 0))
    n_merges = 0
    highest_score = 0.0

    while queue:
        score, _, e = heapq.heappop(queue)
        if is_deleted[e]:
            continue
        if is_stale[e]:
            is_stale[e] = False
            scores[e] = _score(counts[e], percentile)
            # The running number makes the queue first in, first out among equals.
            heapq.heappush(queue, (scores[e], n_queued, e))
            n_queued += 1
            continue

        kept, gone = ends[e, 0], ends[e, 1]
        if degrees[kept] < degrees[gone]:
            kept, gone = gone, kept
        is_gone_named_later = name[gone] > name[kept]
        merges[n_merges, 0] = min(name[kept], name[gone])
        merges[n_merges, 1] = max(name[kept], name[gone])
        name[kept] = merges[n_merges, 0]
        # A mean may fall behind by rounding.
        highest_score = max(highest_score, score)
        merge_scores[n_merges] = joined_at[e] = highest_score
        n_merges += 1
        is_deleted[e] = True
        for k in range(2):
            _unlink(2 * e + k, ends[e, k], first, after, before, degrees)

        half = first[gone]
        while half >= 0:
            next_half = after[half]
            moved, opposite = half // 2, ends[half // 2, 1 - half % 2]
            shared = _edge_between(kept, opposite, ends, first, after, degrees)
            if shared >= 0:
                # The cheaper one stays, so that the two come up early enough; of equal ones that of the segment
                # with the larger name, as in waterz.
                if scores[moved] == scores[shared]:
                    is_moved_staying = is_gone_named_later
                else:
                    is_moved_staying = scores[moved] < scores[shared]
                staying, leaving = (moved, shared) if is_moved_staying else (shared, moved)
                counts[staying] += counts[leaving]
                is_stale[staying] = True
                is_deleted[leaving] = True
                absorbed_by[leaving] = staying
                for k in range(2):
                    _unlink(2 * leaving + k, ends[leaving, k], first, after, before, degrees)
            if not is_deleted[moved]:
                _unlink(half, gone, first, after, before, degrees)
                ends[moved, half % 2] = kept
                _link(half, kept, first, after, before, degrees)
            half = next_half

    for e in range(n_edges):
        last = e
        while absorbed_by[last] != last:
            absorbed_by[last] = absorbed_by[absorbed_by[last]]
            last = absorbed_by[last]
        joined_at[e] = joined_at[last]
    return joined_at, merges[:n_merges], merge_scores[:n_merges]
