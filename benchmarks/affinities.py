"""How near affinities, grown boundaries and weights come to the speed at which memory can be copied.

``affinities.py PAGE`` writes a page of tables, with the hardware that it ran on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_erosion

from lsdflow.affinities import affinities, affinities_mask, affinity_weights, grow_boundary, offsets_on_axes
from lsdflow.provenance import processor
from lsdflow.synthetic import simulate_neuropil

NEAREST, LONG_RANGE = offsets_on_axes([1]), offsets_on_axes([1, 3, 5, 13])
CROP = 92  # voxels along each axis of the labels of a training crop in the paper
REPEATS = 21


@dataclass(frozen=True)
class Pass:
    """Something to time.

    Attributes
    ----------
    name, labels : what is computed, and of which labels.
    compute : called with a number of threads.
    bytes_moved : what has to be read and written at least, each once.
    threads : numbers of threads to time it with.
    plain : another way to the same result; None where a smaller crop says the same.
    """

    name: str
    labels: str
    compute: Callable[[int], np.ndarray]
    bytes_moved: int
    threads: Sequence[int] = (1, 2)
    plain: Callable[[], np.ndarray] | None = None


def plain_affinities(labels: np.ndarray, offsets: Sequence[Sequence[int]]) -> np.ndarray:
    """The definition, an offset after another; none is positive."""
    same = np.zeros((len(offsets), *labels.shape), np.uint8)
    for channel, offset in zip(same, offsets, strict=True):
        here = labels[tuple(slice(-o, None) for o in offset)]
        there = labels[tuple(slice(None, n + o) for o, n in zip(offset, labels.shape, strict=True))]
        channel[tuple(slice(-o, None) for o in offset)] = (here == there) & (here != 0)
    return same


def plain_growth(labels: np.ndarray) -> np.ndarray:
    """The definition, a label after another."""
    grown = np.zeros_like(labels)
    for label in np.unique(labels[labels != 0]):
        grown[binary_erosion(labels == label, border_value=1)] = label
    return grown


def plain_weights(target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The definition, an array after another."""
    fraction = np.clip(np.mean(target[mask != 0]), 0.05, 0.95)
    return (np.where(target, 0.5 / fraction, 0.5 / (1 - fraction)) * mask).astype(np.float32)


def passes() -> Iterator[Pass]:
    """All that is timed."""
    # Eight times the same tissue: for the passes it is as good as one larger one, and takes seconds.
    _, tissue = simulate_neuropil((125, 125, 125), seed=0)
    volume = np.tile(tissue, (2, 2, 2))
    crop = np.ascontiguousarray(volume[:CROP, :CROP, :CROP])
    for size, small_ids in ((250, volume), (CROP, crop)):
        is_crop = size == CROP
        for ids, labels in (("< 2¹⁶", small_ids), ("> 2³²", small_ids + np.uint64(2**40))):
            name = f"{size}³, ids {ids}"
            for offsets in (NEAREST, LONG_RANGE):
                yield Pass(
                    f"affinities, {len(offsets)} offsets",
                    name,
                    lambda threads, labels=labels, offsets=offsets: affinities(labels, offsets, threads=threads),
                    labels.nbytes + labels.size * len(offsets),
                    plain=lambda labels=labels, offsets=offsets: plain_affinities(labels, offsets),
                )
        yield Pass(
            "grow_boundary, 1 step",
            f"{size}³",
            lambda threads, labels=small_ids: grow_boundary(labels, threads=threads),
            2 * small_ids.nbytes,
            plain=(lambda labels=small_ids: plain_growth(labels)) if is_crop else None,
        )
        target, mask = affinities(small_ids, LONG_RANGE), affinities_mask(small_ids.shape, LONG_RANGE)
        yield Pass(
            "affinity_weights, 12 offsets",
            f"{size}³",
            lambda threads, target=target, mask=mask: affinity_weights(target, mask),
            target.nbytes + mask.nbytes + 4 * target.size,
            threads=(1,),
            plain=(lambda target=target, mask=mask: plain_weights(target, mask)) if is_crop else None,
        )


def medians(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The median time of each function, seconds; they take turns, so that a busy machine is unfair to none."""
    for function in functions:
        function()
    times = []
    for _ in range(repeats):
        marks = [time.perf_counter()]
        for function in functions:
            function()
            marks.append(time.perf_counter())
        times.append(np.diff(marks))
    return np.median(times, axis=0).tolist()


def bandwidth_row(task: Pass, threads: int) -> str:
    """One pass beside copies that move as many bytes."""
    source = np.ones(task.bytes_moved // 2, np.uint8)
    old = np.empty_like(source)
    with ThreadPoolExecutor(threads) as pool:

        def copy(target: np.ndarray) -> None:
            list(pool.map(np.copyto, np.array_split(target, threads), np.array_split(source, threads)))

        seconds, copied, copied_anew = medians(
            [lambda: task.compute(threads), lambda: copy(old), lambda: copy(np.empty_like(source))], REPEATS
        )
    gb = task.bytes_moved / 1e9
    return (
        f"| {task.labels} | {task.name} | {threads} | {1000 * seconds:.2f} | {1000 * gb:.0f} | {gb / seconds:.1f} | "
        f"{gb / copied:.1f} | {copied / seconds:.0%} | {gb / copied_anew:.1f} | {copied_anew / seconds:.0%} |"
    )


def ratio_row(task: Pass) -> str:
    """One pass beside its plain version, on one thread."""
    np.testing.assert_allclose(task.compute(1), task.plain(), rtol=1e-6)
    seconds, plainly = medians([lambda: task.compute(1), task.plain], 5)
    return f"| {task.labels} | {task.name} | {1000 * seconds:.2f} | {1000 * plainly:.1f} | {plainly / seconds:.0f} |"


def main(path: Path) -> None:
    """Measure and write the page to ``path``."""
    bandwidths, ratios = [], []
    for task in passes():
        print(f"{task.name}: {task.labels}", file=sys.stderr)
        bandwidths += [bandwidth_row(task, threads) for threads in task.threads]
        if task.plain:
            ratios.append(ratio_row(task))
    text = [
        "# Affinities: time beside that of copying memory",
        "",
        f"Written by `benchmarks/affinities.py` on: {processor()}. uint64 labels of the synthetic neuropil; medians",
        f"of {REPEATS} runs, in turn with the copies. Moved are the labels (or affinities and mask), read once, and",
        "the result, written once. Beside each pass is `numpy.copyto` that moves as many bytes with as many threads:",
        "into an array that is there already, and into a new one, which is what the passes have to make. Whatever fits",
        "into the processor's cache, as the crops may, is copied faster than memory allows.",
        "",
        "| labels | pass | threads | time (ms) | moved (MB) | GB/s | copy (GB/s) | of it | copy, new (GB/s) | of it |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *bandwidths,
        "",
        "Beside plain versions of the definitions, one thread: for affinities and weights whole arrays in numpy, for",
        "boundaries `scipy.ndimage.binary_erosion` of each label.",
        "",
        "| labels | pass | lsdflow (ms) | plain (ms) | ratio |",
        "|---|---|---:|---:|---:|",
        *ratios,
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
