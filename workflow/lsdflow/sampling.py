"""The stream of training batches: random crops of labelled volumes, augmented, with targets and weights.

A batch is a pure function of seed and iteration, so a resumed training continues with the very same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsdflow.affinities import affinities, affinity_weights
from lsdflow.augment import random_intensity, random_symmetry
from lsdflow.errors import UserError
from lsdflow.lsd import transform_descriptors
from lsdflow.volumes import Roi, Volume

# Volumes up to this size are kept in memory; of larger ones each crop is read from disk.
IN_MEMORY_BYTES = 2 * 2**30


@dataclass(frozen=True)
class TrainingVolume:
    """Raw voxels, labels and targets of one labelled region.

    Attributes
    ----------
    raw : uint8 volume; may reach beyond the region, as context.
    labels : labels as annotated, on the region ``roi`` of ``raw`` (their first voxel is its corner).
    boundaries : the same labels with grown boundaries, from which affinities are made.
    lsds : float32 descriptors ``(10, z, y, x)`` of ``boundaries``.
    roi : the region, in voxels of ``raw``.
    probability : how often crops come from here, relative to the others.
    """

    raw: Volume
    labels: Volume
    boundaries: Volume
    lsds: Volume
    roi: Roi
    probability: float = 1.0


def in_memory(volume: Volume) -> Volume:
    """The volume with its voxels in memory if it is small enough, else as it is."""
    if volume.data.size * volume.data.dtype.itemsize > IN_MEMORY_BYTES:
        return volume
    return Volume(volume.read(), volume.voxel_size, volume.offset)


def _has_label(labels: Volume, sections: int = 64) -> bool:
    # Piecewise: the volume may be larger than memory, and the first piece mostly decides.
    parts = (labels.data[z : z + sections] for z in range(0, labels.shape_zyx[0], sections))
    return any(np.any(part) for part in parts)


@dataclass(frozen=True)
class Batch:
    """One training batch, all float32: raw ``(batch, 1, z, y, x)`` in [−1, 1]; targets and weights per output."""

    raw: NDArray[np.float32]
    targets: dict[str, NDArray[np.float32]]
    weights: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Augmentation:
    """Which augmentations are on; see `augment`."""

    flip: bool = True
    transpose: bool = True
    intensity_scale: float = 0.1
    intensity_shift: float = 0.1
    noise: float = 0.05
    section_wise: bool = False


class CropSampler:
    """Draws batches from labelled volumes.

    Parameters
    ----------
    volumes : where crops come from.
    outputs : which targets to make, of ``affinities`` and ``lsds``.
    offsets : z y x voxel offsets of the affinities.
    raw_shape, output_shape : (z, y, x) of the raw crop and of the targets at its centre.
    batch_size, seed : crops per batch; the seed of everything drawn.
    min_labelled : the least fraction of labelled voxels in a crop.
    augmentation : which augmentations are on.

    Raises
    ------
    UserError
        If a crop does not fit into a region, or a region has no labelled voxel.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        *,
        outputs: Sequence[str],
        offsets: Sequence[Sequence[int]],
        raw_shape: Sequence[int],
        output_shape: Sequence[int],
        batch_size: int,
        seed: int,
        min_labelled: float = 0.5,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 (frozen)
    ):
        self.volumes, self.outputs, self.offsets = list(volumes), tuple(outputs), [tuple(o) for o in offsets]
        self.raw_shape, self.output_shape = tuple(raw_shape), tuple(output_shape)
        self.batch_size, self.seed = batch_size, seed
        self.min_labelled, self.augmentation = min_labelled, augmentation
        weights = np.array([v.probability for v in self.volumes], dtype=float)
        self.probabilities = weights / weights.sum()
        self.reach = tuple(max((abs(o[a]) for o in self.offsets), default=0) for a in range(3))
        for volume in self.volumes:
            if any(c > n for c, n in zip(self.output_shape, volume.roi.shape, strict=True)):
                raise UserError(
                    f"training.crop_shape {list(self.output_shape)} is larger than the training region "
                    f"{list(volume.roi.shape)} (z, y, x voxels): choose a smaller crop"
                )
            for part in (volume.labels, volume.boundaries, volume.lsds):
                if part.shape_zyx != volume.roi.shape:
                    raise ValueError(
                        f"labels and targets must be those of the region {volume.roi}, not {part.shape_zyx}"
                    )
            if not _has_label(volume.labels):
                raise UserError(f"no labelled voxel in the training region ({volume.roi}): check the labels or the roi")

    def batch(self, iteration: int) -> Batch:
        """The batch of ``iteration``."""
        rng = np.random.default_rng([self.seed, iteration])
        crops = [self._crop(rng) for _ in range(self.batch_size)]
        return Batch(
            raw=np.stack([raw for raw, _, _ in crops])[:, None],
            targets={name: np.stack([targets[name] for _, targets, _ in crops]) for name in self.outputs},
            weights={name: np.stack([weights[name] for _, _, weights in crops]) for name in self.outputs},
        )

    def batches(self, begin: int, end: int) -> Iterator[tuple[int, Batch]]:
        """The batches of the iterations from ``begin`` to ``end``, each made while the one before is in use."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            upcoming = pool.submit(self.batch, begin) if begin < end else None
            for iteration in range(begin, end):
                batch = upcoming.result()
                if iteration + 1 < end:
                    upcoming = pool.submit(self.batch, iteration + 1)
                yield iteration, batch

    def _location(self, rng: np.random.Generator, volume: TrainingVolume, shape: Sequence[int]) -> Roi:
        """A random box in the region with enough labelled voxels, or the best of a hundred."""
        best, most = None, -1.0
        for _ in range(100):
            begin = [int(rng.integers(0, n - c + 1)) for n, c in zip(volume.roi.shape, shape, strict=True)]
            box = Roi(tuple(begin), tuple(b + c for b, c in zip(begin, shape, strict=True)))
            labelled = np.count_nonzero(volume.labels.read(box)) / box.size
            if labelled >= self.min_labelled:
                return box
            if labelled > most:
                best, most = box, labelled
        return best

    def _crop(self, rng: np.random.Generator):
        volume = self.volumes[rng.choice(len(self.volumes), p=self.probabilities)]
        aug = self.augmentation
        while True:
            symmetry = random_symmetry(rng, volume.raw.voxel_size, flip=aug.flip, transpose=aug.transpose)
            shape = symmetry.shape_before(self.output_shape)
            # Turned, a long crop may no longer fit into a flat region.
            if all(c <= n for c, n in zip(shape, volume.roi.shape, strict=True)):
                break
        box = self._location(rng, volume, shape)

        before = symmetry.shape_before(self.raw_shape)
        # Where the lengths differ by an odd number the network's own cropping, of the flipped crop, decides.
        excess = [r - c for r, c in zip(self.raw_shape, self.output_shape, strict=True)]
        context = symmetry.shape_before(
            [e - e // 2 if f else e // 2 for e, f in zip(excess, symmetry.flips, strict=True)]
        )
        begin = [b + o - c for b, o, c in zip(box.begin, volume.roi.begin, context, strict=True)]
        raw_box = Roi(tuple(begin), tuple(b + r for b, r in zip(begin, before, strict=True)))
        raw = symmetry.apply(volume.raw.read_padded(raw_box).astype(np.float32) / 255)
        raw = random_intensity(
            raw,
            rng,
            scale=aug.intensity_scale,
            shift=aug.intensity_shift,
            noise=aug.noise,
            section_wise=aug.section_wise,
        )

        targets, weights = {}, {}
        reach = symmetry.shape_before(self.reach)
        grown = box.grow(reach)
        labels = symmetry.apply(volume.boundaries.read_padded(grown, mode="constant"))
        centre = tuple(slice(m, m + n) for m, n in zip(self.reach, self.output_shape, strict=True))
        if "affinities" in self.outputs:
            # Voxels outside the region are unknown, not background: an affinity counts where both its voxels are known.
            inside = np.pad(
                np.ones(grown.intersect(volume.boundaries.roi).shape, np.uint8),
                [
                    (max(0, -b), max(0, e - n))
                    for b, e, n in zip(grown.begin, grown.end, volume.boundaries.shape_zyx, strict=True)
                ],
            )
            known = affinities(symmetry.apply(inside), self.offsets)[(..., *centre)]
            target = affinities(labels, self.offsets)[(..., *centre)]
            targets["affinities"] = target.astype(np.float32)
            weights["affinities"] = affinity_weights(target, known)
        if "lsds" in self.outputs:
            lsds = transform_descriptors(volume.lsds.read(box), axes=symmetry.axes, flips=symmetry.flips)
            targets["lsds"] = np.ascontiguousarray(lsds, dtype=np.float32)
            has_label = (labels[centre] != 0).astype(np.float32)
            weights["lsds"] = np.broadcast_to(has_label, targets["lsds"].shape).copy()
        return raw * 2 - 1, targets, weights
