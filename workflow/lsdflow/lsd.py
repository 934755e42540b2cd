"""Local shape descriptors of labelled objects, exact to the definition and fast enough for every training crop.

A voxel's descriptor summarises the part of its own object under a Gaussian window: where the centre of mass lies, how
mass is spread along and between the axes, and how much of it there is (Sheridan et al., Nature Methods 2023).  The
arithmetic is in `lsdflow.lsd_filters`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lsdflow.errors import UserError
from lsdflow.lsd_filters import describe, window_radius

# nm^2; the reference raises smaller variances to this before anything is divided by them.
SMALLEST_VARIANCE = 1e-3

# The ten descriptors of an (1, y, x) volume that a 2D image has too.
_CHANNELS_2D = [1, 2, 4, 5, 8, 9]


def local_shape_descriptors(
    labels: NDArray[np.integer],
    sigma: float | Sequence[float],
    voxel_size: float | Sequence[float],
    *,
    downsample: int = 1,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Local shape descriptors of every voxel of a label volume.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of integers
        One id per object, of any size and with gaps; 0 is background.  An id counts as one object even in pieces.
    sigma : float or one per axis
        Standard deviation of the Gaussian window, nm, z y x order.
    voxel_size : float or one per axis
        nm, z y x order.
    downsample : int
        Compute on every n-th voxel of each axis and repeat the result, as the reference does; the shape need not be a
        multiple.  Where no picked voxel of an object lies in the window, as in objects that fall between the picks, the
        descriptor is that of a point of no mass: offset and correlation 0.5, the smallest variance, size 0.
    threads : int
        Workers that share the objects; the result is the same for any number.

    Returns
    -------
    (10, z, y, x) or (6, y, x) float32 in 0-1
        Offset to the centre of mass (z, y, x; 0.5 is none), variance (zz, yy, xx; 1 is sigma squared), Pearson
        correlation (zy, zx, yx; 0.5 is none), size (share of the window's mass).  In 2D: offset (y, x), variance
        (yy, xx), correlation (yx), size.  Background is 0 in every channel.

    Raises
    ------
    UserError
        If labels are negative or not integers, or ``sigma``, ``voxel_size`` or ``downsample`` is not positive.

    Notes
    -----
    The array's border looks like the end of an object: provide `context` voxels more where truth goes on.

    References
    ----------
    Sheridan et al., "Local shape descriptors for neuron segmentation", Nature Methods 20 (2023), Methods, "Local shape
    descriptors"; ``LsdExtractor`` in https://github.com/funkelab/lsd.

    Examples
    --------
    >>> lsds = local_shape_descriptors(np.ones((1, 9), int), sigma=10, voxel_size=10)
    >>> lsds.shape
    (6, 1, 9)
    >>> [f"{offset:.2f}" for offset in lsds[1, 0, [0, 4, 8]]]  # the centre of mass lies to the right of the first voxel
    ['0.76', '0.50', '0.24']
    """
    labels = _checked_labels(labels)
    downsample = _checked_downsample(downsample)
    sigma_nm = _per_axis(sigma, labels.ndim, "sigma")
    sigma_voxels = sigma_nm / _per_axis(voxel_size, labels.ndim, "voxel_size") / downsample
    if labels.ndim == 2:
        # A kernel of one voxel along z leaves the other axes alone.
        sigma_nm, sigma_voxels = np.append(1.0, sigma_nm), np.append(0.1, sigma_voxels)
        # The picks along z are 0, downsample, ...: the only section is always among them.
        volume = labels[None]
    else:
        volume = labels
    lsds = np.zeros((10, *volume.shape), dtype=np.float32)
    describe(volume, sigma_voxels, SMALLEST_VARIANCE / sigma_nm**2, downsample, threads, lsds)
    return lsds[_CHANNELS_2D, 0] if labels.ndim == 2 else lsds


