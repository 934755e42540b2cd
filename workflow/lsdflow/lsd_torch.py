"""Local shape descriptors of labels in a torch tensor, on the device that holds it.

The ten moments and their 19 one-dimensional filters are those of `lsdflow.lsd_filters`, but the way there suits a GPU:
few and large operations, and no Python loop over objects.  Each object is worked on in its bounding box, boxes of like
shape are padded to one shape and stacked, and a filter along one axis is then a product with a banded matrix.  Dozens
of objects in a training crop are a handful of such batches.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from lsdflow.lsd_filters import window_kernels, window_radius

# Floats of scratch space that a batch may take: 1 GiB.  A single section of a larger box may take more.
SCRATCH_FLOATS = 2**28

# Voxels of padding that may be filtered to save a batch: half a billion multiplications or so, which a GPU does sooner
# than it starts the hundred kernels of a batch.
PADDING = 2**17

# Some batched products of cuBLAS fail with more matrices than this.
MOST_MATRICES = 65535

# Scratch space per voxel of a box, and per voxel of a box's mask alone: as measured where objects fill their boxes.
_FLOATS_PER_VOXEL = 42
_FLOATS_PER_MASK = 2

# The precision of products is a setting of the whole process.
_precision_lock = threading.Lock()


@dataclass(frozen=True)
class _Window:
    """What is the same for all objects.

    Attributes
    ----------
    matrices : filters along z, y and x, as of `_band_matrices`, for the longest box along each.
    radius_z : half-width along z, picked voxels.
    least : ``(3, 1)`` limits of the variances, sigma squared.
    downsample : every how many voxels one is picked.
    """

    matrices: tuple[torch.Tensor, ...]
    radius_z: int
    least: torch.Tensor
    downsample: int


def describe_tensor(
    labels: torch.Tensor,
    sigma_voxels: NDArray[np.float64],
    smallest_variances: NDArray[np.float64],
    downsample: int,
) -> torch.Tensor:
    """Descriptors of all objects, those of `lsdflow.lsd_filters.describe` but for rounding.

    Parameters
    ----------
    labels : (z, y, x) integer tensor on any device
        Ids; 0 is background.
    sigma_voxels : (3,) float
        Standard deviation of the window in picked voxels.
    smallest_variances : (3,) float
        Limits of the variances along z, y, x, in sigma squared.
    downsample : int
        Every how many voxels one is picked.

    Returns
    -------
    (10, z, y, x) float32 tensor on the device of ``labels``
        0 where there is background.

    Notes
    -----
    Work grows with the volumes of bounding boxes times their lengths: this is meant for training crops rather than
    whole volumes.  Products have full single precision whatever the process has set, and meanwhile those of other
    threads have it, too.
    """
    device = labels.device
    lsds = torch.zeros((10, *labels.shape), dtype=torch.float32, device=device)
    objects, numbers, corners, lengths = _find_objects(labels, downsample)
    if len(numbers) == 0:
        return lsds
    window = _Window(
        tuple(_band_matrices(s, n, device) for s, n in zip(sigma_voxels, lengths.max(axis=0).tolist(), strict=True)),
        window_radius(sigma_voxels[0]),
        torch.tensor(smallest_variances, dtype=torch.float32, device=device)[:, None],
        downsample,
    )
    grid = np.array(objects.shape) // downsample
    with _full_precision():
        for members, shape in _groups_of_like_shape(lengths):
            # Padded towards the end, or towards the beginning where the grid ends.
            starts = np.minimum(corners[members], grid - shape)
            boxes = torch.from_numpy(np.column_stack([numbers[members], starts])).to(device)
            for part, sections in _parts(len(members), shape, window):
                _describe_boxes(objects, boxes[part], shape, sections, window, lsds)
    return lsds


def _find_objects(labels: torch.Tensor, downsample: int) -> tuple[torch.Tensor, NDArray, NDArray, NDArray]:
    """Volume of the objects' numbers; these numbers; corners and lengths of their boxes, in picked voxels.

    The volume is padded to multiples of ``downsample``.  Background, too, has a number there, but is not in the lists.
    """
    # Not all integers can be compared.  The largest unsigned ones become negative, but stay different.
    labels = labels.to(torch.int64)
    is_begin = torch.ones(labels.shape, dtype=torch.bool, device=labels.device)
    is_begin[..., 1:] = labels[..., 1:] != labels[..., :-1]
    # Runs of equal ids along x are far fewer than voxels.
    z, y, x = is_begin.nonzero(as_tuple=True)
    begins = (z * labels.shape[1] + y) * labels.shape[2] + x
    run_lengths = torch.diff(begins, append=begins.new_tensor([labels.numel()]))
    ids, object_of_run = torch.unique(labels[z, y, x], return_inverse=True)
    objects = torch.repeat_interleave(object_of_run, run_lengths, output_size=labels.numel()).view(labels.shape)
    first = torch.stack([z, y, x], dim=1) // downsample
    last = torch.stack([z, y, x + run_lengths - 1], dim=1) // downsample
    index = object_of_run[:, None].expand(-1, 3)
    corners = first.new_full((len(ids), 3), labels.numel()).scatter_reduce_(0, index, first, "amin")
    ends = first.new_zeros((len(ids), 3)).scatter_reduce_(0, index, last + 1, "amax")
    table = torch.cat([ids[:, None], corners, ends - corners], dim=1).cpu().numpy()
    numbers = np.flatnonzero(table[:, 0])
    padding = [amount for length in reversed(labels.shape) for amount in (0, -length % downsample)]
    objects = functional.pad(objects.to(torch.int32), padding, value=-1)
    return objects, numbers, table[numbers, 1:4], table[numbers, 4:]


def _groups_of_like_shape(lengths: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], tuple[int, int, int]]]:
    """Objects to be worked on together, and the shape that holds the box of each."""
    octaves = np.ceil(np.log2(lengths)).astype(np.int64)
    _, classes, counts = np.unique(octaves @ [64**2, 64, 1], return_inverse=True, return_counts=True)
    shapes = np.zeros((len(counts), 3), dtype=np.int64)
    np.maximum.at(shapes, classes, lengths)
    # From the largest class on, each joins the group where that costs least padding, or begins another if it costs too
    # much.  Shape and count of a group stand at its first class.
    group_of_class = np.arange(len(counts))
    groups = []
    for number in np.argsort(-shapes.prod(axis=1), kind="stable"):
        joint = np.maximum(shapes[groups], shapes[number])
        padding = counts[groups] * (joint.prod(axis=1) - shapes[groups].prod(axis=1))
        padding += counts[number] * (joint.prod(axis=1) - shapes[number].prod())
        if len(groups) == 0 or padding.min() > PADDING:
            groups.append(number)
        else:
            best = padding.argmin()
            group_of_class[number] = groups[best]
            shapes[groups[best]] = joint[best]
            counts[groups[best]] += counts[number]
    for group in groups:
        yield np.flatnonzero(group_of_class[classes] == group), tuple(shapes[group].tolist())


def _parts(count: int, shape: tuple[int, int, int], window: _Window) -> Iterator[tuple[slice, slice]]:
    """Which of ``count`` boxes, and which of their sections, to work on at a time to stay within the scratch space."""
    n_z, n_y, n_x = shape
    budget = SCRATCH_FLOATS // window.downsample**3
    n_boxes = min(budget // (_FLOATS_PER_VOXEL * prod(shape)), MOST_MATRICES // (3 * n_z))
    n_sections = n_z
    if n_boxes == 0:
        n_boxes = 1
        # Masks reach beyond the sections by the window.
        spare = budget // (n_y * n_x) - 2 * window.radius_z * _FLOATS_PER_MASK
        n_sections = min(max(1, spare // _FLOATS_PER_VOXEL), n_z, MOST_MATRICES // 3)
    for box in range(0, count, n_boxes):
        for section in range(0, n_z, n_sections):
            yield slice(box, box + n_boxes), slice(section, min(section + n_sections, n_z))


def _describe_boxes(objects, boxes, shape, sections, window, lsds):
    """Fill in the descriptors of one object per box, ``(n, 4)`` its number and the box's corner, in these sections."""
    downsample = window.downsample
    z_begin, z_end = max(sections.start - window.radius_z, 0), min(sections.stop + window.radius_z, shape[0])
    corners = boxes[:, 1:] * downsample
    ranges = [(z_begin, z_end), (0, shape[1]), (0, shape[2])]
    z, y, x = (
        corners[:, axis, None] + torch.arange(begin * downsample, end * downsample, device=boxes.device)
        for axis, (begin, end) in enumerate(ranges)
    )
    is_object = objects[z[:, :, None, None], y[:, None, :, None], x[:, None, None]] == boxes[:, :1, None, None]
    to_z, to_y, to_x = window.matrices
    moments = _moments(
        is_object[:, ::downsample, ::downsample, ::downsample].to(torch.float32),
        (to_z[:, sections, z_begin:z_end], to_y[:, : shape[1], : shape[1]], to_x[:, : shape[2], : shape[2]]),
    )
    inside = is_object[:, (sections.start - z_begin) * downsample : (sections.stop - z_begin) * downsample]
    cells, voxels = _positions(inside, corners, sections.start * downsample, downsample, lsds.shape[1:])
    moments = moments.flatten(1).index_select(1, cells)
    lsds.flatten(1).index_copy_(1, voxels, _descriptors(moments, window.least))


