"""Losses between predictions and targets in [0, 1], with voxel weights."""

from __future__ import annotations

import torch
from torch.nn import functional


def _mean_over_weighted(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    # Σ w·l / #(w ≠ 0), as TensorFlow's SUM_BY_NONZERO_WEIGHTS, which the paper's networks were trained with.
    return (losses * weights).sum() / torch.count_nonzero(weights).clamp(min=1)


def mse(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted squared error, divided by the number of elements whose weight is not 0 (Sheridan et al. 2023).

    All three have the same shape; ``prediction`` has passed a sigmoid.
    """
    return _mean_over_weighted((prediction - target) ** 2, weights)


def bce(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted binary cross-entropy, normalised like `mse`; targets between 0 and 1 are allowed."""
    return _mean_over_weighted(functional.binary_cross_entropy(prediction, target, reduction="none"), weights)


LOSSES = {"mse": mse, "bce": bce}
