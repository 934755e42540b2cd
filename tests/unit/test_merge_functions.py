"""Merge functions are found by name, and score what their names say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.errors import UserError
from lsdflow.merge_functions import MERGE_FUNCTIONS, find_merge_function, score


def score_of(name, affinities):
    function = find_merge_function(name)
    return score(np.bincount(affinities, minlength=256), function.percentile, function.largest)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Of four affinities: numbers 0 + 1, 1 + 1, 2 + 1, 3 + 1, 3 + 1 from below, as the middle of their bins.
        ("hist_quant_10", 1 - 10.5 / 256),
        ("hist_quant_25", 1 - 20.5 / 256),
        ("hist_quant_50", 1 - 30.5 / 256),
        ("hist_quant_75", 1 - 40.5 / 256),
        ("hist_quant_90", 1 - 40.5 / 256),
        ("min", 1 - 10.5 / 256),
        ("max", 1 - 40.5 / 256),
        ("mean", 1 - 25 / 255),
        ("mean_max_10", 1 - 25 / 255),
    ],
)
def test_scores_of_four_affinities_worked_by_hand(name, expected):
    assert score_of(name, [40, 10, 30, 20]) == expected


def test_the_mean_of_the_ten_largest_leaves_out_the_others():
    assert score_of("mean_max_10", [200] * 5 + [100] * 7 + [3]) == 1 - 150 / 255
    assert score_of("mean_max_10", [200] * 12 + [3]) == 1 - 200 / 255


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(list(MERGE_FUNCTIONS)), affinities=st.lists(st.integers(0, 255), min_size=1, max_size=300))
def test_scores_lie_in_0_to_1_and_between_those_of_the_extremes(name, affinities):
    assert 0 <= score_of("max", affinities) - 0.5 / 256 <= score_of(name, affinities)
    assert score_of(name, affinities) <= score_of("min", affinities) + 0.5 / 256 <= 1


def test_there_are_all_percentiles_with_and_without_initmax():
    for percentile in range(10, 91, 5):
        for suffix, starts_with_maximum in (("", False), ("_initmax", True)):
            function = find_merge_function(f"hist_quant_{percentile}{suffix}")
            assert function.percentile == percentile and function.starts_with_maximum == starts_with_maximum
            assert not function.has_size


def test_size_counts_in_those_named_after_it_alone():
    assert {name for name, function in MERGE_FUNCTIONS.items() if function.has_size} == {
        "hist_quant_50_min_size",
        "hist_quant_75_min_size",
        "mean_max_10_min_size",
        "mean_min_size",
    }


def test_an_unknown_name_is_refused_with_all_that_there_are():
    with pytest.raises(UserError, match="no merge function 'hist_quant_77'; there are ") as raised:
        find_merge_function("hist_quant_77")
    assert all(f" {name}" in str(raised.value) for name in MERGE_FUNCTIONS)
