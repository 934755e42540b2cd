"""Variation of information, and the contingency table that it is computed from."""

import contextlib
import io

import numpy as np
import pytest
import skimage.metrics
import waterz
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsdflow.errors import UserError
from lsdflow.metrics import NormalizedVoi, normalized_voi, variation_of_information
from lsdflow.metrics.contingency import ContingencyTable, contingency_table
from lsdflow.metrics.voi import normalized_voi_from_table, voi_from_table

# The vector of funlib.evaluate's tests, with the scores that they publish.
TRUTH = np.array([1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4], np.uint64)
SEGMENTATION = np.array([3, 3, 3, 3, 4, 5, 6, 6, 5, 5, 5], np.uint64)

small_labels = hnp.arrays(np.uint64, (3, 4, 5), elements=st.integers(0, 5))


def random_labels(seed, shape=(6, 20, 20), n_ids=12):
    """Blocky labels with background, so that runs of equal voxels occur."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.integers(0, n_ids, (*shape[:-1], shape[-1] // 4)), 4, axis=-1).astype(np.uint64)


def naive_counts(segmentation, truth):
    counts = {}
    for s, t in zip(segmentation.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t:
            counts[s, t] = counts.get((s, t), 0) + 1
    return counts


def as_counts(table):
    pairs = zip(table.segments[table.rows].tolist(), table.truths[table.columns].tolist(), strict=True)
    return dict(zip(pairs, table.counts.tolist(), strict=True))


def assert_same_table(a, b):
    for name in ("segments", "truths", "rows", "columns", "counts"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_published_vector():
    assert variation_of_information(SEGMENTATION, TRUTH) == pytest.approx((0.6140806820148608, 0.7272727272727271))
    normalized = normalized_voi(SEGMENTATION, TRUTH)
    assert normalized == pytest.approx((0.2407837822280942, 0.2851668894867314, 0.3756069520269456))


def test_published_vector_of_two_objects_in_one_segment():
    table = contingency_table(np.array([2, 2, 2, 2]), np.array([1, 1, 2, 2]))
    assert voi_from_table(table) == (0, 1)
    assert normalized_voi_from_table(table) == (0, 1, 1)


def test_perfect_segmentation_scores_exactly_zero_whatever_its_ids():
    truth = random_labels(0)
    assert variation_of_information(truth * 7 + 3, truth) == (0, 0)
    assert normalized_voi_from_table(contingency_table(truth * 7 + 3, truth)) == pytest.approx((0, 0, 0), abs=1e-12)


def test_normalized_voi_ignores_segment_zero_only_if_told_so():
    segmentation, truth = np.array([0, 5, 5, 6]), np.array([1, 1, 1, 2])
    assert normalized_voi(segmentation, truth, ignore_segment_zero=True) == NormalizedVoi(0, 0, 0)
    assert normalized_voi(segmentation, truth).split > 0


def test_one_object_in_one_segment_has_normalized_scores_of_zero():
    assert normalized_voi_from_table(contingency_table(np.ones(4, int), np.ones(4, int))) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_equals_skimage_and_waterz(seed):
    segmentation, truth = random_labels(seed), random_labels(seed + 100)
    ours = variation_of_information(segmentation, truth)
    peer = skimage.metrics.variation_of_information(
        truth.astype(np.int64), segmentation.astype(np.int64), ignore_labels=[0]
    )
    assert ours == pytest.approx(tuple(peer), abs=1e-9)
    with contextlib.redirect_stdout(io.StringIO()):
        peer = waterz.evaluate(segmentation, truth)
    assert ours == pytest.approx((peer["voi_split"], peer["voi_merge"]), abs=1e-9)


def test_segment_zero_is_one_segment_unless_it_is_ignored():
    #                 half of object 1 is unlabelled
    segmentation, truth = np.array([0, 0, 5, 5]), np.array([1, 1, 1, 1])
    assert variation_of_information(segmentation, truth) == (1, 0)
    assert variation_of_information(segmentation, truth, ignore_segment_zero=True) == (0, 0)
    table = contingency_table(segmentation, truth)
    assert_same_table(table.without_segment_zero(), contingency_table(segmentation, truth, ignore_segment_zero=True))


def test_voxels_of_truth_zero_change_nothing():
    padded = np.append(SEGMENTATION, np.uint64([3, 9, 0])), np.append(TRUTH, np.uint64([0, 0, 0]))
    assert variation_of_information(*padded) == variation_of_information(SEGMENTATION, TRUTH)


@given(small_labels, small_labels)
def test_table_counts_each_pair_as_a_loop_does(segmentation, truth):
    table = contingency_table(segmentation, truth)
    assert as_counts(table) == naive_counts(segmentation, truth)
    assert table.total == np.count_nonzero(truth)
    np.testing.assert_array_equal(table.segments, np.unique(segmentation[truth != 0]))
    np.testing.assert_array_equal(table.truth_sizes, [np.sum(truth == t) for t in table.truths])
    np.testing.assert_array_equal(
        table.segment_sizes, [np.sum((segmentation == s) & (truth != 0)) for s in table.segments]
    )


@given(small_labels, small_labels)
def test_split_and_merge_change_places_with_the_arguments(a, b):
    a, b = a + 1, b + 1  # no background on either side
    assert variation_of_information(a, b) == pytest.approx(variation_of_information(b, a)[::-1])


@given(small_labels, small_labels, st.integers(0, 5))
def test_tables_of_blocks_merge_to_the_table_of_the_whole(segmentation, truth, cut):
    blocks = [np.s_[..., :cut], np.s_[..., cut:]]
    merged = ContingencyTable.merge(contingency_table(segmentation[b], truth[b]) for b in blocks)
    assert_same_table(merged, contingency_table(segmentation, truth))


@given(small_labels, small_labels, hnp.arrays(np.uint64, 6, elements=st.integers(0, 9)))
def test_relabelled_table_is_the_table_of_relabelled_voxels(fragments, truth, segment_of):
    table = contingency_table(fragments, truth)
    order = np.array([3, 0, 5, 1, 4, 2])
    assert_same_table(table.relabel(order, segment_of[order]), contingency_table(segment_of[fragments], truth))


def test_relabelling_keeps_zero_and_refuses_a_fragment_without_segment():
    table = contingency_table(np.array([0, 1, 2]), np.array([1, 1, 1]))
    np.testing.assert_array_equal(table.relabel([1, 2, 8], [7, 7, 7]).segments, [0, 7])
    with pytest.raises(ValueError, match="first of them 2"):
        table.relabel([1], [7])


def test_ids_beyond_63_bits_stay_apart():
    big = np.array([2**64 - 1, 2**64 - 2, 2**63, 1], np.uint64)
    table = contingency_table(big, big)
    assert len(table.counts) == 4
    assert variation_of_information(big, big) == (0, 0)


def test_views_with_any_strides_are_counted_alike():
    segmentation, truth = random_labels(1), random_labels(2)
    expected = contingency_table(segmentation[:, ::-2].copy(), truth[:, ::-2].copy())
    assert_same_table(contingency_table(segmentation[:, ::-2], truth[:, ::-2]), expected)
    transposed = contingency_table(np.asfortranarray(segmentation), truth)
    assert_same_table(transposed, contingency_table(segmentation, truth))


def test_block_without_truth_gives_an_empty_table_that_merges():
    empty = contingency_table(np.ones((2, 2), int), np.zeros((2, 2), int))
    assert empty.total == 0
    table = contingency_table(SEGMENTATION, TRUTH)
    assert_same_table(ContingencyTable.merge([empty, table, empty]), table)
    assert ContingencyTable.merge([]).total == 0


def test_bad_input_is_refused_with_what_is_wrong():
    ones = np.ones((2, 3), np.uint64)
    with pytest.raises(UserError, match=r"same shape, not \(2, 3\) and \(3, 2\)"):
        variation_of_information(ones, ones.T)
    with pytest.raises(UserError, match="segmentation must hold integer ids, not float32"):
        variation_of_information(ones.astype(np.float32), ones)
    with pytest.raises(UserError, match="truth must hold integer ids, not float64"):
        variation_of_information(ones, ones.astype(float))
    with pytest.raises(UserError, match="truth must hold ids of 0 or more, not -1"):
        variation_of_information(ones, -ones.astype(int))
    with pytest.raises(UserError, match="truth has no label"):
        variation_of_information(ones, ones * 0)
    with pytest.raises(UserError, match="truth has no label"):
        variation_of_information(ones * 0, ones, ignore_segment_zero=True)


def test_segmentation_of_zeros_is_one_segment():
    truth = np.array([1, 1, 2, 2])
    assert variation_of_information(truth * 0, truth) == (0, 1)
