"""Skeletons of the true objects: made from dense labels, saved, loaded, and looked up in a segmentation.

A set of skeletons is one `networkx.Graph`, a forest.  Nodes carry ``position`` (nm, z y x tuple), ``component`` (int,
1 or more, one per connected skeleton) and ``label`` (id of the true object); edges carry ``length`` (nm); the graph
carries ``dropped``, the number of skeletons that were left out as too short.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import bioimage_cpp.skeleton
import networkx as nx
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from lsdflow.blocks import BlockGrid
from lsdflow.errors import UserError
from lsdflow.volumes import Volume


@dataclass(frozen=True, eq=False)
class SkeletonArrays:
    """The nodes of a skeleton graph in its own order, and its edges, as arrays.

    Attributes
    ----------
    positions : float64 (n, 3)
        nm, z y x.
    components : int64 (n,)
    labels : uint64 (n,)
    edges : int64 (m, 2)
        Rows of the two ends of each edge in the arrays above.
    lengths : float64 (m,)
        nm.
    """

    positions: NDArray[np.float64]
    components: NDArray[np.int64]
    labels: NDArray[np.uint64]
    edges: NDArray[np.int64]
    lengths: NDArray[np.float64]


def skeletonize(
    labels: ArrayLike,
    voxel_size: Sequence[float],
    *,
    offset: Sequence[float] = (0.0, 0.0, 0.0),
    minimum_length: float = 500.0,
    node_spacing: float = 100.0,
    scale: float = 1.5,
    constant: float = 200.0,
) -> nx.Graph:
    """Skeletons of all objects of a dense label volume, by TEASAR (Sato et al. 2000).

    Parameters
    ----------
    labels : integer (z, y, x)
        Ids of the objects; 0 is background.
    voxel_size, offset : nm, z y x order
        ``offset`` is the position of the first voxel's corner, for labels cropped from a larger volume.
    minimum_length : nm
        Connected skeletons shorter than this are dropped and counted.  What is connected by voxels that share a face,
        an edge or a corner has one skeleton; an object that enters the volume twice has two.
    node_spacing : nm
        Rough distance between nodes along a branch.  Nodes are voxel centres of the object, so the spacing is never
        less than that of voxels; ends and branch points are always nodes.
    scale, constant : float, and nm
        A path accounts for what lies within ``scale`` × distance to the boundary + ``constant`` of it: larger values
        leave out more side branches.

    Returns
    -------
    networkx.Graph
        As the module describes; nodes are numbered from 0, components from 1, by ascending label.  Edge lengths are
        straight distances between nodes.

    Raises
    ------
    UserError
        If labels are not integers or not 3D, hold negative ids or no object, or a size is not positive.
    """
    labels = _checked_labels(labels)
    spacing = _checked_voxel_size(voxel_size)
    if not node_spacing > 0:
        raise UserError(f"the node spacing must be a positive length in nm, not {node_spacing}")
    forests = bioimage_cpp.skeleton.teasar_labels(
        labels, spacing=tuple(spacing.tolist()), scale=scale, constant=constant, number_of_threads=1
    )
    if not forests:
        raise UserError("the labels hold no object (0 everywhere): name a region that is labelled")
    sizes = [len(vertices) for vertices, _, _ in forests.values()]
    starts = np.cumsum([0, *sizes[:-1]])
    positions = np.concatenate([vertices for vertices, _, _ in forests.values()])
    positions += spacing / 2 + np.asarray(offset, np.float64)
    edges = np.concatenate(
        [
            pairs.astype(np.int64).reshape(-1, 2) + start
            for (_, pairs, _), start in zip(forests.values(), starts, strict=True)
        ]
    )
    object_ids = np.repeat(np.array(list(forests), np.uint64), sizes)

    kept, edges = _thin_out(positions, edges, node_spacing)
    positions, object_ids = positions[kept], object_ids[kept]
    lengths = np.linalg.norm(positions[edges[:, 0]] - positions[edges[:, 1]], axis=1)
    component = _components(len(positions), edges)
    n_components = component.max() + 1
    is_long = np.bincount(component[edges[:, 0]], weights=lengths, minlength=n_components) >= minimum_length
    # A single node has no length, and would make mergers of segments all the same.
    is_long &= np.bincount(component[edges[:, 0]], minlength=n_components) > 0
    on_long = is_long[component]
    arrays = SkeletonArrays(
        positions=positions[on_long],
        components=np.cumsum(is_long)[component[on_long]],
        labels=object_ids[on_long],
        edges=(np.cumsum(on_long) - 1)[edges[on_long[edges[:, 0]]]],
        lengths=lengths[on_long[edges[:, 0]]],
    )
    return _graph(arrays, dropped=int(n_components - is_long.sum()))


def skeleton_arrays(graph: nx.Graph) -> SkeletonArrays:
    """The nodes and edges of ``graph`` as arrays, nodes in the order of ``graph.nodes``."""
    row = {node: i for i, node in enumerate(graph.nodes)}
    nodes = list(graph.nodes.values())
    return SkeletonArrays(
        positions=np.array([n["position"] for n in nodes], np.float64).reshape(-1, 3),
        components=np.array([n["component"] for n in nodes], np.int64),
        labels=np.array([n["label"] for n in nodes], np.uint64),
        edges=np.array([(row[u], row[v]) for u, v in graph.edges], np.int64).reshape(-1, 2),
        lengths=np.array([edge["length"] for edge in graph.edges.values()], np.float64),
    )


def node_labels(
    graph: nx.Graph, labels: ArrayLike, voxel_size: Sequence[float], offset: Sequence[float] = (0.0, 0.0, 0.0)
) -> NDArray:
    """The label of the voxel that holds each node, in the order of ``graph.nodes``.

    Parameters
    ----------
    graph : networkx.Graph
        Skeletons; only ``position`` is read.
    labels : (z, y, x)
        A segmentation, fragments or truth.
    voxel_size, offset : nm, z y x order
        Of ``labels``; ``offset`` is the position of the first voxel's corner.

    Returns
    -------
    (n,) of the dtype of ``labels``
        0, which is no segment, for nodes outside the volume; so the results of blocks can be added.
    """
    labels = np.asarray(labels)
    if labels.ndim != 3:
        raise UserError(f"the labels must be (z, y, x), not {labels.shape}")
    positions = skeleton_arrays(graph).positions
    voxels = _voxels_of(positions, voxel_size, offset)
    inside = np.all((voxels >= 0) & (voxels < labels.shape), axis=1)
    found = np.zeros(len(voxels), labels.dtype)
    found[inside] = labels[tuple(voxels[inside].T)]
    return found


def labels_at_nodes(graph: nx.Graph, volume: Volume, block_shape: Sequence[int]) -> NDArray:
    """What `node_labels` finds in a whole volume, read block by block of ``block_shape`` (voxels, z y x)."""
    positions = skeleton_arrays(graph).positions
    voxels = _voxels_of(positions, volume.voxel_size, volume.offset)
    found = np.zeros(len(voxels), volume.data.dtype)
    grid = BlockGrid(volume.roi, block_shape)
    for index in range(len(grid)):
        block = grid[index]
        inside = np.all((voxels >= block.begin) & (voxels < block.end), axis=1)
        if inside.any():
            found[inside] = volume.read(block)[tuple((voxels[inside] - block.begin).T)]
    return found


def _voxels_of(
    positions: NDArray[np.float64], voxel_size: Sequence[float], offset: Sequence[float]
) -> NDArray[np.int64]:
    return np.floor((positions - np.asarray(offset, np.float64)) / _checked_voxel_size(voxel_size)).astype(np.int64)


def save_skeletons(path: str | os.PathLike, graph: nx.Graph) -> None:
    """Write skeletons to ``path``, a compressed NumPy archive of plain arrays; nodes must be integers."""
    arrays = skeleton_arrays(graph)
    # An open file, because numpy would append .npz to a name that lacks it.
    with open(path, "wb") as file:
        np.savez_compressed(
            file,
            nodes=np.array(list(graph.nodes), np.int64),
            dropped=np.int64(graph.graph.get("dropped", 0)),
            **{name: getattr(arrays, name) for name in SkeletonArrays.__dataclass_fields__},
        )


def load_skeletons(path: str | os.PathLike) -> nx.Graph:
    """Read skeletons that `save_skeletons` wrote.

    Raises
    ------
    UserError
        If there is no such file, or it is not one of skeletons.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = SkeletonArrays(**{name: file[name] for name in SkeletonArrays.__dataclass_fields__})
            return _graph(arrays, dropped=int(file["dropped"]), nodes=file["nodes"].tolist())
    except FileNotFoundError as error:
        raise UserError(f"there is no skeleton file {path}") from error
    except (AttributeError, EOFError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a skeleton file as `save_skeletons` writes it: make it again") from error


def _graph(arrays: SkeletonArrays, *, dropped: int, nodes: list[int] | None = None) -> nx.Graph:
    nodes = list(range(len(arrays.positions))) if nodes is None else nodes
    graph = nx.Graph(dropped=dropped)
    graph.add_nodes_from(
        (node, {"position": tuple(position), "component": component, "label": label})
        for node, position, component, label in zip(
            nodes, arrays.positions.tolist(), arrays.components.tolist(), arrays.labels.tolist(), strict=True
        )
    )
    graph.add_edges_from(
        (nodes[u], nodes[v], {"length": length})
        for (u, v), length in zip(arrays.edges.tolist(), arrays.lengths.tolist(), strict=True)
    )
    return graph


def _thin_out(
    positions: NDArray[np.float64], edges: NDArray[np.int64], spacing: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keep ends, branch points, and between them nodes about ``spacing`` apart: kept nodes, edges between them."""
    adjacency = _adjacency(len(positions), edges)
    neighbours = np.split(adjacency.indices, adjacency.indptr[1:-1])
    is_anchor = np.diff(adjacency.indptr) != 2
    kept, new_edges = is_anchor.copy(), []
    # A forest: every branch runs between two different anchors, and no cycle is without one.
    for anchor in np.flatnonzero(is_anchor).tolist():
        for step in neighbours[anchor].tolist():
            path = [anchor, step]
            while not is_anchor[path[-1]]:
                a, b = neighbours[path[-1]].tolist()
                path.append(b if a == path[-2] else a)
            if path[-1] < anchor:
                continue  # walked from its other end
            along = np.cumsum(np.linalg.norm(np.diff(positions[path], axis=0), axis=1))
            n_pieces = max(1, round(along[-1] / spacing))
            cuts = np.searchsorted(along, along[-1] * np.arange(1, n_pieces) / n_pieces - 1e-9) + 1
            nodes = np.array(path)[np.unique([0, *cuts, len(path) - 1])]
            kept[nodes] = True
            new_edges.append(np.column_stack([nodes[:-1], nodes[1:]]))
    renumbered = np.cumsum(kept) - 1
    return np.flatnonzero(kept), renumbered[np.concatenate([np.empty((0, 2), np.int64), *new_edges])]


def _adjacency(n_nodes: int, edges: NDArray[np.int64]) -> csr_array:
    both = np.concatenate([edges, edges[:, ::-1]])
    return csr_array((np.ones(len(both), np.int8), (both[:, 0], both[:, 1])), shape=(n_nodes, n_nodes))


def _components(n_nodes: int, edges: NDArray[np.int64]) -> NDArray[np.int32]:
    """Index of each node's connected component, numbered in the order of their first nodes."""
    component = connected_components(_adjacency(n_nodes, edges), directed=False)[1]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _checked_labels(labels: ArrayLike) -> NDArray:
    labels = np.asarray(labels)
    if labels.ndim != 3:
        raise UserError(f"the labels must be (z, y, x), not {labels.shape}")
    if labels.dtype.kind not in "ui":
        raise UserError(f"the labels must be integers, not {labels.dtype}: convert them to uint64")
    if labels.size and labels.min() < 0:
        raise UserError(f"the labels must be ids of 0 or more, not {labels.min()}: relabel them")
    if labels.dtype in (np.int8, np.int16):  # the skeletonizer does not take these two
        labels = labels.astype(np.int32)
    return np.ascontiguousarray(labels, labels.dtype.newbyteorder("="))


def _checked_voxel_size(voxel_size: Sequence[float]) -> NDArray[np.float64]:
    sizes = np.asarray(voxel_size, np.float64)
    if sizes.shape != (3,) or not np.all(sizes > 0):
        raise UserError(f"the voxel size must be three positive lengths in nm, z y x, not {voxel_size}")
    return sizes
