"""Expected run length against hand-worked examples, published ones, and the definition edge by edge."""

import math
from collections import defaultdict

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.errors import UserError
from lsdflow.metrics.run_length import (
    crop_skeletons,
    drop_short,
    expected_run_length,
    inside_box,
    mask_skeletons,
    run_length_by_component,
    run_length_columns,
    run_length_scores,
)
from lsdflow.metrics.skeletons import load_skeletons, save_skeletons, skeleton_arrays


def forest(*chains):
    """Each argument is a chain, given by the lengths of its edges; nodes are numbered through from 0."""
    graph = nx.Graph()
    for component, lengths in enumerate(chains, start=1):
        first = len(graph)
        for i, x in enumerate(np.cumsum([0, *lengths]).tolist()):
            graph.add_node(first + i, position=(0.0, 100.0 * component, float(x)), component=component, label=component)
        graph.add_edges_from((first + i, first + i + 1, {"length": float(x)}) for i, x in enumerate(lengths))
    return graph


def naive_scores(graph, segment_of, tolerance):
    """The published definition, edge by edge: ERL, maximum, omitted length, split components, merging segments."""
    nodes_of = defaultdict(lambda: defaultdict(int))
    for node, data in graph.nodes(data=True):
        nodes_of[segment_of[node]][data["component"]] += 1
    merging = {s for s, count in nodes_of.items() if s and sum(count.values()) - max(count.values()) > tolerance}
    length, correct, omitted, split = defaultdict(float), defaultdict(float), 0.0, set()
    for u, v, data in graph.edges(data=True):
        component = graph.nodes[u]["component"]
        length[component] += data["length"]
        if segment_of[u] == 0 or segment_of[v] == 0:
            omitted += data["length"]
        elif segment_of[u] != segment_of[v]:
            split.add(component)
        elif segment_of[u] not in merging:
            correct[component, segment_of[u]] += data["length"]
    total = sum(length.values())
    run_length = sum(
        length[component] / total * sum(x**2 / length[component] for (c, _), x in correct.items() if c == component)
        for component in length
    )
    return run_length, sum(x**2 for x in length.values()) / total, omitted, sorted(split), sorted(merging)


@st.composite
def segmented_forests(draw):
    """A random forest with at least one edge, nodes in random order, and a segment at each node."""
    n = draw(st.integers(2, 14))
    parents = [draw(st.integers(-1, i - 1)) for i in range(1, n - 1)] + [0]
    names = draw(st.permutations(range(-3, n - 3)))
    graph = nx.Graph()
    graph.add_nodes_from((name, {"position": (0.0, 0.0, float(i)), "label": 1}) for i, name in enumerate(names))
    for i, parent in enumerate(parents, start=1):
        if parent >= 0:
            graph.add_edge(names[i], names[parent], length=float(draw(st.integers(1, 9))))
    for number, nodes in enumerate(nx.connected_components(graph), start=1):
        nx.set_node_attributes(graph, dict.fromkeys(nodes, 10 * number), "component")
    return graph, draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))


# --- worked examples ------------------------------------------------------------------------------------------------


# Four edges of 1 nm:      o-o-o-o-o
@pytest.mark.parametrize(
    ("segments", "run_length"),
    [
        ([1, 1, 1, 2, 2], 1.25),  # published: 1-1-1 holds 2 nm, 2-2 holds 1 nm: (2² + 1²) / 4
        ([1, 1, 1, 1, 2], 2.25),  # published: 3 nm and 0: 3² / 4
        ([1, 1, 1, 1, 1], 4.0),
        ([1, 1, 0, 1, 1], 1.0),  # two stretches of one segment add up: (1 + 1)² / 4
        ([0, 0, 0, 0, 0], 0.0),  # no segment is not one segment
    ],
)
def test_chain_of_unit_edges(segments, run_length):
    assert expected_run_length(forest([1, 1, 1, 1]), segments) == run_length


# Two skeletons, 0-1-2 of 2·√2 and 3-4 of √2, as funlib.evaluate tests them.
@pytest.mark.parametrize(
    ("segments", "run_length"),
    [
        ([10, 10, 30, 20, 40], 2 / 3 * 0.5 * math.sqrt(2)),
        ([10, 10, 10, 10, 10], 0.0),
        # ((2√2)² + (√2)²) / (3√2)
        ([10, 10, 10, 20, 20], 10 / (3 * math.sqrt(2))),
    ],
)
def test_two_skeletons_of_the_reference(segments, run_length):
    root = math.sqrt(2)
    assert expected_run_length(forest([root, root], [root]), segments) == pytest.approx(run_length)


