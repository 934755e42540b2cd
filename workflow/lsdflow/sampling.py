"""The stream of training batches: random crops of labelled volumes, augmented, with targets and weights.

A crop is a pure function of seed, iteration and its place in the batch: any number of workers makes the same batches,
and a resumed training goes on with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lsdflow.affinities import affinities, affinity_weights, grow_boundary
from lsdflow.augment import Augmentation, Deformation, Symmetry, damage_sections, random_intensity, random_symmetry
from lsdflow.errors import UserError
from lsdflow.lsd import context, local_shape_descriptors, transform_descriptors
from lsdflow.volumes import Roi, Volume

# Volumes up to this size are kept in memory; of larger ones each crop is read from disk.
IN_MEMORY_BYTES = 2 * 2**30

# What is known of a voxel: nothing, beyond the region; that nobody looked for objects; its label.
OUTSIDE, MASKED, KNOWN = 0, 1, 2


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
    mask : 0 where nobody looked for objects; on the region as the labels are. None where all of it was annotated.
    """

    raw: Volume
    labels: Volume
    boundaries: Volume
    lsds: Volume
    roi: Roi
    probability: float = 1.0
    mask: Volume | None = None


@dataclass(frozen=True)
class TargetSettings:
    """How targets are made of deformed labels; as those in ``TrainingVolume`` were (see `targets.BlockTargets`)."""

    sigma: float | Sequence[float]
    downsample: int = 1
    steps: int = 1
    only_xy: bool = False


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
    """Crops of one batch.

    Attributes
    ----------
    raw : float32 (batch, 1, z, y, x) in [−1, 1].
    targets : per output float32 (batch, channels, z, y, x).
    weights : per output float32, broadcasts to the targets: one channel for all descriptors.
    labels : int64 (batch, z, y, x), with grown boundaries, at the voxels of the targets.
    """

    raw: NDArray[np.float32]
    targets: dict[str, NDArray[np.float32]]
    weights: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, crops: slice) -> Batch:
        """A batch of some of the crops."""
        parts = ({name: a[crops] for name, a in part.items()} for part in (self.targets, self.weights))
        return Batch(self.raw[crops], *parts, self.labels[crops])

    @classmethod
    def stack(cls, crops: Sequence[Batch]) -> Batch:
        """One batch of all crops of ``crops``, in their order."""
        first = crops[0]
        return cls(
            np.concatenate([crop.raw for crop in crops]),
            {name: np.concatenate([crop.targets[name] for crop in crops]) for name in first.targets},
            {name: np.concatenate([crop.weights[name] for crop in crops]) for name in first.weights},
            np.concatenate([crop.labels for crop in crops]),
        )

    def arrays(self) -> dict[str, NDArray]:
        """All arrays by name, to be saved."""
        named = {f"{kind}_{name}": a for kind in ("targets", "weights") for name, a in getattr(self, kind).items()}
        return {"raw": self.raw, "labels": self.labels, **named}


@dataclass(frozen=True)
class _Source:
    """Where a crop is cut from: its volume, box (voxels of the region) and box of raw voxels (voxels of ``raw``)."""

    volume: TrainingVolume
    box: Roi
    raw_box: Roi


