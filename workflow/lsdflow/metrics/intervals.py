"""How sure a score is, and whether two setups differ: bootstrap over parts of the region, spread over replicates.

A region is drawn anew from its own parts with replacement: blocks for the scores of voxels, skeletons for the run
length.  That is a weight per part, 0, 1, 2, …, and scores follow from weighted sums, with no pass over the voxels.

*Interval of a score*: score ± t · s with s the standard deviation of the draws, times √(n / (n - 1)) for n parts, and t
Student's quantile with n - 1 degrees of freedom.  The draws serve for their spread only.  Their quantiles would be
wrong: a draw holds some parts twice and so fewer objects, which lowers VOI.

*Difference of two setups*: the mean over replicates of first - second, both on the same draws,
± √((t · s)² + (u · r)² / R).
Here r is the standard deviation of the differences of the R replicates, for a network trained again gives another
score, often by more than setups differ, and u is Student's quantile with R - 1 degrees of freedom: 12.7 for two
replicates and 4.3 for three, so that two say little unless they agree well.  (Resampling two or three replicates would
show a fraction of their spread, and that they all point one way is chance in every second or fourth case.)  What
replicates and parts share, how a network does in a block, is counted twice, to be safe.

What this assumes, and where it is too bold:

* Parts are taken as independent.  Blocks are not: a neurite runs through many, and a merge in one counts in others.
  Blocks should be as large as leaves about eight of them (`units_of_grid`, `BlockTables.joined`).  Even then the
  intervals are somewhat too narrow where merges prevail.
* With fewer than six parts (at 95 %; see `fewest_units`) there is no interval, with one replicate none of a difference.
* Each pair is judged by itself: of 20 pairs that are alike, one may be called different at a level of 95 %.
* It speaks of regions like this one, in this volume, and of no other tissue.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from lsdflow.errors import UserError
from lsdflow.metrics.block_tables import OVERLAP_SCORES, BlockTables

IS_HIGHER_BETTER = {**dict.fromkeys(OVERLAP_SCORES, False), "expected_run_length": True}
BETTER, WORSE, NOT_SEPARATED = "better", "worse", "not separated"

# Sums in another order differ in their last digits: what is smaller than this part of a score is no difference.
_ROUNDING = 1e-9


class Interval(NamedTuple):
    """The ends of an interval; NaN where there is none."""

    low: float
    high: float


class Resampled(Protocol):
    """What can be scored with a weight for each of its parts: `BlockTables` or `RatioOfSums`."""

    @property
    def sizes(self) -> NDArray[np.float64]:
        """Voxels or lengths of the parts, (n,); a part of size 0 is never drawn."""

    def scores(self, weights: ArrayLike) -> dict[str, NDArray[np.float64]]:
        """Each score (d,) when part j counts ``weights[i, j]`` times, (d, n)."""


class RatioOfSums:
    """A score that is Σ numerators / Σ denominators over parts, as the expected run length is over skeletons.

    Parameters
    ----------
    metric : the name of the score.
    numerators, denominators : (n,)
        0 or more.  For ``"expected_run_length"`` the squares and lengths that
        `lsdflow.metrics.run_length.run_length_by_component` returns.
    """

    def __init__(self, metric: str, numerators: ArrayLike, denominators: ArrayLike):
        self.metric = metric
        self.numerators, self.sizes = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
        if self.sizes.ndim != 1 or self.sizes.shape != self.numerators.shape:
            raise ValueError(
                f"numerators and denominators must be (n,), not {self.numerators.shape} and {self.sizes.shape}"
            )

    def scores(self, weights: ArrayLike) -> dict[str, NDArray[np.float64]]:
        """The score (d,) when part j counts ``weights[i, j]`` times, (d, n)."""
        weights = np.asarray(weights, np.float64)
        return {self.metric: weights @ self.numerators / (weights @ self.sizes)}


def fewest_units(level: float) -> int:
    """The fewest parts that can carry an interval: with fewer, even if all of them agree, it may well be chance.

    The smallest n with 2 · 2⁻ⁿ ≤ 1 - ``level``, as in a sign test.

    >>> fewest_units(0.95), fewest_units(0.99)
    (6, 8)
    """
    if not 0 < level < 1:
        raise ValueError(f"the level must lie between 0 and 1, not {level}")
    return math.ceil(math.log2(2 / (1 - level)))


def draw_weights(sizes: ArrayLike, draws: int, seed: int) -> NDArray[np.int64]:
    """How often each part occurs in each draw of as many parts as there are, with replacement.

    Parameters
    ----------
    sizes : (n,); parts of size 0 are not drawn.
    draws : 2 or more.
    seed : the same seed and the same sizes give the same draws.

    Returns
    -------
    int64 (draws, n)

    Raises
    ------
    UserError
        If all sizes are 0.
    """
    if draws < 2:
        raise ValueError(f"there must be at least 2 draws, not {draws}")
    is_drawn = np.asarray(sizes) > 0
    n = int(np.count_nonzero(is_drawn))
    if n == 0:
        raise UserError(
            "there is nothing to score: no block holds truth, or no skeleton has a length; name a labelled region"
        )
    weights = np.zeros((draws, len(is_drawn)), np.int64)
    weights[:, is_drawn] = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return weights


def bootstrap_overlap(
    tables: BlockTables, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Intervals of the scores of `BlockTables.scores` over the choice of blocks; see the module for their meaning.

    Parameters
    ----------
    tables : of one segmentation; about eight large blocks serve better than many small ones.
    draws, seed : see `draw_weights`.
    level : between 0 and 1.

    Returns
    -------
    dict of Interval
        NaN if fewer than `fewest_units` blocks hold truth.

    Raises
    ------
    UserError
        If no part has a size: no block holds truth.
    """
    return _intervals(tables, draws, seed, level)


