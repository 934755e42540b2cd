"""The filters behind local shape descriptors: ten Gaussian moments of every object about each of its voxels.

All ten descriptors follow from the moments ``sum g(d) d^p m(v + d)`` of an object's mask ``m`` about a voxel ``v``, of
degree two at most.  The window ``g`` is separable: 3 filters along x, 6 along y and 10 along z, 19 one-dimensional ones
in all, with the kernels ``g``, ``d g`` and ``d^2 g``, make them.  Distances are counted from the voxel itself and in
sigma, so nothing depends on where in the array an object lies, and little cancels in single precision.

Objects are lists of runs along x, and are worked on in strips of a fixed number of voxels along x.  The first pass is a
look-up in cumulative kernels.  The other two compute only what some voxel of the object needs, from only those rows
that hold some of the object.  So work grows with labelled voxels, not with bounding boxes, of which thin and branching
neurites fill about a tenth, and a speck costs microseconds.  That is why this is compiled with numba rather than
written as products with banded matrices: those run nearer to the processor's limit, but would fill the boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray

# scipy.ndimage.gaussian_filter in the reference implementation cuts its kernels here.
TRUNCATE = 3.0

# Voxels along x that are computed together: constant, so that inner loops become vector instructions.
STRIP = 16

# "contract" allows fused multiply-add but no reordering: results do not depend on how objects are cut into strips.
compiled = njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")


def window_radius(sigma_voxels: float) -> int:
    """Half-width of the window as `scipy.ndimage.gaussian_filter` rounds it."""
    return int(TRUNCATE * sigma_voxels + 0.5)


def window_kernels(sigma_voxels: float) -> NDArray[np.float64]:
    """``(3, 2 r + 1)`` weights ``g``, ``d g``, ``d^2 g`` with distances ``d`` in units of sigma."""
    radius = window_radius(sigma_voxels)
    distance = np.arange(-radius, radius + 1) / sigma_voxels
    weights = np.exp(-0.5 * distance**2)
    weights /= weights.sum()
    return np.stack([weights, distance * weights, distance**2 * weights])


def _cumulative_kernels(kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filter responses to a run that ends at a voxel, by distance to that end, for a look-up in whole strips.

    Entry ``[k, radius + 1 + STRIP + j]`` is the response, ``j`` voxels behind the end of a run without beginning.
    """
    up_to = np.cumsum(kernels, axis=1)
    # From radius + 1 voxels inside, with the whole window in the run, to radius voxels behind, with none of it.
    return np.concatenate([np.repeat(up_to[:, -1:], STRIP, axis=1), up_to[:, ::-1], np.zeros((3, STRIP + 1))], axis=1)


def _runs_of_objects(
    volume: NDArray[np.uint64], box: NDArray[np.int64], block: int
) -> tuple[NDArray[np.uint64], NDArray, NDArray]:
    """Ids in a box, their ``(n, 4)`` runs ``z, y, begin, end`` sorted by id, and where each id's begin and all end."""
    ids_of_runs, runs = _find_runs(volume, box, block, _count_runs(volume, box))
    ids, objects = np.unique(ids_of_runs, return_inverse=True)
    order = np.argsort(objects, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(objects, minlength=len(ids)))]).astype(np.int64)
    return ids, runs[order], starts


