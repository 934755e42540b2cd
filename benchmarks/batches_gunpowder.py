"""Training crops made by gunpowder: the other side of `batches.py`, in an environment of its own.

``batches_gunpowder.py FOLDER JOB`` reads ``raw.npy`` and ``labels.npy`` in the folder and the job (JSON), prints what
`batches.Side` holds of each crop as JSON, and leaves the last crop in ``crop.npz``.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from importlib.metadata import version
from math import pi
from pathlib import Path

import gunpowder as gp
import numpy as np
from lsd.train.gp import AddLocalShapeDescriptor

KEYS = ("RAW", "LABELS", "LABELS_MASK", "LSDS", "LSDS_MASK", "AFFS", "AFFS_SCALE")
RAW, LABELS, LABELS_MASK, LSDS, LSDS_MASK, AFFS, AFFS_SCALE = (gp.ArrayKey(name) for name in KEYS)


class MemorySource(gp.BatchProvider):
    """Provides a numpy array, without what a format or a library for chunks would cost."""

    def __init__(self, key: gp.ArrayKey, data: np.ndarray, voxel_size: gp.Coordinate, *, interpolatable: bool):
        self.key, self.data, self.voxel_size, self.interpolatable = key, data, voxel_size, interpolatable

    def setup(self):
        roi = gp.Roi((0, 0, 0), gp.Coordinate(self.data.shape) * self.voxel_size)
        spec = gp.ArraySpec(roi=roi, voxel_size=self.voxel_size, interpolatable=self.interpolatable)
        spec.dtype = self.data.dtype
        self.provides(self.key, spec)

    def provide(self, request):
        batch, spec = gp.Batch(), self.spec[self.key].copy()
        spec.roi = request[self.key].roi
        # The nodes below write into what they get.
        box = (spec.roi / self.voxel_size).get_bounding_box()
        batch[self.key] = gp.Array(self.data[box].copy(), spec)
        return batch


class Keep(gp.BatchFilter):
    """Keeps the labels that all targets are made of."""

    labels = None

    def process(self, batch, request):
        self.labels = batch[LABELS].data.copy()


def pipeline(raw: np.ndarray, labels: np.ndarray, job: dict) -> tuple[gp.Pipeline, Keep]:
    """The nodes of the paper's training on FIB-25, one deformation instead of two, and the one that keeps labels."""
    voxel_size, kept = gp.Coordinate(job["voxel_size"]), Keep()
    mask = (labels != 0).astype(np.uint8)
    sources = (
        MemorySource(RAW, raw, voxel_size, interpolatable=True) + gp.Normalize(RAW) + gp.Pad(RAW, None),
        MemorySource(LABELS, labels, voxel_size, interpolatable=False) + gp.Pad(LABELS, None),
        MemorySource(LABELS_MASK, mask, voxel_size, interpolatable=False),
    )
    nodes = (
        sources
        + gp.MergeProvider()
        + gp.RandomLocation(min_masked=0.5, mask=LABELS_MASK)
        + gp.ElasticAugment(
            control_point_spacing=(40, 40, 40),
            jitter_sigma=(2, 2, 2),
            rotation_interval=(0, pi / 2),
            prob_slip=0.01,
            prob_shift=0.01,
            max_misalign=1,
            subsample=8,
        )
        + gp.SimpleAugment()
        + gp.IntensityAugment(RAW, 0.9, 1.1, -0.1, 0.1)
        + gp.GrowBoundary(LABELS, steps=1)
        + kept
        + AddLocalShapeDescriptor(LABELS, LSDS, lsds_mask=LSDS_MASK, sigma=job["sigma"], downsample=job["downsample"])
        + gp.AddAffinities(job["offsets"], LABELS, AFFS)
        + gp.BalanceLabels(AFFS, AFFS_SCALE)
        + gp.IntensityScaleShift(RAW, 2, -1)
    )
    return nodes, kept


def main(folder: Path, job: dict) -> None:
    """Make ``job["crops"]`` crops, and one before them that does not count."""
    nodes, kept = pipeline(np.load(folder / "raw.npy"), np.load(folder / "labels.npy"), job)
    shapes = {key: job["output_shape"] for key in (LABELS_MASK, LSDS, LSDS_MASK, AFFS, AFFS_SCALE)}
    shapes[RAW] = job["raw_shape"]
    seconds, kinds = [], []
    with gp.build(nodes):
        for seed in range(job["crops"] + 1):
            request = gp.BatchRequest(random_seed=seed + 1)
            for key, shape in shapes.items():
                request.add(key, gp.Coordinate(shape) * gp.Coordinate(job["voxel_size"]))
            begin = time.process_time()
            batch = nodes.request_batch(request)
            seconds.append(time.process_time() - begin)
            arrays = {key.identifier.lower(): batch[key].data for key in shapes}
            margin = [(n - m) // 2 for n, m in zip(kept.labels.shape, job["output_shape"], strict=True)]
            labels = kept.labels[tuple(slice(m, m + n) for m, n in zip(margin, job["output_shape"], strict=True))]
            is_object = labels != 0
            n_objects = len(np.unique(labels[is_object]))
            kinds.append([n_objects, arrays["affs"].mean(), is_object.mean(), arrays["lsds"][:, is_object].mean()])
    np.savez(folder / "crop.npz", labels=kept.labels, **arrays)
    told = {
        "seconds": seconds[1:],
        "kinds": np.array(kinds[1:]).tolist(),
        "versions": {name: version(name) for name in ("gunpowder", "lsds")},
    }
    print(json.dumps(told))


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    logging.disable(logging.WARNING)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
