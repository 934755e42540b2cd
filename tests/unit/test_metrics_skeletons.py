"""Skeletons from dense labels."""

import networkx as nx
import numpy as np
import pytest

from lsdflow.errors import UserError
from lsdflow.metrics.skeletons import (
    labels_at_nodes,
    load_skeletons,
    node_labels,
    save_skeletons,
    skeleton_arrays,
    skeletonize,
)
from lsdflow.volumes import Volume, open_volume, write_volume

VOXEL_SIZE = (20.0, 10.0, 10.0)


@pytest.fixture
def labels():
    """Object 3 a bar along x; object 7 two bars along y that do not touch; object 9 a speck."""
    labels = np.zeros((12, 48, 64), np.uint16)
    labels[2:5, 4:10, 2:62] = 3
    labels[8:10, 14:46, 5:9] = 7
    labels[8:10, 14:46, 40:44] = 7
    labels[0:2, 40:42, 20:22] = 9
    return labels


def components_of(graph):
    return [frozenset(c) for c in nx.connected_components(graph)]


def test_bar_has_one_unbranched_skeleton_of_its_length(labels):
    graph = skeletonize(np.where(labels == 3, labels, 0), VOXEL_SIZE, minimum_length=100)
    arrays = skeleton_arrays(graph)
    assert nx.is_connected(graph)
    assert max(dict(graph.degree).values()) == 2
    # 60 voxels of 10 nm; a skeleton ends at the first and last voxel's centre, or inside by the bar's half width
    assert 500 <= arrays.lengths.sum() <= 640
    assert np.ptp(arrays.positions[:, 2]) == pytest.approx(590, abs=60)


def test_object_in_two_pieces_gives_two_components_and_specks_are_dropped_and_counted(labels):
    graph = skeletonize(labels, VOXEL_SIZE, minimum_length=100)
    arrays = skeleton_arrays(graph)
    label_of = dict(zip(arrays.components.tolist(), arrays.labels.tolist(), strict=True))
    assert label_of == {1: 3, 2: 7, 3: 7}
    assert graph.graph["dropped"] == 1
    assert len(components_of(graph)) == 3
    for nodes in components_of(graph):
        assert len({graph.nodes[n]["component"] for n in nodes}) == 1


def test_minimum_length_of_zero_keeps_the_speck(labels):
    graph = skeletonize(labels, VOXEL_SIZE, minimum_length=0)
    assert graph.graph["dropped"] == 0
    assert {data["label"] for _, data in graph.nodes(data=True)} == {3, 7, 9}


def test_everything_too_short_leaves_an_empty_graph_with_the_count(labels):
    graph = skeletonize(labels, VOXEL_SIZE, minimum_length=1e6)
    assert len(graph) == 0
    assert graph.graph["dropped"] == 4
    assert node_labels(graph, labels, VOXEL_SIZE).shape == (0,)


def test_every_node_lies_in_its_own_object_and_lengths_are_distances(labels):
    offset = (1000.0, -50.0, 5.0)
    graph = skeletonize(labels, VOXEL_SIZE, offset=offset, minimum_length=100, node_spacing=40)
    arrays = skeleton_arrays(graph)
    np.testing.assert_array_equal(node_labels(graph, labels, VOXEL_SIZE, offset), arrays.labels)
    between = arrays.positions[arrays.edges[:, 0]] - arrays.positions[arrays.edges[:, 1]]
    np.testing.assert_allclose(arrays.lengths, np.sqrt((between**2).sum(axis=1)))


def test_skeletons_are_forests_with_nodes_about_the_spacing_apart(labels):
    for spacing in (20.0, 60.0, 150.0):
        graph = skeletonize(labels, VOXEL_SIZE, minimum_length=100, node_spacing=spacing)
        lengths = skeleton_arrays(graph).lengths
        assert nx.is_forest(graph)
        assert 0.5 * spacing <= np.median(lengths) <= 1.6 * spacing


def test_thinning_keeps_ends_and_branch_points():
    labels = np.zeros((5, 60, 60), np.uint8)
    labels[1:4, 28:32, 2:58] = 1
    labels[1:4, 2:58, 28:32] = 1  # a cross
    dense, thin = (skeletonize(labels, (10, 10, 10), minimum_length=0, node_spacing=s, constant=50) for s in (1, 200))
    assert len(thin) < len(dense) / 5

    def critical(graph):
        return {(data["position"], graph.degree(n)) for n, data in graph.nodes(data=True) if graph.degree(n) != 2}

    assert critical(dense) == critical(thin)
    assert sum(degree == 1 for _, degree in critical(thin)) == 4


