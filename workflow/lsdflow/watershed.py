"""A seeded watershed whose fragments are known by their seeds, the same from whatever window they are computed.

The flooding is a minimum spanning forest (Cousty et al. 2009, "Watershed cuts"): every voxel belongs to the seed that
it reaches over the lowest pass. Voxels are ordered by height, and those of equal height by their place, so that there
is one such forest, and no plateau on which the order of a queue decides. A block with enough context thus has the
fragments of the whole volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

# Indices of voxels are int32: half the memory of int64, and a window that needs more would need 40 GB.
LARGEST_WINDOW = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Basins:
    """Fragments before they are written out: pieces of a window, each with the seed that floods it.

    Attributes
    ----------
    number : int32 (z, y, x)
        Of each voxel, its piece; -1 where nothing is flooded.
    roots : int32 (n,)
        Of each piece, the index of its lowest voxel in the window.
    fragment : int32 (n,)
        Of each piece, the piece whose root is its seed.
    """

    number: npt.NDArray[np.int32]
    roots: npt.NDArray[np.int32]
    fragment: npt.NDArray[np.int32]

    def sums(self, values: npt.NDArray | None = None) -> npt.NDArray[np.float64]:
        """Of each piece that is a fragment's seed the sum of ``values`` (voxels, if None) over the fragment; else 0."""
        flat = None if values is None else values.ravel()
        pieces = _sum_pieces(self.number.ravel(), np.zeros(0, np.float32) if flat is None else flat, len(self.roots))
        return np.bincount(self.fragment, pieces, len(self.roots))

    @property
    def are_seeds(self) -> npt.NDArray[np.bool_]:
        """Of each piece, whether its root is the seed of a fragment."""
        return self.fragment == np.arange(len(self.fragment))

    def write(self, ids: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]) -> None:
        """The ``ids`` of the pieces into every flooded voxel of ``out`` ``(z, y, x)``, contiguous."""
        _look_up(self.number.ravel(), ids, out.reshape(-1))


def flood(
    height: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_] | None,
    *,
    reach: Sequence[int],
    minimum_size: int = 0,
) -> Basins:
    """Flood from the voxels that are lowest within ``reach``.

    A piece without a seed joins its neighbour over the lowest pass, but over one of 0 or more only if it has no voxel
    below 0 itself: a valley is never flooded from beyond its rim, but gets a seed of its own.

    Parameters
    ----------
    height : float32 (z, y, x), contiguous
        What is flooded, from low to high: below 0 in valleys, above on what separates them. Neighbours share a face.
        It is overwritten: a block may fill the memory.
    mask : bool (z, y, x), optional
        Where there is anything to flood.
    reach : z y x, voxels
        A seed is lower than everything up to so many voxels away along each axis.
    minimum_size : voxels
        Smaller fragments join neighbours, over the lowest pass, until they are as large; without a neighbour they stay.

    Raises
    ------
    ValueError
        If the window holds more voxels than int32 counts.
    """
    shape = height.shape
    if height.size > LARGEST_WINDOW:
        raise ValueError(f"{shape} are more than {LARGEST_WINDOW} voxels: cut them into blocks")
    height += 0  # -0.0 becomes 0.0
    order = height.view(np.int32).reshape(-1)
    _to_order(order)
    parents = _lower_neighbours(order, np.ones(0, np.bool_) if mask is None else mask.ravel(), shape)
    number, roots = _pieces(parents)
    is_seed = _are_lowest(roots, order, number, shape, tuple(reach))
    pairs, passes = _lowest_passes(order, number, shape)
    upper, lower = passes.T
    sequence = np.lexsort((lower, order[lower], upper, order[upper]))
    pairs = pairs[sequence]
    rim = np.searchsorted(order[upper[sequence]], 0)
    depths = order[roots]
    fragment = np.arange(len(roots), dtype=np.int32)
    _join(pairs[:rim], fragment, depths, is_seed)
    is_seed |= (fragment == np.arange(len(roots))) & (depths < 0)
    _join(pairs[rim:], fragment, depths, is_seed)
    basins = Basins(number.reshape(shape), roots, fragment)
    if minimum_size > 1:
        _join_small(pairs, fragment, depths, basins.sums(), minimum_size)
    return basins


# Loops over voxels take flat arrays: one index is several times faster than three.


