"""How many training crops a core makes in a second, beside gunpowder with the same nodes on the same volume.

``batches.py LABELLED.zarr PYTHON PAGE`` writes a page of tables, with the hardware that it ran on; ``PYTHON`` is one
that has gunpowder, which runs `batches_gunpowder.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

# Before numpy is imported, and for both sides: one thread.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402

from lsdflow import sampling  # noqa: E402
from lsdflow.affinities import affinities, affinity_weights, offsets_on_axes  # noqa: E402
from lsdflow.augment import Augmentation, Deformation, Symmetry  # noqa: E402
from lsdflow.lsd import local_shape_descriptors  # noqa: E402
from lsdflow.provenance import processor  # noqa: E402
from lsdflow.roi import Roi  # noqa: E402
from lsdflow.sampling import CropSampler, TargetSettings, TrainingVolume, in_memory  # noqa: E402
from lsdflow.volumes import Volume, open_volume  # noqa: E402

SIGMA = 80.0
OFFSETS = offsets_on_axes([1])
# What tells whether both sides make crops of one kind; see `Side`.
MEANS = ("objects", "ones", "labelled", "descriptor")
# As in `batches_gunpowder.pipeline`, which is as in the paper's training on FIB-25.
AUGMENTATION = Augmentation(
    elastic=1.0,
    control_point_spacing=(40, 40, 40),
    jitter=(2, 2, 2),
    rotation=90.0,
    shift_probability=0.01,
    slip_probability=0.01,
    max_misalign=1,
    intensity_scale=0.1,
    intensity_shift=0.1,
    noise=0,
)
# Threads that make batches, and how often they are timed: other programs slow down two sooner than one.
WORKERS, REPEATS = (1, 2), 5
# What is timed together, in the order of the work.
STAGES = {
    "draw": [(CropSampler, "_place")],
    "read": [(Volume, "read_padded"), (sampling, "_knowledge")],
    "deform": [(Deformation, name) for name in ("random", "source_box", "image", "labels")],
    "grow boundaries": [(sampling, "grow_boundary")],
    "turn and mirror": [(Symmetry, "apply")],
    "LSDs": [(sampling, "local_shape_descriptors")],
    "affinities, weights": [(sampling, "affinities"), (sampling, "affinity_weights")],
    "intensity": [(sampling, "damage_sections"), (sampling, "random_intensity")],
}


@dataclass(frozen=True)
class Case:
    """Crops of one kind.

    Attributes
    ----------
    raw, output : edge of the raw crop and of the targets, voxels.
    downsample : of the descriptors.
    crops, peers : how many are timed, on this side and on the other.
    """

    raw: int
    output: int
    downsample: int
    crops: int
    peers: int

    def __str__(self) -> str:
        return f"{self.raw}³ → {self.output}³, downsample {self.downsample}"


CASES = [Case(64, 64, 2, 40, 12), Case(64, 64, 1, 24, 4), Case(196, 92, 2, 12, 4)]


@dataclass(frozen=True)
class Side:
    """What one side made.

    Attributes
    ----------
    seconds : of the processor, for each crop.
    objects, ones, labelled, descriptor : means over the crops: of the objects in it, of its affinities, of the share of
        its voxels that are labelled, and of all descriptors of these. They tell whether both sides make such crops.
    """

    seconds: list[float]
    objects: float
    ones: float
    labelled: float
    descriptor: float

    @property
    def median(self) -> float:
        """Seconds for a crop."""
        return float(np.median(self.seconds))

    def __add__(self, other: Side) -> Side:
        shares = np.array([len(self.seconds), len(other.seconds)]) / (len(self.seconds) + len(other.seconds))
        means = [float(shares @ [getattr(side, name) for side in (self, other)]) for name in MEANS]
        return Side(self.seconds + other.seconds, *means)


def sampler_of(case: Case, raw: Volume, labels: Volume) -> CropSampler:
    """Batches of one."""
    # Targets made beforehand are for crops that are not deformed: here are none.
    unused = Volume(np.broadcast_to(np.float32(0), (10, *labels.shape_zyx)), labels.voxel_size)
    return CropSampler(
        [TrainingVolume(raw, labels, labels, unused, labels.roi)],
        outputs=["affinities", "lsds"],
        offsets=OFFSETS,
        raw_shape=(case.raw,) * 3,
        output_shape=(case.output,) * 3,
        batch_size=1,
        seed=0,
        targets=TargetSettings(SIGMA, case.downsample),
        augmentation=AUGMENTATION,
    )


def ours(sampler: CropSampler, crops: range) -> Side:
    """Crops of lsdflow."""
    seconds, kinds = [], []
    for iteration in crops:
        begin = time.process_time()
        batch = sampler.batch(iteration)
        seconds.append(time.process_time() - begin)
        labels, lsds = batch.labels[0], batch.targets["lsds"][0]
        is_object = labels != 0
        n_objects = len(np.unique(labels[is_object]))
        kinds.append([n_objects, batch.targets["affinities"].mean(), is_object.mean(), lsds[:, is_object].mean()])
    return Side(seconds, *np.mean(kinds, axis=0).tolist())


def theirs(case: Case, python: str, folder: Path, voxel_size: tuple[float, ...]) -> tuple[Side, dict[str, str], float]:
    """Crops of gunpowder, its versions, and the largest difference of a descriptor (see `difference`)."""
    job = {
        "voxel_size": [int(v) for v in voxel_size],
        "sigma": SIGMA,
        "downsample": case.downsample,
        "raw_shape": [case.raw] * 3,
        "output_shape": [case.output] * 3,
        "offsets": OFFSETS,
        "crops": case.peers,
    }
    script = Path(__file__).with_name("batches_gunpowder.py")
    done = subprocess.run([python, str(script), str(folder), json.dumps(job)], stdout=subprocess.PIPE, check=True)
    told = json.loads(done.stdout)
    means = np.mean(told["kinds"], axis=0).tolist()
    with np.load(folder / "crop.npz") as crop:
        return Side(told["seconds"], *means), told["versions"], difference(crop, case, voxel_size)


def difference(crop: Mapping[str, np.ndarray], case: Case, voxel_size: tuple[float, ...]) -> float:
    """The largest difference between descriptors of gunpowder and those that lsdflow makes of the same labels.

    Where the window holds no picked voxel of the object the two are defined otherwise, and do not count.

    Raises
    ------
    AssertionError
        If affinities or weights differ, or it is more than rounding.
    """
    labels, shape = crop["labels"], (case.output,) * 3
    begin = tuple((n - m) // 2 for n, m in zip(labels.shape, shape, strict=True))
    box = Roi.of_shape(shape).shift(begin)
    target = affinities(labels, OFFSETS)[(..., *box.slices)]
    np.testing.assert_array_equal(target, crop["affs"])
    weights = affinity_weights(target, np.ones(1, np.uint8))
    np.testing.assert_allclose(weights, crop["affs_scale"], rtol=1e-6)
    np.testing.assert_array_equal((labels[box.slices] != 0)[None], crop["lsds_mask"][:1] != 0)
    lsds = local_shape_descriptors(labels, SIGMA, voxel_size, downsample=case.downsample, roi=box)
    largest = float((np.abs(lsds - crop["lsds"]) * (lsds[9] > 0)).max())
    assert largest < 1e-3, largest
    return largest


class Stages:
    """Seconds that a thread spends in functions, each without those of the functions that it calls."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._within = [0.0]

    def timed(self, stage: str, function: Callable) -> Callable:
        """``function``, timed as part of ``stage``."""

        def timed(*args, **kwargs):
            self._within.append(0.0)
            begin = time.process_time()
            result = function(*args, **kwargs)
            spent = time.process_time() - begin
            self.seconds[stage] += spent - self._within.pop()
            self._within[-1] += spent
            return result

        return timed