def test_crop_with_offset_gives_positions_of_the_whole(labels):
    whole = skeletonize(np.where(labels == 3, labels, 0), VOXEL_SIZE, minimum_length=100)
    crop = skeletonize(labels[1:6, :, :], VOXEL_SIZE, offset=(20, 0, 0), minimum_length=100)
    np.testing.assert_allclose(skeleton_arrays(whole).positions, skeleton_arrays(crop).positions)


def test_nodes_outside_a_volume_have_label_zero_so_blocks_add_up(labels):
    graph = skeletonize(labels, VOXEL_SIZE, minimum_length=100)
    left = node_labels(graph, labels[..., :30], VOXEL_SIZE)
    right = node_labels(graph, labels[..., 30:], VOXEL_SIZE, (0, 0, 300))
    assert 0 in left and 0 in right
    np.testing.assert_array_equal(left + right, skeleton_arrays(graph).labels)


def test_saved_skeletons_come_back_the_same(labels, tmp_path):
    graph = skeletonize(labels.astype(np.uint64) * 2**60, VOXEL_SIZE, minimum_length=100)
    graph.remove_node(4)  # node ids need not be consecutive
    path = tmp_path / "skeletons.dat"
    save_skeletons(path, graph)
    loaded = load_skeletons(path)
    assert list(loaded.nodes(data=True)) == list(graph.nodes(data=True))
    assert nx.utils.graphs_equal(loaded, graph)
    assert loaded.graph["dropped"] == graph.graph["dropped"]


def test_same_labels_give_the_same_bytes(labels, tmp_path):
    for name in ("a", "b"):
        save_skeletons(tmp_path / name, skeletonize(labels, VOXEL_SIZE, minimum_length=100))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_empty_skeletons_come_back_empty(tmp_path):
    save_skeletons(tmp_path / "empty.npz", nx.Graph())
    assert len(load_skeletons(tmp_path / "empty.npz")) == 0


def test_bad_input_is_refused_with_what_is_wrong(labels, tmp_path):
    with pytest.raises(UserError, match=r"must be \(z, y, x\), not \(48, 64\)"):
        skeletonize(labels[0], VOXEL_SIZE)
    with pytest.raises(UserError, match="must be integers, not float64"):
        skeletonize(labels * 1.0, VOXEL_SIZE)
    with pytest.raises(UserError, match="0 or more, not -9"):
        skeletonize(-labels.astype(np.int64), VOXEL_SIZE)
    with pytest.raises(UserError, match="hold no object"):
        skeletonize(labels * 0, VOXEL_SIZE)
    with pytest.raises(UserError, match="three positive lengths"):
        skeletonize(labels, (10, 10))
    with pytest.raises(UserError, match="node spacing"):
        skeletonize(labels, VOXEL_SIZE, node_spacing=0)
    with pytest.raises(UserError, match="no skeleton file"):
        load_skeletons(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(UserError, match="is not a skeleton file"):
        load_skeletons(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="is not a skeleton file"):
        load_skeletons(tmp_path / "other.npz")


def test_labels_at_nodes_of_a_stored_volume_are_those_of_the_array(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (12, 14, 16)).astype(np.uint64)
    graph = nx.Graph()
    # Some lie outside.
    for node, position in enumerate(rng.uniform(-20, 180, (60, 3))):
        graph.add_node(node, position=tuple(position), component=1, label=1)
    write_volume(tmp_path / "v.zarr", "labels", Volume(labels, (10, 10, 10), (5, 0, 3)))
    expected = node_labels(graph, labels, (10, 10, 10), (5, 0, 3))
    found = labels_at_nodes(graph, open_volume(tmp_path / "v.zarr", "labels"), (5, 14, 7))
    np.testing.assert_array_equal(found, expected)
    assert 0 < np.count_nonzero(found) < 60


def test_specks_have_no_skeleton_even_without_a_minimum_length():
    labels = np.zeros((6, 12, 12), np.uint8)
    labels[1, 1, 1] = 1
    labels[3, 2:4, 1:11] = 2
    graph = skeletonize(labels, VOXEL_SIZE, minimum_length=0)
    assert {data["label"] for _, data in graph.nodes(data=True)} == {2} and graph.graph["dropped"] == 1