@njit(cache=True, nogil=True)
def _to_order(bits):
    """From the bits of floats to integers in the same order: those of negative ones count backwards."""
    for i in range(len(bits)):
        if bits[i] < 0:
            bits[i] ^= np.int32(0x7FFFFFFF)


@njit(cache=True, nogil=True)
def _lower_neighbours(order, mask, shape):
    """Of each voxel, its lowest neighbour, or itself if none is lower; -1 outside the mask (an empty one is none)."""
    n_z, n_y, n_x = shape
    step_z, step_y = n_y * n_x, n_x
    is_masked = len(mask) > 0
    parents = np.empty(len(order), np.int32)
    i = -1
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                i += 1
                if is_masked and not mask[i]:
                    parents[i] = -1
                    continue
                best, lowest = i, order[i]
                # In the order of their indices, so that the first of equals stays; those before the voxel win over it.
                if z > 0 and order[i - step_z] <= lowest and not (is_masked and not mask[i - step_z]):
                    best, lowest = i - step_z, order[i - step_z]
                j = i - step_y
                if y > 0 and (order[j] < lowest or (order[j] == lowest and best == i)):
                    if not (is_masked and not mask[j]):
                        best, lowest = j, order[j]
                j = i - 1
                if x > 0 and (order[j] < lowest or (order[j] == lowest and best == i)):
                    if not (is_masked and not mask[j]):
                        best, lowest = j, order[j]
                if x + 1 < n_x and order[i + 1] < lowest and not (is_masked and not mask[i + 1]):
                    best, lowest = i + 1, order[i + 1]
                j = i + step_y
                if y + 1 < n_y and order[j] < lowest and not (is_masked and not mask[j]):
                    best, lowest = j, order[j]
                j = i + step_z
                if z + 1 < n_z and order[j] < lowest and not (is_masked and not mask[j]):
                    best, lowest = j, order[j]
                parents[i] = best
    return parents


@njit(cache=True, nogil=True)
def _pieces(parents):
    """Number of the piece of each voxel (in place of ``parents``), and the roots, sorted."""
    n_roots = 0
    for i in range(len(parents)):
        n_roots += parents[i] == i
    roots = np.empty(n_roots, np.int32)
    n_roots = 0
    for i in range(len(parents)):
        if parents[i] == i:
            roots[n_roots] = i
            n_roots += 1
    for i in range(len(parents)):
        if parents[i] < 0:
            continue
        root = i
        while parents[root] != root:
            root = parents[root]
        j = i
        while parents[j] != root:
            parents[j], j = root, parents[j]
    # In roots the number is below -1, which tells it from an index, until all voxels have asked for it.
    for k in range(n_roots):
        parents[roots[k]] = -2 - k
    for i in range(len(parents)):
        if parents[i] >= 0:
            parents[i] = -2 - parents[parents[i]]
    for k in range(n_roots):
        parents[roots[k]] = k
    return parents, roots


@njit(cache=True, nogil=True)
def _are_lowest(roots, order, number, shape, reach):
    """Whether no voxel within ``reach`` comes before the root."""
    n_z, n_y, n_x = shape
    are_lowest = np.ones(len(roots), np.bool_)
    for k in range(len(roots)):
        root, lowest = roots[k], order[roots[k]]
        z, y, x = root // (n_y * n_x), root // n_x % n_y, root % n_x
        for w in range(max(0, z - reach[0]), min(n_z, z + reach[0] + 1)):
            for v in range(max(0, y - reach[1]), min(n_y, y + reach[1] + 1)):
                row = (w * n_y + v) * n_x
                for i in range(row + max(0, x - reach[2]), row + min(n_x, x + reach[2] + 1)):
                    if order[i] < lowest or (order[i] == lowest and i < root):
                        if number[i] >= 0:
                            are_lowest[k] = False
                            break
                if not are_lowest[k]:
                    break
            if not are_lowest[k]:
                break
    return are_lowest


@njit(cache=True, nogil=True)
def _slot(a, b, pairs, table):
    """Where in the hash ``table`` (a power of 2 long) pair (a, b) is, or the empty slot (-1) where it belongs."""
    spread = (np.uint64(a) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F))
    slot = np.int64(spread >> np.uint64(32)) & (len(table) - 1)
    while table[slot] >= 0 and (pairs[table[slot], 0] != a or pairs[table[slot], 1] != b):
        slot = (slot + 1) & (len(table) - 1)
    return slot


@njit(cache=True, nogil=True)
def _grown(rows):
    more = np.empty((2 * len(rows), 2), rows.dtype)
    more[: len(rows)] = rows
    return more


