"""The worst splits and merges and where they are, against loops over voxels and sums by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsdflow.blocks import BlockGrid
from lsdflow.errors import UserError
from lsdflow.metrics.contingency import contingency_table
from lsdflow.metrics.errors import COLUMNS, ErrorPair, Location, error_rows, locate, worst_errors
from lsdflow.metrics.voi import voi_from_table
from lsdflow.roi import Roi

small_labels = hnp.arrays(np.uint64, (3, 4, 5), elements=st.integers(0, 4))
EVERY = 10**6


def errors_of(segmentation, truth, kind, count=EVERY):
    table = contingency_table(np.asarray(segmentation), np.asarray(truth))
    return [error for error in worst_errors(table, count=count) if error.kind == kind]


def naive_errors(segmentation, truth):
    """All errors, as dictionaries (kind, truth, segment) → (other, voxels, bits)."""
    counts = {}
    for s, t in zip(segmentation.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t:
            counts[s, t] = counts.get((s, t), 0) + 1
    total, found = sum(counts.values()), {}
    for kind, whole, part in (("split", 1, 0), ("merge", 0, 1)):
        for name in {pair[whole] for pair in counts}:
            parts = {pair[part]: n for pair, n in counts.items() if pair[whole] == name}
            main = min(parts, key=lambda p: (-parts[p], p))
            size, largest = sum(parts.values()), parts.pop(main)
            for other, n in parts.items():
                own, of_main = n * math.log2(size / n), largest * math.log2(size / largest)
                segment, t = (other, name) if kind == "split" else (name, other)
                if kind == "split" or segment:
                    found[kind, t, segment] = (main, n, (own + of_main * n / (size - largest)) / total)
    return found


def naive_places(error, segmentation, truth):
    """The voxels that the position may be one of, and all voxels of the part."""
    at_main, at_rest, part = [], [], []
    for voxel in np.ndindex(*truth.shape):
        if (segmentation[voxel], truth[voxel]) != (error.segment, error.truth):
            continue
        part.append(voxel)
        beside = []
        for axis, step in ((0, -1), (0, 1), (1, -1), (1, 1), (2, -1), (2, 1)):
            other = list(voxel)
            other[axis] += step
            if 0 <= other[axis] < truth.shape[axis]:
                beside.append((int(segmentation[tuple(other)]), int(truth[tuple(other)])))
        if error.kind == "split":
            if (error.other, error.truth) in beside:
                at_main.append(voxel)
            if any(t == error.truth and s != error.segment for s, t in beside):
                at_rest.append(voxel)
        else:
            if (error.segment, error.other) in beside:
                at_main.append(voxel)
            if any(s == error.segment and t not in (0, error.truth) for s, t in beside):
                at_rest.append(voxel)
    return at_main or at_rest or part, part


def reader(segmentation, truth):
    return lambda box: (segmentation[box.slices], truth[box.slices])


def located(segmentation, truth, block_shape=(64, 64, 64), voxel_size=(1, 1, 1), count=EVERY):
    """Errors of a volume and where they are."""
    errors = worst_errors(contingency_table(segmentation, truth), count=count)
    grid = BlockGrid(Roi.of_shape(truth.shape), block_shape)
    return errors, locate(errors, reader(segmentation, truth), grid, voxel_size=voxel_size)


# --- which errors ----------------------------------------------------------------------------------------------------


def test_a_worked_example():
    # Object 1 lies in segments 5 (6 voxels) and 6 (2), object 2 in segment 6 alone (8).
    truth = np.array([1] * 8 + [2] * 8)
    segmentation = np.array([5] * 6 + [6] * 10)
    # Of object 1, 8 of 16 voxels, a quarter is cut off: 8/16 × h(1/4), where h(p) = -p log p - (1-p) log (1-p).
    # Of segment 6, 10 of 16 voxels, a fifth is the wrong object: 10/16 × h(1/5).
    (merge, split) = worst_errors(contingency_table(segmentation, truth))
    assert merge == ErrorPair("merge", truth=1, segment=6, other=2, voxels=2, bits=merge.bits)
    assert merge.bits == pytest.approx(10 / 16 * (0.2 * math.log2(5) + 0.8 * math.log2(5 / 4)))
    assert split == ErrorPair("split", truth=1, segment=6, other=5, voxels=2, bits=split.bits)
    assert split.bits == pytest.approx(8 / 16 * (0.25 * 2 + 0.75 * math.log2(4 / 3)))


@given(small_labels, small_labels)
@settings(deadline=None, max_examples=50)
def test_equals_loops_over_pairs(segmentation, truth):
    truth[0, 0, 0] = 1
    errors = worst_errors(contingency_table(segmentation, truth), count=EVERY)
    naive = naive_errors(segmentation, truth)
    assert {(e.kind, e.truth, e.segment): (e.other, e.voxels) for e in errors} == {k: v[:2] for k, v in naive.items()}
    for e in errors:
        assert e.bits == pytest.approx(naive[e.kind, e.truth, e.segment][2], abs=1e-12)
    assert errors == sorted(errors, key=lambda e: (e.kind, -e.bits))


@given(hnp.arrays(np.uint64, 60, elements=st.integers(1, 5)), hnp.arrays(np.uint64, 60, elements=st.integers(0, 5)))
@settings(deadline=None, max_examples=50)
def test_bits_of_all_errors_add_up_to_the_voi(segmentation, truth):
    truth[0] = 1
    table = contingency_table(segmentation, truth)
    errors = worst_errors(table, count=EVERY)
    sums = [sum(e.bits for e in errors if e.kind == kind) for kind in ("split", "merge")]
    assert sums == pytest.approx(voi_from_table(table), abs=1e-12)


@pytest.mark.parametrize("kind", ["split", "merge"])
def test_bits_of_a_single_wrong_part_are_what_the_voi_falls_by(kind):
    right = np.repeat(np.arange(1, 6), 40)
    wrong = right.copy()
    wrong[:13] = 9
    # A segment of its own cuts the part off; seen from the other side it is two objects in one segment.
    segmentation, truth = (wrong, right) if kind == "split" else (right, wrong)
    (error,) = worst_errors(contingency_table(segmentation, truth))
    before = sum(voi_from_table(contingency_table(segmentation, truth)))
    after = sum(
        voi_from_table(contingency_table(np.where(wrong == 9, 1, segmentation), np.where(wrong == 9, 1, truth)))
    )
    assert (error.kind, error.voxels, after) == (kind, 13, 0)
    assert error.bits == pytest.approx(before)


def test_only_the_worst_of_each_kind_are_listed():
    rng = np.random.default_rng(0)
    segmentation, truth = rng.integers(1, 9, (2, 500))
    for kind in ("merge", "split"):
        every = errors_of(segmentation, truth, kind)
        assert len(every) > 7
        assert errors_of(segmentation, truth, kind, count=7) == every[:7]


def test_of_equal_parts_the_lowest_id_is_the_main_one():
    assert errors_of([7, 7, 3, 3], [1, 1, 1, 1], "split") == [ErrorPair("split", 1, 7, 3, 2, 1.0)]
    assert errors_of([1, 1, 1, 1], [7, 7, 3, 3], "merge") == [ErrorPair("merge", 7, 1, 3, 2, 1.0)]


def test_segment_0_cuts_parts_off_but_merges_nothing():
    segmentation, truth = np.array([0, 0, 0, 0, 5, 5, 5]), np.array([1, 1, 2, 2, 2, 2, 2])
    assert errors_of(segmentation, truth, "merge") == []
    (split,) = errors_of(segmentation, truth, "split")
    assert (split.truth, split.segment, split.other, split.voxels) == (2, 0, 5, 2)


def test_ids_are_exact_beyond_the_integers_that_floats_hold():
    large = np.array([2**64 - 1, 2**64 - 1, 2**64 - 2], np.uint64)
    assert errors_of(large, np.ones(3, np.uint64), "split")[0].segment == 2**64 - 2


def test_a_perfect_segmentation_has_no_errors():
    truth = np.arange(1, 20)
    assert worst_errors(contingency_table(truth * 3, truth)) == []


def test_a_truth_without_labels_is_refused():
    with pytest.raises(UserError, match="the truth has no label"):
        worst_errors(contingency_table(np.ones(4, int), np.zeros(4, int)))


# --- where they are --------------------------------------------------------------------------------------------------


@given(small_labels, small_labels, st.sampled_from([(1, 1, 1), (40, 4, 4)]))
@settings(deadline=None, max_examples=30)
def test_position_and_box_equal_loops_over_voxels(segmentation, truth, voxel_size):
    truth[0, 0, 0] = 1
    errors, locations = located(segmentation, truth, (2, 3, 2), voxel_size)
    assert len(locations) == len(errors)
    for error, location in zip(errors, locations, strict=True):
        candidates, part = (np.array(voxels) for voxels in naive_places(error, segmentation, truth))
        assert location.box == Roi(tuple(part.min(axis=0)), tuple(part.max(axis=0) + 1))
        assert location.position in set(map(tuple, candidates))
        centre = candidates.mean(axis=0)
        distances = [math.dist(c * voxel_size, centre * voxel_size) for c in candidates]
        assert math.dist(np.multiply(location.position, voxel_size), centre * voxel_size) == pytest.approx(
            min(distances)
        )


@pytest.mark.parametrize("block_shape", [(1, 1, 1), (2, 3, 4), (5, 7, 2), (6, 4, 5)])
def test_blocks_of_any_shape_give_the_same_places(block_shape):
    rng = np.random.default_rng(1)
    segmentation, truth = (rng.integers(0, 4, (3, 4, 3)).repeat(2, 0).repeat(2, 1).repeat(3, 2) for _ in range(2))
    assert located(segmentation, truth, block_shape) == located(segmentation, truth)


def test_a_merge_is_where_the_objects_touch_in_the_segment():
    # Objects 1 and 2 are two bars, joined by a bridge at x = 6 that belongs to object 2.
    truth = np.zeros((1, 5, 20), int)
    truth[0, 0], truth[0, 4], truth[0, 1:4, 6] = 1, 2, 2
    _, (location,) = located((truth > 0).astype(int), truth)
    # Object 2, with the bridge, is the larger one; the part is object 1.
    assert location == Location((0, 0, 6), Roi((0, 0, 0), (1, 1, 20)))


def test_a_split_is_where_the_object_goes_on():
    # A long object, cut at x = 6 where a block ends; the part is the shorter end.
    segmentation = np.full((1, 1, 20), 3)
    segmentation[..., :6] = 4
    _, (location,) = located(segmentation, np.ones((1, 1, 20), int), (1, 1, 6))
    assert location == Location((0, 0, 5), Roi((0, 0, 0), (1, 1, 6)))


def test_a_part_that_does_not_touch_the_main_one_is_shown_where_it_touches_another():
    truth = np.ones((1, 1, 12), int)
    segmentation = np.array([[[5] * 6 + [6] * 2 + [7] * 4]])
    errors, locations = located(segmentation, truth)
    positions = {error.segment: location.position for error, location in zip(errors, locations, strict=True)}
    assert positions == {6: (0, 0, 6), 7: (0, 0, 8)}


def test_a_part_that_touches_nothing_is_shown_in_its_middle():
    truth = np.zeros((1, 1, 12), int)
    truth[..., :5], truth[..., 7:10] = 1, 1
    _, (location,) = located(np.where(np.arange(12) < 6, 3, 4)[None, None], truth)
    assert location == Location((0, 0, 8), Roi((0, 0, 7), (1, 1, 10)))


def test_what_is_not_labelled_is_no_object_to_touch():
    truth = np.array([[[1] * 5 + [0] * 2 + [2] * 3]])
    _, (location,) = located(np.ones_like(truth), truth)
    assert location.position == (0, 0, 8)


def test_the_position_lies_in_the_part_even_where_its_centre_does_not():
    # Truth is a ring of one object, in a segment of which another object is the most.
    y, x = np.indices((11, 11)) - 5
    ring = (np.hypot(y, x) > 3.5) & (np.hypot(y, x) < 5)
    truth = np.where(ring, 1, 2)[None]
    truth[0, np.hypot(y, x) <= 3.5] = 0
    _, (location,) = located(np.ones_like(truth), truth)
    assert truth[location.position] == 1


def test_the_second_pass_reads_only_blocks_with_errors():
    truth = np.repeat(np.arange(1, 11), 4)[None, None]
    segmentation = truth.copy()
    segmentation[..., 5] = 99
    errors = worst_errors(contingency_table(segmentation, truth))
    boxes = []

    def read(box):
        boxes.append(box)
        return segmentation[box.slices], truth[box.slices]

    locate(errors, read, BlockGrid(Roi.of_shape(truth.shape), (1, 1, 4)))
    assert len(boxes) == 11 and boxes[10] == boxes[1] == Roi((0, 0, 3), (1, 1, 9))


def test_the_grid_may_begin_anywhere():
    truth, segmentation = np.ones((1, 1, 8), int), np.array([[[1] * 5 + [2] * 3]])
    errors = worst_errors(contingency_table(segmentation, truth))

    def read(box):
        return reader(segmentation, truth)(box.shift((-170, -20, -3)))

    (location,) = locate(errors, read, BlockGrid(Roi((170, 20, 3), (171, 21, 11)), (4, 4, 4)))
    assert location == Location((170, 20, 8), Roi((170, 20, 8), (171, 21, 11)))


def test_an_error_of_another_volume_is_refused():
    labels = np.ones((2, 2, 2), int)
    error = ErrorPair("split", truth=1, segment=8, other=1, voxels=3, bits=0.1)
    with pytest.raises(ValueError, match="no voxel of the volume belongs to .*segment=8"):
        locate([error], reader(labels, labels), BlockGrid(Roi.of_shape((2, 2, 2)), (2, 2, 2)))


def test_rows_hold_the_middle_of_the_voxel_in_the_world():
    error = ErrorPair("merge", truth=12, segment=901, other=57, voxels=34512, bits=0.12)
    (row,) = error_rows([error], [Location((180, 40, 210), Roi((0, 0, 0), (1, 1, 1)))], (40, 4, 4), (1000, 0, 8))
    assert tuple(row) == COLUMNS
    assert list(row.values()) == ["merge", 12, 901, 57, 34512, 0.12, 180, 40, 210, 8220.0, 162.0, 850.0]
