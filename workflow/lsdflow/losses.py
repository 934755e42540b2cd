"""Losses between predictions and targets in [0, 1], with voxel weights; that of MALIS is in `malis`."""

from __future__ import annotations

import torch
from torch.nn import functional


def _mean_over_weighted(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    # Σ w·l / #(w ≠ 0), as TensorFlow's SUM_BY_NONZERO_WEIGHTS, which the paper's networks were trained with on batches
    # of one.  The mean over crops: it does not matter over how many steps or processes a batch is spread.
    weights = weights.expand_as(losses)
    every = tuple(range(1, losses.ndim))
    return ((losses * weights).sum(every) / torch.count_nonzero(weights, every).clamp(min=1)).mean()


def mse(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted squared error, divided by the number of elements whose weight is not 0 (Sheridan et al. 2023).

    Parameters
    ----------
    prediction, target : (batch, channels, z, y, x); the prediction has passed a sigmoid.
    weights : broadcasts to them.

    Returns
    -------
    Tensor without axes: the mean over the crops of the batch.
    """
    return _mean_over_weighted((prediction - target) ** 2, weights)


def bce(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted binary cross-entropy, normalised like `mse`; targets between 0 and 1 are allowed."""
    return _mean_over_weighted(functional.binary_cross_entropy(prediction, target, reduction="none"), weights)


LOSSES = {"mse": mse, "bce": bce}
