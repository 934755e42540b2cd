"""Agglomeration: fragments are joined along their region graph, the ones that belong together most surely first."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt
from numba import njit

from lsdflow.errors import UserError
from lsdflow.merge_functions import LARGE_SIZE, find_merge_function, score
from lsdflow.merge_tree import MergeTree
from lsdflow.region_counts import BINS
from lsdflow.region_graph import RegionGraph, region_graph

# An edge has two ends, numbered as int32.
_MAXIMUM_EDGES = 2**30 - 1
_MAXIMUM_COUNT = np.iinfo(np.int32).max


def agglomerate(graph: RegionGraph, *, merge_function: str = "hist_quant_75", highest_score: float = 1.0) -> MergeTree:
    """Join the two fragments or segments with the lowest score, again and again.

    Of equal scores the oldest goes first. When two segments are joined, the edges that both have to a third become
    one, with their histograms added; it keeps the lower score for its place in the queue and is scored anew when its
    turn comes. So is, if sizes count, every edge of a segment that has grown.

    Parameters
    ----------
    graph : the region graph.
    merge_function : one of `lsdflow.merge_functions.MERGE_FUNCTIONS`
    highest_score : where to stop
        The tree has all merges up to this score; at a higher threshold it joins nothing more.

    Raises
    ------
    UserError
        If there is no such merge function, the highest score is outside [0, 1], or the graph has no fragment or 2³⁰
        edges or more.

    References
    ----------
    ``waterz/backend/IterativeRegionMerging.hpp`` and ``HistogramQuantileProvider.hpp``, here with the semantics of
    ``discretize_queue=256`` for percentiles, and of an exact queue for the others.
    """
    function = find_merge_function(merge_function)
    if not 0 <= highest_score <= 1:
        raise UserError(f"the highest merge score must be in 0–1, not {highest_score}")
    if len(graph.edges) > _MAXIMUM_EDGES:
        raise UserError(
            f"a region graph of {len(graph.edges)} edges is too large to agglomerate, {_MAXIMUM_EDGES} is the limit: "
            "use larger fragments, or several regions"
        )
    if len(graph.fragments) == 0:
        raise UserError(
            "there is no fragment to agglomerate, all voxels are 0: the mask may be empty, or the affinities may be "
            "too low everywhere for the thresholds that fragments are made with; look at both"
        )
    ends = np.searchsorted(graph.fragments, graph.edges).astype(np.int32)
    if function.starts_with_maximum:
        starts = np.arange(len(graph.edges) + 1)
        bins, counts = graph.bins[graph.starts[1:] - 1], np.ones(len(graph.edges), np.int32)
    else:
        starts, bins, counts = graph.starts, graph.bins.copy(), graph.counts.copy()
    scores, merges, merge_scores = _merge_all(
        ends,
        graph.sizes,
        starts,
        bins,
        counts,
        function.percentile,
        function.largest,
        function.has_size,
        np.float32(highest_score),
    )
    return MergeTree(merge_function, graph.fragments, graph.edges, scores, graph.fragments[merges], merge_scores)


def build_merge_tree(
    affinities: npt.NDArray,
    fragments: npt.NDArray[np.uint64],
    *,
    merge_function: str = "hist_quant_75",
    highest_score: float = 1.0,
) -> MergeTree:
    """The merge tree of a volume: `region_graph` and `agglomerate` in one.

    Parameters
    ----------
    affinities : float (n, z, y, x) in [0, 1], or uint8 that stand for value / 255
        The first three channels join a voxel to its lower neighbour along z, y and x.
    fragments : uint64 (z, y, x)
        0 is no fragment.
    merge_function, highest_score : see `agglomerate`.

    Raises
    ------
    UserError
        If there is no such merge function, or no fragment, or the arrays are not what they must be (see
        `region_graph`).
    """
    graph = region_graph(affinities, fragments)
    return agglomerate(graph, merge_function=merge_function, highest_score=highest_score)


# The histogram of an edge is a chain of rows of entries: at first its own row, and behind it those of the edges that
# it has absorbed. So two are added in constant time; when the sum is scored, it is written back as one histogram, over
# as many of the rows as it takes.


@njit(cache=True, nogil=True)
def _add_up(edge, histogram, starts, lengths, next_row, bins, counts):
    """Set ``histogram``, int64 (256,), to that of an edge."""
    histogram[:] = 0
    row = edge
    while row >= 0:
        for i in range(starts[row], starts[row] + lengths[row]):
            histogram[bins[i]] += counts[i]
        row = next_row[row]


@njit(cache=True, nogil=True)
def _write_back(edge, histogram, starts, lengths, next_row, last_row, bins, counts):
    """Write ``histogram`` over the rows of its edge; of the rows that are not needed the edge lets go."""
    row, i, end = edge, starts[edge], starts[edge + 1]
    for bin_ in range(BINS):
        n_left = histogram[bin_]
        while n_left > 0:
            if i == end:
                lengths[row] = i - starts[row]
                row = next_row[row]
                i, end = starts[row], starts[row + 1]
            # What exceeds int32 takes another entry. There is one: no fewer have held it before.
            bins[i], counts[i] = bin_, min(n_left, _MAXIMUM_COUNT)
            n_left -= counts[i]
            i += 1
    lengths[row] = i - starts[row]
    next_row[row] = -1
    last_row[edge] = row


@njit(cache=True, nogil=True)
def _size_factor(size, other):
    return min(1.0, min(size, other) / LARGE_SIZE)


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
def _merge_all(ends, sizes, starts, bins, counts, percentile, largest, has_size, highest_score):
    """Agglomerate up to ``highest_score``; ``ends`` (n, 2) are indices of nodes, ``bins`` and ``counts`` are used up.

    Returns the score at which each edge's ends were joined, the merges as pairs of the segments' smallest nodes, and
    their scores.
    """
    n_nodes, n_edges = len(sizes), len(ends)
    ends, sizes = ends.copy(), sizes.copy()
    first, degrees = np.full(n_nodes, np.int32(-1)), np.zeros(n_nodes, np.int32)
    after, before = np.full(2 * n_edges, np.int32(-1)), np.full(2 * n_edges, np.int32(-1))
    # The node that holds a segment's list is the one with the longer list; the segment's name is its smallest node.
    name = np.arange(n_nodes).astype(np.int32)
    lengths = np.diff(starts).astype(np.int32)
    next_row, last_row = np.full(n_edges, np.int32(-1)), np.arange(n_edges).astype(np.int32)
    histogram, scores = np.empty(BINS, np.int64), np.empty(n_edges)
    for e in range(n_edges):
        for k in range(2):
            _link(2 * e + k, ends[e, k], first, after, before, degrees)
        _add_up(e, histogram, starts, lengths, next_row, bins, counts)
        scores[e] = score(histogram, percentile, largest)
        if has_size:
            scores[e] *= _size_factor(sizes[ends[e, 0]], sizes[ends[e, 1]])
    # All edges are sorted once; only those that are scored anew need a queue.
    order = np.argsort(scores, kind="mergesort").astype(np.int32)
    n_taken, n_queued, queue = 0, 0, [(0.0, 0, 0) for _ in range(0)]

    is_stale, is_deleted = np.zeros(n_edges, np.bool_), np.zeros(n_edges, np.bool_)
    absorbed_by = np.arange(n_edges).astype(np.int32)
    joined_at = np.full(n_edges, np.float32(np.inf))
    merges = np.empty((n_nodes - 1, 2), np.int32)
    merge_scores = np.empty(n_nodes - 1, np.float32)
    n_merges, last_score = 0, np.float32(0)

    while n_taken < n_edges or queue:
        # Of equals, the one that has been in the queue for longer.
        if not queue or (n_taken < n_edges and scores[order[n_taken]] <= queue[0][0]):
            e = order[n_taken]
            n_taken += 1
        else:
            e = heapq.heappop(queue)[2]
        if is_deleted[e]:
            continue
        if is_stale[e] or has_size:
            _add_up(e, histogram, starts, lengths, next_row, bins, counts)
            if next_row[e] >= 0:
                _write_back(e, histogram, starts, lengths, next_row, last_row, bins, counts)
            score_now = score(histogram, percentile, largest)
            if has_size:
                score_now *= _size_factor(sizes[ends[e, 0]], sizes[ends[e, 1]])
            if is_stale[e] or score_now != scores[e]:
                is_stale[e] = False
                scores[e] = score_now
                # The running number makes the queue first in, first out among equals.
                heapq.heappush(queue, (score_now, n_queued, e))
                n_queued += 1
                continue

        # A score may be lower than one before it: a mean by rounding, or one of the largest when there are more.
        last_score = max(last_score, np.float32(scores[e]))
        if last_score > highest_score:
            break
        kept, gone = ends[e, 0], ends[e, 1]
        if degrees[kept] < degrees[gone]:
            kept, gone = gone, kept
        is_gone_named_later = name[gone] > name[kept]
        merges[n_merges, 0] = min(name[kept], name[gone])
        merges[n_merges, 1] = max(name[kept], name[gone])
        name[kept] = merges[n_merges, 0]
        sizes[kept] += sizes[gone]
        merge_scores[n_merges] = joined_at[e] = last_score
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
                next_row[last_row[staying]] = leaving
                last_row[staying] = last_row[leaving]
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
