"""What LSD targets cost: beside lsd-lite on the same labels in one process, and as volumes and objects grow.

``make bench`` installs the peer, gets the real labels and runs this: ``lsd_targets.py LABELS.zarr FOLDER``.  It writes
a page of tables with the hardware that it ran on, and a figure.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

THREADS = 2
# Before numpy is imported: its matrix products, the yardstick of arithmetic, get as many threads.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(THREADS)

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from lsd_lite import get_lsds  # noqa: E402
from test_lsd import naive_descriptors  # noqa: E402

from lsdflow.figures import style  # noqa: E402
from lsdflow.figures.sizes import log_axis  # noqa: E402
from lsdflow.lsd import SMALLEST_VARIANCE, local_shape_descriptors  # noqa: E402
from lsdflow.lsd_filters import describe  # noqa: E402
from lsdflow.provenance import processor  # noqa: E402
from lsdflow.synthetic import simulate_neuropil  # noqa: E402
from lsdflow.volumes import open_volume  # noqa: E402

Points = dict[str, list[tuple[float, float]]]

VOXEL_SIZE = (10, 10, 10)
SIGMA = 80.0
REPEATS = 5
CROPS = [(64, 80.0), (100, 80.0), (100, 100.0), (128, 80.0)]
# Groups of channels whose differences are told apart.
GROUPS = {"offset": slice(0, 3), "variance": slice(3, 6), "Pearson": slice(6, 9), "size": slice(9, 10)}


def ours(labels: np.ndarray, sigma: float = SIGMA, downsample: int = 1) -> np.ndarray:
    """Descriptors as the workflow computes them."""
    return local_shape_descriptors(labels, sigma, VOXEL_SIZE, downsample=downsample, threads=THREADS)


def theirs(labels: np.ndarray, sigma: float = SIGMA, downsample: int = 1) -> np.ndarray:
    """Descriptors of lsd-lite, which demands shapes that ``downsample`` divides."""
    return get_lsds(labels, sigma=(sigma,) * 3, voxel_size=VOXEL_SIZE, downsample=downsample)


def seconds(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median time of ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def note(text: str) -> None:
    """Tell how far the benchmark is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def compare(sources: dict[str, np.ndarray]) -> list[str]:
    """Times beside the peer, a line for each crop."""
    lines = ["| labels | crop | σ (voxels) | objects | downsample | lsdflow (s) | lsd-lite (s) | ratio |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    for source, volume in sources.items():
        for size, sigma in CROPS:
            crop = np.ascontiguousarray(volume[:size, :size, :size])
            n_objects = np.count_nonzero(np.unique(crop))
            for downsample in (1, 2):
                note(f"{source}, {size}³, downsample {downsample}")
                mine = seconds(lambda c=crop, s=sigma, d=downsample: ours(c, s, d))
                peer = seconds(lambda c=crop, s=sigma, d=downsample: theirs(c, s, d), 1)
                lines.append(
                    f"| {source} | {size}³ | {sigma / 10:g} | {n_objects} | {downsample} | {mine:.3f} | {peer:.1f} | "
                    f"**{peer / mine:.0f}** |"
                )
    return lines


def errors(volume: np.ndarray) -> list[str]:
    """Largest differences from a float64 evaluation of the definition, and between the two."""
    crop = np.ascontiguousarray(volume[:64, :64, :64])
    lines = ["| 64³, downsample | pair | offset | variance | Pearson | size |", "|---:|---|---:|---:|---:|---:|"]
    for downsample in (1, 2):
        note(f"errors, downsample {downsample}")
        exact, is_sure = naive_descriptors(crop, SIGMA, VOXEL_SIZE, downsample)
        arrays = {"float64": exact, "lsdflow": ours(crop, downsample=downsample)}
        arrays["lsd-lite"] = theirs(crop, downsample=downsample)
        # lsd-lite defines voxels with no picked voxel of their object in the window otherwise.
        has_mass = exact[9] > 0
        for one, other in (("lsdflow", "float64"), ("lsd-lite", "float64"), ("lsdflow", "lsd-lite")):
            difference = np.abs(arrays[one] - arrays[other]) * has_mass
            difference[6:9] *= is_sure
            largest = " | ".join(f"{difference[channels].max():.0e}" for channels in GROUPS.values())
            lines.append(f"| {downsample} | {one} – {other} | {largest} |")
    return lines


def arithmetic(volume: np.ndarray) -> list[str]:
    """Operations and bytes of a crop, and the rates of both beside what the machine reaches."""
    note("arithmetic")
    matrix = np.random.default_rng(0).random((2048, 2048), dtype=np.float32)
    peak = 2 * 2048**3 / seconds(lambda: matrix @ matrix)
    source, target = np.zeros(2**25), np.zeros(2**25)
    bandwidth = 2 * source.nbytes / seconds(lambda: np.copyto(target, source))
    lines = ["| crop | downsample | multiply-adds per voxel | GFLOP | GFLOP/s | of the peak | MB | of the bandwidth |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for size, downsample in ((100, 1), (100, 2), (250, 1)):
        crop = np.ascontiguousarray(volume[:size, :size, :size])
        lsds = np.zeros((10, *crop.shape), np.float32)
        sigma_voxels = np.full(3, SIGMA / VOXEL_SIZE[0] / downsample)
        arguments = (crop, sigma_voxels, np.full(3, SMALLEST_VARIANCE / SIGMA**2), downsample, THREADS, (0, 0, 0), lsds)
        counted = describe(*arguments)
        elapsed = seconds(lambda a=arguments: describe(*a))
        moved = crop.nbytes + lsds.nbytes
        lines.append(
            f"| {size}³ | {downsample} | {counted / crop.size:.0f} | {2 * counted / 1e9:.2f} | "
            f"{2 * counted / elapsed / 1e9:.1f} | {200 * counted / elapsed / peak:.0f} % | {moved / 1e6:.0f} | "
            f"{100 * moved / elapsed / bandwidth:.0f} % |"
        )
    lines += ["", f"Peak: {peak / 1e9:.0f} GFLOP/s, numpy's product of 2048² float32 matrices with {THREADS} threads."]
    lines.append(f"Bandwidth: {bandwidth / 1e9:.1f} GB/s, a copy of 256 MB (read and written) with one thread.")
    return lines


def tensors(volume: np.ndarray) -> list[str]:
    """Training crops of 50 objects as arrays and as tensors, on the processor and on a GPU where there is one."""
    devices = {"the processor": "cpu"}
    if torch.cuda.is_available():
        devices[torch.cuda.get_device_name()] = "cuda"
    lines = [
        "| crop | objects | downsample | arrays (s) | "
        + " | ".join(f"tensors on {name} (s)" for name in devices)
        + " |"
    ]
    lines.append("|---|---:|---:|---:|" + "---:|" * len(devices))
    for size, downsample in ((92, 1), (92, 2), (196, 1), (196, 2)):
        note(f"tensors, {size}³, downsample {downsample}")
        crop = np.ascontiguousarray(volume[:size, :size, :size])
        ids, counts = np.unique(crop[crop != 0], return_counts=True)
        kept = ids[np.argsort(-counts, kind="stable")[:50]]
        crop = np.where(np.isin(crop, kept), crop, 0)
        times = [seconds(lambda c=crop, d=downsample: ours(c, downsample=d))]
        for device in devices.values():
            tensor = torch.from_numpy(crop.astype(np.int64)).to(device)

            def compute(labels=tensor, d=downsample):
                local_shape_descriptors(labels, SIGMA, VOXEL_SIZE, downsample=d)
                if labels.is_cuda:
                    torch.cuda.synchronize()

            compute()
            times.append(seconds(compute))
        shown = " | ".join(f"{t:.3f}" for t in times)
        lines.append(f"| {size}³ | {len(kept)} | {downsample} | {shown} |")
    if len(devices) == 1:
        lines += ["", "No GPU was at hand."]
    return lines


def whole_volume(path: str) -> None:
    """Print seconds and the growth of memory, in bytes, for the whole volume; in a process of its own."""
    labels = open_volume(path, "labels").read()
    ours(labels[:16, :16, :16])
    before = psutil.Process().memory_info().rss
    begin = time.perf_counter()
    lsds = ours(labels)
    elapsed = time.perf_counter() - begin
    # Linux counts the peak in KiB.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    print(elapsed, peak - before, lsds.nbytes)


def tiled(volume: np.ndarray, size: int) -> np.ndarray:
    """A cube of ``size`` made of mirrored copies of the volume, each with ids of its own."""
    repeats = [math.ceil(size / n) for n in volume.shape]
    labels = np.pad(volume, [(0, n * (r - 1)) for n, r in zip(volume.shape, repeats, strict=True)], mode="symmetric")
    step = volume.max() + 1
    for number, tile in enumerate(np.ndindex(*repeats)):
        box = tuple(slice(t * n, (t + 1) * n) for t, n in zip(tile, volume.shape, strict=True))
        labels[box] += (labels[box] != 0) * (step * np.uint64(number))
    return np.ascontiguousarray(labels[:size, :size, :size])


def cost_by_volume(volume: np.ndarray) -> Points:
    """(voxels, seconds) of tiled real labels."""
    points = {"lsdflow": [], "lsd-lite": []}
    for size in (64, 96, 128, 192, 256, 384, 512):
        note(f"volume {size}³")
        labels = tiled(volume, size)
        points["lsdflow"].append((labels.size, seconds(lambda a=labels: ours(a), 1 if size > 256 else 3)))
        if size <= 96:
            points["lsd-lite"].append((labels.size, seconds(lambda a=labels: theirs(a), 1)))
    return points


def cost_by_objects() -> Points:
    """(objects, seconds) of one cube of 96³ voxels, cut into ever smaller cubes."""
    points = {"lsdflow": [], "lsd-lite": []}
    for edge in (96, 48, 32, 24, 16, 12, 8, 6, 4):
        note(f"objects of {edge}³")
        n = 96 // edge
        labels = np.arange(1, n**3 + 1, dtype=np.uint64).reshape(n, n, n)
        for axis in range(3):
            labels = labels.repeat(edge, axis)
        points["lsdflow"].append((n**3, seconds(lambda a=labels: ours(a), 3)))
        if n <= 4:
            points["lsd-lite"].append((n**3, seconds(lambda a=labels: theirs(a), 1)))
    return points


def cost_by_labelled(volume: np.ndarray) -> Points:
    """(labelled voxels, seconds) of a crop of 128³ in which ever more of the objects, the same ids, are kept."""
    crop = np.ascontiguousarray(volume[:128, :128, :128])
    ids = np.unique(crop[crop != 0])
    order = np.random.default_rng(0).permutation(len(ids))
    points = []
    for share in (0.125, 0.25, 0.5, 0.75, 1.0):
        kept = np.where(np.isin(crop, ids[order[: round(share * len(ids))]]), crop, 0)
        points.append((np.count_nonzero(kept), seconds(lambda a=kept: ours(a), 3)))
    return {"lsdflow": points}


def draw(stem: Path, by_volume: Points, by_objects: Points, by_labelled: Points) -> None:
    """Seconds against voxels and objects, on logarithmic axes, and against labelled voxels."""
    with style.context():
        figure = style.new_figure(11, 3.6)
        left, middle, right = figure.subplots(1, 3)
        looks = {"lsdflow": ("#0072B2", "o"), "lsd-lite": (style.GREY, "s")}
        for axes, lines in ((left, by_volume), (middle, by_objects), (right, by_labelled)):
            for name, points in lines.items():
                colour, marker = looks[name]
                axes.plot(*zip(*points, strict=True), marker=marker, color=colour, label=name)
            axes.set_ylabel("seconds")
        for axes, lines in ((left, by_volume), (middle, by_objects)):
            points = [point for line in lines.values() for point in line]
            for number, name in enumerate("xy"):
                log_axis(axes, name, pd.Series([point[number] for point in points], dtype=float))
        right.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g}")
        right.set(xlim=(0, None), ylim=(0, None))
        left.set(title="Tiled real labels", xlabel="voxels")
        middle.set(title="96³ voxels, all labelled", xlabel="objects")
        right.set(title="128³ real voxels, objects left out", xlabel="labelled voxels (million)")
        middle.legend(loc="center right")
    style.save(figure, stem)


def main(path: str, folder: Path) -> None:
    """Measure everything and write the page and the figure into ``folder``."""
    real = open_volume(path, "labels").read()
    _, synthetic = simulate_neuropil((128, 128, 128), seed=0, voxel_size=VOXEL_SIZE)
    ours(real[:16, :16, :16])  # compiled before it is timed
    note("whole volume")
    child = subprocess.run([sys.executable, __file__, path], capture_output=True, text=True, check=True)
    elapsed, growth, output = map(float, child.stdout.split())
    by_volume = cost_by_volume(real)
    draw(folder / "cost", by_volume, cost_by_objects(), cost_by_labelled(real))
    per_voxel = [f"{n ** (1 / 3):.0f}³: {1e9 * t / n:.0f}" for n, t in by_volume["lsdflow"]]
    text = [
        "# LSD targets: what they cost",
        "",
        f"Written by `make bench` on: {processor()}, {os.cpu_count()} cores. lsdflow with {THREADS} threads, and",
        "lsd-lite 1.0.1, which has one, in the same process. Voxels of 10 nm; real labels are the corner of the",
        "FIB-SEM medulla volume, synthetic ones come from `simulate_neuropil`. Seconds of lsdflow are medians of",
        f"{REPEATS} runs, those of lsd-lite of one.",
        "",
        "## Beside lsd-lite",
        "",
        *compare({"real": real, "synthetic": synthetic}),
        "",
        "## Exactness",
        "",
        "Largest differences; `float64` is the definition evaluated word for word in double precision. Correlations",
        "count where both variances exceed 0.05 voxel², everything where the window holds picked voxels of the object.",
        "",
        *errors(real),
        "",
        "## Arithmetic",
        "",
        *arithmetic(real),
        "",
        "## On tensors",
        "",
        "The largest 50 objects of a crop, σ = 8 voxels. Tensors are for GPUs; on the processor arrays are faster.",
        "",
        *tensors(real),
        "",
        "## The whole volume",
        "",
        f"250³ voxels, {np.count_nonzero(np.unique(real))} objects, σ = 8 voxels, downsample 1: {elapsed:.1f} s.",
        f"The process grew by {growth / 1e6:.0f} MB at most: {growth / output:.2f} times the output of",
        f"{output / 1e6:.0f} MB, which is part of it.",
        "",
        "## Growth",
        "",
        "![seconds against voxels, objects and labelled voxels](cost.png)",
        "",
        f"Nanoseconds per voxel of tiled real labels: {', '.join(per_voxel)}.",
    ]
    (folder / "speed.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        whole_volume(sys.argv[1])
    else:
        main(sys.argv[1], Path(sys.argv[2]))
