"""Local shape descriptors of labelled objects, exact to the definition and fast enough for every training crop.

A voxel's descriptor summarises the part of its own object under a Gaussian window: where the centre of mass lies, how
mass is spread along and between the axes, and how much of it there is (Sheridan et al., Nature Methods 2023).  The
arithmetic is in `lsdflow.lsd_filters`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lsdflow.errors import UserError
from lsdflow.lsd_filters import describe, window_radius
from lsdflow.roi import Roi

# An array or a torch tensor.
Labels = TypeVar("Labels")

# nm^2; the reference raises smaller variances to this before anything is divided by them.
SMALLEST_VARIANCE = 1e-3

# The ten descriptors of an (1, y, x) volume that a 2D image has too.
_CHANNELS_2D = [1, 2, 4, 5, 8, 9]


def local_shape_descriptors(
    labels: Labels,
    sigma: float | Sequence[float],
    voxel_size: float | Sequence[float],
    *,
    downsample: int = 1,
    roi: Roi | None = None,
    threads: int = 1,
) -> Labels:
    """Local shape descriptors of every voxel of a label volume.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array or torch tensor of integers
        One id per object, of any size and with gaps; 0 is background.  An id counts as one object even in pieces.
        A tensor is worked on where it lies, which on a GPU is fast for training crops.
    sigma : float or one per axis
        Standard deviation of the Gaussian window, nm, z y x order.
    voxel_size : float or one per axis
        nm, z y x order.
    downsample : int
        Compute on every n-th voxel of each axis and repeat the result, as the reference does; the shape need not be a
        multiple.  Where no picked voxel of an object lies in the window, as in objects that fall between the picks, the
        descriptor is that of a point of no mass: offset and correlation 0.5, the smallest variance, size 0.
    roi : Roi, optional
        Describe the voxels of this box only (voxels, as many axes as the labels); the labels around it are context.
    threads : int
        Workers that share the objects; the result is the same for any number.  PyTorch has its own for tensors.

    Returns
    -------
    (10, z, y, x) or (6, y, x) float32 in 0-1, of the same kind as ``labels``
        Offset to the centre of mass (z, y, x; 0.5 is none), variance (zz, yy, xx; 1 is sigma squared), Pearson
        correlation (zy, zx, yx; 0.5 is none), size (share of the window's mass).  In 2D: offset (y, x), variance
        (yy, xx), correlation (yx), size.  Background is 0 in every channel.

    Raises
    ------
    UserError
        If labels are negative or not integers, ``sigma``, ``voxel_size`` or ``downsample`` is not positive, or ``roi``
        reaches beyond the labels.

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
    box = _checked_roi(roi, tuple(labels.shape))
    is_image = labels.ndim == 2
    if is_image:
        # A kernel of one voxel along z leaves the other axes alone.
        sigma_nm, sigma_voxels = np.append(1.0, sigma_nm), np.append(0.1, sigma_voxels)
        # The picks along z are 0, downsample, ...: the only section is always among them.
        labels, box = labels[None], Roi((0, *box.begin), (1, *box.end))
    smallest_variances = SMALLEST_VARIANCE / sigma_nm**2
    if isinstance(labels, np.ndarray):
        lsds = np.zeros((10, *box.shape), dtype=np.float32)
        describe(labels, sigma_voxels, smallest_variances, downsample, threads, box.begin, lsds)
    else:
        # Not every environment has torch: whoever has tensors does.
        lsd_torch = importlib.import_module("lsdflow.lsd_torch")
        lsds = lsd_torch.describe_tensor(labels, sigma_voxels, smallest_variances, downsample)[(..., *box.slices)]
    return lsds[_CHANNELS_2D, 0] if is_image else lsds


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


def _checked_labels(labels: Labels) -> Labels:
    torch = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(labels, torch.Tensor)
    if is_tensor:
        no_integers = (torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64)
        is_integer = labels.dtype not in no_integers and not labels.is_complex()
        is_signed = labels.dtype.is_signed
    else:
        labels = np.asarray(labels)
        is_integer, is_signed = np.issubdtype(labels.dtype, np.integer), np.issubdtype(labels.dtype, np.signedinteger)
    if not is_integer:
        raise UserError(f"labels must be integers, not {labels.dtype}: cast them when they hold whole numbers")
    if labels.ndim not in (2, 3):
        raise UserError(f"labels must be (z, y, x) or (y, x), not of {labels.ndim} axes")
    if is_signed and 0 not in labels.shape and labels.min() < 0:
        raise UserError(f"labels must not be negative, but the smallest is {labels.min()}: set such voxels to 0")
    # One dtype, so that one compiled version serves all.
    return labels if is_tensor else np.ascontiguousarray(labels).astype(np.uint64, copy=False)


def _checked_downsample(downsample: int) -> int:
    if downsample != int(downsample) or downsample < 1:
        raise UserError(f"downsample must be a positive integer, not {downsample}")
    return int(downsample)


def _checked_roi(roi: Roi | None, shape: tuple[int, ...]) -> Roi:
    whole = Roi((0,) * len(shape), shape)
    if roi is None:
        return whole
    if len(roi.begin) != len(shape) or roi.size == 0 or not whole.contains(roi):
        raise UserError(f"roi must be a box inside the labels, which have {shape} voxels, not {roi.begin} to {roi.end}")
    return roi


def _per_axis(value: float | Sequence[float], ndim: int, name: str) -> NDArray[np.float64]:
    values = np.asarray(value, dtype=np.float64)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != ndim):
        raise UserError(f"{name} must be one number or {ndim} of them (one per axis), not {value}")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise UserError(f"{name} must be positive, in nm, not {value}")
    return np.array(np.broadcast_to(values, ndim))