def test_only_edges_in_the_merging_segment_are_lost():
    # As em_erl tests it: of the first skeleton 10 nm in segment 7 stay; 100 joins it with the second; (10² + 30²) / 100
    graph = forest([10, 15, 25], [20], [30])
    scores = run_length_scores(graph, [7, 7, 100, 100, 100, 100, 3, 3])
    assert scores.expected_run_length == 10
    assert scores.merging_segments.tolist() == [100]
    assert scores.split_skeletons.tolist() == [1]


def test_scores_explain_the_run_length():
    #          1 (60 nm)         2 (30 nm)   3 (10 nm)
    graph = forest([10, 20, 30], [10, 20], [10])
    scores = run_length_scores(graph, [5, 5, 6, 6, 0, 8, 8, 9, 9])
    # correct: 10 of 5 and 30 of 6; 20 of 8; 10 of 9
    assert scores.expected_run_length == (10**2 + 30**2 + 20**2 + 10**2) / 100
    assert scores.maximum == (60**2 + 30**2 + 10**2) / 100
    assert scores.normalized == pytest.approx(15 / 46)
    assert scores.total_length == 100
    assert scores.omitted_length == 10
    assert scores.split_skeletons.tolist() == [1]  # 2 has an omitted edge, which is no split
    assert scores.merging_segments.tolist() == []


def test_background_and_single_nodes():
    graph = forest([10], [10], [])
    # Segment 0 touches all three and does not count as merging; the single node of component 3 makes 5 merge.
    assert run_length_scores(graph, [5, 5, 0, 0, 0]).merging_segments.tolist() == []
    scores = run_length_scores(graph, [5, 5, 6, 6, 5])
    assert scores.merging_segments.tolist() == [5]
    assert scores.expected_run_length == 10**2 / 20
    assert scores.maximum == (10**2 + 10**2) / 20


def test_tolerance_counts_the_nodes_outside_the_largest_component():
    # Segment 5 holds four nodes of 1, two of 2 (one edge, 10 nm) and one of 3: three outside the largest.
    graph = forest([10, 10, 10], [10, 10], [10])
    segments = [5, 5, 5, 5, 5, 5, 6, 5, 7]
    for tolerance in (0, 1, 2):
        assert run_length_scores(graph, segments, merge_tolerance=tolerance).merging_segments.tolist() == [5]
    scores = run_length_scores(graph, segments, merge_tolerance=3)
    assert scores.merging_segments.tolist() == []
    assert scores.expected_run_length == pytest.approx((30**2 + 10**2) / 60)  # each component for itself


# --- laws -----------------------------------------------------------------------------------------------------------


@given(segmented_forests(), st.integers(0, 4))
@settings(deadline=None, max_examples=150)
def test_agrees_with_the_definition_edge_by_edge(case, tolerance):
    graph, segments = case
    scores = run_length_scores(graph, segments, merge_tolerance=tolerance)
    segment_of = dict(zip(graph.nodes, segments, strict=True))
    run_length, maximum, omitted, split, merging = naive_scores(graph, segment_of, tolerance)
    assert scores.expected_run_length == pytest.approx(run_length)
    assert scores.maximum == pytest.approx(maximum)
    assert scores.normalized == pytest.approx(run_length / maximum)
    assert scores.omitted_length == omitted
    assert scores.split_skeletons.tolist() == split
    assert scores.merging_segments.tolist() == merging
    assert expected_run_length(graph, segment_of, merge_tolerance=tolerance) == scores.expected_run_length
    assert expected_run_length(skeleton_arrays(graph), np.array(segments, np.uint8), merge_tolerance=tolerance) == (
        scores.expected_run_length
    )


@given(segmented_forests())
@settings(deadline=None, max_examples=50)
def test_bounds_are_reached_and_names_do_not_matter(case):
    graph, segments = case
    perfect = run_length_scores(graph, skeleton_arrays(graph).components)
    assert perfect.expected_run_length == perfect.maximum
    assert perfect.normalized == 1
    assert expected_run_length(graph, np.arange(1, len(graph) + 1)) == 0
    scores = run_length_scores(graph, segments)
    assert 0 <= scores.expected_run_length <= perfect.maximum * (1 + 1e-12)
    renamed = np.array([0, 2**64 - 1, 7, 2**63, 1], np.uint64)[segments]
    assert expected_run_length(graph, renamed) == pytest.approx(scores.expected_run_length)


