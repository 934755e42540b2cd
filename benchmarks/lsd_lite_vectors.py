"""Makes ``tests/data/lsd_lite.npz``: descriptors by lsd-lite 1.0.1, for `tests/unit/test_lsd.py`.

``PYTHONPATH=.venv/peers .venv/bin/python benchmarks/lsd_lite_vectors.py`` once ``make bench`` has installed the peer.
"""

from pathlib import Path

import numpy as np
from lsd_lite import get_lsds

rng = np.random.default_rng(0)
coarse = rng.integers(0, 5, (2, 3, 4))
labels = np.kron(coarse, np.ones((4, 4, 4), int)).astype(np.uint32)
speckled = rng.random(labels.shape) < 0.05
labels[speckled] = rng.integers(0, 5, speckled.sum())
arguments = {"sigma": (40.0, 30.0, 30.0), "voxel_size": (10, 8, 8)}
np.savez_compressed(
    Path(__file__).parents[1] / "tests" / "data" / "lsd_lite.npz",
    labels=labels,
    image=labels[3],
    descriptors_1=get_lsds(labels, **arguments, downsample=1),
    descriptors_2=get_lsds(labels, **arguments, downsample=2),
    descriptors_2d=get_lsds(labels[3], sigma=(30.0, 30.0), voxel_size=(8, 8), downsample=1),
)