def stages_of(sampler: CropSampler, crops: range) -> dict[str, float]:
    """Milliseconds of a crop by stage, and of all that is none."""
    stages = Stages()
    with ExitStack() as patched:
        for stage, functions in STAGES.items():
            for owner, name in functions:
                patched.enter_context(patch.object(owner, name, stages.timed(stage, getattr(owner, name))))
        whole = stages.timed("everything else", sampler.batch)
        for iteration in crops:
            whole(iteration)
    return {stage: 1000 * stages.seconds[stage] / len(crops) for stage in (*STAGES, "everything else")}


def rates_of(sampler: CropSampler, n_crops: int) -> list[float]:
    """Crops per second of a stream with each of `WORKERS`, the highest of some runs in turn."""
    rates = np.empty((REPEATS, len(WORKERS)))
    for run, column in np.ndindex(rates.shape):
        begin = time.perf_counter()
        n_made = sum(len(batch) for _, batch in sampler.batches(0, n_crops, workers=WORKERS[column]))
        rates[run, column] = n_made / (time.perf_counter() - begin)
    return rates.max(axis=0).tolist()


def main(path: str, python: str, page: Path) -> None:
    """Measure and write the page."""
    # In memory, as in training.
    raw, labels = (in_memory(open_volume(path, name)) for name in ("raw", "labels"))
    beside, alike, largest, stages, rates, versions = [], [], {}, {}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "raw.npy", raw.data)
        np.save(Path(folder) / "labels.npy", labels.data)
        for case in CASES:
            print(f"{time.strftime('%H:%M:%S')} {case}", file=sys.stderr, flush=True)
            sampler, half = sampler_of(case, raw, labels), case.crops // 2
            sampler.batch(case.crops)
            # Before and after the other side, so that a machine that grows busy is unfair to none.
            mine = ours(sampler, range(half))
            peer, versions, largest[case] = theirs(case, python, Path(folder), raw.voxel_size)
            mine += ours(sampler, range(half, case.crops))
            beside.append(
                f"| {case} | {mine.median:.3f} | {peer.median:.2f} | **{peer.median / mine.median:.0f}** | "
                f"{1 / mine.median:.1f} | {1 / peer.median:.2f} | {case.crops} | {case.peers} |"
            )
            alike += [
                f"| {case} | {name} | {side.objects:.0f} | {side.labelled:.3f} | {side.ones:.3f} | "
                f"{side.descriptor:.3f} |"
                for name, side in (("lsdflow", mine), ("gunpowder", peer))
            ]
            stages[case] = stages_of(sampler, range(half))
            one, two = rates_of(sampler, case.crops)
            rates.append(f"| {case} | {one:.1f} | {two:.1f} | {two / one:.2f} |")
    totals = {case: sum(times.values()) for case, times in stages.items()}
    text = [
        "# Batches: what they cost",
        "",
        f"Written by `make bench` on: {processor()}, {os.cpu_count()} cores. Crops of the FIB-SEM medulla volume,",
        f"{'×'.join(map(str, labels.shape_zyx))} voxels of {raw.voxel_size[0]:g} nm, in memory; affinities to the three"
        f" neighbours and LSDs (σ {SIGMA:g} nm) are",
        "computed anew for every crop, because each is deformed.",
        "",
        "## Beside gunpowder",
        "",
        f"gunpowder {versions['gunpowder']} and lsds {versions['lsds']}, with the nodes and settings of the paper's"
        " training on FIB-25:",
        "`RandomLocation` (half of the voxels labelled), `ElasticAugment` (control points every 40 voxels moved by 2,",
        "turned by up to 90°, sections shifted or slipped by up to 1 voxel at 1 % each, every 8th voxel computed),",
        "`SimpleAugment`, `IntensityAugment`, `GrowBoundary`, `AddLocalShapeDescriptor`, `AddAffinities`,",
        "`BalanceLabels`; the paper deforms twice in a row and has `PreCache`. The same of lsdflow, without noise. One",
        "process with one thread each, batches of one, seconds of the processor; medians, after a batch that does not",
        "count.",
        "",
        "| raw → targets | lsdflow (s) | gunpowder (s) | ratio | lsdflow (crops/s) | gunpowder (crops/s) | crops | of"
        " gunpowder |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *beside,
        "",
        "The crops, drawn at random by each, are of one kind (means):",
        "",
        "| raw → targets | | objects | labelled | affinities of 1 | LSDs |",
        "|---|---|---:|---:|---:|---:|",
        *alike,
        "",
        "Of the deformed labels of gunpowder's last crop lsdflow makes the same affinities and weights, and LSDs that",
        f"differ by {max(largest.values()):.0e} at most where the window holds picked voxels of the object.",
        "",
        "## Where the time goes",
        "",
        "Milliseconds of one thread for a crop (means).",
        "",
        f"| | {' | '.join(map(str, CASES))} |",
        f"|---|{'---:|' * len(CASES)}",
        *(f"| {name} | {' | '.join(f'{stages[c][name]:.1f}' for c in CASES)} |" for name in stages[CASES[0]]),
        f"| **together** | {' | '.join(f'{totals[c]:.1f}' for c in CASES)} |",
        "",
        "## Workers",
        "",
        f"Crops per second of `CropSampler.batches`, batches of one, by the clock; the most of {REPEATS} runs in turn.",
        "",
        "| raw → targets | 1 worker | 2 workers | ratio |",
        "|---|---:|---:|---:|",
        *rates,
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