@given(segmented_forests())
@settings(deadline=None, max_examples=50)
def test_more_tolerance_never_shortens_runs(case):
    graph, segments = case
    lengths = [expected_run_length(graph, segments, merge_tolerance=t) for t in range(len(graph) + 1)]
    assert np.all(np.diff(lengths) >= -1e-12)


@given(segmented_forests(), st.integers(0, 2))
@settings(deadline=None, max_examples=50)
def test_components_add_up(case, tolerance):
    graph, segments = case
    components, lengths, squares = run_length_by_component(graph, segments, merge_tolerance=tolerance)
    assert components.tolist() == sorted({component for _, component in graph.nodes(data="component")})
    scores = run_length_scores(graph, segments, merge_tolerance=tolerance)
    assert lengths.sum() == scores.total_length
    assert squares.sum() / lengths.sum() == pytest.approx(scores.expected_run_length)
    assert np.all(squares <= lengths**2 * (1 + 1e-12))


# --- input ----------------------------------------------------------------------------------------------------------


def test_mapping_keeps_large_ids_apart():
    graph = forest([1, 1])
    # As floats, which a mixture of numpy integers becomes, the two ids would be one.
    segment_of = {0: np.uint64(2**63), 1: np.uint64(2**63 + 1), 2: np.int64(3), "elsewhere": 5}
    assert run_length_scores(graph, segment_of).expected_run_length == 0


def test_skeletons_without_length_have_no_run_length():
    for graph, segments in ((nx.Graph(), []), (forest([], []), [1, 2]), (forest([0.0]), [1, 1])):
        with pytest.raises(UserError, match="have no length"):
            expected_run_length(graph, segments)
        components, lengths, squares = run_length_by_component(graph, segments)
        assert len(components) == nx.number_connected_components(graph)
        assert lengths.tolist() == squares.tolist() == [0.0] * len(components)


def test_bad_input_is_refused_with_what_is_wrong():
    graph = forest([1, 1], [1])
    with pytest.raises(ValueError, match=r"each of the 5 nodes, not \(4,\)"):
        expected_run_length(graph, [1, 1, 1, 1])
    with pytest.raises(UserError, match="integer ids, not float64"):
        expected_run_length(graph, [1.0, 1, 1, 1, 1])
    with pytest.raises(UserError, match="0 or more, not -2"):
        expected_run_length(graph, [1, 1, -2, 1, 1])
    with pytest.raises(UserError, match="0 or more, not -1"):
        expected_run_length(graph, {0: 2**63, 1: -1, 2: 1, 3: 1, 4: 1})
    with pytest.raises(UserError, match="integer ids .*float"):
        expected_run_length(graph, dict.fromkeys(range(5), 1.0))
    with pytest.raises(ValueError, match="2 nodes have no segment, the first of them 3"):
        expected_run_length(graph, {0: 1, 1: 1, 2: 1})
    with pytest.raises(ValueError, match="needs the graph"):
        expected_run_length(skeleton_arrays(graph), dict.fromkeys(range(5), 1))
    for tolerance in (-1, 0.5, None):
        with pytest.raises(UserError, match="number of nodes, 0 or more"):
            expected_run_length(graph, [1] * 5, merge_tolerance=tolerance)
    graph.add_edge(2, 3, length=1.0)
    with pytest.raises(ValueError, match="joins two components"):
        expected_run_length(graph, [1] * 5)


# --- masks ----------------------------------------------------------------------------------------------------------


def test_mask_cuts_a_skeleton_into_components_of_their_own():
    #   component 1: 0-1-2-3-4-5-6        2: 7-8
    #   kept         x x   x   x x           x x
    graph = forest([1] * 6, [1])
    graph.graph["dropped"] = 2
    masked = mask_skeletons(graph, [True, True, False, True, False, True, True, True, True])
    assert list(masked.nodes(data="component")) == [(0, 1), (1, 1), (5, 2), (6, 2), (7, 3), (8, 3)]
    assert sorted(masked.edges(data="length")) == [(0, 1, 1.0), (5, 6, 1.0), (7, 8, 1.0)]
    assert masked.graph["dropped"] == 3  # node 3 is left alone
    assert masked.nodes[5]["position"] == (0.0, 100.0, 5.0)
    assert masked.nodes[5]["label"] == 1
    assert len(graph) == 9 and graph.nodes[5]["component"] == 1 and graph.graph["dropped"] == 2
    # A segmentation of the masked volume, pieces under ids of their own, is perfect.
    assert run_length_scores(masked, [4, 4, 5, 5, 6, 6]).normalized == 1


