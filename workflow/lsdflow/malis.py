"""The constrained MALIS loss: affinities count by the pairs of voxels whose belonging together they decide.

The affinity of two voxels anywhere in a crop is that of the best path between them, and so of the weakest edge on it,
the maximin edge.  MALIS weighs each edge by the pairs whose maximin edge it is, in two passes: the negative one sets
the edges within objects to 1 and counts pairs of different objects, the positive one sets the edges between objects to
0 and counts pairs of the same.

The maximin edges are those of the maximum spanning forest, which Kruskal's algorithm finds by joining sets of voxels.
An edge that joins two sets decides as many pairs as follow from the objects in both; only the smaller one is gone
through, so that all of them take O(n log n) for n voxels.

References
----------
Turaga et al. 2009, "Maximin affinity learning of image segmentation"; Funke et al. 2019, "Large scale image
segmentation with structured loss based deep learning for connectome reconstruction"; ``malis_loss.py`` of
TuragaLab/malis, whose weights these are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numba import njit
from numpy.typing import ArrayLike, NDArray

from lsdflow.affinities import affinities, affinities_mask
from lsdflow.errors import UserError

# Edges by what is known of their voxels: of no common object, of the same one, nothing; the last leave the crop.
APART, TOGETHER, UNKNOWN, OUTSIDE = range(4)
# As unsigned integers, the bits of floats from 0 to 1 are in the order of the floats.
BITS_OF_ONE = np.float32(1).view(np.uint32)

compiled = njit(cache=True, nogil=True)


def malis_weights(
    prediction: NDArray[np.float32],
    labels: NDArray[np.integer],
    offsets: ArrayLike,
    *,
    known: NDArray | None = None,
    relabel: bool = True,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Weight of each affinity in the constrained MALIS loss: its share of the pairs of voxels, in two passes.

    Where affinities are equal, the edge that comes first in the array is the stronger one. Edges that a pass sets to 1
    are stronger than those predicted to be exactly 1, and edges that it sets to 0 weaker than those predicted to be 0:
    a false merger is blamed for whole objects, however sure of it the network is.

    Parameters
    ----------
    prediction : (n, z, y, x) float32 in [0, 1]
        Affinities of each voxel to its neighbours at ``offsets``.
    labels : (z, y, x) array of integers
        0 is background: paths lead through it, but it forms no pairs.
    offsets : (n, 3) array-like of int
        As for `lsdflow.affinities.affinities`, which says what the affinities should be.
    known : (n, z, y, x) array, optional
        0 where it is not known what an affinity should be. Both passes leave such an edge as predicted, and it weighs
        nothing. By default all edges inside the crop are known.
    relabel : bool
        Take parts of an object as different objects where no edges that should be 1 connect them, as when it enters
        the crop twice. With nearest neighbours this is the node ``RenumberConnectedComponents`` of gunpowder, which the
        LSD paper trained with.
    threads : int
        With 2 or more, the passes run side by side.

    Returns
    -------
    (n, z, y, x) float32
        The weights of each pass sum to 1, or are 0 where there is no pair. The negative pass weighs edges that should
        be 0, the positive one edges that should be 1; edges that leave the crop weigh nothing.

    Raises
    ------
    UserError
        If the shapes do not fit each other, the labels are not integers, the prediction is not floating point in
        [0, 1] or has NaN, or there are 2³² edges or more.

    Examples
    --------
    The middle edge decides the four pairs of different objects, each of the others one of the two within an object:

    >>> prediction = np.array([[[[0, 0.9, 0.3, 0.4]]]], np.float32)
    >>> malis_weights(prediction, np.array([[[1, 1, 2, 2]]]), [[0, 0, -1]]).ravel()
    array([0. , 0.5, 1. , 0.5], dtype=float32)
    """
    return _weights_and_target(prediction, labels, known, offsets, relabel, threads)[0]


