"""Affinities of neurites that fill a volume of any size, made block by block, with their truth.

Neurites run along z as wavering columns, so that each crosses every block on its way. A voxel belongs to the nearest
centre line; its affinities fall where the second nearest is as near, with noise on top. All is a function of the
voxel's place, so that blocks fit together without seams.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SPACING = 30  # voxels between centre lines, on average
JITTER, WAVER = 10.0, 7.0
MEMBRANE = 3.0  # voxels
NOISE = 0.3


@njit(cache=True, nogil=True)
def _random(a, b, salt):
    """A number in 0–1 that is always the same for ``a``, ``b`` and ``salt``."""
    h = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F)
    h ^= np.uint64(salt) * np.uint64(0x165667B19E3779F9)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    h ^= h >> np.uint64(33)
    return np.float32(h >> np.uint64(40)) / np.float32(1 << 24)


@njit(cache=True, nogil=True)
def tissue(begin, shape):
    """Labels uint64 and affinities uint8 (3, z, y, x) of the block at ``begin`` of an endless volume."""
    n_z, n_y, n_x = shape
    labels, affinities = np.empty(shape, np.uint64), np.empty((3, n_z, n_y, n_x), np.uint8)
    # Cells are counted from two before the volume's first, which keeps their numbers positive.
    first_y, first_x = begin[1] // SPACING, begin[2] // SPACING
    rows, columns = (begin[1] + n_y - 1) // SPACING - first_y + 5, (begin[2] + n_x - 1) // SPACING - first_x + 5
    centres = np.empty((rows, columns, 2), np.float32)
    for k in range(n_z):
        z = begin[0] + k
        for i in range(rows):
            for j in range(columns):
                a, b = first_y + i, first_x + j
                for axis in range(2):
                    home = ((a, b)[axis] - 2 + 0.5) * SPACING + (_random(a, b, axis) - 0.5) * 2 * JITTER
                    period = 25 + 60 * _random(a, b, 2 + axis)
                    centres[i, j, axis] = home + WAVER * np.sin(z / period + 6.3 * _random(a, b, 4 + axis))
        for y in range(n_y):
            i = (begin[1] + y) // SPACING - first_y
            for x in range(n_x):
                j = (begin[2] + x) // SPACING - first_x
                nearest, second, owner = np.float32(np.inf), np.float32(np.inf), 0
                for p in range(i, i + 5):
                    for q in range(j, j + 5):
                        dy, dx = begin[1] + y - centres[p, q, 0], begin[2] + x - centres[p, q, 1]
                        distance = dy * dy + dx * dx
                        if distance < nearest:
                            nearest, second, owner = distance, nearest, p * columns + q
                        elif distance < second:
                            second = distance
                p, q = owner // columns, owner % columns
                labels[k, y, x] = np.uint64((first_y + p) * 1_000_000 + first_x + q + 1)
                gap = (np.sqrt(second) - np.sqrt(nearest)) / np.float32(2)
                inside = 1 / (1 + np.exp(-2 * (gap - MEMBRANE / 2)))
                place = ((z * 1_000_000) + begin[1] + y) * 1_000_000 + begin[2] + x
                for axis in range(3):
                    value = inside + NOISE * (_random(place, axis, 7) - np.float32(0.5))
                    affinities[axis, k, y, x] = np.uint8(255 * min(max(value, 0.0), 1.0))
    return labels, affinities
