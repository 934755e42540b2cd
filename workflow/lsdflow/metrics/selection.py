"""The agglomeration threshold that each score would choose on the validation region."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from lsdflow.errors import UserError

# The scores that a threshold is selected by, and whether the highest is the best.
CRITERIA = {"voi_sum": False, "adapted_rand_error": False, "cremi_score": False, "expected_run_length": True}


def select_thresholds(validation: Mapping[str, ArrayLike]) -> dict[str, float]:
    """The threshold with the best value of each score.

    Parameters
    ----------
    validation : columns by name, such as a `pandas.DataFrame`
        ``threshold`` and any of the scores in `CRITERIA`, (n,) each, in any order; what is not finite was not scored.

    Returns
    -------
    dict of float
        Threshold by score, in the order of `CRITERIA`; of equal ones the lowest threshold, that is the fewest merges.
        Scores that are not there, or nowhere finite, are left out.

    Raises
    ------
    UserError
        If no score is finite at any threshold.

    Examples
    --------
    >>> select_thresholds({"threshold": [0.2, 0.4, 0.6], "voi_sum": [1.5, 1.1, 1.1]})
    {'voi_sum': 0.4}
    """
    thresholds = np.asarray(validation["threshold"], np.float64)
    selected = {}
    for name, is_highest_best in CRITERIA.items():
        if name not in validation:
            continue
        values = np.asarray(validation[name], np.float64)
        is_scored = np.isfinite(values) & np.isfinite(thresholds)
        if is_scored.any():
            best = values[is_scored].max() if is_highest_best else values[is_scored].min()
            selected[name] = float(thresholds[is_scored & (values == best)].min())
    if not selected:
        raise UserError(
            f"no threshold can be selected: none of {', '.join(CRITERIA)} is a number on the validation region; name "
            "a validation region that is labelled"
        )
    return selected
