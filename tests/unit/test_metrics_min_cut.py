"""The min-cut metric."""

import random

import networkx as nx
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from scipy.spatial import KDTree

from lsdflow.metrics import MinCutScores, min_cut_metric
from lsdflow.metrics.min_cut import split_graph

NOTHING = MinCutScores(0, 0, 0, 0, 0, 0)


def split_networkx(graph, components, attributes):
    """`split_graph` on the nodes of a networkx graph: number of splits, part of each node."""
    row = {node: i for i, node in enumerate(graph.nodes)}
    n_splits, parts = split_graph(
        len(row),
        np.array([(row[u], row[v]) for u, v in graph.edges], int).reshape(-1, 2),
        np.array([weight for _, _, weight in graph.edges(data="weight")], float),
        [[row[n] for n in component] for component in components],
        np.array([[data[a] for a in attributes] for _, data in graph.nodes(data=True)], float),
    )
    return n_splits, dict(zip(graph.nodes, parts.tolist(), strict=True))


def naive_split(graph, components, position):
    """The recursive definition, on networkx: number of splits, parts in order."""
    if len(components) <= 1:
        return 0, [set(graph)]
    first, second = sorted(components, key=len)[-2:]
    distance = {
        (i, j): np.linalg.norm(position[u] - position[v]) for j, v in enumerate(second) for i, u in enumerate(first)
    }
    i, j = min(distance, key=distance.get)
    u, v = first[i], second[j]
    residual = nx.algorithms.flow.edmonds_karp(graph, u, v, capacity="weight")
    residual.remove_edges_from(
        [e for e in residual.edges if residual.edges[e]["flow"] >= residual.edges[e]["capacity"] - 1e-4]
    )
    side = {u} | nx.descendants(residual, u)
    n_splits, parts = 1, []
    for nodes in (side, set(graph) - side):
        inside = [[n for n in c if n in nodes] for c in components]
        n, p = naive_split(graph.subgraph(nodes), [c for c in inside if c], position)
        n_splits, parts = n_splits + n, parts + p
    return n_splits, parts


def split_scipy(n_nodes, edges, weights, components, positions):
    """`split_graph` with a matrix and a flow of scipy's for each cut."""
    ends = np.concatenate([edges, edges[:, ::-1]]).T
    graph = csr_array((np.tile((weights * 2**20).astype(np.int32), 2), ends), shape=(n_nodes, n_nodes))
    n_splits, parts = 0, []
    pending = [(np.arange(n_nodes), [np.asarray(c) for c in components])]
    while pending:
        nodes, left = pending.pop()
        if len(left) <= 1:
            parts.append(nodes)
            continue
        first, second = sorted(left, key=len)[-2:]
        distances, nearest = KDTree(positions[first]).query(positions[second])
        source, sink = first[nearest[np.argmin(distances)]], second[np.argmin(distances)]
        capacity = graph[nodes][:, nodes]
        source, sink = np.searchsorted(nodes, [source, sink])
        residual = csr_array(capacity - maximum_flow(capacity, source, sink).flow)
        residual.eliminate_zeros()
        reached = nodes[breadth_first_order(residual, source, return_predecessors=False)]
        n_splits += 1
        for side in (np.setdiff1d(nodes, reached), np.sort(reached)):
            inside = [c[np.isin(c, side)] for c in left]
            pending.append((side, [c for c in inside if len(c)]))
    part_of = np.empty(n_nodes, int)
    for number, nodes in enumerate(parts):
        part_of[nodes] = number
    return n_splits, part_of


def naive_metric(components, fragments, positions, edges, scores, threshold, skeleton_edges):
    """The published algorithm, node by node, on dictionaries."""
    merged = nx.Graph()
    merged.add_nodes_from(f for f in fragments if f)
    merged.add_weighted_edges_from((*e, 1 - s) for e, s in zip(edges, scores, strict=True) if s <= threshold)
    segment_of = {f: min(c) for c in nx.connected_components(merged) for f in c} | {0: 0}
    crossings = {}
    for a, b in skeleton_edges:
        pair = segment_of[fragments[a]], segment_of[fragments[b]]
        if 0 not in pair and pair[0] != pair[1]:
            crossings.setdefault(components[a], []).append(pair)
    splits = unsplittable = extra = merging = 0
    pieces = {c: set() for c in components}
    for segment in sorted(set(segment_of.values()) - {0}):
        fragments_of, position = {}, {}
        for c, f, p in zip(components, fragments, positions, strict=True):
            if segment_of[f] == segment:
                pieces[c].add(segment)
                fragments_of.setdefault(c, []).append(f)
                position[f] = p
        merging += len(fragments_of) > 1
        shared = {f for f in position if sum(f in fs for fs in fragments_of.values()) > 1}
        unsplittable += len(shared)
        usable = {c: [f for f in fs if f not in shared] for c, fs in sorted(fragments_of.items())}
        usable = {c: fs for c, fs in usable.items() if fs}
        if len(usable) <= 1:
            continue
        inside = merged.subgraph(f for f in merged if segment_of[f] == segment)
        n, parts = naive_split(inside, list(usable.values()), position)
        splits += n
        extra += sum(sum(not part.isdisjoint(fs) for part in parts) - 1 for fs in usable.values())
    return MinCutScores(
        splits=splits,
        merges=sum(len(pairs) - 1 for pairs in crossings.values()) + extra,
        unsplittable=unsplittable,
        merging_segments=merging,
        split_skeletons=len(crossings),
        corrected_merges=sum(len(p) - 1 for p in pieces.values() if p) + extra,
    )


