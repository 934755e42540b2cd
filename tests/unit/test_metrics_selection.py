"""Selection of the threshold on the validation region."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.errors import UserError
from lsdflow.metrics.selection import CRITERIA, select_thresholds

CURVE = {
    "threshold": [0.1, 0.3, 0.5, 0.7],
    "voi_sum": [3.0, 1.5, 1.0, 2.0],
    "adapted_rand_error": [0.4, 0.1, 0.2, 0.6],
    "cremi_score": [1.1, 0.5, 0.45, 1.2],
    "expected_run_length": [100.0, 900.0, 1200.0, 1300.0],
    "voi_split": [3.0, 1.0, 0.5, 0.0],
}
SELECTED = {"voi_sum": 0.5, "adapted_rand_error": 0.3, "cremi_score": 0.5, "expected_run_length": 0.7}


@pytest.mark.parametrize("columns", [CURVE, pd.DataFrame(CURVE), pd.DataFrame(CURVE).iloc[[2, 0, 3, 1]]])
def test_errors_are_lowest_and_the_run_length_is_highest(columns):
    assert select_thresholds(columns) == SELECTED


def test_of_equal_scores_the_lowest_threshold_is_selected_whatever_the_order():
    equal = {"threshold": [0.8, 0.2, 0.4], "voi_sum": [1.0, 2.0, 1.0], "expected_run_length": [7.0, 7.0, 7.0]}
    assert select_thresholds(equal) == {"voi_sum": 0.4, "expected_run_length": 0.2}


def test_what_is_not_finite_is_not_selected():
    nan, inf = math.nan, math.inf
    curve = {
        "threshold": [0.1, 0.3, 0.5],
        "voi_sum": [nan, 2.0, 3.0],
        "adapted_rand_error": [nan, nan, nan],
        "cremi_score": [-inf, 0.9, nan],
        "expected_run_length": [5.0, nan, inf],
    }
    assert select_thresholds(curve) == {"voi_sum": 0.3, "cremi_score": 0.3, "expected_run_length": 0.1}


@pytest.mark.parametrize(
    "curve",
    [{"threshold": [0.1]}, {"threshold": [], "voi_sum": []}, {"threshold": [0.1, 0.2], "voi_sum": [math.nan] * 2}],
)
def test_a_curve_without_a_number_is_refused(curve):
    with pytest.raises(UserError, match="none of voi_sum, .* is a number on the validation region"):
        select_thresholds(curve)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1), st.sampled_from(list(CRITERIA)))
@settings(deadline=None)
def test_equals_a_sort_by_score_then_threshold(points, name):
    thresholds, values = np.array(points, float).T
    sign = -1 if name == "expected_run_length" else 1
    expected = min(points, key=lambda point: (sign * point[1], point[0]))[0]
    assert select_thresholds({"threshold": thresholds, name: values}) == {name: expected}
