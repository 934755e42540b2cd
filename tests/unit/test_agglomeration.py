"""Agglomeration makes the merges that waterz makes, however the volume was cut, and tells the score of each."""

import contextlib
import heapq
import os
import sys

import numpy as np
import pytest
import waterz
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lsdflow.agglomeration import agglomerate, build_merge_tree
from lsdflow.blocks import BlockGrid
from lsdflow.errors import UserError
from lsdflow.merge_functions import MERGE_FUNCTIONS
from lsdflow.region_graph import RegionGraph, merge_region_graphs, region_graph
from lsdflow.roi import Roi

ARRAYS = ("fragments", "edges", "scores", "merges", "merge_scores")
QUANTILES = [name for name in MERGE_FUNCTIONS if name.startswith("hist_quant") and not name.endswith("size")]
OTHERS = [name for name in MERGE_FUNCTIONS if name not in QUANTILES]
THRESHOLDS = [0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.999]


@contextlib.contextmanager
def without_stdout():
    """Swallow what C++ prints."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def waterz_agglomerate(affinities, fragments, merge_function):
    """Segmentations at `THRESHOLDS` and all merges, by waterz."""
    if affinities.dtype == np.uint8:
        affinities = affinities.astype(np.float32) / 255
    scoring_function, queue = "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>", 0
    if merge_function != "mean":
        quantile, starts_with_maximum = merge_function.split("_")[2], str(merge_function.endswith("_initmax")).lower()
        statistic = f"HistogramQuantileAffinity<RegionGraphType, {quantile}, ScoreValue, 256, {starts_with_maximum}>"
        scoring_function, queue = f"OneMinus<{statistic}>", 256
    segmentations, merges = [], []
    with without_stdout():
        for segmentation, history in waterz.agglomerate(
            affinities,
            THRESHOLDS,
            fragments=fragments.copy(),
            scoring_function=scoring_function,
            discretize_queue=queue,
            return_merge_history=True,
        ):
            segmentations.append(segmentation.copy())
            merges += [(merge["a"], merge["b"], merge["score"]) for merge in history]
    return segmentations, merges


def cells():
    """Affinities of a Voronoi tessellation with wide, noisy boundaries, and fragments of its cells."""
    shape, rng = (32, 40, 48), np.random.default_rng(0)
    grid = np.stack(np.indices(shape), -1)

    def tessellation(n):
        return np.argmin([((grid - centre) ** 2).sum(-1) for centre in rng.uniform(0, shape, (n, 3))], axis=0)

    labels = tessellation(12)
    is_boundary = ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)
    noise = np.stack([ndimage.gaussian_filter(rng.normal(0, 0.5, shape), 0.7) for _ in range(3)])
    affinities = np.clip(np.where(is_boundary, 0.1, 0.9) + noise, 0, 1).astype(np.float32)
    pieces = np.unique(labels * 30 + tessellation(30), return_inverse=True)[1]
    return affinities, (pieces.reshape(shape) + 1).astype(np.uint64)


def patches():
    """Cubes of three voxels, each of one of 60 fragments or of none, and uint8 affinities at random."""
    rng = np.random.default_rng(0)
    fragments = np.kron(rng.integers(0, 60, (6, 6, 6)), np.ones((3, 3, 3), int))
    return rng.integers(0, 256, (3, 18, 18, 18), dtype=np.uint8), fragments.astype(np.uint64)


def salt():
    """Every voxel of one of 200 fragments: as many ties as can be."""
    rng = np.random.default_rng(0)
    return rng.random((3, 12, 12, 12), dtype=np.float32), rng.integers(0, 200, (12, 12, 12)).astype(np.uint64)


VOLUMES = {"cells": cells(), "patches": patches(), "salt": salt()}


@pytest.mark.parametrize("merge_function", QUANTILES)
@pytest.mark.parametrize("volume", VOLUMES)
def test_quantile_merges_are_those_of_waterz_one_by_one(volume, merge_function):
    affinities, fragments = VOLUMES[volume]
    tree = build_merge_tree(affinities, fragments, merge_function=merge_function)
    segmentations, merges = waterz_agglomerate(affinities, fragments, merge_function)
    assert len(merges) > 20
    ours = [(int(u), int(v), float(s)) for (u, v), s in zip(tree.merges, tree.merge_scores, strict=True)]
    assert ours == merges
    for threshold, segmentation in zip(THRESHOLDS, segmentations, strict=True):
        np.testing.assert_array_equal(tree.segmentation(fragments, threshold), segmentation)


def test_mean_segmentations_of_uint8_affinities_are_those_of_waterz():
    affinities, fragments = VOLUMES["patches"]
    tree = build_merge_tree(affinities, fragments, merge_function="mean")
    for threshold, segmentation in zip(THRESHOLDS, waterz_agglomerate(affinities, fragments, "mean")[0], strict=True):
        np.testing.assert_array_equal(tree.segmentation(fragments, threshold), segmentation)


def naive_score(counts, merge_function, sizes):
    """From the sorted affinities of one edge."""
    values = np.repeat(np.arange(256), counts)
    name = merge_function.removesuffix("_min_size")
    if name.startswith("hist_quant"):
        statistic = (values[int(name.split("_")[2]) * len(values) // 100] + 0.5) / 256
    elif name in ("min", "max"):
        statistic = (getattr(values, name)() + 0.5) / 256
    else:
        values = values[-10:] if name == "mean_max_10" else values
        statistic = values.sum() / (255 * len(values))
    return (1 - statistic) * (min(1, min(sizes) / 1000) if name != merge_function else 1)


def agglomerate_naively(graph, merge_function):
    """Merges with their scores, on a dictionary of dense histograms that is searched at every step."""
    sizes = dict(zip(graph.fragments.tolist(), graph.sizes.tolist(), strict=True))
    edges, queue, merges, last = {}, [], [], 0.0
    for i, (u, v) in enumerate(graph.edges.tolist()):
        counts = np.zeros(256, int)
        row = slice(graph.starts[i], graph.starts[i + 1])
        counts[graph.bins[row]] = graph.counts[row]
        if merge_function.endswith("_initmax"):
            counts = (np.arange(256) == np.flatnonzero(counts).max()).astype(int)
        score = naive_score(counts, merge_function, (sizes[u], sizes[v]))
        edges[frozenset((u, v))] = [score, i, counts, False]
        queue.append((score, i, i))
    heapq.heapify(queue)
    n_queued = len(queue)
    while queue:
        _, _, i = heapq.heappop(queue)
        found = [pair for pair, edge in edges.items() if edge[1] == i]
        if not found:
            continue
        (pair,) = found
        edge = edges[pair]
        u, v = sorted(pair)
        score = naive_score(edge[2], merge_function, (sizes[u], sizes[v]))
        if edge[3] or score != edge[0]:
            edge[0], edge[3] = score, False
            heapq.heappush(queue, (score, n_queued, i))
            n_queued += 1
            continue
        last = max(last, score)
        merges.append((u, v, float(np.float32(last))))
        sizes[u] += sizes.pop(v)
        del edges[pair]
        for other in [p for p in edges if v in p]:
            (neighbour,) = other - {v}
            moved, kept = edges.pop(other), edges.get(frozenset((u, neighbour)))
            if kept is not None:
                staying, leaving = (moved, kept) if moved[0] <= kept[0] else (kept, moved)
                moved = [*staying[:2], staying[2] + leaving[2], True]
            edges[frozenset((u, neighbour))] = moved
    return merges


def merges_of(tree):
    return [(int(u), int(v), float(s)) for (u, v), s in zip(tree.merges, tree.merge_scores, strict=True)]


@pytest.mark.parametrize("merge_function", ["hist_quant_75", "hist_quant_20_initmax", *OTHERS])
@pytest.mark.parametrize("volume", ["cells", "patches"])
def test_merges_are_those_of_a_naive_agglomeration_one_by_one(volume, merge_function):
    graph = region_graph(*VOLUMES[volume])
    assert merges_of(agglomerate(graph, merge_function=merge_function)) == agglomerate_naively(graph, merge_function)


def graph_of(edges, affinities, sizes=None):
    """A region graph with one list of uint8 affinities for each edge, and sizes of 1 unless told."""
    edges = np.array(edges, np.uint64).reshape(-1, 2)
    histograms = [np.unique(values, return_counts=True) for values in affinities]
    fragments = np.unique(edges)
    return RegionGraph(
        fragments,
        np.array(np.ones(len(fragments)) if sizes is None else sizes, np.int64),
        edges,
        np.cumsum([0] + [len(bins) for bins, _ in histograms]),
        np.concatenate([bins for bins, _ in histograms]).astype(np.uint8),
        np.concatenate([counts for _, counts in histograms]).astype(np.int32),
    )


@st.composite
def graphs(draw):
    """Graphs of up to eight fragments, with few affinities and sizes, so that there are ties."""
    n = draw(st.integers(2, 8))
    pairs = [(u, v) for u in range(1, n + 1) for v in range(u + 1, n + 1)]
    edges = sorted(draw(st.sets(st.sampled_from(pairs), min_size=1)))
    affinities = [draw(st.lists(st.sampled_from([0, 50, 51, 200, 255]), min_size=1, max_size=15)) for _ in edges]
    n = len(np.unique(edges))
    return graph_of(edges, affinities, draw(st.lists(st.sampled_from([0, 10, 600, 2000]), min_size=n, max_size=n)))


merge_functions = st.sampled_from(list(MERGE_FUNCTIONS))


@settings(max_examples=150, deadline=None)
@given(graph=graphs(), merge_function=merge_functions)
def test_merges_of_any_graph_are_those_of_a_naive_agglomeration(graph, merge_function):
    assert merges_of(agglomerate(graph, merge_function=merge_function)) == agglomerate_naively(graph, merge_function)


def test_a_triangle_worked_by_hand():
    # 1 --[255]-- 2, 1 --[51]-- 3, 2 --[153, 153, 153]-- 3: 1 and 2 are joined at 1 - 1 = 0; their edge to 3 then has
    # the mean (51 + 3 * 153) / 4 / 255 = 0.5, where 2 -- 3 alone had 0.6.
    graph = graph_of([(1, 2), (1, 3), (2, 3)], [[255], [51], [153] * 3])
    tree = agglomerate(graph, merge_function="mean")
    assert tree.merges.tolist() == [[1, 2], [1, 3]]
    assert tree.merge_scores.tolist() == [0, 0.5]
    assert tree.scores.tolist() == [0, 0.5, 0.5]
    assert tree.segments(0.0).tolist() == [1, 1, 3]
    assert tree.segments(0.49).tolist() == [1, 1, 3]
    assert tree.segments(0.5).tolist() == [1, 1, 1]


def test_small_segments_go_first_worked_by_hand():
    # 1 --[128, 128]-- 2 --[0]-- 3 --[128]-- 4, but 3 has 250 voxels only, which make a quarter of its scores.
    graph = graph_of([(1, 2), (2, 3), (3, 4)], [[128] * 2, [0], [128]], [5000, 5000, 250, 500])
    half = 1 - 128.5 / 256
    tree = agglomerate(graph, merge_function="hist_quant_50_min_size")
    # 3 and 4 together have 750 voxels: 2 -- 3 then costs 0.75 of what it did.
    assert tree.merges.tolist() == [[3, 4], [1, 2], [1, 3]]
    np.testing.assert_array_equal(tree.merge_scores, np.float32([half / 4, half, 0.75 * (1 - 0.5 / 256)]))


@settings(max_examples=50, deadline=None)
@given(graph=graphs(), merge_function=st.sampled_from(["mean", "mean_min_size", "max", "min"]))
def test_sums_of_counts_beyond_int32_change_nothing(graph, merge_function):
    # These scores are the same for multiples of all counts; 2²⁷ times 15 is just within int32.
    times = RegionGraph(*list(vars(graph).values())[:-1], graph.counts * np.int32(2**27))
    ours, expected = (agglomerate(g, merge_function=merge_function) for g in (times, graph))
    assert merges_of(ours) == merges_of(expected)


def segments_along_edges(tree, threshold):
    """Connected components of the edges with a score of at most ``threshold``, naively."""
    segment = {int(f): int(f) for f in tree.fragments}
    for (u, v), score in zip(tree.edges, tree.scores, strict=True):
        if score <= threshold:
            a, b = sorted((segment[int(u)], segment[int(v)]))
            segment = {f: a if s == b else s for f, s in segment.items()}
    return list(segment.values())


@pytest.mark.parametrize("merge_function", ["hist_quant_75", "mean", "mean_max_10_min_size"])
def test_segments_are_the_components_along_edges_scored_at_most_the_threshold(merge_function):
    tree = build_merge_tree(*VOLUMES["patches"], merge_function=merge_function)
    assert np.isfinite(tree.scores).all()
    for threshold in [*THRESHOLDS, *map(float, tree.scores[::7])]:
        assert tree.segments(threshold).tolist() == segments_along_edges(tree, threshold)


@pytest.mark.parametrize("merge_function", MERGE_FUNCTIONS)
def test_scores_never_decrease_and_a_higher_threshold_never_splits(merge_function):
    tree = build_merge_tree(*VOLUMES["salt"], merge_function=merge_function)
    assert (np.diff(tree.merge_scores) >= 0).all()
    before = tree.fragments
    for threshold in np.linspace(0, 1, 21):
        after = tree.segments(threshold)
        # One segment before lies in one segment after.
        assert len(np.unique(np.stack([before, after]), axis=1).T) == len(np.unique(before))
        np.testing.assert_array_equal(after[np.searchsorted(tree.fragments, after)], after)
        assert (after <= tree.fragments).all()
        before = after


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), merge_function=merge_functions)
def test_any_graph_is_joined_along_a_spanning_forest(graph, merge_function):
    tree = agglomerate(graph, merge_function=merge_function)
    assert tree.segments(1.0).tolist() == segments_along_edges(tree, 1.0)
    assert len(tree.merges) == len(tree.fragments) - len(set(tree.segments(1.0).tolist()))
    for threshold in np.unique(tree.merge_scores):
        assert tree.segments(threshold).tolist() == segments_along_edges(tree, threshold)


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), merge_function=merge_functions, data=st.data())
def test_agglomeration_up_to_a_score_is_the_beginning_of_the_whole(graph, merge_function, data):
    whole = agglomerate(graph, merge_function=merge_function)
    highest = data.draw(st.sampled_from([0.0, 0.3, *map(float, whole.merge_scores)]))
    part = agglomerate(graph, merge_function=merge_function, highest_score=highest)
    assert merges_of(part) == [merge for merge in merges_of(whole) if merge[2] <= np.float32(highest)]
    np.testing.assert_array_equal(part.scores, np.where(whole.scores <= np.float32(highest), whole.scores, np.inf))


@settings(max_examples=20, deadline=None)
@given(block_shape=st.tuples(*[st.integers(2, 18)] * 3), data=st.data())
def test_the_tree_does_not_depend_on_how_the_volume_was_cut(block_shape, data):
    affinities, fragments = VOLUMES["patches"]
    parts = []
    for block in BlockGrid(Roi.of_shape(fragments.shape), block_shape):
        context = [int(b > 0) for b in block.begin]
        read = Roi(tuple(b - c for b, c in zip(block.begin, context, strict=True)), block.end)
        parts.append(region_graph(affinities[(..., *read.slices)], fragments[read.slices], context=context))
    merged = merge_region_graphs(data.draw(st.permutations(parts)))
    for merge_function in ("hist_quant_75", "mean_min_size"):
        tree = agglomerate(merged, merge_function=merge_function)
        expected = build_merge_tree(affinities, fragments, merge_function=merge_function)
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(tree, name), getattr(expected, name))


def test_a_lonely_fragment_stays_itself():
    fragments = np.array([[[7, 7, 0, 3]]], np.uint64)
    tree = build_merge_tree(np.ones((3, 1, 1, 4), np.float32), fragments)
    np.testing.assert_array_equal(tree.segmentation(fragments, 1.0), fragments)
    assert tree.edges.shape == tree.merges.shape == (0, 2)


def test_a_volume_without_fragments_is_refused_with_what_to_look_at():
    with pytest.raises(UserError, match="no fragment to agglomerate.* mask .* affinities"):
        build_merge_tree(np.zeros((3, 2, 2, 2), np.float32), np.zeros((2, 2, 2), np.uint64))
    with pytest.raises(UserError, match="no fragment to agglomerate"):
        agglomerate(merge_region_graphs([]))


def test_a_block_without_fragments_does_no_harm():
    affinities, fragments = VOLUMES["patches"]
    nothing = region_graph(np.zeros((3, 1, 1, 1), np.uint8), np.zeros((1, 1, 1), np.uint64))
    tree = agglomerate(merge_region_graphs([nothing, region_graph(affinities, fragments)]))
    assert merges_of(tree) == merges_of(build_merge_tree(affinities, fragments))


def test_a_graph_of_too_many_edges_is_refused():
    graph = graph_of([(1, 2)], [[3]])
    edges = np.broadcast_to(graph.edges, (2**30, 2))
    with pytest.raises(UserError, match="1073741824 edges"):
        agglomerate(RegionGraph(graph.fragments, graph.sizes, edges, graph.starts, graph.bins, graph.counts))


def test_large_ids_are_kept_to_the_last_digit():
    affinities, fragments = VOLUMES["patches"]
    fragments = np.where(fragments, fragments + np.uint64(2**63), fragments)
    tree = build_merge_tree(affinities, fragments)
    assert set(np.unique(tree.segmentation(fragments, 0.3))) <= set(np.unique(fragments))
    np.testing.assert_array_equal(tree.segmentation(fragments, 0.0), fragments)


def test_the_same_input_gives_the_same_tree_and_is_left_alone():
    affinities, fragments = VOLUMES["salt"]
    kept = affinities.copy(), fragments.copy()
    trees = [build_merge_tree(affinities, fragments) for _ in range(2)]
    for name in ARRAYS:
        np.testing.assert_array_equal(*(getattr(tree, name) for tree in trees))
    np.testing.assert_array_equal(affinities, kept[0])
    np.testing.assert_array_equal(fragments, kept[1])


@pytest.mark.parametrize("merge_function", MERGE_FUNCTIONS)
def test_a_graph_is_left_alone(merge_function):
    graph = region_graph(*VOLUMES["patches"])
    kept = [array.copy() for array in vars(graph).values()]
    tree = agglomerate(graph, merge_function=merge_function)
    assert tree.merge_function == merge_function
    for array, before in zip(vars(graph).values(), kept, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("score", [-0.01, 1.01, np.nan])
def test_a_highest_score_outside_0_to_1_is_refused(score):
    with pytest.raises(UserError, match="highest merge score must be in 0–1"):
        agglomerate(graph_of([(1, 2)], [[3]]), highest_score=score)


def test_an_unknown_merge_function_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="no merge function 'median'; there are hist_quant_10, .* mean"):
        build_merge_tree(*VOLUMES["cells"], merge_function="median")