def malis_loss(
    prediction: torch.Tensor,
    labels: NDArray[np.integer] | torch.Tensor,
    known: NDArray | torch.Tensor | None,
    offsets: ArrayLike,
    *,
    relabel: bool = True,
) -> torch.Tensor:
    """Squared errors of affinities, summed with `malis_weights`, which are constants; the mean over the crops.

    The weights are computed on the CPU, in as many threads as torch has there.

    Parameters
    ----------
    prediction : (batch, n, z, y, x) tensor in [0, 1]
        On any device; has passed a sigmoid. Half precision is cast to single.
    labels : (batch, z, y, x) integers
    known : (batch, n, z, y, x), or None
    offsets, relabel : as for `malis_weights`.

    Returns
    -------
    float32 tensor without axes, on the device of the prediction
        At most 2.

    Raises
    ------
    UserError
        As by `malis_weights`, or if the numbers of crops differ.
    """
    if prediction.ndim != 5 or len(prediction) == 0:
        raise UserError(f"the predicted affinities must be (batch, n, z, y, x), not {tuple(prediction.shape)}")
    prediction = prediction.float()
    n_crops = len(prediction)
    labels = _on_cpu(labels)
    known = [None] * n_crops if known is None else _on_cpu(known)
    for name, crops in (("labels", labels), ("mask of known affinities", known)):
        if len(crops) != n_crops:
            raise UserError(f"the {name} must be of {n_crops} crops, like the predicted affinities, not {len(crops)}")
    threads = torch.get_num_threads()
    weigh = partial(_weights_and_target, offsets=offsets, relabel=relabel, threads=threads // n_crops)
    with ThreadPoolExecutor(min(threads, n_crops)) as pool:
        crops = list(pool.map(weigh, prediction.detach().cpu().numpy(), labels, known))
    weights, target = (torch.from_numpy(np.stack(arrays)).to(prediction.device) for arrays in zip(*crops, strict=True))
    return (weights * (target - prediction) ** 2).sum() / n_crops


def _on_cpu(values: NDArray | torch.Tensor) -> NDArray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _weights_and_target(
    prediction: NDArray, labels: NDArray, known: NDArray | None, offsets: ArrayLike, relabel: bool, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """`malis_weights`, and what the affinities should be."""
    labels = np.asarray(labels)
    target = affinities(labels, offsets)
    prediction = _checked_prediction(prediction, target.shape)
    is_inside = affinities_mask(labels.shape, offsets)
    if known is not None and np.shape(known) != target.shape:
        raise UserError(
            f"the mask of known affinities must have the shape of the affinities, {target.shape}, not {np.shape(known)}"
        )
    if target.size >= 2**32:
        raise UserError(f"MALIS takes crops with fewer than 2³² affinities, not {target.shape}: take a smaller crop")
    shifts = _shifts(labels.shape, offsets)
    part_of_voxel = _components(target.reshape(len(shifts), labels.size), shifts)
    object_of_voxel = _objects(labels.ravel(), part_of_voxel, relabel)
    kinds = np.where(is_inside, target, np.uint8(OUTSIDE))
    if known is not None:
        kinds[(np.asarray(known) == 0) & (is_inside != 0)] = UNKNOWN
        part_of_voxel = _components(kinds.reshape(len(shifts), labels.size), shifts)

    def share_of_pairs(kind: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        edges = _in_order(prediction, kinds, kind)
        set_of_voxel = np.arange(labels.size, dtype=np.uint32) if kind == TOGETHER else part_of_voxel
        joins = _spanning_forest(edges, shifts, set_of_voxel, object_of_voxel)
        edges, pairs = _count_pairs(*joins, kinds.ravel(), kind)
        return edges, pairs / max(1, pairs.sum())

    weights = np.zeros(target.size, np.float32)
    with ThreadPoolExecutor(2 if threads > 1 else 1) as pool:
        for edges, shares in pool.map(share_of_pairs, (TOGETHER, APART)):
            weights[edges] = shares
    return weights.reshape(target.shape), target


def _checked_prediction(prediction: NDArray, shape: Sequence[int]) -> NDArray[np.float32]:
    prediction = np.asarray(prediction)
    if prediction.shape != shape:
        raise UserError(
            "the predicted affinities must be of as many channels as offsets, and of the shape of the labels, "
            f"{shape}, not {prediction.shape}"
        )
    if not np.issubdtype(prediction.dtype, np.floating):
        raise UserError(f"predicted affinities must be floating point in 0–1, not {prediction.dtype}")
    low, high = prediction.min(initial=0), prediction.max(initial=0)
    if np.isnan(low):
        raise UserError("some predicted affinities are NaN: look for NaN in the raw data, or lower the learning rate")
    if low < 0 or high > 1:
        raise UserError(
            f"predicted affinities must lie in 0–1, but reach from {low:g} to {high:g}: put a sigmoid before the loss"
        )
    return np.ascontiguousarray(prediction, np.float32)


def _shifts(shape: Sequence[int], offsets: ArrayLike) -> NDArray[np.int64]:
    """How far apart in memory the two voxels of an edge are, for each offset."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return np.asarray(offsets, np.int64) @ np.array(strides, np.int64)


def _objects(labels: NDArray, part_of_voxel: NDArray[np.uint32], relabel: bool) -> NDArray[np.uint32]:
    """Objects numbered from 1 on, for each voxel; 0 is background."""
    parts = np.flatnonzero((part_of_voxel == np.arange(labels.size)) & (labels != 0))
    object_of_part = np.zeros(labels.size, np.uint32)
    object_of_part[parts] = 1 + (np.arange(len(parts)) if relabel else np.unique(labels[parts], return_inverse=True)[1])
    return object_of_part[part_of_voxel]


def _in_order(prediction: NDArray[np.float32], kinds: NDArray[np.uint8], kind: int) -> NDArray[np.uint64]:
    """Edges of one kind, and unknown ones, from the strongest to the weakest: where they are in the arrays."""
    edges = np.flatnonzero((kinds == kind) | (kinds == UNKNOWN))
    # -0.0 has a bit that 0.0 has not; their sum has not either.
    bits = (prediction.ravel()[edges] + np.float32(0)).view(np.uint32)
    # Affinity and place as one number: as no two are equal, there is one order, whatever the algorithm.
    places = (BITS_OF_ONE - bits).astype(np.uint64) << np.uint64(32) | edges.astype(np.uint64)
    places.sort()
    return places & np.uint64(2**32 - 1)


@compiled
def _set_of(parent, voxel):
    """The voxel that stands for the set of ``voxel``; the path to it is halved."""
    while parent[voxel] != voxel:
        parent[voxel] = parent[parent[voxel]]
        voxel = parent[voxel]
    return voxel


@compiled
def _components(kinds, shifts):
    """For each voxel the first one that edges (offset, voxel) within objects connect it to."""
    n_voxels = kinds.shape[1]
    parent = np.arange(np.int64(n_voxels)).astype(np.uint32)
    for n in range(len(shifts)):
        for voxel in range(n_voxels):
            if kinds[n, voxel] == TOGETHER:
                here = _set_of(parent, np.uint32(voxel))
                there = _set_of(parent, np.uint32(voxel + shifts[n]))
                parent[max(here, there)] = min(here, there)
    for voxel in range(n_voxels):
        parent[voxel] = parent[parent[voxel]]
    return parent


@compiled
def _spanning_forest(edges, shifts, parent, object_of_voxel):
    """Join sets of voxels along ``edges``, from the strongest to the weakest.

    What is joined are leaves: the sets that ``parent`` begins with, each of one object; those of background join the
    others, but are no leaves.  Each set is a list of leaves.  When two become one, the list of the one with fewer
    leaves is put behind the other, so all that was ever a set is a run of leaves in the lists at the end.

    Returns, for each leaf of these lists, its object, its voxels, the length of the longest run that begins with it,
    and the edge that put this run behind another (of no meaning where none did).
    """
    n_voxels = len(parent)
    n_leaves = 0
    length, weight = np.zeros(n_voxels, np.uint32), np.zeros(n_voxels, np.uint32)
    for voxel in range(n_voxels):
        if object_of_voxel[voxel] != 0:
            weight[parent[voxel]] += np.uint32(1)
            if parent[voxel] == voxel:
                length[voxel] = 1
                n_leaves += 1
    parent = parent.copy()
    following, last = np.zeros(n_voxels, np.uint32), np.arange(np.int64(n_voxels)).astype(np.uint32)
    edge_of_leaf = np.zeros(n_voxels, np.uint32)
    for edge in edges:
        channel = edge // np.uint64(n_voxels)
        voxel = np.int64(edge - channel * np.uint64(n_voxels))
        long = _set_of(parent, np.uint32(voxel))
        short = _set_of(parent, np.uint32(voxel + shifts[channel]))
        if long == short:
            continue
        if length[long] < length[short]:
            long, short = short, long
        parent[short] = long
        if length[short] == 0:
            continue
        following[last[long]] = short
        last[long] = last[short]
        length[long] += length[short]
        edge_of_leaf[short] = edge
        if length[long] == n_leaves:
            break
    objects, weights = np.empty(n_leaves, np.uint32), np.empty(n_leaves, np.int64)
    lengths, edges_joined = np.empty(n_leaves, np.uint32), np.empty(n_leaves, np.uint32)
    position = 0
    for first in range(n_voxels):
        if parent[first] == first:
            leaf = np.uint32(first)
            for _ in range(length[first]):
                objects[position], weights[position] = object_of_voxel[leaf], weight[leaf]
                lengths[position], edges_joined[position] = length[leaf], edge_of_leaf[leaf]
                position += 1
                leaf = following[leaf]
    return objects, weights, lengths, edges_joined


@compiled
def _count_pairs(objects, weights, lengths, edges_joined, kinds, kind):
    """The edges of one kind that decide pairs of voxels, and how many; leaves are as `_spanning_forest` returns them.

    A run of leaves is its first leaf, followed by the runs that were put behind it, one after the other.
    """
    n_leaves = len(objects)
    edges, pairs, n_edges = np.empty(n_leaves, np.int64), np.empty(n_leaves, np.int64), 0
    voxels_of_object = np.zeros(np.int64(objects.max()) + 1 if n_leaves else 0, np.int64)
    for first in range(n_leaves):
        stop = first + lengths[first]
        if stop == first + 1:
            continue
        n_before = weights[first]
        voxels_of_object[objects[first]] = n_before
        begin = first + 1
        while begin < stop:
            end = begin + lengths[begin]
            n_same, n_joined = 0, 0
            for leaf in range(begin, end):
                n_same += weights[leaf] * voxels_of_object[objects[leaf]]
                n_joined += weights[leaf]
            n_pairs = n_same if kind == TOGETHER else n_before * n_joined - n_same
            if n_pairs > 0 and kinds[edges_joined[begin]] == kind:
                edges[n_edges], pairs[n_edges] = edges_joined[begin], n_pairs
                n_edges += 1
            for leaf in range(begin, end):
                voxels_of_object[objects[leaf]] += weights[leaf]
            n_before += n_joined
            begin = end
        for leaf in range(first, stop):
            voxels_of_object[objects[leaf]] = 0
    return edges[:n_edges].copy(), pairs[:n_edges].copy()
