"""Intervals of scores and differences of setups, against Student's formulas and simulated regions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lsdflow.errors import UserError
from lsdflow.metrics.block_tables import BlockTables, units_of_grid
from lsdflow.metrics.contingency import contingency_table
from lsdflow.metrics.intervals import (
    RatioOfSums,
    bootstrap_overlap,
    bootstrap_ratio,
    comparison_matrix,
    draw_weights,
    fewest_units,
    paired_difference,
)

N_BLOCKS = 8


def segmented(truth, cut_blocks=(), joined_blocks=()):
    """Tables of ``truth`` (blocks, voxels) with the first object of a block cut in two, or joined to the second."""
    segmentation = truth.copy()
    for block in cut_blocks:
        where = np.flatnonzero(truth[block] == truth[block].min())
        segmentation[block, where[: len(where) // 2]] += 1000
    for block in joined_blocks:
        first, second = np.unique(truth[block])[:2]
        segmentation[segmentation == second] = first
    return BlockTables.from_tables(contingency_table(s, t) for s, t in zip(segmentation, truth, strict=True))


@pytest.fixture
def truth():
    """Three objects of 40 voxels, more or less, in each of the blocks."""
    rng = np.random.default_rng(0)
    rows = [np.repeat(np.arange(3) + 3 * b + 1, rng.multinomial(120, [1 / 3] * 3)) for b in range(N_BLOCKS)]
    return np.array(rows).astype(np.uint64)


def simulated_region(rng):
    """Neurites through 4³ blocks, four blocks long, cut and joined at random: tables of eight octants."""
    truths, segments, blocks = [], [], []
    position = np.arange(64).reshape(4, 4, 4)
    for axis in range(3):
        for line in np.moveaxis(position, axis, -1).reshape(-1, 4):
            for _ in range(2):
                truths.append(np.full(4, len(truths) + 1))
                segments.append(4 * len(truths) + np.cumsum(rng.random(4) < 0.15))
                blocks.append(line)
    truth, segment, block = (np.concatenate(a).astype(np.uint64) for a in (truths, segments, blocks))
    for b in range(64):
        if rng.random() < 0.1:
            one, other = rng.choice(segment[block == b], 2, replace=False)
            segment[segment == one] = other
    size = rng.integers(20, 200, len(truth))
    tables = [
        contingency_table(
            np.repeat(segment[block == b], size[block == b]), np.repeat(truth[block == b], size[block == b])
        )
        for b in range(64)
    ]
    return BlockTables.from_tables(tables).joined(units_of_grid((4, 4, 4)))


# --- intervals of a score --------------------------------------------------------------------------------------------


def test_interval_of_a_mean_is_students():
    values = np.random.default_rng(1).gamma(2, size=12)
    expected = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert bootstrap_ratio(values, np.ones(12), draws=40_000) == pytest.approx(expected, rel=0.01)


def test_intervals_of_means_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    held = 0
    for seed in range(300):
        lengths = rng.uniform(1, 3, 15)
        low, high = bootstrap_ratio(lengths * rng.normal(5, 1, 15), lengths, draws=300, seed=seed)
        held += low <= 5 <= high
    assert 0.91 < held / 300 < 0.985


def test_intervals_of_simulated_regions_hold_the_mean_score_where_quantiles_of_draws_do_not():
    rng = np.random.default_rng(3)
    regions = [simulated_region(rng) for _ in range(120)]
    scores = np.array([r.scores(np.ones((1, 8)))["voi_sum"][0] for r in regions])
    intervals = np.array([bootstrap_overlap(r, draws=200, seed=i)["voi_sum"] for i, r in enumerate(regions)])
    quantiles = [np.quantile(r.scores(draw_weights(r.sizes, 200, 0))["voi_sum"], (0.025, 0.975)) for r in regions]
    is_held, is_held_by_quantiles = (
        np.mean((i[:, 0] <= scores.mean()) & (scores.mean() <= i[:, 1])) for i in (intervals, np.array(quantiles))
    )
    assert is_held > 0.85
    assert is_held_by_quantiles < 0.7


def test_intervals_lie_around_the_scores_and_widen_with_the_level(truth):
    tables = segmented(truth, cut_blocks=range(5), joined_blocks=(1, 2, 6))
    scores = tables.scores(np.ones((1, N_BLOCKS)))
    narrow, wide = bootstrap_overlap(tables, level=0.8), bootstrap_overlap(tables, level=0.95)
    assert set(wide) == set(scores)
    for name, score in scores.items():
        assert wide[name].low <= narrow[name].low < score[0] < narrow[name].high < wide[name].high


def test_intervals_stay_where_scores_can_be():
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 9, (N_BLOCKS, 30)), rng.integers(1, 9, (N_BLOCKS, 30))
    blocks = BlockTables.from_tables(contingency_table(*pair) for pair in zip(*noise, strict=True))
    assert bootstrap_overlap(blocks, level=0.98)["adapted_rand_error"].high <= 1
    one_error = np.arange(1, 10).repeat(4).reshape(9, 4)
    segments = one_error.copy()
    segments[0, 0] = 99
    blocks = BlockTables.from_tables(contingency_table(*pair) for pair in zip(segments, one_error, strict=True))
    assert bootstrap_overlap(blocks)["voi_split"].low == 0
    assert bootstrap_overlap(blocks)["voi_merge"] == pytest.approx((0, 0), abs=1e-12)


def test_an_interval_needs_six_parts_with_something_in_them(truth):
    for n, is_interval in ((5, False), (6, True)):
        counted = np.where(np.arange(N_BLOCKS)[:, None] < n, truth, 0)
        tables = BlockTables.from_tables(contingency_table(t // 2, t) for t in counted)
        assert all(
            math.isfinite(i.low) == math.isfinite(i.high) == is_interval for i in bootstrap_overlap(tables).values()
        )
        lengths = np.append(np.arange(1.0, n + 1), [0, 0, 0])
        assert math.isfinite(bootstrap_ratio(lengths**2, lengths).low) == is_interval


def test_fewest_units_are_those_that_a_sign_test_needs():
    for level in (0.5, 0.9, 0.95, 0.99, 0.999):
        n = fewest_units(level)
        assert stats.binomtest(n, n).pvalue <= 1 - level + 1e-12
        assert stats.binomtest(n - 1, n - 1).pvalue > 1 - level + 1e-12
    with pytest.raises(ValueError, match="between 0 and 1"):
        fewest_units(95)


def test_draws_repeat_with_the_seed_and_leave_out_what_is_empty():
    sizes = np.array([3.0, 0.0, 1.0, 5.0])
    weights = draw_weights(sizes, 500, 7)
    np.testing.assert_array_equal(weights, draw_weights(sizes, 500, 7))
    assert np.any(weights != draw_weights(sizes, 500, 8))
    assert np.all(weights.sum(axis=1) == 3) and not weights[:, 1].any()
    np.testing.assert_allclose(weights.mean(axis=0), [1, 0, 1, 1], atol=0.15)
    with pytest.raises(ValueError, match="at least 2 draws"):
        draw_weights(sizes, 1, 0)


def test_a_region_without_truth_is_refused():
    nothing = BlockTables.from_tables([contingency_table(np.ones(3, int), np.zeros(3, int))] * 9)
    with pytest.raises(UserError, match="no block holds truth"):
        bootstrap_overlap(nothing)
    with pytest.raises(UserError, match="no skeleton has a length"):
        bootstrap_ratio([0.0, 0.0], [0.0, 0.0])


def test_a_ratio_needs_a_denominator_for_each_numerator():
    with pytest.raises(ValueError, match=r"must be \(n,\), not \(3,\) and \(2,\)"):
        RatioOfSums("expected_run_length", [1, 2, 3], [1, 2])


def test_a_ratio_is_that_of_weighted_sums():
    weights = np.array([[1, 1, 1], [2, 0, 1]])
    scores = RatioOfSums("expected_run_length", [4, 0.5, 10], [2, 1, 4]).scores(weights)
    np.testing.assert_allclose(scores["expected_run_length"], [14.5 / 7, 18 / 8])


# --- differences -----------------------------------------------------------------------------------------------------


def runs(values):
    """Skeletons of length 1: their run length is a mean."""
    return RatioOfSums("expected_run_length", values, np.ones(len(values)))


def differences(rng, *, of_setups, of_training, replicates, n=12):
    """Two setups whose run lengths are known: normal, with what is common to a skeleton, and what to a network."""
    skeleton = rng.normal(10, 2, n)
    return tuple(
        {r: runs(skeleton + shift + rng.normal(0, 0.5, n) + rng.normal(0, of_training)) for r in range(replicates)}
        for shift in (of_setups, 0)
    )


def test_difference_is_the_mean_with_both_spreads_as_by_students_formulas():
    first, second = differences(np.random.default_rng(0), of_setups=1, of_training=0.5, replicates=3)
    pair = paired_difference(first, second, "expected_run_length", draws=40_000)
    table = np.array([first[r].numerators - second[r].numerators for r in range(3)])
    half = math.hypot(
        stats.t.ppf(0.975, 11) * stats.sem(table.mean(axis=0)), stats.t.ppf(0.975, 2) * stats.sem(table.mean(axis=1))
    )
    assert pair.difference == pytest.approx(table.mean())
    assert (pair.low, pair.high) == pytest.approx((table.mean() - half, table.mean() + half), rel=0.01)
    assert pair.by_replicate == pytest.approx(dict(enumerate(table.mean(axis=1))))


def test_alike_setups_are_separated_no_more_often_than_the_level_allows():
    rng = np.random.default_rng(4)
    for of_training in (0.0, 0.5, 3.0):
        for replicates in (2, 3):
            pairs = [
                paired_difference(
                    *differences(rng, of_setups=0, of_training=of_training, replicates=replicates),
                    "expected_run_length",
                    draws=100,
                )
                for _ in range(100)
            ]
            assert np.mean([p.verdict != "not separated" for p in pairs]) <= 0.09, (of_training, replicates)


def test_a_setup_that_is_better_in_every_block_and_replicate_is_better(truth):
    good = {r: segmented(truth, cut_blocks=[r]) for r in range(2)}
    bad = {r: segmented(truth, cut_blocks=range(N_BLOCKS), joined_blocks=range(N_BLOCKS)) for r in range(2)}
    for metric in ("voi_split", "voi_merge", "voi_sum", "adapted_rand_error", "cremi_score"):
        pair = paired_difference(good, bad, metric)
        assert pair.verdict == "better" and pair.low <= pair.difference <= pair.high < 0
        assert paired_difference(bad, good, metric).verdict == "worse"


def test_a_longer_run_length_is_better():
    long, short = ({r: runs(np.arange(10.0) % 3 + mean) for r in range(2)} for mean in (9, 5))
    assert paired_difference(long, short, "expected_run_length").verdict == "better"
    assert paired_difference(short, long, "expected_run_length").verdict == "worse"


def test_identical_setups_are_not_separated_even_with_other_ids(truth):
    tables = segmented(truth, cut_blocks=range(5), joined_blocks=(1, 2))
    ids = tables.cells.segments
    renamed = tables.relabel(ids, np.random.default_rng(0).permutation(len(ids)) + 5000)
    for other in (tables, renamed):
        pair = paired_difference({0: tables, 1: tables}, {0: other, 1: other})
        assert pair.verdict == "not separated" and pair.low <= 0 <= pair.high
        assert pair.difference == pytest.approx(0, abs=1e-12)


def test_replicates_that_disagree_are_not_separated_however_sure_the_blocks_are(truth):
    good, bad = segmented(truth), segmented(truth, cut_blocks=range(N_BLOCKS))
    assert paired_difference({0: good, 1: good}, {0: bad, 1: bad}).verdict == "better"
    assert paired_difference({0: good, 1: bad}, {0: bad, 1: good}).verdict == "not separated"
    assert paired_difference({0: good, 1: good}, {0: bad, 1: good}).verdict == "not separated"


@given(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_two_replicates_separate_only_if_they_agree_well(shifts, noise):
    spread = noise * np.linspace(-1, 1, 9)
    pair = paired_difference(
        {r: runs(10 + shift + spread) for r, shift in enumerate(shifts)},
        {r: runs(np.full(9, 10.0)) for r in range(2)},
        "expected_run_length",
        draws=50,
    )
    if pair.verdict != "not separated":
        assert min(shifts) * max(shifts) > 0
        # Half the gap between two replicates, 12.7 times, must be less than their mean.
        assert abs(np.mean(shifts)) > 12.7 * abs(shifts[0] - shifts[1]) / 2


def test_one_replicate_separates_nothing(truth):
    good, bad = segmented(truth), segmented(truth, cut_blocks=range(N_BLOCKS))
    pair = paired_difference({0: good}, {0: bad, 1: bad})
    assert pair.verdict == "not separated" and pair.difference < 0
    assert math.isnan(pair.low) and math.isnan(pair.high) and list(pair.by_replicate) == [0]


def test_segmentations_without_training_are_compared_over_blocks(truth):
    good, bad, other = segmented(truth), segmented(truth, range(N_BLOCKS)), segmented(truth, range(N_BLOCKS), range(7))
    alone = paired_difference({None: good}, {None: bad})
    assert alone.verdict == "better" and list(alone.by_replicate) == [None]
    against_networks = paired_difference({None: good}, {0: bad, 1: other})
    assert against_networks.by_replicate == pytest.approx(
        {0: alone.difference, 1: paired_difference({None: good}, {None: other}).difference}
    )
    assert against_networks.high - against_networks.low > alone.high - alone.low
    assert paired_difference({0: bad, 1: bad}, {None: good}).verdict == "worse"
    assert paired_difference({0: bad}, {None: good}).verdict == "not separated"


def test_too_few_blocks_separate_nothing(truth):
    good, bad = segmented(truth[:5]), segmented(truth[:5], cut_blocks=range(5))
    pair = paired_difference({0: good, 1: good}, {0: bad, 1: bad})
    assert pair.verdict == "not separated" and math.isnan(pair.low)


def test_turning_a_pair_round_turns_the_sign():
    first, second = differences(np.random.default_rng(5), of_setups=1, of_training=0.1, replicates=4)
    pair = paired_difference(first, second, "expected_run_length")
    turned = paired_difference(second, first, "expected_run_length")
    assert (turned.difference, turned.low, turned.high) == pytest.approx((-pair.difference, -pair.high, -pair.low))
    assert (pair.verdict, turned.verdict) == ("better", "worse")


def test_matrix_holds_every_pair_as_it_is_alone(truth):
    setups = {
        "a": {r: segmented(truth, cut_blocks=range(r + 1)) for r in range(3)},
        "b": {r: segmented(truth, cut_blocks=range(8), joined_blocks=range(r + 5)) for r in range(2)},
        "ffn": {None: segmented(truth, joined_blocks=[3])},
    }
    rows = comparison_matrix(setups, "adapted_rand_error", draws=200, seed=3)
    assert [(r["first"], r["second"], r["replicates"]) for r in rows] == [
        ("a", "b", 2),
        ("a", "ffn", 3),
        ("b", "ffn", 2),
    ]
    for row in rows:
        pair = paired_difference(setups[row["first"]], setups[row["second"]], "adapted_rand_error", draws=200, seed=3)
        assert row["metric"] == "adapted_rand_error"
        assert [row[k] for k in ("difference", "low", "high", "verdict")] == [
            pair.difference,
            pair.low,
            pair.high,
            pair.verdict,
        ]
    assert comparison_matrix({"a": setups["a"]}) == comparison_matrix({}) == []


def test_setups_that_cannot_be_compared_are_refused(truth):
    tables = segmented(truth)
    with pytest.raises(ValueError, match="same parts"):
        paired_difference({0: tables}, {0: segmented(truth[:6])})
    with pytest.raises(ValueError, match="same parts"):
        paired_difference({0: tables}, {0: segmented(truth[:, :-5])})
    with pytest.raises(ValueError, match=r"no replicate is common to \[0\] and \[1, 2\]"):
        paired_difference({0: tables}, {1: tables, 2: tables})
    with pytest.raises(ValueError, match="one of voi_split, .* not rand_split"):
        paired_difference({0: tables}, {0: tables}, "rand_split")
    with pytest.raises(ValueError, match="the tables give voi_split, .* not expected_run_length"):
        paired_difference({0: tables}, {0: tables}, "expected_run_length")