@njit(cache=True, nogil=True)
def _comes_before(i, j, order):
    return order[i] < order[j] or (order[i] == order[j] and i < j)


@njit(cache=True, nogil=True)
def _lowest_passes(order, number, shape):
    """Pairs of pieces that touch, and of each its lowest pass: the two voxels, the upper one first."""
    n_z, n_y, n_x = shape
    pairs, passes = np.empty((1 << 12, 2), np.int32), np.empty((1 << 12, 2), np.int32)
    table = np.full(4 * len(pairs), -1, np.int32)
    n_pairs = 0
    for axis in range(3):
        step = (n_y * n_x, n_x, 1)[axis]
        last_a, last_b, pair = np.int32(-1), np.int32(-1), 0
        for z in range(int(axis == 0), n_z):
            for y in range(int(axis == 1), n_y):
                row = (z * n_y + y) * n_x
                for i in range(row + int(axis == 2), row + n_x):
                    a, b = number[i], number[i - step]
                    if a == b or a < 0 or b < 0:
                        continue
                    if a > b:
                        a, b = b, a
                    upper, lower = (i - step, i) if order[i] < order[i - step] else (i, i - step)
                    if a != last_a or b != last_b:
                        last_a, last_b = a, b
                        slot = _slot(a, b, pairs, table)
                        if table[slot] < 0:
                            if n_pairs == len(pairs):
                                pairs, passes = _grown(pairs), _grown(passes)
                                table = np.full(4 * len(pairs), -1, np.int32)
                                for k in range(n_pairs):
                                    table[_slot(pairs[k, 0], pairs[k, 1], pairs, table)] = k
                                slot = _slot(a, b, pairs, table)
                            table[slot] = n_pairs
                            pairs[n_pairs, 0], pairs[n_pairs, 1] = a, b
                            passes[n_pairs, 0], passes[n_pairs, 1] = upper, lower
                            n_pairs += 1
                        pair = table[slot]
                    if _comes_before(upper, passes[pair, 0], order) or (
                        upper == passes[pair, 0] and _comes_before(lower, passes[pair, 1], order)
                    ):
                        passes[pair, 0], passes[pair, 1] = upper, lower
    return pairs[:n_pairs].copy(), passes[:n_pairs].copy()


@njit(cache=True, nogil=True)
def _root(tree, a):
    while tree[a] != a:
        tree[a] = tree[tree[a]]
        a = tree[a]
    return a


@njit(cache=True, nogil=True)
def _join(pairs, tree, depths, is_seed):
    """Join pieces along ``pairs``, never two with seeds; ``tree`` then points to the piece with the seed.

    Without any, a tree is named by its lowest root, which is a seed where the window ends before a lower one comes.
    """
    for e in range(len(pairs)):
        a, b = _root(tree, pairs[e, 0]), _root(tree, pairs[e, 1])
        if a == b or (is_seed[a] and is_seed[b]):
            continue
        if is_seed[b] or (not is_seed[a] and (depths[b] < depths[a] or (depths[b] == depths[a] and b < a))):
            a, b = b, a
        tree[b] = a
    for a in range(len(tree)):
        tree[a] = _root(tree, a)


@njit(cache=True, nogil=True)
def _join_small(pairs, tree, depths, sizes, minimum_size):
    """Join trees with fewer than ``minimum_size`` voxels to neighbours; the larger one gives the name."""
    for e in range(len(pairs)):
        a, b = _root(tree, pairs[e, 0]), _root(tree, pairs[e, 1])
        if a == b or (sizes[a] >= minimum_size and sizes[b] >= minimum_size):
            continue
        if sizes[b] > sizes[a] or (sizes[b] == sizes[a] and b < a):
            a, b = b, a
        tree[b] = a
        sizes[a] += sizes[b]
    for a in range(len(tree)):
        tree[a] = _root(tree, a)


@njit(cache=True, nogil=True)
def _sum_pieces(number, values, n_pieces):
    """Sums of ``values`` over pieces; an empty array stands for ones."""
    sums = np.zeros(n_pieces)
    for i in range(len(number)):
        if number[i] >= 0:
            sums[number[i]] += values[i] if len(values) > 0 else 1.0
    return sums


@njit(cache=True, nogil=True)
def _look_up(number, ids, out):
    for i in range(len(number)):
        if number[i] >= 0:
            out[i] = ids[number[i]]
