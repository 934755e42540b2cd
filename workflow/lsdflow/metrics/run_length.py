"""Expected run length (ERL) of a segmentation on skeletons, and skeletons cut to the region that is scored.

ERL is the mean length of correctly reconstructed neurite around a random point of the skeletons (Januszewski et al.
2018, Nature Methods 15:605).  It is defined here as the LSD paper computes it (Sheridan et al. 2023; `run_length.py` of
funlib.evaluate): an edge is correct if its two nodes lie in the same segment, that segment is not 0, and it touches no
other component.  With L_s the length of component s, and l_si the length of its correct edges in segment i,

    ERL = Σ_s (L_s / Σ L) · Σ_i l_si² / L_s = Σ_s Σ_i l_si² / Σ_s L_s.

One node of another component makes a segment merging, and all its edges wrong.  ``merge_tolerance`` softens that: a
segment merges only if *more than* ``merge_tolerance`` of its nodes lie in components other than the one with most of
its nodes.  What a tolerated segment holds is correct, in each of its components.  (`em_erl` tolerates such nodes for
each other component by itself, so a segment that touches many components may merge here and not there.)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsdflow.errors import UserError
from lsdflow.metrics.skeletons import SkeletonArrays, skeleton_arrays


@dataclass(frozen=True, eq=False)
class RunLengthScores:
    """Run lengths of a segmentation, and where they are lost.

    Attributes
    ----------
    expected_run_length : float
        nm.
    maximum : float
        nm; the expected run length if each component were a segment of its own.
    normalized : float
        The first divided by the second, 0 to 1.
    total_length : float
        nm, of all skeletons.
    omitted_length : float
        nm, of the edges with at least one node in segment 0.
    split_skeletons : int64 (k,)
        Components that have an edge between two segments, neither of them 0; ascending.
    merging_segments : uint64 (m,)
        Segments that merge components beyond the tolerance, ascending; never 0.
    """

    expected_run_length: float
    maximum: float
    normalized: float
    total_length: float
    omitted_length: float
    split_skeletons: NDArray[np.int64]
    merging_segments: NDArray[np.uint64]


def expected_run_length(
    skeletons: nx.Graph | SkeletonArrays,
    node_segments: ArrayLike | Mapping[Hashable, int],
    *,
    merge_tolerance: int = 0,
) -> float:
    """The expected run length in nm; see the module for its definition.

    Parameters
    ----------
    skeletons : networkx.Graph or SkeletonArrays
        As `lsdflow.metrics.skeletons` describes; cycles do no harm.  For many segmentations of the same skeletons
        convert the graph once, by `skeleton_arrays`.
    node_segments : integer (n,), or mapping of node to integer
        Segment at each node, in the order of ``graph.nodes``, as `node_labels` returns it; 0 is no segment.  A mapping
        needs a graph, and may list more nodes.
    merge_tolerance : int
        Number of nodes; see the module.

    Raises
    ------
    UserError
        If ids are not integers of 0 or more, if the tolerance is not, or if the skeletons have no length: a score of
        0 would read as a bad segmentation where nothing was measured.
    ValueError
        If there is not one segment per node, or an edge joins two components.

    Examples
    --------
    Five nodes in a row, 1 nm apart; two edges lie in segment 7, one in segment 8, and one between them is wrong:

    >>> chain = nx.path_graph(5)
    >>> nx.set_node_attributes(chain, {n: {"position": (0, 0, n), "component": 1, "label": 1} for n in chain})
    >>> nx.set_edge_attributes(chain, 1.0, "length")
    >>> expected_run_length(chain, [7, 7, 7, 8, 8])  # (2² + 1²) / 4
    1.25
    """
    return run_length_scores(skeletons, node_segments, merge_tolerance=merge_tolerance).expected_run_length


def run_length_scores(
    skeletons: nx.Graph | SkeletonArrays,
    node_segments: ArrayLike | Mapping[Hashable, int],
    *,
    merge_tolerance: int = 0,
) -> RunLengthScores:
    """The expected run length with what explains it; parameters and errors as of `expected_run_length`."""
    tally = _tally(*_checked(skeletons, node_segments), merge_tolerance)
    total = tally.lengths.sum()
    if not total > 0:
        raise UserError(
            "the skeletons have no length, so no run length is defined: score a region that holds skeletons, or keep "
            "shorter ones"
        )
    run_length, maximum = tally.squares.sum() / total, np.sum(tally.lengths**2) / total
    return RunLengthScores(
        expected_run_length=float(run_length),
        maximum=float(maximum),
        normalized=float(run_length / maximum),
        total_length=float(total),
        omitted_length=tally.omitted_length,
        split_skeletons=tally.split_components,
        merging_segments=tally.merging_segments,
    )


def run_length_columns(
    skeletons: SkeletonArrays, node_segments: ArrayLike, *, merge_tolerance: int = 0
) -> dict[str, float]:
    """Run lengths by the names of the columns of score tables; NaN and 0 where the skeletons have no length."""
    if not skeletons.lengths.sum() > 0:
        lengths = dict.fromkeys(("expected_run_length", "maximum_run_length", "normalized_run_length"), math.nan)
        return lengths | {"run_length_splits": 0, "run_length_merges": 0}
    scores = run_length_scores(skeletons, node_segments, merge_tolerance=merge_tolerance)
    return {
        "expected_run_length": scores.expected_run_length,
        "maximum_run_length": scores.maximum,
        "normalized_run_length": scores.normalized,
        "run_length_splits": len(scores.split_skeletons),
        "run_length_merges": len(scores.merging_segments),
    }


def run_length_by_component(
    skeletons: nx.Graph | SkeletonArrays,
    node_segments: ArrayLike | Mapping[Hashable, int],
    *,
    merge_tolerance: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """What each component adds to the expected run length: ERL = Σ squares / Σ lengths, also over a resample.

    Parameters and errors are those of `expected_run_length`, but skeletons without length are allowed here.

    Returns
    -------
    components : int64 (k,)
        Ascending.
    lengths : float64 (k,)
        L_s, nm; 0 for a component of a single node.
    squares : float64 (k,)
        Σ_i l_si², nm².  Which segments merge is decided on all skeletons, whatever is added up afterwards.
    """
    tally = _tally(*_checked(skeletons, node_segments), merge_tolerance)
    return tally.components, tally.lengths, tally.squares


def mask_skeletons(graph: nx.Graph, keep: ArrayLike) -> nx.Graph:
    """Skeletons without the nodes that do not count, and without edges to them.

    Each piece that is left is a component of its own, for a correct segmentation of the masked volume may give the
    pieces of one neurite different ids (Sheridan et al. 2023).

    Parameters
    ----------
    graph : networkx.Graph
        As `lsdflow.metrics.skeletons` describes; it is not changed.
    keep : bool (n,)
        Whether to keep each node, in the order of ``graph.nodes``.

    Returns
    -------
    networkx.Graph
        Nodes, their order and all attributes as before, but for ``component``, numbered from 1 in the order of first
        nodes.  Pieces of a single node are left out and added to the graph's ``dropped``.

    Raises
    ------
    ValueError
        If ``keep`` is not a bool per node.
    """
    keep = np.asarray(keep)
    if keep.shape != (len(graph),) or (keep.dtype != bool and keep.size):
        raise ValueError(f"keep must be {len(graph)} bools, one per node, not {keep.dtype} {keep.shape}")
    masked = graph.copy()
    masked.remove_nodes_from([node for node, is_kept in zip(graph.nodes, keep.tolist(), strict=True) if not is_kept])
    single = list(nx.isolates(masked))
    masked.remove_nodes_from(single)
    masked.graph["dropped"] = graph.graph.get("dropped", 0) + len(single)
    for number, nodes in enumerate(nx.connected_components(masked), start=1):
        nx.set_node_attributes(masked, dict.fromkeys(nodes, number), "component")
    return masked


def crop_skeletons(graph: nx.Graph, begin_nm: Sequence[float], end_nm: Sequence[float]) -> nx.Graph:
    """Skeletons within a box; see `mask_skeletons` and `inside_box`.  Edges are not cut, but kept or left out."""
    return mask_skeletons(graph, inside_box(skeleton_arrays(graph).positions, begin_nm, end_nm))


def drop_short(graph: nx.Graph, minimum_length: float) -> nx.Graph:
    """Skeletons without the components shorter than ``minimum_length`` (nm), which are added to ``dropped``."""
    arrays = skeleton_arrays(graph)
    components, component = np.unique(arrays.components, return_inverse=True)
    lengths = np.bincount(component[arrays.edges[:, 0]], weights=arrays.lengths, minlength=len(components))
    is_long = lengths >= minimum_length
    kept = mask_skeletons(graph, is_long[component])
    kept.graph["dropped"] += int(np.count_nonzero(~is_long))
    return kept


def inside_box(positions: NDArray[np.float64], begin_nm: Sequence[float], end_nm: Sequence[float]) -> NDArray[np.bool_]:
    """Whether each position (n, 3) is at ``begin_nm`` or beyond and before ``end_nm`` (nm, z y x).

    Raises
    ------
    UserError
        If the box is not three lengths each, or empty.
    """
    begin, end = np.asarray(begin_nm, np.float64), np.asarray(end_nm, np.float64)
    if begin.shape != (3,) or end.shape != (3,) or not np.all(begin < end):
        raise UserError(f"a box must begin before it ends, in nm, z y x, not run from {begin_nm} to {end_nm}")
    return np.all((positions >= begin) & (positions < end), axis=1)


@dataclass(frozen=True, eq=False)
class _Tally:
    components: NDArray[np.int64]
    lengths: NDArray[np.float64]
    squares: NDArray[np.float64]
    omitted_length: float
    split_components: NDArray[np.int64]
    merging_segments: NDArray[np.uint64]


def _tally(arrays: SkeletonArrays, segments: NDArray[np.uint64], merge_tolerance: int) -> _Tally:
    if not isinstance(merge_tolerance, Integral) or merge_tolerance < 0:
        raise UserError(f"the merge tolerance must be a number of nodes, 0 or more, not {merge_tolerance!r}")
    components, component_of = np.unique(arrays.components, return_inverse=True)
    segment_ids, segment_of = np.unique(segments, return_inverse=True)
    u, v = arrays.edges.T
    if np.any(component_of[u] != component_of[v]):
        raise ValueError("an edge joins two components: a component is what its edges connect")

    # Pairs of a segment and a component that share nodes.
    n_components = max(len(components), 1)
    pairs, pair_of, n_nodes = np.unique(
        segment_of * n_components + component_of, return_inverse=True, return_counts=True
    )
    segment_of_pair, component_of_pair = np.divmod(pairs, n_components)
    n_in_largest = np.zeros(len(segment_ids), n_nodes.dtype)
    np.maximum.at(n_in_largest, segment_of_pair, n_nodes)
    n_elsewhere = np.bincount(segment_of, minlength=len(segment_ids)) - n_in_largest

    is_segment = segment_ids != 0
    is_merging = is_segment & (n_elsewhere > merge_tolerance)
    is_omitted = ~(is_segment[segment_of[u]] & is_segment[segment_of[v]])
    is_split = ~is_omitted & (segment_of[u] != segment_of[v])
    is_correct = ~is_omitted & ~is_split & ~is_merging[segment_of[u]]
    correct = np.bincount(pair_of[u[is_correct]], weights=arrays.lengths[is_correct], minlength=len(pairs))
    return _Tally(
        components=components,
        lengths=np.bincount(component_of[u], weights=arrays.lengths, minlength=len(components)),
        squares=np.bincount(component_of_pair, weights=correct**2, minlength=len(components)),
        omitted_length=float(arrays.lengths[is_omitted].sum()),
        split_components=components[np.unique(component_of[u[is_split]])],
        merging_segments=segment_ids[is_merging],
    )


def _checked(
    skeletons: nx.Graph | SkeletonArrays, node_segments: ArrayLike | Mapping[Hashable, int]
) -> tuple[SkeletonArrays, NDArray[np.uint64]]:
    """The skeletons as arrays, and one id per node."""
    arrays = skeletons if isinstance(skeletons, SkeletonArrays) else skeleton_arrays(skeletons)
    if isinstance(node_segments, Mapping):
        if isinstance(skeletons, SkeletonArrays):
            raise ValueError("a mapping of nodes to segments needs the graph, for arrays do not name their nodes")
        node_segments = _listed(skeletons, node_segments)
    segments = np.asarray(node_segments)
    n = len(arrays.positions)
    if segments.shape != (n,):
        raise ValueError(f"there must be one segment for each of the {n} nodes, not {segments.shape}")
    if segments.dtype.kind not in "ui" and n:  # an empty list has no integer type
        raise UserError(f"the segments at the nodes must be integer ids, not {segments.dtype}: convert them to uint64")
    if segments.dtype.kind == "i" and n:
        _refuse_negative(segments.min())
    return arrays, segments.astype(np.uint64)


def _refuse_negative(least: int) -> None:
    if least < 0:
        raise UserError(f"the segments at the nodes must be ids of 0 or more, not {least}: relabel them")


def _listed(graph: nx.Graph, segment_of: Mapping[Hashable, int]) -> NDArray[np.uint64]:
    missing = [node for node in graph.nodes if node not in segment_of]
    if missing:
        raise ValueError(f"{len(missing)} nodes have no segment, the first of them {missing[0]}")
    try:
        # As Python integers, because numpy turns a mixture of uint64 and int64 scalars into floats.
        ids = [operator.index(segment_of[node]) for node in graph.nodes]
    except TypeError as error:
        raise UserError(f"the segments at the nodes must be integer ids ({error}): convert them to int") from error
    _refuse_negative(min(ids, default=0))
    return np.array(ids, np.uint64)
