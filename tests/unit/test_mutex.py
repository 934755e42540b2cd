"""The mutex watershed joins and forbids in the order of how sure affinities are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.errors import UserError
from lsdflow.fragments import Place
from lsdflow.mutex import mutex_fragments

OFFSETS = [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [-2, 0, 0], [0, -2, 0], [0, 0, -2]]


def reference(affinities, strides):
    """One edge after the other, the surest first, with sets of voxels and of what they must not join."""
    shape = affinities.shape[1:]
    edges = []
    for channel, offset in enumerate(OFFSETS):
        for v in np.ndindex(shape):
            w = tuple(a + b for a, b in zip(v, offset, strict=True))
            if min(w) >= 0 and (channel < 3 or all(a % s == 0 for a, s in zip(v, strides, strict=True))):
                sure = affinities[(channel, *v)]
                edges.append((sure if channel < 3 else 1 - sure, channel < 3, v, w))
    segment = {v: v for v in np.ndindex(shape)}
    members, apart = {v: {v} for v in segment}, {v: set() for v in segment}
    for _, joins, v, w in sorted(edges, key=lambda edge: -edge[0]):
        a, b = segment[v], segment[w]
        if a == b:
            continue
        if not joins:
            apart[a].add(b)
            apart[b].add(a)
        elif b not in apart[a]:
            for u in members[b]:
                segment[u] = a
            members[a] |= members.pop(b)
            apart[a] |= apart[b]
            for c in apart.pop(b):
                apart[c] = (apart[c] - {b}) | {a}
    return np.reshape([np.ravel_multi_index(min(members[segment[v]]), shape) for v in np.ndindex(shape)], shape)


def same_partition(a, b):
    pairs = np.unique(np.stack([a.ravel().astype(np.int64), b.ravel().astype(np.int64)]), axis=1).T
    return len(pairs) == len(np.unique(a)) == len(np.unique(b))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1, 1), (2, 2, 2), (1, 2, 3)]))
def test_fragments_are_those_of_one_edge_after_the_other(seed, strides):
    # All different, so that there is one order.
    affinities = np.random.default_rng(seed).permutation(6 * 4 * 5 * 6).reshape(6, 4, 5, 6) / (6 * 4 * 5 * 6)
    found = mutex_fragments(affinities.astype(np.float32), OFFSETS, strides=strides)
    assert same_partition(found, reference(affinities.astype(np.float32), strides))
    assert np.array_equal(np.unique(found), np.arange(1, found.max() + 1))


def test_bytes_stand_for_their_255th():
    affinities = np.random.default_rng(0).integers(0, 256, (6, 6, 7, 8), np.uint8)
    np.testing.assert_array_equal(
        mutex_fragments(affinities, OFFSETS), mutex_fragments(affinities / np.float32(255), OFFSETS)
    )


def test_a_low_long_range_affinity_keeps_apart_what_neighbours_would_join():
    affinities = np.full((6, 1, 1, 9), 0.9, np.float32)
    affinities[2, 0, 0, 5] = 0.6
    affinities[5, 0, 0, 5:7] = 0.05
    assert len(np.unique(mutex_fragments(affinities, OFFSETS))) == 2
    affinities[5] = 0.9
    assert len(np.unique(mutex_fragments(affinities, OFFSETS))) == 1


def test_ids_in_a_place_are_first_voxels_and_nothing_lies_outside_the_mask():
    rng = np.random.default_rng(0)
    affinities, mask = rng.random((6, 6, 7, 8), np.float32), rng.random((6, 7, 8)) < 0.8
    plain = mutex_fragments(affinities, OFFSETS, mask=mask)
    placed = mutex_fragments(affinities, OFFSETS, mask=mask, place=Place((1, 2, 3), (10, 20, 30)))
    np.testing.assert_array_equal(placed > 0, mask)
    assert same_partition(plain, placed)
    for fragment in np.unique(placed[mask]):
        voxel = np.array(np.unravel_index(int(fragment) - 1, (10, 20, 30))) - (1, 2, 3)
        assert placed[tuple(voxel)] == fragment


@pytest.mark.parametrize(
    ("channels", "offsets", "options", "message"),
    [
        (3, OFFSETS[:3], {}, "needs long-range affinities beside the 3 of neighbours"),
        (6, OFFSETS[:4], {}, "6 channels of affinities need as many offsets, not 4"),
        (6, OFFSETS, {"mask": np.ones((4, 4, 5))}, r"the mask must have the shape of the affinities, \(4, 4, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(channels, offsets, options, message):
    with pytest.raises(UserError, match=message):
        mutex_fragments(np.zeros((channels, 4, 4, 4), np.float32), offsets, **options)
