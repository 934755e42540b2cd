"""Losses equal their formulas in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsdflow.losses import LOSSES, bce, mse

SHAPE = (1, 2, 2, 3, 2)
ARRAYS = hnp.arrays(np.float64, SHAPE, elements=st.floats(0.01, 0.99))
WEIGHTS = hnp.arrays(np.float64, SHAPE, elements=st.sampled_from([0.0, 0.5, 1.0, 3.0]))


def squared(p, t):
    return (p - t) ** 2


def cross_entropy(p, t):
    return -(t * np.log(p) + (1 - t) * np.log(1 - p))


@pytest.mark.parametrize(("loss", "formula"), [(mse, squared), (bce, cross_entropy)])
@settings(max_examples=30, deadline=None)
@given(prediction=ARRAYS, target=ARRAYS, weights=WEIGHTS)
def test_loss_is_the_weighted_sum_over_the_number_of_weighted_voxels(loss, formula, prediction, target, weights):
    value = loss(*map(torch.from_numpy, (prediction, target, weights)))
    counted = max(1, np.count_nonzero(weights))
    assert float(value) == pytest.approx((formula(prediction, target) * weights).sum() / counted, abs=1e-12)


def test_mse_by_hand():
    # Errors 0.5, 1 and 0.2 with weights 2, 0 and 1: (2 · 0.25 + 1 · 0.04) / 2.
    prediction, target, weights = (torch.tensor(v) for v in ([0.5, 1.0, 0.2], [0.0, 0.0, 0.0], [2.0, 0.0, 1.0]))
    assert float(mse(prediction, target, weights)) == pytest.approx(0.27)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_weighted_is_no_loss_and_no_gradient(name):
    prediction = torch.full((2, 2), 0.3, requires_grad=True)
    loss = LOSSES[name](prediction, torch.ones(2, 2), torch.zeros(2, 2))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not prediction.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_masked_voxels_get_no_gradient(name):
    prediction = torch.full((3,), 0.3, requires_grad=True)
    LOSSES[name](prediction, torch.ones(3), torch.tensor([1.0, 0.0, 1.0])).backward()
    assert (prediction.grad != 0).tolist() == [True, False, True]


@pytest.mark.parametrize("name", LOSSES)
def test_saturated_predictions_have_a_finite_loss(name):
    # A sigmoid reaches exactly 0 and 1 in single precision.
    loss = LOSSES[name](torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), torch.ones(2))
    assert torch.isfinite(loss)
