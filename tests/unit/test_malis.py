"""MALIS weights against pairs of voxels counted one by one, and the loss against its formula."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsdflow.affinities import affinities, affinities_mask, offsets_on_axes
from lsdflow.errors import UserError
from lsdflow.malis import malis_loss, malis_weights

NEAREST = offsets_on_axes([1])
LONG_RANGE = [*NEAREST, [0, -2, 1], [1, 0, 0]]
ALONG_X = [[0, 0, -1]]


def edges_of(labels, offsets):
    """(channel, voxel, neighbour) of all edges inside the crop, in the order of the array."""
    inside = affinities_mask(labels.shape, offsets)
    for channel, *voxel in np.argwhere(inside):
        yield channel, tuple(voxel), tuple(np.add(voxel, offsets[channel]))


def naive_parts(labels, offsets):
    """Labels renumbered: voxels of an object that a path of edges within it connects."""
    parts = np.zeros(labels.shape, int)
    neighbours = {voxel: [] for voxel in np.ndindex(labels.shape)}
    for _, u, v in edges_of(labels, offsets):
        if labels[u] == labels[v]:
            neighbours[u].append(v)
            neighbours[v].append(u)
    for number, voxel in enumerate(zip(*np.nonzero(labels), strict=True), 1):
        reached = [] if parts[voxel] else [voxel]
        while reached:
            here = reached.pop()
            parts[here] = number
            reached += [there for there in neighbours[here] if not parts[there]]
    return parts


def normalised(counts):
    return (counts / max(1, counts.sum())).astype(np.float32)


def naive_weights(prediction, labels, offsets, known=None, relabel=True):
    """Kruskal's algorithm with sets of voxels, pairs counted one by one."""
    target = affinities(labels, offsets)
    known = np.ones_like(target) if known is None else known
    if relabel:
        labels = naive_parts(labels, offsets)
    weights = np.zeros(target.shape, np.float32)
    for is_positive in (0, 1):

        def strength(edge, is_positive=is_positive):
            place = (edge[0], *edge[1])
            if known[place] and target[place] != is_positive:
                # Set to 1 or to 0, and beyond those predicted to be so.
                return (0, -1) if is_positive else (1, 1)
            return prediction[place], 0

        set_of = {voxel: {voxel} for voxel in np.ndindex(labels.shape)}
        counts = np.zeros(target.shape)
        # The sort is stable.
        for channel, u, v in sorted(edges_of(labels, offsets), key=strength, reverse=True):
            if set_of[u] is set_of[v]:
                continue
            place = (channel, *u)
            if known[place] and target[place] == is_positive:
                counts[place] = sum(
                    (labels[a] == labels[b]) == is_positive
                    for a, b in itertools.product(set_of[u], set_of[v])
                    if labels[a] and labels[b]
                )
            joined = set_of[u] | set_of[v]
            set_of.update(dict.fromkeys(joined, joined))
        weights += normalised(counts)
    return weights


def maximin_weights(prediction, labels, offsets, known):
    """For all pairs the weakest edge on the best path, from all paths over ever more voxels (Floyd and Warshall)."""
    target = affinities(labels, offsets)
    number = np.arange(labels.size).reshape(labels.shape)
    weights = np.zeros(target.shape, np.float32)
    for is_positive in (0, 1):
        is_set = (target != is_positive) & (known != 0)
        strength = np.where(is_set, -1.0 if is_positive else 2.0, prediction)
        maximin = np.full((labels.size, labels.size), -np.inf)
        for channel, u, v in edges_of(labels, offsets):
            i, j = number[u], number[v]
            maximin[i, j] = maximin[j, i] = max(maximin[i, j], strength[(channel, *u)])
        for k in range(labels.size):
            maximin = np.maximum(maximin, np.minimum(maximin[:, k : k + 1], maximin[k]))
        flat = labels.ravel()
        is_pair = ((flat[:, None] == flat) == is_positive) & (flat[:, None] != 0) & (flat != 0)
        deciding = maximin[np.triu(is_pair, 1)]
        counts = np.zeros(target.shape)
        for channel, u, _ in edges_of(labels, offsets):
            place = (channel, *u)
            if known[place] and not is_set[place]:
                counts[place] = np.count_nonzero(deciding == strength[place])
        weights += normalised(counts)
    return weights


def random_crop(shape, offsets, seed, n_labels=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, shape)
    prediction = rng.random((len(offsets), *shape), np.float32)
    known = rng.random(prediction.shape) < 0.8
    return prediction, labels, known


