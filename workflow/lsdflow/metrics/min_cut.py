"""The min-cut metric: how many cuts and joins turn a segmentation into the true skeletons.

A segment that touches several skeletons is cut in its region graph until no part touches two of them; what belongs to
one skeleton is then joined.  The metric estimates the clicks of a proofreader (Sheridan et al. 2023).  Its published
implementation has peculiarities, kept here so that numbers compare:

a. *Joins between segments* are counted as the skeleton edges whose ends lie in two segments, less one per skeleton
   that has such an edge.  A neurite cut once therefore costs no join, and one that winds along a border is charged for
   every crossing.  ``corrected_merges`` counts the distinct pieces of each skeleton less one instead.
b. *Order.*  Parts are cut one after the other, the side of the second largest component first.
c. *Disconnected parts.*  The region graph of a segment can fall apart after some cuts.  To separate what is already
   apart costs nothing in weight, and still counts as one split.
d. *Edges that never merge* have no score (NaN or infinite here) and belong to no segment.
e. *Place of a fragment.*  Which pair of fragments is cut depends on their distance, and a fragment stands where the
   last node in it stands: the order of nodes can change the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from lsdflow.metrics.flow_network import cut, flow_network


@dataclass(frozen=True)
class MinCutScores:
    """What it takes to correct a segmentation.

    Attributes
    ----------
    splits : int
        Cuts that separate the skeletons merged in one segment.
    merges : int
        Joins of what is split, as the published implementation counts them (see the module).
    unsplittable : int
        Fragments that touch several skeletons, which no cut can correct; they are left out of the counts above.
    merging_segments : int
        Segments that touch several skeletons, not counting the background.
    split_skeletons : int
        Skeletons with an edge between two segments.
    corrected_merges : int
        Joins of what is split: the pieces of each skeleton after all cuts, less one per skeleton.
    """

    splits: int
    merges: int
    unsplittable: int
    merging_segments: int
    split_skeletons: int
    corrected_merges: int


def min_cut_metric(
    node_components: ArrayLike,
    node_fragments: ArrayLike,
    node_positions: ArrayLike,
    edges: ArrayLike,
    edge_scores: ArrayLike,
    threshold: float,
    *,
    skeleton_edges: ArrayLike,
) -> MinCutScores:
    """Splits and merges needed to correct the segmentation at ``threshold``.

    Parameters
    ----------
    node_components : integer (n,)
        Id of the connected skeleton of each skeleton node.
    node_fragments : integer (n,)
        Id of the fragment at each node; 0 for none, and such nodes are ignored.
    node_positions : (n, 3)
        nm.
    edges : integer (m, 2)
        Pairs of adjacent fragments, each pair once; pairs with fragment 0 are ignored.
    edge_scores : (m,)
        Score at which the two merge; NaN or infinite if they never do.  1 - score is the weight of the edge in a cut
        (0 at least).
    threshold : float
        Fragments joined by edges with score ≤ ``threshold`` are one segment.
    skeleton_edges : integer (k, 2)
        Rows of the two nodes of each skeleton edge.

    Returns
    -------
    MinCutScores
        All 0 without nodes.  Without region-graph edges each fragment is a segment.

    Raises
    ------
    ValueError
        If shapes do not match, or a skeleton edge joins two components.
    """
    # Numbered from 0 in ascending order, so that ids of any integer type can stand beside signed indices.
    components = np.unique(node_components, return_inverse=True)[1].reshape(np.shape(node_components))
    fragments = np.asarray(node_fragments).astype(np.uint64)
    positions = np.asarray(node_positions, np.float64)
    edges = np.asarray(edges).astype(np.uint64).reshape(-1, 2)
    scores = np.asarray(edge_scores, np.float64)
    skeleton_edges = np.asarray(skeleton_edges).astype(np.int64).reshape(-1, 2)
    n = len(components)
    if components.shape != (n,) or fragments.shape != (n,) or positions.shape != (n, 3):
        shapes = f"{components.shape}, {fragments.shape} and {positions.shape}"
        raise ValueError(f"components, fragments and positions of nodes must be (n,), (n,) and (n, 3), not {shapes}")
    if scores.shape != (len(edges),):
        raise ValueError(f"{len(edges)} edges need as many scores, not {scores.shape}")
    if np.any(components[skeleton_edges[:, 0]] != components[skeleton_edges[:, 1]]):
        raise ValueError("a skeleton edge joins nodes of two components: number connected skeletons")

    merged = np.isfinite(scores) & (scores <= threshold) & np.all(edges != 0, axis=1)
    edges, weights = edges[merged], np.maximum(1 - scores[merged], 0)
    fragment_ids, segment_of = _segments(edges, fragments)
    ends = np.searchsorted(fragment_ids, edges)
    fragment_at = np.searchsorted(fragment_ids, fragments)
    has_segment = fragments != 0
    segment_at = np.full(len(fragments), -1)
    segment_at[has_segment] = segment_of[fragment_at[has_segment]]

    # pairs (segment, component) that meet, by ascending segment
    pairs = np.unique(np.column_stack([segment_at, components])[has_segment], axis=0)
    segments, n_components_in = np.unique(pairs[:, 0], return_counts=True)
    merging = segments[n_components_in > 1]

    u, v = skeleton_edges.T
    is_split = (segment_at[u] != segment_at[v]) & has_segment[u] & has_segment[v]
    n_split_skeletons = len(np.unique(components[u[is_split]]))

    nodes_of = _grouped(np.where(has_segment, segment_at, len(fragment_ids)), merging)
    members_of = _grouped(segment_of, merging)
    edges_of = _grouped(segment_of[ends[:, 0]], merging)
    local = np.zeros(len(fragment_ids), np.int64)
    splits = unsplittable = extra_merges = 0
    for nodes, members, inner_edges in zip(nodes_of, members_of, edges_of, strict=True):
        local[members] = np.arange(len(members))
        found = _split_segment(
            len(members),
            local[ends[inner_edges]],
            weights[inner_edges],
            components[nodes],
            local[fragment_at[nodes]],
            positions[nodes],
        )
        splits, unsplittable, extra_merges = splits + found[0], unsplittable + found[1], extra_merges + found[2]

    return MinCutScores(
        splits=splits,
        merges=int(is_split.sum()) - n_split_skeletons + extra_merges,
        unsplittable=unsplittable,
        merging_segments=len(merging),
        split_skeletons=n_split_skeletons,
        corrected_merges=len(pairs) - len(np.unique(pairs[:, 1])) + extra_merges,
    )


def split_graph(
    n_nodes: int,
    edges: NDArray[np.integer],
    weights: NDArray[np.floating],
    components: Sequence[ArrayLike],
    positions: NDArray[np.floating],
) -> tuple[int, NDArray[np.int64]]:
    """Cut a graph by minimum cuts until no part holds nodes of two components.

    Each step separates the two largest components of a part (the last two of a stable sort by length) where they come
    closest: by the minimum cut between the two nearest nodes, the nodes that the first still reaches on its side.

    Parameters
    ----------
    n_nodes : int
        Nodes are numbered from 0.
    edges : (m, 2), weights : (m,)
        Undirected edges, each once, with weights of 0 or more.
    components : sequence of integer arrays
        Disjoint sets of nodes; a node that is listed twice counts twice in the length.
    positions : (n_nodes, d)
        Read for nodes of components only.

    Returns
    -------
    n_splits : int
        Number of cuts.
    parts : int64 (n_nodes,)
        Part of each node; numbered as they are completed, the first node's side of each cut before the other.
    """
    network = flow_network(n_nodes, edges, weights)
    touching = np.concatenate([np.empty(0, np.int64), *components]).astype(np.int64)
    owners = np.repeat(np.arange(len(components)), [len(component) for component in components])
    is_source_side = np.zeros(n_nodes, bool)
    parts = np.zeros(n_nodes, np.int64)
    n_splits = n_parts = 0
    # A stack instead of recursion, for cuts that shave off one node at a time nest thousands deep.
    pending = [(np.arange(n_nodes), touching, owners)]
    while pending:
        nodes, touching, owners = pending.pop()
        lengths = np.bincount(owners, minlength=len(components))
        if np.count_nonzero(lengths) <= 1:
            parts[nodes] = n_parts
            n_parts += 1
            continue
        first, second = np.argsort(lengths, kind="stable")[-2:]
        source, sink = _closest(touching[owners == first], touching[owners == second], positions)
        reached = cut(network, source, sink)
        n_splits += 1
        is_source_side[reached] = True
        nodes_there, touching_there = is_source_side[nodes], is_source_side[touching]
        is_source_side[reached] = False
        pending.append((nodes[~nodes_there], touching[~touching_there], owners[~touching_there]))
        pending.append((nodes[nodes_there], touching[touching_there], owners[touching_there]))
    return n_splits, parts


def _split_segment(
    n_fragments, edges, weights, node_components, node_fragments, node_positions
) -> tuple[int, int, int]:
    """Splits, unsplittable fragments, and merges made necessary by the splits, of one merging segment."""
    pairs = np.unique(np.column_stack([node_fragments, node_components]), axis=0)
    is_unsplittable = np.bincount(pairs[:, 0], minlength=n_fragments) > 1
    n_unsplittable = int(is_unsplittable.sum())
    usable = ~is_unsplittable[node_fragments]
    # One entry per node, not per fragment, as published: it decides which components are the largest.
    fragments_of = _grouped(node_components[usable], np.unique(node_components[usable]))
    fragments_of = [node_fragments[usable][rows] for rows in fragments_of]
    if len(fragments_of) <= 1:
        return 0, n_unsplittable, 0
    positions = np.zeros((n_fragments, node_positions.shape[1]))
    positions[node_fragments] = node_positions  # of several nodes in a fragment, the last one stays
    n_splits, parts = split_graph(n_fragments, edges, weights, fragments_of, positions)
    return n_splits, n_unsplittable, sum(len(np.unique(parts[fragments])) - 1 for fragments in fragments_of)


def _segments(edges: NDArray[np.uint64], fragments: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Ids of all fragments that matter, ascending, and the index of the segment of each."""
    ids = np.unique(np.concatenate([edges.ravel(), fragments[fragments != 0]]))
    rows, columns = np.searchsorted(ids, edges).T
    graph = csr_array((np.ones(len(edges), np.int8), (rows, columns)), shape=(len(ids), len(ids)))
    return ids, connected_components(graph, directed=False)[1] if len(ids) else np.empty(0, np.int32)


def _grouped(keys: NDArray, wanted: NDArray) -> list[NDArray[np.int64]]:
    """For each of the ``wanted`` keys, the places where it stands in ``keys``, ascending."""
    order = np.argsort(keys, kind="stable")
    begins, ends = (np.searchsorted(keys[order], wanted, side=side) for side in ("left", "right"))
    return [order[b:e] for b, e in zip(begins, ends, strict=True)]


def _closest(first: NDArray[np.int64], second: NDArray[np.int64], positions: NDArray[np.floating]) -> tuple[int, int]:
    distances, nearest = KDTree(positions[first]).query(positions[second])
    at = int(np.argmin(distances))
    return int(first[nearest[at]]), int(second[at])