def bootstrap_ratio(
    numerators: ArrayLike, denominators: ArrayLike, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The interval of Σ numerators / Σ denominators over the choice of parts, as of the expected run length.

    Parameters
    ----------
    numerators, denominators : as of `RatioOfSums`.
    draws, seed, level : as of `bootstrap_overlap`, as are the errors.
    """
    return _intervals(RatioOfSums("ratio", numerators, denominators), draws, seed, level)["ratio"]


def _intervals(resampled: Resampled, draws: int, seed: int, level: float) -> dict[str, Interval]:
    n = np.count_nonzero(resampled.sizes)
    is_enough = n >= fewest_units(level)
    measured, drawn = _score_draws(resampled, draw_weights(resampled.sizes, draws, seed))
    result = {}
    for metric, score in measured.items():
        half = student.ppf((1 + level) / 2, n - 1) * math.sqrt(_variance(drawn[metric], n)) if is_enough else math.nan
        highest = 1.0 if metric == "adapted_rand_error" else math.inf
        # np.clip keeps NaN, unlike max and min.
        result[metric] = Interval(*np.clip([score - half, score + half], 0, highest).tolist())
    return result


def _score_draws(
    resampled: Resampled, weights: NDArray[np.int64]
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """The scores of all parts once, and of each draw."""
    together = np.concatenate([np.ones((1, weights.shape[1]), np.int64), weights])
    scores = resampled.scores(together)
    return {name: float(s[0]) for name, s in scores.items()}, {name: s[1:] for name, s in scores.items()}


def _variance(drawn: NDArray[np.float64], n: int) -> float:
    """Variance of a score of n parts, from those of draws, whose spread is too small by (n - 1) / n."""
    return float(np.var(drawn, ddof=1)) * n / (n - 1)


@dataclass(frozen=True)
class PairedDifference:
    """How two setups differ in a score.

    Attributes
    ----------
    difference : float
        First - second, mean over the common replicates, in the unit of the score.
    low, high : float
        Its interval; NaN if there are too few blocks, or one replicate only.
    verdict : str
        ``"better"`` or ``"worse"`` of the first if the interval is there and excludes 0, otherwise
        ``"not separated"``, which does not mean equal.
    by_replicate : dict
        The difference of each common replicate.
    """

    difference: float
    low: float
    high: float
    verdict: str
    by_replicate: dict[Hashable, float]


def paired_difference(
    first: Mapping[Hashable, Resampled],
    second: Mapping[Hashable, Resampled],
    metric: str = "voi_sum",
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedDifference:
    """Compare two setups on the same region and the same draws of its parts; see the module for the rule.

    Parameters
    ----------
    first, second : replicate → `BlockTables`, or `RatioOfSums` of the same skeletons
        Replicates that one of the two lacks are left out.  A segmentation that is not trained has the one replicate
        ``None``, and is compared with each replicate of the other; two such are compared over parts alone.
    metric : one of the scores.
    draws, seed, level : as of `bootstrap_overlap`.

    Raises
    ------
    ValueError
        If parts differ in number or size between the tables, no replicate is common, or the metric is unknown or not
        one of the tables.
    """
    [row] = _compare({"first": first, "second": second}, metric, draws, seed, level).values()
    return row


def comparison_matrix(
    setups: Mapping[str, Mapping[Hashable, Resampled]],
    metric: str = "voi_sum",
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[dict[str, str | float | int]]:
    """All pairs of setups, each compared as by `paired_difference`.

    Parameters
    ----------
    setups : name → replicate → tables.
    metric, draws, seed, level : as of `paired_difference`, as are the errors.

    Returns
    -------
    list of dict
        Of each pair, in the order of ``setups``: ``first``, ``second``, ``metric``, ``difference`` (first - second),
        ``low``, ``high``, ``verdict`` (of the first), ``replicates`` (number of common ones; 1 if neither is trained).
    """
    return [
        {
            "first": first,
            "second": second,
            "metric": metric,
            "difference": pair.difference,
            "low": pair.low,
            "high": pair.high,
            "verdict": pair.verdict,
            "replicates": len(pair.by_replicate),
        }
        for (first, second), pair in _compare(setups, metric, draws, seed, level).items()
    ]


def _compare(
    setups: Mapping[str, Mapping[Hashable, Resampled]], metric: str, draws: int, seed: int, level: float
) -> dict[tuple[str, str], PairedDifference]:
    if metric not in IS_HIGHER_BETTER:
        raise ValueError(f"the metric must be one of {', '.join(IS_HIGHER_BETTER)}, not {metric}")
    tables = [table for replicates in setups.values() for table in replicates.values()]
    if not tables:
        return {}
    sizes = tables[0].sizes
    if not all(np.array_equal(table.sizes, sizes) for table in tables):
        raise ValueError("tables to compare must have the same parts: blocks of one region, or the same skeletons")
    # Each table is scored once, however many pairs it is in.
    weights = draw_weights(sizes, draws, seed)
    scored = {
        name: {key: _one_metric(_score_draws(table, weights), metric) for key, table in replicates.items()}
        for name, replicates in setups.items()
    }
    n = int(np.count_nonzero(sizes))
    return {(a, b): _difference(scored[a], scored[b], metric, n, level) for a, b in combinations(setups, 2)}


class _Scored(NamedTuple):
    measured: float
    drawn: NDArray[np.float64]


def _one_metric(scores: tuple[dict[str, float], dict[str, NDArray[np.float64]]], metric: str) -> _Scored:
    measured, drawn = scores
    if metric not in measured:
        raise ValueError(f"the tables give {', '.join(measured)}, not {metric}")
    return _Scored(measured[metric], drawn[metric])


def _difference(
    first: dict[Hashable, _Scored], second: dict[Hashable, _Scored], metric: str, n: int, level: float
) -> PairedDifference:
    is_trained = set(first) | set(second) != {None}
    if is_trained:
        # What is not trained is the same in every replicate of the other.
        first, second = (
            dict.fromkeys(other, one[None]) if set(one) == {None} else one
            for one, other in ((first, second), (second, first))
        )
    common = [key for key in first if key in second]
    if not common:
        raise ValueError(f"no replicate is common to {list(first)} and {list(second)}")
    by_replicate = {key: first[key].measured - second[key].measured for key in common}
    difference = float(np.mean(list(by_replicate.values())))
    if n < fewest_units(level) or (is_trained and len(common) < 2):
        return PairedDifference(difference, math.nan, math.nan, NOT_SEPARATED, by_replicate)
    # Each spread with its own quantile: Welch's joint one was too bold for two replicates.
    of_parts = _variance(np.mean([first[key].drawn - second[key].drawn for key in common], axis=0), n)
    half_squared = student.ppf((1 + level) / 2, n - 1) ** 2 * of_parts
    if is_trained:
        of_replicates = np.var(list(by_replicate.values()), ddof=1) / len(common)
        half_squared += student.ppf((1 + level) / 2, len(common) - 1) ** 2 * of_replicates
    rounding = _ROUNDING * max(abs(one.measured) for scores in (first, second) for one in scores.values())
    half = math.sqrt(half_squared) + rounding
    low, high = float(difference - half), float(difference + half)
    verdict = NOT_SEPARATED
    if low > 0 or high < 0:
        verdict = BETTER if (low > 0) == IS_HIGHER_BETTER[metric] else WORSE
    return PairedDifference(difference, low, high, verdict, by_replicate)
