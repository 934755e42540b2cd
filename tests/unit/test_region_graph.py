"""The region graph counts every affinity between two fragments once, however the volume is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.blocks import BlockGrid
from lsdflow.errors import DamagedError, UserError
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


def dense(graph):
    """Histograms as a table, (n, 256)."""
    counts = np.zeros((len(graph.edges), 256), int)
    counts[np.repeat(np.arange(len(counts)), np.diff(graph.starts)), graph.bins] = graph.counts
    return counts


def assert_same(a, b):
    for name in ("fragments", "sizes", "edges", "starts", "bins", "counts"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype


def test_two_voxels_worked_by_hand():
    # x: 5 | 5 | 2, with the affinity of voxel x to x - 1 in channel 2.
    fragments = np.array([[[5, 5, 2]]], np.uint64)
    affinities = np.zeros((3, 1, 1, 3), np.uint8)
    affinities[2, 0, 0] = 10, 20, 30
    graph = region_graph(affinities, fragments)
    assert graph.fragments.tolist() == [2, 5]
    assert graph.sizes.tolist() == [1, 2]
    assert graph.edges.tolist() == [[2, 5]]
    assert graph.starts.tolist() == [0, 1]
    assert graph.bins.tolist() == [30] and graph.counts.tolist() == [1]


@pytest.mark.parametrize("seed", range(3))
def test_edges_and_histograms_are_those_of_a_loop_over_voxels(seed):
    affinities, fragments = random_volume(seed=seed)
    graph, expected = region_graph(affinities, fragments), reference_graph(affinities, fragments)
    dtypes = [array.dtype for array in vars(graph).values()]
    assert dtypes == [np.uint64, np.int64, np.uint64, np.int64, np.uint8, np.int32]
    assert [tuple(map(int, edge)) for edge in graph.edges] == sorted(expected)
    np.testing.assert_array_equal(dense(graph), [expected[pair] for pair in sorted(expected)])
    ids, sizes = np.unique(fragments[fragments > 0], return_counts=True)
    np.testing.assert_array_equal(graph.fragments, ids)
    np.testing.assert_array_equal(graph.sizes, sizes)


def test_a_histogram_has_no_empty_bins_and_ascending_ones():
    graph = region_graph(*random_volume())
    assert graph.counts.min() > 0 and graph.starts[-1] == len(graph.bins) == len(graph.counts)
    for begin, end in zip(graph.starts[:-1], graph.starts[1:], strict=True):
        assert (np.diff(graph.bins[begin:end].astype(int)) > 0).all()


def test_more_fragments_and_edges_than_there_was_room_for_at_first():
    # Every voxel a fragment: the tables grow many times.
    fragments = np.random.default_rng(0).permutation(16 * 17 * 18).astype(np.uint64).reshape(16, 17, 18) * 10**15
    affinities = np.random.default_rng(1).integers(0, 256, (3, 16, 17, 18), dtype=np.uint8)
    graph, expected = region_graph(affinities, fragments), reference_graph(affinities, fragments)
    assert [tuple(map(int, edge)) for edge in graph.edges] == sorted(expected)
    np.testing.assert_array_equal(dense(graph), [expected[pair] for pair in sorted(expected)])
    assert graph.sizes.tolist() == [1] * (16 * 17 * 18 - 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_affinities_fall_into_the_bins_of_the_uint8_they_stand_for(dtype):
    graph = region_graph(*random_volume())
    assert_same(region_graph(*random_volume(dtype=dtype)), graph)


@pytest.mark.parametrize(("affinity", "bin_"), [(0, 0), (0.00390624, 0), (0.00390625, 1), (0.5, 128), (1, 255)])
def test_a_bin_is_a_256th_wide_and_1_falls_into_the_last(affinity, bin_):
    affinities = np.full((3, 1, 1, 2), affinity, np.float32)
    graph = region_graph(affinities, np.array([[[1, 2]]], np.uint64))
    assert graph.bins.tolist() == [bin_] and graph.counts.tolist() == [1]


def test_long_range_channels_do_not_count():
    affinities, fragments = random_volume()
    assert_same(region_graph(np.concatenate([affinities, affinities]), fragments), region_graph(affinities, fragments))


def graphs_of_blocks(affinities, fragments, block_shape):
    graphs = []
    for block in BlockGrid(Roi.of_shape(fragments.shape), block_shape):
        context = [int(b > 0) for b in block.begin]
        read = Roi(tuple(b - c for b, c in zip(block.begin, context, strict=True)), block.end)
        graphs.append(region_graph(affinities[(..., *read.slices)], fragments[read.slices], context=context))
    return graphs


@settings(max_examples=30, deadline=None)
@given(block_shape=st.tuples(*[st.integers(1, 11)] * 3), seed=st.integers(0, 9))
def test_the_graphs_of_blocks_add_up_to_that_of_the_volume_exactly(block_shape, seed):
    volume = random_volume(seed=seed)
    graphs, whole = graphs_of_blocks(*volume, block_shape), region_graph(*volume)
    assert_same(merge_region_graphs(graphs), whole)
    assert_same(merge_region_graphs(reversed(graphs)), whole)


def test_saved_graphs_are_merged_as_those_in_memory_and_some_at_a_time(tmp_path):
    graphs = graphs_of_blocks(*random_volume(), (4, 5, 6))
    for i, graph in enumerate(graphs):
        graph.save(tmp_path / f"{i}.npz")
    paths = [tmp_path / f"{i}.npz" for i in range(len(graphs))]
    whole = merge_region_graphs(graphs)
    assert_same(merge_region_graphs(paths), whole)
    assert_same(merge_region_graphs([merge_region_graphs(paths[:5]), *map(str, paths[5:7]), *graphs[7:]]), whole)


def test_planes_of_context_count_no_voxels_and_no_pairs_among_themselves():
    affinities, fragments = random_volume()
    graph = region_graph(affinities, fragments, context=(2, 0, 1))
    inside = fragments[2:, :, 1:]
    expected = [np.count_nonzero(inside == fragment) for fragment in graph.fragments]
    np.testing.assert_array_equal(graph.sizes, expected)
    # A pair counts if its upper voxel does.
    n_pairs = sum(
        np.count_nonzero((a != b) & (a > 0) & (b > 0))
        for a, b in ((inside, fragments[1:-1, :, 1:]), (inside[:, 1:], inside[:, :-1]), (inside, fragments[2:, :, :-1]))
    )
    assert graph.counts.sum() == n_pairs


def test_no_graphs_make_an_empty_one():
    assert_same(merge_region_graphs([]), region_graph(np.zeros((3, 2, 2, 2), np.uint8), np.zeros((2, 2, 2), int)))


def test_a_fragment_that_touches_no_other_is_kept():
    fragments = np.array([[[7, 7, 0, 3]]], np.uint64)
    graph = region_graph(np.zeros((3, 1, 1, 4), np.uint8), fragments)
    assert graph.fragments.tolist() == [3, 7]
    assert graph.sizes.tolist() == [1, 2]
    assert graph.edges.shape == (0, 2) and graph.starts.tolist() == [0] and len(graph.counts) == 0


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
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for broken in (content[: len(content) // 2], bytes(flipped), b"", b"text"):
        (tmp_path / "graph.npz").write_bytes(broken)
        with pytest.raises(DamagedError, match="graph.npz holds no region graph"):
            RegionGraph.load(tmp_path / "graph.npz")
        with pytest.raises(DamagedError, match="graph.npz holds no region graph"):
            merge_region_graphs([tmp_path / "graph.npz"])


def test_counts_that_int32_cannot_hold_are_refused():
    ids, edges = np.array([1, 2], np.uint64), np.array([[1, 2]], np.uint64)
    graphs = [
        RegionGraph(ids, np.ones(2, int), edges, np.array([0, 1]), np.array([3], np.uint8), np.array([n], np.int32))
        for n in (2**30, 2**30 - 1, 1)
    ]
    assert merge_region_graphs(graphs[:2]).counts.tolist() == [2**31 - 1]
    with pytest.raises(UserError, match="int32"):
        merge_region_graphs(graphs)


def test_a_block_of_more_affinities_than_int32_can_count_is_refused():
    shape = (895, 895, 895)
    with pytest.raises(UserError, match="cut the volume into blocks"):
        region_graph(np.broadcast_to(np.uint8(1), (3, *shape)), np.broadcast_to(np.uint64(1), shape))


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