def along_x(*values, dtype=np.float32):
    return np.array(values, dtype).reshape(1, 1, 1, -1)


LABELS = hnp.arrays(np.int64, st.tuples(*[st.integers(1, 3)] * 3), elements=st.integers(0, 3))


@st.composite
def crops(draw):
    """Prediction with many equal values, labels and known edges."""
    labels = draw(LABELS)
    shape = (len(LONG_RANGE), *labels.shape)
    values = st.sampled_from([-0.0, 0.0, 0.125, 0.25, 0.5, 0.75, 1.0])
    prediction = draw(hnp.arrays(np.float32, shape, elements=values))
    known = draw(st.none() | hnp.arrays(np.bool_, shape))
    return prediction, labels, known


@settings(max_examples=60, deadline=None)
@given(crop=crops(), relabel=st.booleans())
def test_weights_are_pairs_counted_one_by_one(crop, relabel):
    prediction, labels, known = crop
    weights = malis_weights(prediction, labels, LONG_RANGE, known=known, relabel=relabel)
    np.testing.assert_array_equal(weights, naive_weights(prediction, labels, LONG_RANGE, known, relabel))


@settings(max_examples=30, deadline=None)
@given(crop=crops())
def test_only_the_order_of_affinities_counts(crop):
    prediction, labels, known = crop
    weights = malis_weights(prediction, labels, LONG_RANGE, known=known)
    np.testing.assert_array_equal(malis_weights(prediction / 2, labels, LONG_RANGE, known=known), weights)


@pytest.mark.parametrize("offsets", [NEAREST, LONG_RANGE])
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_pairs_counted_one_by_one_in_a_larger_crop(offsets, seed):
    prediction, labels, known = random_crop((3, 5, 4), offsets, seed)
    for mask, relabel in itertools.product((None, known), (True, False)):
        weights = malis_weights(prediction, labels, offsets, known=mask, relabel=relabel)
        np.testing.assert_array_equal(weights, naive_weights(prediction, labels, offsets, mask, relabel))


@pytest.mark.parametrize("offsets", [NEAREST, LONG_RANGE])
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_pairs_with_this_maximin_edge(offsets, seed):
    prediction, labels, known = random_crop((3, 4, 4), offsets, seed, n_labels=3)
    assert len(np.unique(prediction)) == prediction.size
    for mask in (np.ones_like(known), known):
        weights = malis_weights(prediction, labels, offsets, known=mask, relabel=False)
        np.testing.assert_array_equal(weights, maximin_weights(prediction, labels, offsets, mask))