def describe(
    volume: NDArray[np.uint64],
    sigma_voxels: NDArray[np.float64],
    smallest_variances: NDArray[np.float64],
    downsample: int,
    threads: int,
    begin: Sequence[int],
    lsds: NDArray[np.float32],
) -> int:
    """Fill in the descriptors of all objects in a box.

    Parameters
    ----------
    volume : (z, y, x) C-ordered uint64
        Labels; 0 is background.
    sigma_voxels : (3,) float
        Standard deviation of the window in picked voxels.
    smallest_variances : (3,) float
        Limits of the variances along z, y, x, in sigma squared.
    downsample : int
        Every how many voxels one is picked.
    threads : int
        Workers that share the objects.
    begin : z y x
        First voxel of the box.
    lsds : (10, z, y, x) float32
        The box: written where there are objects, left as it is elsewhere.

    Returns
    -------
    int
        Multiplications with addition in the filters along y and z, which are nearly all of the arithmetic.
    """
    box = np.array([begin, np.add(begin, lsds.shape[1:])], dtype=np.int64)
    ids, runs, starts = _runs_of_objects(volume, box, downsample)
    if len(ids) == 0:
        return 0
    picked = np.ascontiguousarray(volume[::downsample, ::downsample, ::downsample])
    if downsample == 1 and volume.shape == lsds.shape[1:]:
        picked_ids, picked_runs, picked_starts = ids, runs, starts
    else:
        whole = np.array([(0, 0, 0), picked.shape], dtype=np.int64)
        picked_ids, picked_runs, picked_starts = _runs_of_objects(picked, whole, 1)
    # Objects between the picks have no picked runs: an empty range.
    first, after = (np.searchsorted(picked_ids, ids, side) for side in ("left", "right"))
    picked_ranges = np.stack([picked_starts[first], picked_starts[after]], axis=1)
    kernels = [window_kernels(s) for s in sigma_voxels]
    arguments = (
        (runs, starts, picked_runs, picked_ranges, downsample),
        (kernels[0].astype(np.float32), kernels[1].astype(np.float32), _cumulative_kernels(kernels[2])),
        smallest_variances.astype(np.float32),
        box,
        lsds,
    )
    strips = _strips(runs, starts, downsample)
    # Every strip writes its own voxels.  Dealing out the large ones in turn keeps the workers' loads alike.
    n_batches = 1 if threads == 1 else max(1, min(8 * threads, len(strips)))
    batches = [strips[n::n_batches] for n in range(n_batches)]
    if n_batches == 1:
        return _describe_strips(batches[0], *arguments)
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda batch: _describe_strips(batch, *arguments), batches))


def _strips(runs: NDArray[np.int32], starts: NDArray[np.int64], downsample: int) -> NDArray[np.int64]:
    """``(n, 4)`` units of work ``object, x, y begin, y end`` on the picked grid, those of the longest objects first."""
    first = starts[:-1]
    x_begin = np.minimum.reduceat(runs[:, 2], first) // downsample
    x_end = (np.maximum.reduceat(runs[:, 3], first) - 1) // downsample + 1
    y_begin = np.minimum.reduceat(runs[:, 1], first) // downsample
    y_end = np.maximum.reduceat(runs[:, 1], first) // downsample + 1
    counts = -(-(x_end - x_begin) // STRIP)
    objects = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(objects)) - np.repeat(np.cumsum(counts) - counts, counts)
    strips = np.stack([objects, x_begin[objects] + STRIP * within, y_begin[objects], y_end[objects]], axis=1)
    lengths = np.diff(starts)[objects]
    return strips[np.argsort(-lengths, kind="stable")].astype(np.int64)


@compiled
def _count_runs(volume, box):
    count = 0
    for z in range(box[0, 0], box[1, 0]):
        for y in range(box[0, 1], box[1, 1]):
            before = np.uint64(0)
            for x in range(box[0, 2], box[1, 2]):
                here = volume[z, y, x]
                if here != before and here != 0:
                    count += 1
                before = here
    return count


