"""How fast LSD targets are computed, beside lsd-lite on the same labels in the same process.

Writes a table with the hardware that it ran on; ``make bench`` installs the peer and runs this.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lsd_lite import get_lsds

from lsdflow.lsd import local_shape_descriptors
from lsdflow.provenance import processor
from lsdflow.synthetic import simulate_neuropil

VOXEL_SIZE = (10, 10, 10)
SIGMA = 80.0
REPEATS = 3


def seconds(function: Callable[[], object], repeats: int) -> float:
    """The median time of ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def rows() -> list[str]:
    """The lines of the table."""
    _, labels = simulate_neuropil((100, 100, 100), seed=0, voxel_size=VOXEL_SIZE)
    local_shape_descriptors(labels[:8, :8, :8], SIGMA, VOXEL_SIZE)  # compiled before it is timed
    lines = []
    for size in (64, 100):
        crop = np.ascontiguousarray(labels[:size, :size, :size])
        for downsample in (1, 2):
            print(f"{size}³ voxels, downsample {downsample}", file=sys.stderr)

            def ours(crop=crop, downsample=downsample):
                return local_shape_descriptors(crop, SIGMA, VOXEL_SIZE, downsample=downsample)

            def peer(crop=crop, downsample=downsample):
                return get_lsds(crop, sigma=(SIGMA,) * 3, voxel_size=VOXEL_SIZE, downsample=downsample)

            difference = np.abs(ours()[[0, 1, 2, 9]] - peer()[[0, 1, 2, 9]]).max()
            mine, theirs = seconds(ours, REPEATS), seconds(peer, 1)
            lines.append(
                f"| {size}³ | {len(np.unique(crop))} | {downsample} | {mine:.3f} | {theirs:.2f} | "
                f"{theirs / mine:.0f} | {difference:.0e} |"
            )
    return lines


def main(path: Path) -> None:
    """Measure and write the table to ``path``."""
    text = [
        "# LSD targets: time beside lsd-lite",
        "",
        f"Written by `make bench` on: {processor()}, one thread. Labels of the synthetic neuropil, σ = 8 voxels;",
        f"seconds are the median of {REPEATS} runs of lsdflow and one of lsd-lite 1.0.1, in one process. The last",
        "column is the largest difference in offsets and size; downsampled, a voxel without a picked voxel of its",
        "object within reach is defined differently by the two.",
        "",
        "| crop | objects | downsample | lsdflow (s) | lsd-lite (s) | ratio | difference |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *rows(),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
