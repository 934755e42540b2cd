"""Minimum cuts, one after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from lsdflow.metrics.flow_network import CAPACITY_SCALE, cut, flow_network


def naive_cut(capacity, source, sink):
    """The nodes that the source reaches after a maximum flow, ascending, and the value of the flow."""
    flow = maximum_flow(csr_array(capacity.astype(np.int32)), source, sink)
    residual = csr_array(capacity - flow.flow.toarray())
    return np.sort(breadth_first_order(residual, source, return_predecessors=False)), flow.flow_value


def capacity_matrix(network):
    matrix = np.zeros((len(network.levels),) * 2, np.int64)
    tails = np.repeat(np.arange(len(network.levels)), np.diff(network.starts))
    matrix[tails, network.heads] = network.capacities
    return matrix


@st.composite
def graphs(draw):
    """Number of nodes, edges, whole weights: sparse or dense, with equal weights, weights of 0, loops and doubles."""
    n_nodes = draw(st.integers(2, 12))
    node = st.integers(0, n_nodes - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=40))
    weights = draw(st.lists(st.integers(0, 5), min_size=len(edges), max_size=len(edges)))
    return n_nodes, np.array(edges, int).reshape(-1, 2), np.array(weights, float)


@given(graphs(), st.data())
@settings(deadline=None, max_examples=200)
def test_cut_after_cut_equals_maximum_flows_of_scipy(graph, data):
    network = flow_network(*graph)
    for _ in range(3):
        source, sink = data.draw(st.permutations(range(graph[0])))[:2]
        before = capacity_matrix(network)
        expected, value = naive_cut(before, source, sink)
        side = cut(network, source, sink)
        assert side[0] == source
        np.testing.assert_array_equal(np.sort(side), expected)

        is_inside = np.isin(np.arange(graph[0]), side)
        is_cut = is_inside[:, None] != is_inside
        assert before[is_inside][:, ~is_inside].sum() == value
        np.testing.assert_array_equal(capacity_matrix(network), np.where(is_cut, 0, before))
        assert not network.flows.any() and not network.levels.any()


@pytest.mark.parametrize(("source", "sink"), [(900, 901), (901, 900)])
@pytest.mark.parametrize("n_weights", [3, 10**6])
def test_long_winding_paths_to_a_cut_in_the_middle(source, sink, n_weights):
    # A grid of 30 × 30, its left side joined to 900 and its right side to 901, by edges too heavy to be cut.
    rng = np.random.default_rng(0)
    index = np.arange(900).reshape(30, 30)
    pairs = [(index[1:], index[:-1]), (index[:, 1:], index[:, :-1]), (900, index[:, 0]), (901, index[:, -1])]
    edges = np.concatenate([np.stack(np.broadcast_arrays(*pair), -1).reshape(-1, 2) for pair in pairs])
    weights = np.append(rng.integers(1, n_weights + 1, len(edges) - 60) / n_weights, np.full(60, 100.0))
    network = flow_network(902, edges, weights)
    expected, _ = naive_cut(capacity_matrix(network), source, sink)
    assert 30 < len(expected) < 870
    np.testing.assert_array_equal(np.sort(cut(network, source, sink)), expected)


def test_edges_listed_twice_are_added_up():
    #  0 --1-- 1 --1.5-- 2, the first twice: 2 in all
    network = flow_network(3, [(0, 1), (1, 2), (1, 0)], [1.0, 1.5, 1.0])
    assert cut(network, 0, 2).tolist() == [0, 1]


def test_capacities_are_rounded_down():
    network = flow_network(2, [(0, 1)], [2.75 / CAPACITY_SCALE])
    assert network.capacities.tolist() == [2, 2]


def test_of_equal_cuts_the_nearest_to_the_source_is_taken():
    assert cut(flow_network(3, [(0, 1), (1, 2)], [1.0, 1.0]), 0, 2).tolist() == [0]
    assert cut(flow_network(3, [(0, 1), (1, 2)], [1.0, 1.0]), 2, 0).tolist() == [2]
