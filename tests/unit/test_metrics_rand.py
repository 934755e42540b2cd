"""Rand scores."""

import contextlib
import io
from itertools import permutations

import numpy as np
import pytest
import skimage.metrics
import waterz

from lsdflow.errors import UserError
from lsdflow.metrics import RandScores, rand_scores
from lsdflow.metrics.contingency import contingency_table
from lsdflow.metrics.rand import rand_from_table

# The vector of funlib.evaluate's tests, with the scores that they publish.
TRUTH = np.array([1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4], np.uint64)
SEGMENTATION = np.array([3, 3, 3, 3, 4, 5, 6, 6, 5, 5, 5], np.uint64)


def random_labels(seed):
    return np.random.default_rng(seed).integers(0, 9, (5, 12, 12)).astype(np.uint64)


def test_published_vector():
    scores = rand_scores(SEGMENTATION, TRUTH)
    assert (scores.split, scores.merge) == pytest.approx((0.6363636363636364, 0.5675675675675675))


def test_published_vector_of_two_objects_in_one_segment():
    scores = rand_scores(np.array([2, 2, 2, 2]), np.array([1, 1, 2, 2]))
    assert (scores.split, scores.merge) == (1, 0.5)


def test_adapted_error_is_the_f_score_of_voxel_pairs():
    pairs = list(permutations(range(len(TRUTH)), 2))
    in_truth = np.array([TRUTH[i] == TRUTH[j] for i, j in pairs])
    in_segment = np.array([SEGMENTATION[i] == SEGMENTATION[j] for i, j in pairs])
    precision, recall = np.mean(in_truth[in_segment]), np.mean(in_segment[in_truth])
    expected = 1 - 2 * precision * recall / (precision + recall)
    assert rand_scores(SEGMENTATION, TRUTH).adapted_error == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_equals_skimage_and_waterz(seed):
    segmentation, truth = random_labels(seed), random_labels(seed + 100)
    ours = rand_scores(segmentation, truth)
    peer, _, _ = skimage.metrics.adapted_rand_error(truth.astype(np.int64), segmentation.astype(np.int64))
    assert ours.adapted_error == pytest.approx(peer, abs=1e-9)
    with contextlib.redirect_stdout(io.StringIO()):
        peer = waterz.evaluate(segmentation, truth)
    assert (ours.split, ours.merge) == pytest.approx((peer["rand_split"], peer["rand_merge"]), abs=1e-9)


def test_perfect_segmentation():
    truth = random_labels(0)
    assert rand_scores(truth + 5, truth) == RandScores(split=1, merge=1, adapted_error=0)


def test_every_voxel_on_its_own_on_both_sides_is_perfect():
    assert rand_scores(np.arange(1, 5), np.arange(1, 5)) == RandScores(split=1, merge=1, adapted_error=0)


def test_segment_zero_is_one_segment_unless_it_is_ignored():
    segmentation, truth = np.array([0, 0, 5, 5]), np.array([1, 1, 1, 1])
    assert rand_scores(segmentation, truth).split == 0.5
    assert rand_scores(segmentation, truth, ignore_segment_zero=True).split == 1


def test_scores_from_a_relabelled_table_are_those_of_the_merged_segments():
    table = contingency_table(SEGMENTATION, TRUTH).relabel([3, 4, 5, 6], [1, 1, 2, 2])
    assert rand_from_table(table) == rand_scores(np.where(SEGMENTATION < 5, 1, 2), TRUTH)


def test_bad_input_is_refused_with_what_is_wrong():
    ones = np.ones((2, 3), np.uint64)
    with pytest.raises(UserError, match="same shape"):
        rand_scores(ones, ones.T)
    with pytest.raises(UserError, match="integer ids"):
        rand_scores(ones, ones * 0.5)
    with pytest.raises(UserError, match="truth has no label"):
        rand_scores(ones, ones * 0)
