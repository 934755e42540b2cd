"""Boxes of voxels behave like the sets of voxels that they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsdflow.roi import Roi

N = 8
EDGE = st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted)
BOXES = st.tuples(EDGE, EDGE, EDGE).map(lambda edges: Roi(*(tuple(side) for side in zip(*edges, strict=True))))
STEPS = st.tuples(*[st.integers(-3, 3)] * 3)


def voxels(roi):
    """The voxels of a box, as a mask of a cube that holds all boxes tried here."""
    mask = np.zeros((N, N, N), bool)
    mask[roi.slices] = True
    return mask


def test_a_box_of_a_shape_begins_at_the_origin():
    roi = Roi.of_shape(np.array([2, 3, 4]))
    assert roi == Roi((0, 0, 0), (2, 3, 4))
    assert (roi.shape, roi.size) == ((2, 3, 4), 24)


@given(BOXES)
def test_size_is_the_number_of_voxels(roi):
    assert roi.size == voxels(roi).sum()


@pytest.mark.parametrize("end", [(1, 5, 5), (0, 0, 5), (0, 5, 5)])
def test_a_box_that_runs_backwards_is_empty(end):
    # Two negative lengths must not multiply to a positive size.
    assert Roi((1, 1, 1), end).size == 0


@given(BOXES, BOXES)
def test_intersection_overlap_and_containment_are_those_of_voxel_sets(a, b):
    common = voxels(a) & voxels(b)
    assert a.intersect(b).size == common.sum()
    if common.any():
        assert (voxels(a.intersect(b)) == common).all()
    assert a.overlaps(b) == b.overlaps(a) == common.any()
    if b.size:
        assert a.contains(b) == (common == voxels(b)).all()


def test_boxes_that_only_touch_do_not_overlap():
    assert not Roi((0, 0, 0), (4, 4, 4)).overlaps(Roi((4, 0, 0), (8, 4, 4)))


@given(BOXES, STEPS)
def test_a_shift_keeps_the_shape_and_can_be_undone(roi, by):
    moved = roi.shift(by)
    assert moved.shape == roi.shape
    assert tuple(m - b for m, b in zip(moved.begin, roi.begin, strict=True)) == by
    assert moved.shift([-step for step in by]) == roi


@given(BOXES, st.tuples(*[st.integers(0, 3)] * 3))
def test_growth_is_on_both_sides_and_holds_the_box(roi, context):
    grown = roi.grow(context)
    assert grown.shape == tuple(n + 2 * c for n, c in zip(roi.shape, context, strict=True))
    assert grown.contains(roi)
    assert grown.grow([-c for c in context]) == roi


def test_axes_are_not_mixed_up():
    roi = Roi((1, 2, 3), (4, 6, 8))
    assert roi.shape == (3, 4, 5)
    assert roi.grow((1, 0, 2)) == Roi((0, 2, 1), (5, 6, 10))
    assert roi.slices == (slice(1, 4), slice(2, 6), slice(3, 8))
    assert str(roi) == "z 1–4, y 2–6, x 3–8"


def test_a_wrong_number_of_axes_is_an_error():
    with pytest.raises(ValueError):
        Roi((0, 0, 0), (2, 2, 2)).shift((1, 1))
