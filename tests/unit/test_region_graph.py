"""The region graph counts every affinity between two fragments once, however the volume is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.blocks import BlockGrid
from lsdflow.errors import UserError
from lsdflow.region_graph import RegionGraph, merge_region_graphs, region_graph
from lsdflow.volumes import Roi


def random_volume(shape=(9, 10, 11), n_fragments=30, seed=0, dtype=np.uint8):
    """Affinities and patches of fragments, some 0, with large ids."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, n_fragments, [-(-n // 3) for n in shape])
    fragments = patches.repeat(3, 0).repeat(3, 1).repeat(3, 2)[: shape[0], : shape[1], : shape[2]]
    affinities = rng.integers(0, 256, (3, *shape), dtype=np.uint8)
    if dtype != np.uint8:
        affinities = (affinities / 255).astype(dtype)
    return affinities, np.where(fragments, fragments.astype(np.uint64) + np.uint64(2**63), np.uint64(0))


def reference_graph(affinities, fragments):
    """One voxel pair after the other."""
    histograms = {}
    for axis in range(3):
        for v in np.ndindex(fragments.shape):
            if v[axis] == 0:
                continue
            w = tuple(n - (d == axis) for d, n in enumerate(v))
            pair = tuple(sorted((int(fragments[v]), int(fragments[w]))))
            if pair[0] != pair[1] and pair[0] != 0:
                histogram = histograms.setdefault(pair, np.zeros(256, int))
                histogram[int(affinities[(axis, *v)])] += 1
    return histograms


def assert_same(a, b):
    for name in ("fragments", "edges", "counts"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype


def test_two_voxels_worked_by_hand():
    # x: 5 | 5 | 2, with the affinity of voxel x to x - 1 in channel 2.
    fragments = np.array([[[5, 5, 2]]], np.uint64)
    affinities = np.zeros((3, 1, 1, 3), np.uint8)
    affinities[2, 0, 0] = 10, 20, 30
    graph = region_graph(affinities, fragments)
    assert graph.fragments.tolist() == [2, 5]
    assert graph.edges.tolist() == [[2, 5]]
    assert graph.counts.sum() == graph.counts[0, 30] == 1


@pytest.mark.parametrize("seed", range(3))
def test_edges_and_histograms_are_those_of_a_loop_over_voxels(seed):
    affinities, fragments = random_volume(seed=seed)
    graph, expected = region_graph(affinities, fragments), reference_graph(affinities, fragments)
    assert graph.edges.dtype == np.uint64 and graph.counts.dtype == np.int32
    assert [tuple(map(int, edge)) for edge in graph.edges] == sorted(expected)
    np.testing.assert_array_equal(graph.counts, [expected[pair] for pair in sorted(expected)])
    np.testing.assert_array_equal(graph.fragments, np.unique(fragments[fragments > 0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_affinities_fall_into_the_bins_of_the_uint8_they_stand_for(dtype):
    graph = region_graph(*random_volume())
    assert_same(region_graph(*random_volume(dtype=dtype)), graph)


@pytest.mark.parametrize(("affinity", "bin_"), [(0, 0), (0.00390624, 0), (0.00390625, 1), (0.5, 128), (1, 255)])
def test_a_bin_is_a_256th_wide_and_1_falls_into_the_last(affinity, bin_):
    affinities = np.full((3, 1, 1, 2), affinity, np.float32)
    graph = region_graph(affinities, np.array([[[1, 2]]], np.uint64))
    assert np.flatnonzero(graph.counts[0]).tolist() == [bin_]


def test_long_range_channels_do_not_count():
    affinities, fragments = random_volume()
    assert_same(region_graph(np.concatenate([affinities, affinities]), fragments), region_graph(affinities, fragments))


@settings(max_examples=30, deadline=None)
@given(block_shape=st.tuples(*[st.integers(1, 11)] * 3), seed=st.integers(0, 9))
def test_the_graphs_of_blocks_add_up_to_that_of_the_volume_exactly(block_shape, seed):
    affinities, fragments = random_volume(seed=seed)
    grid = BlockGrid(Roi.of_shape(fragments.shape), block_shape)
    graphs = []
    for block in grid:
        context = [int(b > 0) for b in block.begin]
        read = Roi(tuple(b - c for b, c in zip(block.begin, context, strict=True)), block.end)
        graphs.append(region_graph(affinities[(..., *read.slices)], fragments[read.slices], context=context))
    whole = region_graph(affinities, fragments)
    assert_same(merge_region_graphs(graphs), whole)
    assert_same(merge_region_graphs(graphs[::-1]), whole)


def test_a_fragment_that_touches_no_other_is_kept():
    fragments = np.array([[[7, 7, 0, 3]]], np.uint64)
    graph = region_graph(np.zeros((3, 1, 1, 4), np.uint8), fragments)
    assert graph.fragments.tolist() == [3, 7]
    assert graph.edges.shape == (0, 2) and graph.counts.shape == (0, 256)


def test_a_volume_of_zeros_has_an_empty_graph():
    graph = region_graph(np.zeros((3, 2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint64))
    assert len(graph.fragments) == len(graph.edges) == 0
    assert_same(merge_region_graphs([graph, graph]), graph)


def test_a_saved_graph_is_loaded_as_it_was(tmp_path):
    graph = region_graph(*random_volume())
    graph.save(tmp_path / "new" / "graph.npz")
    assert_same(RegionGraph.load(tmp_path / "new" / "graph.npz"), graph)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["graph.npz"]


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no region graph at .*graph.npz"):
        RegionGraph.load(tmp_path / "graph.npz")
    region_graph(*random_volume()).save(tmp_path / "graph.npz")
    content = (tmp_path / "graph.npz").read_bytes()
    for broken in (content[: len(content) // 2], b"", b"text"):
        (tmp_path / "graph.npz").write_bytes(broken)
        with pytest.raises(UserError, match="graph.npz holds no region graph"):
            RegionGraph.load(tmp_path / "graph.npz")


def test_histograms_that_int32_cannot_hold_are_refused():
    counts = np.zeros((1, 256), np.int32)
    counts[0, 3] = 2**30
    graph = RegionGraph(np.array([1, 2], np.uint64), np.array([[1, 2]], np.uint64), counts)
    merge_region_graphs([graph])
    with pytest.raises(UserError, match="int32"):
        merge_region_graphs([graph] * 2)


@pytest.mark.parametrize(
    ("fragments", "message"),
    [
        (np.zeros((4, 4, 5), np.uint64), r"\(4, 4, 4\), not \(4, 4, 5\)"),
        (np.zeros((4, 4), np.uint64), r"must be \(z, y, x\)"),
        (np.zeros((4, 4, 4)), "integer ids, not float64"),
        (np.full((4, 4, 4), -1), "one is -1"),
    ],
)
def test_fragments_that_do_not_fit_are_refused(fragments, message):
    with pytest.raises(UserError, match=message):
        region_graph(np.zeros((3, 4, 4, 4), np.float32), fragments)


def test_context_beyond_the_volume_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="context"):
        region_graph(*random_volume(), context=(0, 0, 12))