def context(
    sigma: float | Sequence[float], voxel_size: float | Sequence[float], *, downsample: int = 1, ndim: int = 3
) -> tuple[int, ...]:
    """How far a descriptor sees: labels needed on every side of a block for descriptors as of the whole volume.

    Parameters
    ----------
    sigma, voxel_size, downsample : as for `local_shape_descriptors`.
    ndim : int
        Number of axes.

    Returns
    -------
    tuple of int
        Voxels, z y x order, rounded up to a multiple of ``downsample``: blocks that also begin at multiples of it pick
        the same voxels as the whole volume.
    """
    downsample = _checked_downsample(downsample)
    sigma_voxels = _per_axis(sigma, ndim, "sigma") / _per_axis(voxel_size, ndim, "voxel_size") / downsample
    return tuple(window_radius(s) * downsample for s in sigma_voxels)


def transform_descriptors(
    lsds: NDArray[np.floating],
    *,
    flips: Sequence[bool] = (False, False, False),
    axes: Sequence[int] = (0, 1, 2),
) -> NDArray[np.floating]:
    """Descriptors of transposed and flipped labels, from the descriptors of the labels as they were.

    First the spatial axes are transposed, then the new axes are flipped: the result is that of the labels
    ``np.flip(np.transpose(labels, axes), [axis for axis in range(3) if flips[axis]])``.  ``sigma`` and the voxel size
    are transposed with them.  With ``downsample`` above 1 a flip changes which voxels are picked, and the result holds
    as far as that does not matter.

    Parameters
    ----------
    lsds : (10, z, y, x) or (6, y, x) float array, as of `local_shape_descriptors`
        Voxels that are 0 in all channels are background and stay so.
    flips : sequence of bool
        Whether each axis, counted after the transposition, is reversed; as many as there are axes.
    axes : sequence of int
        The old axis that becomes each new one, as in `numpy.transpose`.

    Returns
    -------
    Array of the dtype of ``lsds``
    """
    ndim = lsds.ndim - 1
    pairs = [(i, j) for i in range(ndim) for j in range(i + 1, ndim)]
    if ndim not in (2, 3) or len(lsds) != 2 * ndim + len(pairs) + 1:
        raise ValueError(f"descriptors must be (10, z, y, x) or (6, y, x), not {lsds.shape}")
    if not np.issubdtype(lsds.dtype, np.floating):
        raise ValueError(f"descriptors must be floating point in 0-1, not {lsds.dtype}")
    if sorted(axes) != list(range(ndim)) or len(flips) != ndim:
        raise ValueError(f"axes must be a permutation of {ndim} axes with one flip each, not {axes} and {flips}")
    sources = [*axes, *(ndim + axis for axis in axes)]
    sources += [2 * ndim + pairs.index(tuple(sorted((axes[i], axes[j])))) for i, j in pairs]
    sources.append(len(lsds) - 1)
    spatial = (0, *(axis + 1 for axis in axes))
    flipped = [axis + 1 for axis in range(ndim) if flips[axis]]
    moved = np.flip(np.transpose(lsds, spatial), flipped)[sources]
    reflected = [axis for axis in range(ndim) if flips[axis]]
    reflected += [2 * ndim + n for n, (i, j) in enumerate(pairs) if flips[i] != flips[j]]
    is_object = moved.any(axis=0)
    for channel in reflected:
        np.subtract(1, moved[channel], out=moved[channel], where=is_object)
    return moved


def _checked_labels(labels: NDArray) -> NDArray[np.uint64]:
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels must be integers, not {labels.dtype}: cast them when they hold whole numbers")
    if labels.ndim not in (2, 3):
        raise UserError(f"labels must be (z, y, x) or (y, x), not of {labels.ndim} axes")
    if np.issubdtype(labels.dtype, np.signedinteger) and labels.size and labels.min() < 0:
        raise UserError(f"labels must not be negative, but the smallest is {labels.min()}: set such voxels to 0")
    # One dtype, so that one compiled version serves all.
    return np.ascontiguousarray(labels).astype(np.uint64, copy=False)


def _checked_downsample(downsample: int) -> int:
    if downsample != int(downsample) or downsample < 1:
        raise UserError(f"downsample must be a positive integer, not {downsample}")
    return int(downsample)


def _per_axis(value: float | Sequence[float], ndim: int, name: str) -> NDArray[np.float64]:
    values = np.asarray(value, dtype=np.float64)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != ndim):
        raise UserError(f"{name} must be one number or {ndim} of them (one per axis), not {value}")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise UserError(f"{name} must be positive, in nm, not {value}")
    return np.array(np.broadcast_to(values, ndim))