class CropSampler:
    """Draws batches from labelled volumes.

    Parameters
    ----------
    volumes : where crops come from.
    outputs : which targets to make, of ``affinities`` and ``lsds``.
    offsets : z y x voxel offsets of the affinities.
    raw_shape, output_shape : (z, y, x) of the raw crop and of the targets at its centre.
    batch_size, seed : crops per batch; the seed of everything drawn.
    targets : needed where crops are deformed.
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
        targets: TargetSettings | None = None,
        min_labelled: float = 0.5,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 (frozen)
    ):
        self.volumes, self.outputs, self.offsets = list(volumes), tuple(outputs), [tuple(o) for o in offsets]
        self.raw_shape, self.output_shape = tuple(raw_shape), tuple(output_shape)
        self.batch_size, self.seed, self.targets = batch_size, seed, targets
        self.min_labelled, self.augmentation = min_labelled, augmentation
        if targets is None and augmentation.elastic > 0:
            raise ValueError("deformed crops need target settings: their targets are made anew")
        weights = np.array([v.probability for v in self.volumes], dtype=float)
        self.probabilities = weights / weights.sum()
        self.reach = tuple(max((abs(o[a]) for o in self.offsets), default=0) for a in range(3))
        for volume in self.volumes:
            if any(c > n for c, n in zip(self.output_shape, volume.roi.shape, strict=True)):
                raise UserError(
                    f"training.crop_shape {list(self.output_shape)} is larger than the training region "
                    f"{list(volume.roi.shape)} (z, y, x voxels): choose a smaller crop"
                )
            for part in (volume.labels, volume.boundaries, volume.lsds, volume.mask):
                if part is not None and part.shape_zyx != volume.roi.shape:
                    raise ValueError(
                        f"labels, mask and targets must be those of the region {volume.roi}, not {part.shape_zyx}"
                    )
            if not _has_label(volume.labels):
                raise UserError(f"no labelled voxel in the training region ({volume.roi}): check the labels or the roi")

    def crop(self, iteration: int, place: int) -> Batch:
        """The crop at ``place`` in the batch of ``iteration``, as a batch of one."""
        rng = np.random.default_rng([self.seed, iteration, place])
        volume = self.volumes[rng.choice(len(self.volumes), p=self.probabilities)]
        symmetry, box = self._place(rng, volume)
        source = _Source(volume, box, self._raw_box(volume, box, symmetry))
        is_deformed = self.augmentation.elastic > 0 and rng.random() < self.augmentation.elastic
        make = self._deformed if is_deformed else self._as_annotated
        raw, labels, knowledge, lsds = make(rng, source, symmetry)
        raw = damage_sections(raw, rng, self.augmentation)
        raw = random_intensity(
            raw,
            rng,
            scale=self.augmentation.intensity_scale,
            shift=self.augmentation.intensity_shift,
            noise=self.augmentation.noise,
            section_wise=self.augmentation.section_wise,
        )
        return self._batch(symmetry.apply(raw) * 2 - 1, labels, knowledge, lsds)

    def batch(self, iteration: int) -> Batch:
        """The batch of ``iteration``."""
        return Batch.stack([self.crop(iteration, place) for place in range(self.batch_size)])

    def batches(
        self, begin: int, end: int, *, workers: int = 1, places: range | None = None
    ) -> Iterator[tuple[int, Batch]]:
        """The batches of the iterations from ``begin`` to ``end``, made ahead by ``workers`` threads.

        ``places`` are those of the crops to make, where several processes share a batch; all by default.
        """
        places = range(self.batch_size) if places is None else places
        tasks = ((iteration, place) for iteration in range(begin, end) for place in places)
        # Two batches ahead, and a crop for every worker.
        ahead = 2 * len(places) + workers
        upcoming: deque = deque()
        with ThreadPoolExecutor(max_workers=workers) as pool:
            try:
                for iteration in range(begin, end):
                    crops = []
                    while len(crops) < len(places):
                        while len(upcoming) < ahead and (task := next(tasks, None)):
                            upcoming.append(pool.submit(self.crop, *task))
                        crops.append(upcoming.popleft().result())
                    yield iteration, Batch.stack(crops)
            finally:
                for task in upcoming:
                    task.cancel()

    def _place(self, rng: np.random.Generator, volume: TrainingVolume) -> tuple[Symmetry, Roi]:
        """How a crop is turned, and a box in the region with enough labelled voxels, or the best of a hundred."""
        aug = self.augmentation
        while True:
            symmetry = random_symmetry(rng, volume.raw.voxel_size, flip=aug.flip, transpose=aug.transpose)
            shape = symmetry.shape_before(self.output_shape)
            # Turned, a long crop may no longer fit into a flat region.
            if all(c <= n for c, n in zip(shape, volume.roi.shape, strict=True)):
                break
        best, most = None, -1.0
        for _ in range(100):
            begin = [int(rng.integers(0, n - c + 1)) for n, c in zip(volume.roi.shape, shape, strict=True)]
            box = Roi(tuple(begin), tuple(b + c for b, c in zip(begin, shape, strict=True)))
            labelled = np.count_nonzero(volume.labels.read(box)) / box.size
            if labelled >= self.min_labelled:
                return symmetry, box
            if labelled > most:
                best, most = box, labelled
        return symmetry, best

    def _raw_box(self, volume: TrainingVolume, box: Roi, symmetry: Symmetry) -> Roi:
        before = symmetry.shape_before(self.raw_shape)
        # Where the lengths differ by an odd number the network's own cropping, of the flipped crop, decides.
        excess = [r - c for r, c in zip(self.raw_shape, self.output_shape, strict=True)]
        margin = symmetry.shape_before(
            [e - e // 2 if f else e // 2 for e, f in zip(excess, symmetry.flips, strict=True)]
        )
        begin = [b + o - m for b, o, m in zip(box.begin, volume.roi.begin, margin, strict=True)]
        return Roi(tuple(begin), tuple(b + r for b, r in zip(begin, before, strict=True)))

    def _as_annotated(self, rng: np.random.Generator, source: _Source, symmetry: Symmetry):
        """Raw voxels, and the targets made beforehand, turned."""
        volume, box = source.volume, source.box
        raw = volume.raw.read_padded(source.raw_box).astype(np.float32) / 255
        grown = box.grow(symmetry.shape_before(self.reach))
        labels = symmetry.apply(volume.boundaries.read_padded(grown, mode="constant"))
        lsds = None
        if "lsds" in self.outputs:
            lsds = transform_descriptors(volume.lsds.read(box), axes=symmetry.axes, flips=symmetry.flips)
        return raw, labels, symmetry.apply(_knowledge(volume, grown)), lsds

    def _deformed(self, rng: np.random.Generator, source: _Source, symmetry: Symmetry):
        """Raw voxels and labels deformed alike, and targets of the deformed labels."""
        volume, settings, voxel_size = source.volume, self.targets, source.volume.raw.voxel_size
        # Turned like the descriptors made beforehand.
        sigma = np.broadcast_to(settings.sigma, 3)[list(symmetry.axes)]
        downsample, sight = settings.downsample, (0, 0, 0)
        if "lsds" in self.outputs:
            sight = context(sigma, voxel_size, downsample=downsample)
        # Around all that is seen one voxel per step of growth; in multiples of the downsampling, so that each crop's
        # first voxel is picked, which sees no farther than `sight`.
        seen = [max(r, s) + settings.steps for r, s in zip(self.reach, sight, strict=True)]
        margin = [-(-n // downsample) * downsample for n in seen]
        # In voxels of the raw volume: labels with what their targets need around them, and raw voxels.
        label_box = source.box.shift(volume.roi.begin).grow(symmetry.shape_before(margin))
        begin = tuple(min(a, b) for a, b in zip(label_box.begin, source.raw_box.begin, strict=True))
        end = tuple(max(a, b) for a, b in zip(label_box.end, source.raw_box.end, strict=True))
        frame = Roi(begin, end)
        # That this crop is to be deformed has been drawn.
        deformation = Deformation.random(rng, frame.shape, replace(self.augmentation, elastic=1.0), voxel_size)
        to_frame, to_region = [-b for b in begin], [b - r for b, r in zip(begin, volume.roi.begin, strict=True)]

        raw_box = source.raw_box.shift(to_frame)
        voxels = volume.raw.read_padded(deformation.source_box(raw_box).shift(begin))
        raw = deformation.image(voxels, raw_box) / 255

        inner = label_box.shift(to_frame)
        wanted = deformation.source_box(inner).shift(to_region)
        labels = deformation.labels(volume.labels.read_padded(wanted, mode="constant"), inner)
        labels = symmetry.apply(grow_boundary(labels, settings.steps, only_xy=settings.only_xy))
        knowledge = _knowledge(volume, wanted)
        if knowledge.min() == KNOWN:
            knowledge = np.full(labels.shape, KNOWN, np.uint8)
        else:
            knowledge = deformation.labels(knowledge, inner)
            # Whether boundaries grow into a voxel beside the unknown is unknown too.
            is_sure = grow_boundary((knowledge == KNOWN).view(np.uint8), settings.steps, only_xy=settings.only_xy)
            knowledge[(knowledge == KNOWN) & (is_sure == 0)] = OUTSIDE
            knowledge = symmetry.apply(knowledge)
        centre = Roi(tuple(margin), tuple(m + n for m, n in zip(margin, self.output_shape, strict=True)))
        lsds = None
        if "lsds" in self.outputs:
            lsds = local_shape_descriptors(labels, sigma, voxel_size, downsample=downsample, roi=centre)
        near = centre.grow(self.reach).slices
        return raw, labels[near], knowledge[near], lsds

    def _batch(self, raw, labels, knowledge, lsds) -> Batch:
        """Targets and weights of one crop, from labels that reach beyond it as far as affinities do."""
        targets, weights = {}, {}
        centre = tuple(slice(m, m + n) for m, n in zip(self.reach, self.output_shape, strict=True))
        if "affinities" in self.outputs:
            # An affinity counts where both its voxels are known: what lies beyond the region is no background.
            target = affinities(labels, self.offsets)[(..., *centre)]
            targets["affinities"] = target.astype(np.float32)
            known = affinities((knowledge == KNOWN).view(np.uint8), self.offsets)[(..., *centre)]
            weights["affinities"] = affinity_weights(target, known)
        if "lsds" in self.outputs:
            targets["lsds"] = np.ascontiguousarray(lsds, dtype=np.float32)
            # Learned inside objects, and also, as in the paper, that there are none (0) where the mask is 0.
            counts = (labels[centre] != 0) | (knowledge[centre] == MASKED)
            weights["lsds"] = counts.astype(np.float32)[None]
        return Batch(
            raw[None, None],
            {name: target[None] for name, target in targets.items()},
            {name: weight[None] for name, weight in weights.items()},
            np.ascontiguousarray(labels[centre].astype(np.int64))[None],
        )


def _knowledge(volume: TrainingVolume, box: Roi) -> NDArray[np.uint8]:
    """What is known of each voxel of a box, in voxels of the region: `OUTSIDE`, `MASKED` or `KNOWN`."""
    inside = box.intersect(Roi.of_shape(volume.roi.shape))
    if volume.mask is None:
        knowledge = np.full(inside.shape, KNOWN, np.uint8)
    else:
        knowledge = np.where(volume.mask.read(inside), KNOWN, MASKED).astype(np.uint8)
    missing = [(i - b, e - j) for b, i, j, e in zip(box.begin, inside.begin, inside.end, box.end, strict=True)]
    return np.pad(knowledge, missing, constant_values=OUTSIDE)
