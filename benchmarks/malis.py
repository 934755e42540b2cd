"""What the weights of the MALIS loss cost, beside the training step that they are computed in.

``malis.py LABELS.zarr PAGE`` writes a page with a table, with the hardware that it ran on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from affinities import medians
from lsdflow.affinities import affinities, affinity_weights, grow_boundary, offsets_on_axes
from lsdflow.losses import mse
from lsdflow.malis import malis_weights
from lsdflow.networks import NETWORKS, build_network
from lsdflow.provenance import processor
from lsdflow.volumes import open_volume

OFFSETS = offsets_on_axes([1])
NETWORK = "small"
SIZES = (48, 64, 96, 128)
REPEATS = 5


def noisy_affinities(target: np.ndarray) -> np.ndarray:
    """What a network may predict midway: the truth blurred, with noise before the sigmoid, so that few are equal."""
    noise = np.random.default_rng(0).normal(size=target.shape)
    blurred = np.stack([gaussian_filter(channel.astype(np.float64), 1) for channel in target])
    return (1 / (1 + np.exp(noise - 8 * (blurred - 0.5)))).astype(np.float32)


def training_step(target: np.ndarray) -> None:
    """Forward and backward pass of the network on a crop, with the balanced loss."""
    torch.manual_seed(0)
    raw = torch.rand(1, 1, *target.shape[1:]).contiguous(memory_format=torch.channels_last_3d)
    network = build_network(NETWORKS[NETWORK], 1)
    network = nn.Sequential(network, nn.Conv3d(network.out_channels, len(target), 1), nn.Sigmoid())
    network = network.to(memory_format=torch.channels_last_3d)
    weights = torch.from_numpy(affinity_weights(target, np.ones_like(target)))[None]
    mse(network(raw), torch.from_numpy(target)[None], weights).backward()


def row(crop: np.ndarray, threads: int) -> str:
    """Weights and training step of one crop."""
    torch.set_num_threads(threads)
    target = affinities(crop, OFFSETS)
    prediction = noisy_affinities(target)
    n_objects = np.count_nonzero(np.unique(crop))
    weights, step = medians(
        [lambda: malis_weights(prediction, crop, OFFSETS, threads=threads), lambda: training_step(target)], REPEATS
    )
    return f"| {len(crop)}³ | {n_objects} | {threads} | {weights:.3f} | {step:.2f} | {weights / step:.1%} |"


def main(labels: str, path: Path) -> None:
    """Measure and write the page to ``path``."""
    volume = open_volume(labels, "labels").read()
    rows = []
    for size in SIZES:
        crop = grow_boundary(np.ascontiguousarray(volume[:size, :size, :size]))
        for threads in (1, 2):
            print(f"{size}³, {threads} threads", file=sys.stderr)
            rows.append(row(crop, threads))
    text = [
        "# MALIS: time beside that of a training step",
        "",
        f"Written by `benchmarks/malis.py` on: {processor()}. Weights of both passes for {len(OFFSETS)} affinities per",
        "voxel, of crops from the corner of the FIB-SEM medulla volume with boundaries grown by a voxel; what is",
        "predicted is the truth, blurred, with noise. Beside them is a training step without them: forward and",
        f"backward pass of the network `{NETWORK}` on a crop of this size, on as many threads. Medians of {REPEATS}",
        "runs, in turn.",
        "",
        "| crop | objects | threads | weights (s) | step (s) | share of a step |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