@compiled
def _find_runs(volume, box, block, count):
    """Runs of equal ids along x, all rows of one ``block`` x ``block`` bundle after another."""
    ids = np.empty(count, np.uint64)
    runs = np.empty((count, 4), np.int32)
    z_begin, y_begin, x_begin = box[0]
    z_end, y_end, x_end = box[1]
    n = -1
    for z_block in range(z_begin // block * block, z_end, block):
        for y_block in range(y_begin // block * block, y_end, block):
            for z in range(max(z_block, z_begin), min(z_block + block, z_end)):
                for y in range(max(y_block, y_begin), min(y_block + block, y_end)):
                    before = np.uint64(0)
                    for x in range(x_begin, x_end):
                        here = volume[z, y, x]
                        if here != before:
                            if before != 0:
                                runs[n, 3] = x
                            if here != 0:
                                n += 1
                                ids[n] = here
                                runs[n, 0] = z
                                runs[n, 1] = y
                                runs[n, 2] = x
                            before = here
                    if before != 0:
                        runs[n, 3] = x_end
    return ids, runs


@compiled
def _describe_strips(strips, objects, kernels, smallest_variances, box, lsds):
    """Descriptors of all voxels in ``strips``, with scratch space for the widest of them; returns the arithmetic."""
    starts, picked_ranges = objects[1], objects[3]
    depth, radius_y = kernels[0].shape[1], kernels[1].shape[1] // 2
    width = 0
    for n in range(len(strips)):
        width = max(width, strips[n, 3] - strips[n, 2])
    along_x = np.empty((width + 2 * radius_y, 3 * STRIP), np.float32)
    along_y = np.empty((depth * width, 6 * STRIP), np.float32)
    rows = np.empty(width + 2 * radius_y, np.int64)
    is_filled = np.empty(depth * width, np.bool_)
    n_needed = np.empty(width, np.int64)
    most_taps = max(depth, kernels[1].shape[1]) + 3
    sources = np.empty(most_taps, np.int64)
    weights = np.empty((most_taps, 3), np.float32)
    sums = np.empty(10 * STRIP, np.float32)
    wide = np.empty((10, STRIP * objects[4]), np.float32)
    scratch = (along_x, along_y, rows, is_filled, n_needed, sources, weights, sums, wide)
    arithmetic = 0
    for n in range(len(strips)):
        item = strips[n, 0]
        arithmetic += _describe_strip(
            strips[n],
            (starts[item], starts[item + 1], picked_ranges[item, 0], picked_ranges[item, 1]),
            objects,
            kernels,
            smallest_variances,
            scratch,
            box,
            lsds,
        )
    return arithmetic


@compiled
def _describe_strip(strip, ranges, objects, kernels, smallest_variances, scratch, box, lsds):
    """Descriptors of one object's voxels at ``x <= x' < x + STRIP``, section by section along z.

    A section's runs are filtered along x and y; the last sections' results wait in a ring buffer until the filter along
    z has all that it needs for the rows of the section in its middle.
    """
    x_begin, y_begin, y_end = strip[1], strip[2], strip[3]
    start, stop, picked, picked_stop = ranges
    runs, _, picked_runs, _, downsample = objects
    along_x, along_y, rows, is_filled, n_needed, sources, weights, sums, wide = scratch
    kernels_z, kernels_y, cumulative_x = kernels
    depth = kernels_z.shape[1]
    radius_z = depth // 2
    radius_y = kernels_y.shape[1] // 2
    width = y_end - y_begin
    x_low, x_high = x_begin * downsample, (x_begin + STRIP) * downsample
    while start < stop and (runs[start, 3] <= x_low or runs[start, 2] >= x_high):
        start += 1
    while stop > start and (runs[stop - 1, 3] <= x_low or runs[stop - 1, 2] >= x_high):
        stop -= 1
    if start == stop:
        return 0
    n_taps_y, n_taps_z = 0, 0
    n_needed[:width] = 0
    entering, leaving, ready = start, start, start
    z_begin, z_end = runs[start, 0] // downsample, runs[stop - 1, 0] // downsample + 1
    while picked < picked_stop and picked_runs[picked, 0] < z_begin - radius_z:
        picked += 1
    for z in range(z_begin - radius_z, z_end + radius_z):
        # Rows of the object in the window around this section need its sums.
        while entering < stop and runs[entering, 0] // downsample <= z + radius_z:
            if runs[entering, 3] > x_low and runs[entering, 2] < x_high:
                n_needed[runs[entering, 1] // downsample - y_begin] += 1
            entering += 1
        while leaving < stop and runs[leaving, 0] // downsample < z - radius_z:
            if runs[leaving, 3] > x_low and runs[leaving, 2] < x_high:
                n_needed[runs[leaving, 1] // downsample - y_begin] -= 1
            leaving += 1
        slot = z % depth
        is_filled[slot * width : (slot + 1) * width] = False
        section = picked
        while picked < picked_stop and picked_runs[picked, 0] == z:
            picked += 1
        if picked > section:
            near = (y_begin - radius_y, y_end + radius_y)
            n_rows = _filter_along_x(picked_runs[section:picked], x_begin, near, cumulative_x, rows, along_x)
            first, last = 0, 0
            for y in range(width):
                if n_needed[y] == 0:
                    continue
                while first < n_rows and rows[first] < y + y_begin - radius_y:
                    first += 1
                while last < n_rows and rows[last] <= y + y_begin + radius_y:
                    last += 1
                if first < last:
                    cell = slot * width + y
                    is_filled[cell] = True
                    n_taps = 0
                    for n in range(first, last):
                        place = rows[n] - y - y_begin + radius_y
                        n_taps = _add_tap(kernels_y, place, n, n_taps, sources, weights)
                    n_taps = _pad_taps(n_taps, sources, weights)
                    _filter_along_y(along_x, sources, weights, n_taps, along_y[cell])
                    n_taps_y += n_taps
        row = -1
        while ready < stop and runs[ready, 0] // downsample == z - radius_z:
            if runs[ready, 3] > x_low and runs[ready, 2] < x_high:
                if runs[ready, 1] // downsample != row:
                    row = runs[ready, 1] // downsample
                    n_taps = 0
                    for place in range(depth):
                        cell = ((z - 2 * radius_z + place) % depth) * width + row - y_begin
                        if is_filled[cell]:
                            n_taps = _add_tap(kernels_z, place, cell, n_taps, sources, weights)
                    n_taps = _pad_taps(n_taps, sources, weights)
                    _filter_along_z(along_y, sources, weights, n_taps, sums)
                    n_taps_z += n_taps
                    _moments_to_descriptors(sums, smallest_variances)
                    _widen(sums, downsample, wide)
                _write_run(wide, runs[ready], x_low, x_high, box, lsds)
            ready += 1
    return (6 * n_taps_y + 10 * n_taps_z) * STRIP


@compiled
def _filter_along_x(runs, x_begin, near, cumulative, rows, along_x):
    """Three filters of one section's runs; returns how many of the ``near`` rows have anything in the strip's reach."""
    reach = (cumulative.shape[1] - 2 * STRIP) // 2
    n_rows = 0
    for n in range(len(runs)):
        if runs[n, 3] <= x_begin - reach or runs[n, 2] >= x_begin + STRIP + reach:
            continue
        if not near[0] <= runs[n, 1] < near[1]:
            continue
        if n_rows == 0 or rows[n_rows - 1] != runs[n, 1]:
            rows[n_rows] = runs[n, 1]
            along_x[n_rows] = 0
            n_rows += 1
        row = along_x[n_rows - 1]
        begin = min(max(x_begin - runs[n, 2], -reach - STRIP), reach) + reach + STRIP
        end = min(max(x_begin - runs[n, 3], -reach - STRIP), reach) + reach + STRIP
        for k in range(3):
            from_begin, from_end = cumulative[k, begin : begin + STRIP], cumulative[k, end : end + STRIP]
            for i in range(STRIP):
                row[k * STRIP + i] += np.float32(from_end[i] - from_begin[i])
    return n_rows


@compiled
def _add_tap(kernels, place, source, n_taps, sources, weights):
    """Note one more thing to sum: what lies at ``sources[n]``, with its weights of the three kernels."""
    sources[n_taps] = source
    for k in range(3):
        weights[n_taps, k] = kernels[k, place]
    return n_taps + 1


@compiled
def _pad_taps(n_taps, sources, weights):
    """Fill up to a multiple of four with taps of no weight."""
    while n_taps % 4:
        sources[n_taps] = sources[n_taps - 1]
        weights[n_taps] = 0
        n_taps += 1
    return n_taps


# The two functions below do nearly all of the arithmetic.  Four taps at a time, the sums are loaded and stored a
# quarter as often.  Rows are views and all sums share one loop, because so the compiler finds out with few checks that
# sums and sources do not overlap, and uses vector instructions.


@compiled
def _filter_along_y(along_x, sources, weights, n_taps, sums):
    """Six filters: powers of (y, x) 00 10 20 01 11 02."""
    sums[:] = 0
    for n in range(0, n_taps, 4):
        p, q, r, s = along_x[sources[n]], along_x[sources[n + 1]], along_x[sources[n + 2]], along_x[sources[n + 3]]
        p0, q0, r0, s0 = weights[n, 0], weights[n + 1, 0], weights[n + 2, 0], weights[n + 3, 0]
        p1, q1, r1, s1 = weights[n, 1], weights[n + 1, 1], weights[n + 2, 1], weights[n + 3, 1]
        p2, q2, r2, s2 = weights[n, 2], weights[n + 1, 2], weights[n + 2, 2], weights[n + 3, 2]
        for i in range(STRIP):
            a, b, c, d = p[i], q[i], r[i], s[i]
            sums[i] = sums[i] + p0 * a + q0 * b + r0 * c + s0 * d
            sums[i + STRIP] = sums[i + STRIP] + p1 * a + q1 * b + r1 * c + s1 * d
            sums[i + 2 * STRIP] = sums[i + 2 * STRIP] + p2 * a + q2 * b + r2 * c + s2 * d
            a, b, c, d = p[i + STRIP], q[i + STRIP], r[i + STRIP], s[i + STRIP]
            sums[i + 3 * STRIP] = sums[i + 3 * STRIP] + p0 * a + q0 * b + r0 * c + s0 * d
            sums[i + 4 * STRIP] = sums[i + 4 * STRIP] + p1 * a + q1 * b + r1 * c + s1 * d
            a, b, c, d = p[i + 2 * STRIP], q[i + 2 * STRIP], r[i + 2 * STRIP], s[i + 2 * STRIP]
            sums[i + 5 * STRIP] = sums[i + 5 * STRIP] + p0 * a + q0 * b + r0 * c + s0 * d


@compiled
def _filter_along_z(along_y, sources, weights, n_taps, sums):
    """Ten filters: powers of (z, y, x) 000 100 200, 010 110, 020, 001 101, 011, 002."""
    sums[:] = 0
    for n in range(0, n_taps, 4):
        p, q, r, s = along_y[sources[n]], along_y[sources[n + 1]], along_y[sources[n + 2]], along_y[sources[n + 3]]
        p0, q0, r0, s0 = weights[n, 0], weights[n + 1, 0], weights[n + 2, 0], weights[n + 3, 0]
        p1, q1, r1, s1 = weights[n, 1], weights[n + 1, 1], weights[n + 2, 1], weights[n + 3, 1]
        p2, q2, r2, s2 = weights[n, 2], weights[n + 1, 2], weights[n + 2, 2], weights[n + 3, 2]
        for i in range(STRIP):
            a, b, c, d = p[i], q[i], r[i], s[i]
            sums[i] = sums[i] + p0 * a + q0 * b + r0 * c + s0 * d
            sums[i + STRIP] = sums[i + STRIP] + p1 * a + q1 * b + r1 * c + s1 * d
            sums[i + 2 * STRIP] = sums[i + 2 * STRIP] + p2 * a + q2 * b + r2 * c + s2 * d
            a, b, c, d = p[i + STRIP], q[i + STRIP], r[i + STRIP], s[i + STRIP]
            sums[i + 3 * STRIP] = sums[i + 3 * STRIP] + p0 * a + q0 * b + r0 * c + s0 * d
            sums[i + 4 * STRIP] = sums[i + 4 * STRIP] + p1 * a + q1 * b + r1 * c + s1 * d
            a, b, c, d = p[i + 2 * STRIP], q[i + 2 * STRIP], r[i + 2 * STRIP], s[i + 2 * STRIP]
            sums[i + 5 * STRIP] = sums[i + 5 * STRIP] + p0 * a + q0 * b + r0 * c + s0 * d
            a, b, c, d = p[i + 3 * STRIP], q[i + 3 * STRIP], r[i + 3 * STRIP], s[i + 3 * STRIP]
            sums[i + 6 * STRIP] = sums[i + 6 * STRIP] + p0 * a + q0 * b + r0 * c + s0 * d
            sums[i + 7 * STRIP] = sums[i + 7 * STRIP] + p1 * a + q1 * b + r1 * c + s1 * d
            a, b, c, d = p[i + 4 * STRIP], q[i + 4 * STRIP], r[i + 4 * STRIP], s[i + 4 * STRIP]
            sums[i + 8 * STRIP] = sums[i + 8 * STRIP] + p0 * a + q0 * b + r0 * c + s0 * d
            a, b, c, d = p[i + 5 * STRIP], q[i + 5 * STRIP], r[i + 5 * STRIP], s[i + 5 * STRIP]
            sums[i + 9 * STRIP] = sums[i + 9 * STRIP] + p0 * a + q0 * b + r0 * c + s0 * d


@compiled
def _moments_to_descriptors(moments, smallest_variances):
    """Replace the ten moments, lengths in sigma, by the ten descriptors in their order."""
    zero, half, one = np.float32(0), np.float32(0.5), np.float32(1)
    least_z, least_y, least_x = smallest_variances[0], smallest_variances[1], smallest_variances[2]
    for i in range(STRIP):
        mass = moments[i]
        scale = one / mass if mass > zero else zero
        z, y, x = moments[i + STRIP] * scale, moments[i + 3 * STRIP] * scale, moments[i + 6 * STRIP] * scale
        zz = max(moments[i + 2 * STRIP] * scale - z * z, least_z)
        yy = max(moments[i + 5 * STRIP] * scale - y * y, least_y)
        xx = max(moments[i + 9 * STRIP] * scale - x * x, least_x)
        zy = (moments[i + 4 * STRIP] * scale - z * y) / np.sqrt(zz * yy)
        zx = (moments[i + 7 * STRIP] * scale - z * x) / np.sqrt(zz * xx)
        yx = (moments[i + 8 * STRIP] * scale - y * x) / np.sqrt(yy * xx)
        moments[i] = min(max(half + half * z, zero), one)
        moments[i + STRIP] = min(max(half + half * y, zero), one)
        moments[i + 2 * STRIP] = min(max(half + half * x, zero), one)
        moments[i + 3 * STRIP] = min(zz, one)
        moments[i + 4 * STRIP] = min(yy, one)
        moments[i + 5 * STRIP] = min(xx, one)
        moments[i + 6 * STRIP] = min(max(half + half * zy, zero), one)
        moments[i + 7 * STRIP] = min(max(half + half * zx, zero), one)
        moments[i + 8 * STRIP] = min(max(half + half * yx, zero), one)
        moments[i + 9 * STRIP] = min(mass, one)


@compiled
def _widen(sums, downsample, wide):
    """The descriptors of a strip of picked voxels, each repeated for the voxels that it stands for."""
    for k in range(10):
        for i in range(STRIP):
            for j in range(downsample):
                wide[k, i * downsample + j] = sums[k * STRIP + i]


@compiled
def _write_run(wide, run, x_low, x_high, box, lsds):
    """Copy the strip's descriptors to the voxels of one run."""
    z, y = run[0] - box[0, 0], run[1] - box[0, 1]
    begin = max(run[2], x_low)
    length = min(run[3], x_high) - begin
    source, target = begin - x_low, begin - box[0, 2]
    for k in range(10):
        for i in range(length):
            lsds[k, z, y, target + i] = wide[k, source + i]
