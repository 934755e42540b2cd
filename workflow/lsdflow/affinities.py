"""Affinities between neighbouring voxels of a label volume, their masks and weights, and the growing of boundaries.

The definitions are those that Sheridan et al. (Nature Methods 2023) trained with: the nodes ``AddAffinities``,
``GrowBoundary`` and ``BalanceLabels`` of gunpowder.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsdflow.errors import UserError


def offsets_on_axes(distances: Sequence[int | Sequence[int]], *, ndim: int = 3) -> list[list[int]]:
    """Neighbourhood of the paper: one step backwards along every axis for each distance.

    Parameters
    ----------
    distances : sequence of int, or of int per axis
        Voxels; a sequence as an entry gives each axis its own distance, z y x order.
    ndim : int
        Number of axes.

    Returns
    -------
    list of list of int
        ``len(distances) * ndim`` offsets, z y x order within each distance.

    Examples
    --------
    >>> offsets_on_axes([1])
    [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    >>> offsets_on_axes([(5, 9, 9)])
    [[-5, 0, 0], [0, -9, 0], [0, 0, -9]]
    """
    offsets = []
    for distance in distances:
        per_axis = [distance] * ndim if np.ndim(distance) == 0 else list(distance)
        if len(per_axis) != ndim or min(per_axis) < 1:
            raise UserError(f"an affinity distance must be a positive integer or {ndim} of them, not {distance}")
        offsets += [[-int(per_axis[axis]) if a == axis else 0 for a in range(ndim)] for axis in range(ndim)]
    return offsets


def affinities(labels: NDArray, offsets: ArrayLike) -> NDArray[np.uint8]:
    """Affinity of every voxel to its neighbours: 1 where both carry the same label, and that label is not 0.

    Parameters
    ----------
    labels : (z, y, x) array of integers
        Or (y, x); 0 is background.
    offsets : (n, 3) array-like of int
        From the voxel to its neighbour, voxels, z y x order.

    Returns
    -------
    (n, z, y, x) uint8
        ``labels[v] == labels[v + offset] != 0``; 0 where the neighbour lies outside the array.

    Raises
    ------
    UserError
        If the labels are not integers, or the offsets do not have one number per axis.
    """
    labels = _checked_labels(labels)
    offsets = _checked_offsets(offsets, labels.ndim)
    is_foreground = labels != 0
    same = np.zeros((len(offsets), *labels.shape), dtype=bool)
    for channel, offset in zip(same, offsets, strict=True):
        here, there = _overlap(labels.shape, offset)
        np.equal(labels[here], labels[there], out=channel[here])
        channel[here] &= is_foreground[here]
    return same.view(np.uint8)


def affinities_mask(shape: Sequence[int], offsets: ArrayLike) -> NDArray[np.uint8]:
    """Where an affinity is known: 1 where the neighbour lies inside the array.

    Parameters
    ----------
    shape : (z, y, x) of the labels, in voxels.
    offsets : (n, 3) array-like of int, as for `affinities`.

    Returns
    -------
    (n, z, y, x) uint8
    """
    shape = tuple(int(n) for n in shape)
    offsets = _checked_offsets(offsets, len(shape))
    mask = np.zeros((len(offsets), *shape), dtype=np.uint8)
    for channel, offset in zip(mask, offsets, strict=True):
        channel[_overlap(shape, offset)[0]] = 1
    return mask


def grow_boundary(
    labels: NDArray, steps: int = 1, *, only_xy: bool = False, mask: NDArray | None = None
) -> NDArray[np.integer]:
    """Widen the background between objects: erode each label by itself.

    Equal to ``scipy.ndimage.binary_erosion(labels == label, iterations=steps, border_value=1)`` for every label, in one
    go for all of them.  Voxels beyond the array count as the label, so objects do not shrink from its border.

    Parameters
    ----------
    labels : (z, y, x) array of integers
        Or (y, x).
    steps : int
        Number of erosions with the face neighbours.
    only_xy : bool
        Leave the z axis alone: each section is eroded by itself, as for anisotropic volumes.
    mask : (z, y, x) array, optional
        Voxels where it is 0 count as any label, so objects do not shrink from the edge of the mask either.

    Returns
    -------
    Array like ``labels``
        0 where a voxel was eroded.
    """
    labels = _checked_labels(labels)
    if steps < 0:
        raise UserError(f"the steps of boundary growing must be at least 0, not {steps}")
    axes = range(labels.ndim)[-2:] if only_xy else range(labels.ndim)
    if mask is not None:
        return np.where(_has_one_label_around(labels, steps, axes, mask), labels, labels.dtype.type(0))
    grown = labels.copy()
    for _ in range(steps):
        is_edge = np.zeros(labels.shape, dtype=bool)
        for axis in axes:
            low, high = _neighbour_slices(labels.ndim, axis)
            differs = grown[low] != grown[high]
            is_edge[low] |= differs
            is_edge[high] |= differs
        grown[is_edge] = 0
    return grown


def affinity_weights(
    target: NDArray, mask: NDArray, *, clip: tuple[float, float] = (0.05, 0.95)
) -> NDArray[np.float32]:
    """Weights that let affinities of 0 and of 1 count alike in a loss.

    One fraction for the whole array: with ``f`` the share of ones among the masked-in affinities, clipped, ones weigh
    ``1 / (2 f)`` and zeros ``1 / (2 (1 - f))``.

    Parameters
    ----------
    target : (n, z, y, x) array of 0 and 1
    mask : array that broadcasts to ``target``
        Affinities where it is 0 weigh 0.
    clip : tuple of float
        Limits of the fraction.

    Returns
    -------
    (n, z, y, x) float32
    """
    is_one = np.asarray(target) != 0
    is_known = np.broadcast_to(np.asarray(mask) != 0, is_one.shape)
    n_known = np.count_nonzero(is_known)
    fraction = np.count_nonzero(is_one & is_known) / n_known if n_known else 0.0
    fraction = min(max(fraction, clip[0]), clip[1])
    weights = np.where(is_one, np.float32(1 / (2 * fraction)), np.float32(1 / (2 * (1 - fraction))))
    weights *= is_known
    return weights


def _checked_labels(labels: NDArray) -> NDArray:
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels must be integers, not {labels.dtype}: cast them when they hold whole numbers")
    return labels


def _checked_offsets(offsets: ArrayLike, ndim: int) -> list[tuple[int, ...]]:
    offsets = np.asarray(offsets)
    if offsets.ndim != 2 or offsets.shape[1] != ndim or not np.issubdtype(offsets.dtype, np.integer):
        raise UserError(
            f"affinity offsets must be (n, {ndim}) integers for labels of {ndim} axes, "
            f"not {offsets.shape} {offsets.dtype}"
        )
    return [tuple(offset) for offset in offsets.tolist()]


def _overlap(shape: Sequence[int], offset: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the voxels whose neighbour is inside the array, and of those neighbours."""
    begins = [min(max(0, -o), n) for n, o in zip(shape, offset, strict=True)]
    ends = [max(min(n, n - o), b) for n, o, b in zip(shape, offset, begins, strict=True)]
    here = tuple(slice(b, e) for b, e in zip(begins, ends, strict=True))
    # An offset longer than the array leaves nothing to compare: then both are empty, wherever they lie.
    there = tuple(slice(b + o, e + o) if e > b else slice(0, 0) for b, e, o in zip(begins, ends, offset, strict=True))
    return here, there


def _neighbour_slices(ndim: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of all voxels but the last, and of all but the first, along ``axis``."""
    low = [slice(None)] * ndim
    high = [slice(None)] * ndim
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    return tuple(low), tuple(high)


def _has_one_label_around(labels: NDArray, steps: int, axes: Sequence[int], mask: NDArray) -> NDArray[np.bool_]:
    """Whether at most one label, and no background, is masked in within ``steps`` face steps of a voxel."""
    if np.shape(mask) != labels.shape:
        raise ValueError(f"the mask must have the shape of the labels, {labels.shape}, not {np.shape(mask)}")
    is_known = np.asarray(mask) != 0
    limits = np.iinfo(labels.dtype)
    lowest = np.where(is_known, labels, limits.max)
    highest = np.where(is_known, labels, limits.min)
    for _ in range(steps):
        lowest_before, highest_before = lowest.copy(), highest.copy()
        for axis in axes:
            low, high = _neighbour_slices(labels.ndim, axis)
            for target, source in ((low, high), (high, low)):
                np.minimum(lowest[target], lowest_before[source], out=lowest[target])
                np.maximum(highest[target], highest_before[source], out=highest[target])
    # Nothing masked in leaves lowest above highest.
    return (lowest > highest) | ((lowest == highest) & (highest != 0))