def _positions(is_object, corners, z_shift, downsample, shape):
    """Flat positions of the objects' voxels among the boxes' picked voxels, and in the volume of that ``shape``."""
    _, n_z, n_y, n_x = (n // downsample for n in is_object.shape)
    box, z, y, x = is_object.nonzero(as_tuple=True)
    cells = ((box * n_z + z // downsample) * n_y + y // downsample) * n_x + x // downsample
    origin = ((corners[:, 0] + z_shift) * shape[1] + corners[:, 1]) * shape[2] + corners[:, 2]
    return cells, origin[box] + (z * shape[1] + y) * shape[2] + x


def _band_matrices(sigma_voxels: float, length: int, device: torch.device) -> torch.Tensor:
    """``(3, length, length)`` matrices that filter along an axis; their corners filter along shorter ones."""
    kernels = torch.from_numpy(window_kernels(sigma_voxels)).to(device, torch.float32)
    reach = window_radius(sigma_voxels) + 1
    positions = torch.arange(length, device=device)
    distance = positions - positions[:, None]
    return functional.pad(kernels, (1, 1))[:, distance.clamp(-reach, reach) + reach]


def _moments(masks, matrices):
    """``(10, n, z, y, x)`` moments, powers of (z, y, x) 000 100 200 010 110 020 001 101 011 002."""
    to_z, to_y, to_x = matrices
    shape = (len(masks), to_z.shape[1], *masks.shape[2:])
    along_z = masks.new_empty((3, *shape))
    for power in range(3):
        torch.bmm(to_z[power].expand(len(masks), -1, -1), masks.flatten(2), out=along_z[power].flatten(2))
    along_y = masks.new_empty((6, *shape))
    for power, begin, end in [(0, 0, 3), (1, 3, 5), (2, 5, 6)]:
        source, target = along_z[: end - begin].flatten(0, 2), along_y[begin:end].flatten(0, 2)
        torch.bmm(to_y[power].expand(len(source), -1, -1), source, out=target)
    del along_z
    moments = masks.new_empty((10, *shape))
    # The degree is two at most: x goes with 1, z and y, x^2 with 1 alone.
    for power, begin, end, at in [(0, 0, 6, 0), (1, 0, 2, 6), (1, 3, 4, 8), (2, 0, 1, 9)]:
        source, target = along_y[begin:end].flatten(0, -2), moments[at : at + end - begin].flatten(0, -2)
        torch.mm(source, to_x[power].T, out=target)
    return moments


def _descriptors(moments, least):
    """The ten descriptors in their order from ``(10, n)`` moments, lengths in sigma, which are overwritten."""
    mass = moments[0].clone()
    _, z, zz, y, zy, yy, x, zx, yx, xx = moments.mul_(torch.where(mass > 0, 1 / mass, 0))
    means = torch.stack([z, y, x])
    variances = torch.maximum(torch.stack([zz, yy, xx]) - means**2, least)
    v_z, v_y, v_x = variances
    correlations = torch.stack([zy - z * y, zx - z * x, yx - y * x])
    correlations /= torch.stack([v_z * v_y, v_z * v_x, v_y * v_x]).sqrt_()
    return torch.cat([0.5 + 0.5 * means, variances, 0.5 + 0.5 * correlations, mass[None]]).clamp_(0, 1)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep products from being rounded to fewer bits (TF32 on a GPU, bfloat16 on some processors)."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    # One at a time, or a thread would find, and later restore, what another has set.
    with _precision_lock:
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision
