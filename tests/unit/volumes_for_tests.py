"""Small volumes that several tests share."""

import numpy as np
from scipy import ndimage


def cells(shape=(32, 40, 48), n_cells=12, seed=0):
    """Labels of a Voronoi tessellation, and affinities as a network might predict them: noisy, wide boundaries."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, shape, (n_cells, 3))
    grid = np.stack(np.indices(shape), -1)
    labels = 1 + np.argmin([((grid - c) ** 2).sum(-1) for c in centres], axis=0)
    is_boundary = ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)
    noise = [ndimage.gaussian_filter(rng.normal(0, 0.5, shape), 0.7) for _ in range(3)]
    affinities = ndimage.gaussian_filter(np.where(is_boundary, 0.1, 0.9), 0.5) + np.stack(noise)
    return labels, np.clip(affinities, 0, 1).astype(np.float32)