@given(segmented_forests(), st.data())
@settings(deadline=None, max_examples=50)
def test_mask_leaves_the_induced_subgraph_in_order(case, data):
    graph, _ = case
    keep = data.draw(st.lists(st.booleans(), min_size=len(graph), max_size=len(graph)))
    masked = mask_skeletons(graph, keep)
    subgraph = nx.Graph(graph.subgraph(node for node, is_kept in zip(graph.nodes, keep, strict=True) if is_kept))
    subgraph.remove_nodes_from(list(nx.isolates(subgraph)))
    assert nx.utils.edges_equal(masked.edges(data=True), subgraph.edges(data=True))
    assert list(masked) == [node for node in graph if node in subgraph]
    pieces = {frozenset(nodes) for nodes in nx.connected_components(subgraph)}
    components = defaultdict(set)
    for node, component in masked.nodes(data="component"):
        components[component].add(node)
    assert {frozenset(nodes) for nodes in components.values()} == pieces
    assert list(components) == list(range(1, len(pieces) + 1))  # in the order of first nodes


def test_masking_everything_leaves_nothing(tmp_path):
    masked = mask_skeletons(forest([1, 1]), [False] * 3)
    assert len(masked) == 0
    save_skeletons(tmp_path / "empty.npz", masked)
    assert len(mask_skeletons(load_skeletons(tmp_path / "empty.npz"), [])) == 0


def test_mask_must_be_a_bool_per_node():
    with pytest.raises(ValueError, match=r"3 bools, one per node, not bool \(2,\)"):
        mask_skeletons(forest([1, 1]), [True, False])
    with pytest.raises(ValueError, match="not int64"):
        mask_skeletons(forest([1, 1]), [1, 0, 1])  # which could be rows as well


def test_crop_keeps_what_lies_between_begin_and_end():
    graph = forest([1, 1, 1, 1])  # y 100, x 0 to 4
    assert list(crop_skeletons(graph, (0, 100, 1), (1, 101, 4))) == [1, 2, 3]
    assert list(crop_skeletons(graph, (0, 100.5, 1), (1, 101, 4))) == []
    np.testing.assert_array_equal(inside_box(np.array([[0.0, 0, 0], [1, 1, 1]]), (0, 0, 0), (1, 1, 1)), [True, False])
    with pytest.raises(UserError, match="begin before it ends"):
        crop_skeletons(graph, (0, 0, 4), (1, 1, 4))
    with pytest.raises(UserError, match="begin before it ends"):
        crop_skeletons(graph, (0, 0), (1, 1))


def test_columns_are_the_scores_and_nan_where_nothing_can_be_measured():
    chain = nx.path_graph(5)
    nx.set_node_attributes(chain, {n: {"position": (0, 0, n), "component": 1, "label": 1} for n in chain})
    nx.set_edge_attributes(chain, 1.0, "length")
    columns = run_length_columns(skeleton_arrays(chain), np.array([7, 7, 7, 8, 8]))
    assert columns == {
        "expected_run_length": 1.25,
        "maximum_run_length": 4.0,
        "normalized_run_length": 1.25 / 4,
        "run_length_splits": 1,
        "run_length_merges": 0,
    }
    nothing = run_length_columns(skeleton_arrays(nx.Graph()), np.empty(0, np.uint64))
    assert nothing.keys() == columns.keys() and np.isnan(nothing["expected_run_length"])


def test_short_components_are_dropped_and_counted():
    graph = forest([3, 4], [5], [7])
    kept = drop_short(graph, 6)
    assert list(kept) == [0, 1, 2, 5, 6] and kept.graph["dropped"] == 1
    assert [kept.nodes[n]["component"] for n in kept] == [1, 1, 1, 2, 2]
    assert len(graph) == 7
    assert len(drop_short(graph, 100)) == 0 and drop_short(graph, 100).graph["dropped"] == 3