def test_pairs_by_hand():
    # Objects a a a, b b and c with a gap of background; edges between objects, the strongest first:
    # b|c 2 · 1 pairs; a|_ none; _|b 3 · 3. Within a: the stronger edge 1 pair, the weaker one 2; within b: 1.
    labels = along_x(1, 1, 1, 0, 2, 2, 3, dtype=int)[0]
    prediction = along_x(0, 0.1, 0.2, 0.5, 0.4, 0.3, 0.9)
    expected = [0, 2 / 4, 1 / 4, 0, 9 / 11, 1 / 4, 2 / 11]
    np.testing.assert_allclose(malis_weights(prediction, labels, ALONG_X).ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_each_pass_sums_to_one(seed):
    prediction, labels, known = random_crop((6, 7, 8), NEAREST, seed)
    weights = malis_weights(prediction, labels, NEAREST, known=known)
    target = affinities(labels, NEAREST)
    for value in (0, 1):
        assert weights[target == value].sum(dtype=float) == pytest.approx(1)
    assert not weights[~known].any()
    assert not weights[affinities_mask(labels.shape, NEAREST) == 0].any()


def test_one_object_has_no_negative_pairs():
    prediction, *_ = random_crop((3, 4, 5), NEAREST, 0)
    weights = malis_weights(prediction, np.full((3, 4, 5), 7), NEAREST)
    assert weights.sum(dtype=float) == pytest.approx(1)


def test_single_voxels_have_no_positive_pairs():
    prediction, *_ = random_crop((3, 4, 5), NEAREST, 0)
    weights = malis_weights(prediction, np.arange(1, 61).reshape(3, 4, 5), NEAREST)
    assert weights.sum(dtype=float) == pytest.approx(1)
    # Each edge of a spanning tree joins different objects.
    assert np.count_nonzero(weights) == 59


@pytest.mark.parametrize("shape", [(3, 4, 5), (0, 4, 5)])
def test_background_weighs_nothing(shape):
    assert not malis_weights(np.full((3, *shape), 0.5), np.zeros(shape, int), NEAREST).any()


def test_an_object_that_enters_twice_is_two_or_one():
    # Parts of 2, 1 and 2 voxels: the stronger edge between them decides 2 · 1 pairs, the weaker one 3 · 2 of which the
    # 4 between the parts of object 1 count only where these are different objects.
    labels = along_x(1, 1, 2, 1, 1, dtype=int)[0]
    prediction = along_x(0, 0.9, 0.6, 0.4, 0.9)
    between = [2, 3]
    assert malis_weights(prediction, labels, ALONG_X).ravel()[between].tolist() == [0.25, 0.75]
    assert malis_weights(prediction, labels, ALONG_X, relabel=False).ravel()[between].tolist() == [0.5, 0.5]


def test_an_object_that_a_long_edge_connects_enters_once():
    labels = along_x(1, 2, 1, dtype=int)[0]
    prediction = np.array([[[[0, 0.6, 0.4]]], [[[0, 0, 0.1]]]], np.float32)
    weights = malis_weights(prediction, labels, [*ALONG_X, [0, 0, -2]])
    # All of object 1 with object 2, at the stronger edge; the only pair within object 1.
    assert weights.reshape(2, 3).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_equal_affinities_count_in_the_order_of_the_array():
    labels = along_x(1, 1, 1, dtype=int)[0]
    weights = malis_weights(along_x(0, 0.5, 0.5), labels, ALONG_X).ravel()
    np.testing.assert_allclose(weights, [0, 1 / 3, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e-6, 0.5, 1 - 2.0**-24])
def test_affinities_that_hardly_differ_are_told_apart(value):
    # The second edge is the stronger one; the first decides the pairs of the first voxel with both others.
    weaker = np.float32(value)
    stronger = np.nextafter(weaker, np.float32(1))
    weights = malis_weights(along_x(0, weaker, stronger), along_x(1, 1, 1, dtype=int)[0], ALONG_X).ravel()
    np.testing.assert_allclose(weights, [0, 2 / 3, 1 / 3], rtol=1e-6)


def test_saturated_affinities_give_way_to_the_truth():
    # Two rows, an object each. A merger that is predicted to be 1 finds whole objects, whose 4 pairs it decides; splits
    # predicted to be 0 are mended before the objects are joined.
    labels = np.array([[[1, 1], [2, 2]]])
    along_y, along_x = np.ones((1, 2, 2)), np.zeros((1, 2, 2))
    weights = malis_weights(np.stack([along_y, along_x]), labels, [[0, -1, 0], [0, 0, -1]])
    assert weights.tolist() == [[[[0, 0], [1, 0]]], [[[0, 0.5], [0, 0.5]]]]


def test_unknown_edges_are_paths_but_weigh_nothing():
    # The unknown edge decides all pairs of different objects, the others one pair each.
    labels = along_x(1, 1, 2, 2, dtype=int)[0]
    prediction, known = along_x(0, 0.5, 0.9, 0.4), along_x(1, 1, 0, 1, dtype=np.uint8)
    assert malis_weights(prediction, labels, ALONG_X, known=known).ravel().tolist() == [0, 0.5, 0, 0.5]


def test_any_integers_memory_order_and_threads_give_the_same():
    prediction, labels, known = random_crop((6, 8, 10), NEAREST, 0)
    weights = malis_weights(prediction, labels, NEAREST, known=known, relabel=False)
    for other in (labels.astype(np.uint64) * np.uint64(2**62), -labels.astype(np.int8), labels.astype(np.int32)):
        same = malis_weights(
            np.asfortranarray(prediction),
            np.asfortranarray(other),
            NEAREST,
            known=np.asfortranarray(known.astype(np.uint8)),
            relabel=False,
            threads=2,
        )
        np.testing.assert_array_equal(same, weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.zeros((3, 2, 3, 5), np.float32)}, r"\(3, 2, 3, 4\), not \(3, 2, 3, 5\)"),
        ({"prediction": np.zeros((2, 2, 3, 4), np.float32)}, r"\(3, 2, 3, 4\), not \(2, 2, 3, 4\)"),
        ({"prediction": np.full((3, 2, 3, 4), np.nan, np.float32)}, "NaN"),
        ({"prediction": np.full((3, 2, 3, 4), 1.5, np.float32)}, "1.5"),
        ({"prediction": np.full((3, 2, 3, 4), -0.5, np.float32)}, "-0.5"),
        ({"prediction": np.zeros((3, 2, 3, 4), np.uint8)}, "uint8"),
        ({"labels": np.zeros((2, 3, 4))}, "float64"),
        ({"offsets": [[0, -1]]}, r"\(1, 2\)"),
        ({"known": np.ones((3, 2, 3, 5))}, r"\(3, 2, 3, 4\), not \(3, 2, 3, 5\)"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"prediction": np.zeros((3, 2, 3, 4), np.float32), "labels": np.zeros((2, 3, 4), int), "offsets": NEAREST}
    with pytest.raises(UserError, match=message):
        malis_weights(**(given | change))