def random_case(seed):
    """Skeletons that wander over a grid of fragments, some of them background."""
    rng = np.random.default_rng(seed)
    grid = np.arange(1, 65, dtype=np.uint64).reshape(8, 8) * 10
    edges = np.concatenate(
        [
            np.column_stack([grid[:, 1:].ravel(), grid[:, :-1].ravel()]),
            np.column_stack([grid[1:].ravel(), grid[:-1].ravel()]),
        ]
    )
    scores = rng.random(len(edges))
    scores[rng.random(len(edges)) < 0.1] = np.nan
    components, fragments, positions, skeleton_edges = [], [], [], []
    for component in range(1, 6):
        start = len(components)
        walk = np.clip(rng.integers(0, 80, 2) + np.cumsum(rng.integers(-4, 5, (25, 2)), axis=0), 0, 79)
        components += [component] * len(walk)
        fragments += [0 if rng.random() < 0.1 else int(grid[y // 10, x // 10]) for y, x in walk]
        positions += [np.array([0.0, y, x]) + rng.random(3) for y, x in walk]
        skeleton_edges += [(start + i, start + i + 1) for i in range(len(walk) - 1)]
    return components, fragments, positions, edges.tolist(), scores.tolist(), skeleton_edges


# Cases of funlib.evaluate's tests, with the counts and labels that they publish.


def published_loop():
    #   1 --1-- 2 -0.5- 3
    #   |               |      edges 1-4 and 3-6 weigh 1
    #   4 -0.1- 5 --1-- 6
    graph = nx.Graph()
    for node in range(1, 7):
        graph.add_node(node, y=(node - 1) // 3, x=(node - 1) % 3)
    graph.add_weighted_edges_from([(1, 2, 1), (2, 3, 0.5), (3, 6, 1), (5, 6, 1), (4, 5, 0.1), (1, 4, 1)])
    return graph


def test_published_line_is_cut_at_its_edge_of_weight_zero():
    graph = nx.Graph()
    graph.add_node(1, z=0, y=0, x=0)
    graph.add_node(2, z=1, y=1, x=0)
    graph.add_node(3, z=0, y=1, x=1)
    graph.add_weighted_edges_from([(1, 2, 0), (2, 3, 1)])
    assert split_networkx(graph, [[1], [3]], "zyx") == (1, {1: 0, 2: 1, 3: 1})


def test_published_loop_of_two_components_takes_one_split():
    assert split_networkx(published_loop(), [[1], [6]], "yx") == (1, {1: 0, 2: 0, 3: 1, 4: 0, 5: 1, 6: 1})


@pytest.mark.parametrize("last", [[6], [5, 6]])
def test_published_loop_of_three_components_takes_two_splits(last):
    assert split_networkx(published_loop(), [[1], [4], last], "yx") == (2, {1: 0, 2: 0, 4: 1, 3: 2, 5: 2, 6: 2})


def test_published_chain_takes_five_splits():
    #  1 .1 2 .2 3 .3 4 .4 5 .5 6 .55 66 .6 7 .7 8 .8 9
    graph = nx.Graph()
    places = {1: 1, 2: 2.1, 3: 3, 4: 4, 5: 5, 6: 6, 66: 6.5, 7: 7, 8: 8, 9: 9}
    for node, x in places.items():
        graph.add_node(node, x=x)
    weights = [0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8]
    graph.add_weighted_edges_from(zip(places, list(places)[1:], weights, strict=False))
    n_splits, parts = split_networkx(graph, [[1, 3, 4], [2, 5], [6, 66], [7, 8, 9]], "x")
    assert n_splits == 5
    assert parts == {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 4, 66: 4, 7: 5, 8: 5, 9: 5}


def test_published_random_graph_takes_eighteen_splits():
    random.seed(2)
    graph = nx.Graph()
    for node in range(1000):
        graph.add_node(node, z=random.random(), y=random.random(), x=random.random())
    for _ in range(10_000):
        graph.add_edge(random.randint(0, 999), random.randint(0, 999), weight=random.random())
    n_splits, _ = split_networkx(graph, [range(10), range(200, 210)], "xyz")
    assert n_splits == 18


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n_weights", [1, 4, 10**6])  # equal ones leave a choice of minimum cuts
def test_equals_maximum_flows_of_scipy(seed, n_weights):
    rng = np.random.default_rng(seed)
    n_nodes = 300
    positions = rng.random((n_nodes, 3))
    _, near = KDTree(positions).query(positions, k=rng.integers(3, 8))
    edges = np.column_stack([np.repeat(near[:, 0], near.shape[1] - 1), near[:, 1:].ravel()])
    edges = np.unique(np.sort(np.concatenate([edges, rng.integers(n_nodes, size=(20, 2))])), axis=0)
    weights = rng.integers(seed % 2, n_weights + 1, len(edges)) / n_weights  # none is 0 for odd seeds
    components = np.array_split(rng.permutation(n_nodes)[:100], np.sort(rng.choice(100, 8)))
    components = [np.concatenate([c, c[:2]]) for c in components if len(c)]  # some nodes count twice
    expected = split_scipy(n_nodes, edges, weights, components, positions)
    found = split_graph(n_nodes, edges, weights, components, positions)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


def test_without_components_nothing_is_cut():
    n_splits, parts = split_graph(2, np.array([[0, 1]]), np.array([0.5]), [], np.zeros((2, 3)))
    assert (n_splits, parts.tolist()) == (0, [0, 0])


def test_disconnected_graph_still_counts_a_split():
    n_splits, parts = split_graph(3, np.array([[0, 1]]), np.array([0.5]), [[0], [2]], np.arange(3.0)[:, None])
    assert n_splits == 1
    assert parts.tolist() == [0, 0, 1]


def test_graph_of_two_nodes_without_an_edge_is_split():
    assert split_graph(2, np.empty((0, 2)), np.empty(0), [[0], [1]], np.zeros((2, 3)))[0] == 1


def test_flow_may_leave_32_bits():
    #  0 ==4000 edges== 1 -- 2, weight of each way about 2e4
    n = 4000
    middle = np.arange(3, 3 + n)
    edges = np.concatenate([np.column_stack([np.zeros(n), middle]), np.column_stack([middle, np.ones(n)]), [[1, 2]]])
    weights = np.concatenate([np.full(2 * n, 5.0), [7.0]])
    n_splits, parts = split_graph(3 + n, edges.astype(int), weights, [[0], [1]], np.zeros((3 + n, 3)))
    assert n_splits == 1
    assert parts[0] == 0 and parts[2] == 1


# A worked example: three skeletons of four nodes each on a region graph of fragments
#
#   skeleton 1 (y = 0)    10 -.1- 10   20 -.1- 20     one segment: 10, 20, 30, 40 at threshold 0.5
#                                 |.4                 edge 10-30 merges skeletons 1 and 2
#   skeleton 2 (y = 1)    30 ---- 30   40 -.2- 40
#
#   skeleton 3 (y = 2)    50 ---- 50   60 ---- 60     score .9: split at threshold 0.5


@pytest.fixture
def example():
    return {
        "node_components": np.repeat([1, 2, 3], 4),
        "node_fragments": np.repeat([10, 20, 30, 40, 50, 60], 2),
        "node_positions": np.array([(0, y, x) for y in range(3) for x in range(4)], float),
        "edges": np.array([(10, 20), (30, 40), (10, 30), (50, 60)]),
        "edge_scores": np.array([0.1, 0.2, 0.4, 0.9]),
        "skeleton_edges": np.array([(4 * s + i, 4 * s + i + 1) for s in range(3) for i in range(3)]),
    }


def test_worked_example(example):
    # One cut between 10 and 30; skeleton 3 needs one join, for which the published count charges nothing.
    assert min_cut_metric(threshold=0.5, **example) == MinCutScores(
        splits=1, merges=0, unsplittable=0, merging_segments=1, split_skeletons=1, corrected_merges=1
    )


def test_below_all_scores_each_fragment_is_a_segment(example):
    assert min_cut_metric(threshold=0.0, **example) == MinCutScores(0, 0, 0, 0, 3, 3)


def test_threshold_includes_the_score_itself(example):
    assert min_cut_metric(threshold=0.4, **example).splits == 1
    assert min_cut_metric(threshold=np.nextafter(0.4, 0), **example).splits == 0


def test_edges_without_a_score_never_merge(example):
    for never in (np.nan, np.inf):
        example["edge_scores"] = np.array([0.1, 0.2, never, never])
        assert min_cut_metric(threshold=1.0, **example) == MinCutScores(0, 0, 0, 0, 1, 1)


def test_fragment_of_two_skeletons_is_unsplittable_and_left_out(example):
    example["node_fragments"][4:6] = 10  # skeleton 2 begins in a fragment of skeleton 1
    # At 0.15, segment {10, 20} holds nothing of skeleton 2 but the shared fragment; skeletons 2 and 3 are split.
    assert min_cut_metric(threshold=0.15, **example) == MinCutScores(
        splits=0, merges=0, unsplittable=1, merging_segments=1, split_skeletons=2, corrected_merges=2
    )
    # At 0.5, 40 joins it by way of 30, and is cut off again.
    assert min_cut_metric(threshold=0.5, **example) == MinCutScores(
        splits=1, merges=0, unsplittable=1, merging_segments=1, split_skeletons=1, corrected_merges=1
    )


def test_winding_along_a_border_is_charged_per_crossing_by_the_published_count_only():
    # a b a b a: four crossings, two pieces
    scores = min_cut_metric(
        np.ones(5, int), [1, 2, 1, 2, 1], np.zeros((5, 3)), [(1, 2)], [0.9], 0.5,
        skeleton_edges=[(0, 1), (1, 2), (2, 3), (3, 4)],
    )  # fmt: skip
    assert (scores.merges, scores.corrected_merges) == (3, 1)


def test_split_that_cuts_a_skeleton_apart_costs_a_merge():
    #  fragments 1 -.2- 2 -.1- 3, skeleton A in 1 and 3, skeleton B in 2: two splits leave A in two parts
    scores = min_cut_metric(
        [1, 1, 2], [1, 3, 2], [(0, 0, 0), (0, 0, 2), (0, 1, 1)], [(1, 2), (2, 3)], [0.2, 0.1], 0.5,
        skeleton_edges=[(0, 1)],
    )  # fmt: skip
    assert scores == MinCutScores(
        splits=2, merges=1, unsplittable=0, merging_segments=1, split_skeletons=0, corrected_merges=1
    )


def test_background_nodes_neither_merge_nor_split(example):
    example["node_fragments"][:] = 0
    assert min_cut_metric(threshold=0.5, **example) == NOTHING


def test_edges_of_the_background_join_nothing(example):
    example["edges"] = np.array([(0, 10), (0, 20), (0, 30), (0, 40)])
    assert min_cut_metric(threshold=1.0, **example).merging_segments == 0


def test_no_nodes_or_no_region_graph_is_fine(example):
    empty = np.empty((0, 2), np.uint64)
    assert min_cut_metric([], [], np.empty((0, 3)), empty, [], 0.5, skeleton_edges=empty) == NOTHING
    assert min_cut_metric([1], [7], [(0, 0, 0)], empty, [], 0.5, skeleton_edges=empty) == NOTHING
    assert min_cut_metric([], [], np.empty((0, 3)), [(1, 2)], [0.1], 0.5, skeleton_edges=empty) == NOTHING


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("threshold", [0.3, 0.6, 1.0])
def test_equals_the_published_algorithm_written_naively(seed, threshold):
    case = random_case(seed)
    ours = min_cut_metric(*case[:5], threshold, skeleton_edges=case[5])
    assert ours == naive_metric(*case[:5], threshold, case[5])


def test_order_of_edges_and_their_ends_does_not_matter():
    components, fragments, positions, edges, scores, skeleton_edges = random_case(3)
    order = np.random.default_rng(0).permutation(len(edges))
    expected = min_cut_metric(components, fragments, positions, edges, scores, 0.6, skeleton_edges=skeleton_edges)
    shuffled = min_cut_metric(
        components, fragments, positions, np.array(edges)[order, ::-1], np.array(scores)[order], 0.6,
        skeleton_edges=skeleton_edges,
    )  # fmt: skip
    assert shuffled == expected


def test_ids_of_64_bits_stay_apart(example):
    small = min_cut_metric(threshold=0.5, **example)
    base = np.uint64(2**64 - 100)
    example["node_fragments"] = example["node_fragments"].astype(np.uint64) + base
    example["edges"] = example["edges"].astype(np.uint64) + base
    example["node_components"] = example["node_components"].astype(np.uint64) + base
    assert min_cut_metric(threshold=0.5, **example) == small


def test_mistakes_of_the_caller_are_refused(example):
    with pytest.raises(ValueError, match="joins nodes of two components"):
        min_cut_metric(threshold=0.5, **{**example, "skeleton_edges": [(3, 4)]})
    with pytest.raises(ValueError, match="4 edges need as many scores"):
        min_cut_metric(threshold=0.5, **{**example, "edge_scores": [0.1]})
    with pytest.raises(ValueError, match="must be .n,., .n,. and .n, 3., not"):
        min_cut_metric(threshold=0.5, **{**example, "node_fragments": [1, 2]})
