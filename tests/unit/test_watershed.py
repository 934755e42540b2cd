"""The flooding is the minimum spanning forest of its seeds, and the same in a window as in the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.watershed import flood


def neighbours(voxel, shape):
    for axis in range(3):
        for step in (-1, 1):
            other = tuple(n + step * (a == axis) for a, n in enumerate(voxel))
            if all(0 <= n < m for n, m in zip(other, shape, strict=True)):
                yield other


def reference(height, mask, reach, minimum_size=0):
    """Kruskal's algorithm over all pairs of neighbours, one at a time; fragments by their seeds."""
    shape = height.shape
    voxels = [v for v in np.ndindex(shape) if mask is None or mask[v]]
    key = {v: (float(height[v]) + 0.0, np.ravel_multi_index(v, shape)) for v in voxels}
    edges = sorted(
        (max(key[v], key[w]), min(key[v], key[w]), v, w)
        for v in voxels
        for w in neighbours(v, shape)
        if w in key and v < w
    )

    def is_seed(v):
        others = [w for w in voxels if w != v and all(abs(a - b) <= r for a, b, r in zip(v, w, reach, strict=True))]
        return all(key[w] > key[v] for w in [*others, *(w for w in neighbours(v, shape) if w in key)])

    tree = {v: {v} for v in voxels}
    seed = {v: v if is_seed(v) else None for v in voxels}

    def join(a, b, kept):
        union = tree[a] | tree[b]
        for v in union:
            tree[v], seed[v] = union, kept

    lowest = lambda v: min(tree[v], key=key.get)  # noqa: E731
    for is_rim in (False, True):
        for (top, _), _, v, w in edges:
            if (top >= 0) == is_rim and tree[v] is not tree[w] and not (seed[v] and seed[w]):
                join(v, w, seed[v] or seed[w])
        for v in voxels:
            if seed[v] is None and (is_rim or key[lowest(v)][0] < 0):
                join(v, v, lowest(v))
    for _, _, v, w in edges if minimum_size else ():
        if seed[v] != seed[w] and min(len(tree[v]), len(tree[w])) < minimum_size:
            a, b = sorted((v, w), key=lambda v: (-len(tree[v]), np.ravel_multi_index(seed[v], shape)))
            join(a, b, seed[a])
    found = np.full(shape, -1)
    for v in voxels:
        found[v] = np.ravel_multi_index(seed[v], shape)
    return found


def seeds_of(height, mask=None, **options):
    basins = flood(height.copy(), mask, **options)
    found = np.full(height.shape, -1)
    inside = basins.number >= 0
    found[inside] = basins.roots[basins.fragment][basins.number[inside]]
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans(), st.sampled_from([0, 4, 9]))
def test_fragments_are_those_of_kruskals_algorithm(seed, levels, is_masked, minimum_size):
    # Few different heights make plateaus and ties everywhere.
    rng = np.random.default_rng(seed)
    height = rng.integers(-levels, levels + 1, (4, 5, 6)).astype(np.float32)
    mask = rng.random(height.shape) < 0.8 if is_masked else None
    reach = tuple(rng.integers(0, 3, 3))
    found = seeds_of(height, mask, reach=reach, minimum_size=minimum_size)
    np.testing.assert_array_equal(found, reference(height, mask, reach, minimum_size))


def smooth(shape, seed):
    rng = np.random.default_rng(seed)
    waves = [np.sin(np.arange(n) * rng.uniform(0.5, 0.9) + rng.uniform(0, 6)) for n in shape]
    return (waves[0][:, None, None] + waves[1][:, None] + waves[2] + rng.normal(0, 0.05, shape)).astype(np.float32)


def test_a_window_with_enough_context_has_the_fragments_of_the_whole():
    height = smooth((30, 40, 48), 0)
    whole = seeds_of(height, reach=(2, 2, 2))
    assert len(np.unique(whole)) > 20
    begin, end = (5, 8, 9), (27, 37, 45)
    window = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))
    part = seeds_of(np.ascontiguousarray(height[window]), reach=(2, 2, 2))
    places = np.stack(np.unravel_index(part, part.shape)) + np.reshape(begin, (3, 1, 1, 1))
    inner = (slice(9, -9),) * 3
    np.testing.assert_array_equal(np.ravel_multi_index(tuple(places), height.shape)[inner], whole[window][inner])


def test_sums_are_those_over_each_fragment():
    height, values = smooth((10, 11, 12), 1), np.random.default_rng(0).random((10, 11, 12)).astype(np.float32)
    mask = values < 0.9
    basins = flood(height.copy(), mask, reach=(1, 1, 1))
    found = seeds_of(height, mask, reach=(1, 1, 1))
    sizes, sums = basins.sums(), basins.sums(values)
    for piece in np.flatnonzero(basins.are_seeds):
        is_here = found == basins.roots[piece]
        assert sizes[piece] == is_here.sum() > 0
        assert sums[piece] == pytest.approx(values[is_here].sum(dtype=float))
    assert not sizes[~basins.are_seeds].any()


def test_nothing_to_flood_is_nothing():
    height = np.zeros((3, 4, 5), np.float32)
    basins = flood(height, np.zeros(height.shape, bool), reach=(1, 1, 1))
    assert len(basins.roots) == 0 and (basins.number == -1).all()


def test_a_window_too_large_for_its_indices_is_refused():
    with pytest.raises(ValueError, match="cut them into blocks"):
        flood(np.broadcast_to(np.float32(0), (2048, 1024, 1024)), None, reach=(1, 1, 1))