def batch_of_crops(n, shape=(3, 4, 5)):
    arrays = [random_crop(shape, NEAREST, seed) for seed in range(n)]
    return [np.stack(values) for values in zip(*arrays, strict=True)]


@pytest.mark.parametrize("relabel", [True, False])
@pytest.mark.parametrize("n_crops", [1, 3])
def test_loss_and_gradient_are_those_of_weighted_squares(n_crops, relabel):
    prediction, labels, known = batch_of_crops(n_crops)
    weights = np.stack(
        [
            malis_weights(*crop, NEAREST, known=mask, relabel=relabel)
            for *crop, mask in zip(prediction, labels, known, strict=True)
        ]
    )
    error = prediction - np.stack([affinities(crop, NEAREST) for crop in labels])
    tensor = torch.from_numpy(prediction).requires_grad_()
    loss = malis_loss(tensor, labels, known, NEAREST, relabel=relabel)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((weights * error**2).sum() / n_crops, rel=1e-5)
    np.testing.assert_allclose(tensor.grad.numpy(), 2 * weights * error / n_crops, rtol=1e-5)


def test_loss_of_tensors_is_that_of_arrays():
    prediction, labels, known = batch_of_crops(2)
    loss = malis_loss(torch.from_numpy(prediction), labels, None, NEAREST)
    everything = torch.ones(prediction.shape, dtype=torch.bool)
    assert torch.equal(malis_loss(torch.from_numpy(prediction), torch.from_numpy(labels), everything, NEAREST), loss)
    assert malis_loss(torch.from_numpy(prediction), labels, known, NEAREST) != loss


def test_loss_of_a_perfect_prediction_is_nothing():
    _, labels, known = batch_of_crops(2)
    target = np.stack([affinities(crop, NEAREST) for crop in labels]).astype(np.float32)
    assert float(malis_loss(torch.from_numpy(target), labels, known, NEAREST)) == 0
    assert float(malis_loss(torch.from_numpy(1 - target), labels, None, NEAREST)) == pytest.approx(2)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_half_precision_is_summed_in_single(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    prediction, labels, known = batch_of_crops(2)
    half = torch.from_numpy(prediction).to(device, torch.bfloat16).requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        loss = malis_loss(half, labels, known, NEAREST)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.device.type == device
    assert half.grad.dtype == torch.bfloat16
    assert float(loss.detach()) == pytest.approx(float(malis_loss(half.detach().float().cpu(), labels, known, NEAREST)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": torch.zeros(3, 3, 4, 5)}, r"\(3, 3, 4, 5\)"),
        ({"prediction": torch.zeros(0, 3, 3, 4, 5)}, r"\(0, 3, 3, 4, 5\)"),
        ({"labels": np.zeros((1, 3, 4, 5), int)}, "labels must be of 2 crops.* not 1"),
        ({"known": np.ones((3, 3, 3, 4, 5))}, "known affinities must be of 2 crops.* not 3"),
        ({"labels": np.zeros((2, 3, 4, 6), int)}, r"\(3, 3, 4, 6\), not \(3, 3, 4, 5\)"),
        ({"prediction": torch.full((2, 3, 3, 4, 5), float("nan"))}, "NaN"),
    ],
)
def test_a_bad_batch_is_refused(change, message):
    prediction, labels, known = batch_of_crops(2)
    given = {"prediction": torch.from_numpy(prediction), "labels": labels, "known": known, "offsets": NEAREST}
    with pytest.raises(UserError, match=message):
        malis_loss(**(given | change))
