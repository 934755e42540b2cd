"""Region graph and agglomeration beside waterz on the same fragments, in one process and in two; and large graphs.

``agglomeration.py AFFINITIES.zarr PAGE`` writes a page of tables, with the hardware that it ran on.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import waterz

from lsdflow.agglomeration import agglomerate, build_merge_tree
from lsdflow.fragments import NEAREST, watershed_fragments
from lsdflow.provenance import processor
from lsdflow.region_graph import RegionGraph, merge_region_graphs, region_graph
from lsdflow.roi import Roi
from lsdflow.volumes import Volume, open_volume, write_volume

REPEATS = 7
QUANTILE = "HistogramQuantileAffinity<RegionGraphType, 75, ScoreValue, 256, false>"
WATERZ = {"scoring_function": f"OneMinus<{QUANTILE}>", "discretize_queue": 256}
# Fragments along each edge of a large graph; 100³ are about those of 1024³ voxels.
EDGES = (25, 50, 100)
BINS_PER_EDGE = 30
FILES = 8


class Watch:
    """Seconds from one stage to the next, and by how much the process grew at most since the first."""

    def __init__(self) -> None:
        # Forgets the peak of what came before.
        Path("/proc/self/clear_refs").write_text("5")
        self.before, self.stages = psutil.Process().memory_info().rss, {}
        self.last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """The end of a stage."""
        now = time.perf_counter()
        self.stages[stage], self.last = now - self.last, now

    def report(self, **more: object) -> None:
        """Print everything as a line of JSON."""
        # Linux counts the peak in KiB.
        peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
        found = {"stages": self.stages, "growth_mb": (peak - self.before) / 1e6, "peak_gib": peak / 2**30}
        print(json.dumps({**found, **more}), flush=True)


def note(text: str) -> None:
    """Tell how far the benchmark is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def without_stdout():
    """Swallow what C++ prints."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def read(volume: str, store: str, roi: Roi | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Affinities (3, z, y, x) and fragments."""
    affinities = open_volume(volume, "affinities").read(roi, channels=slice(NEAREST))
    fragments = open_volume(store, "fragments").read(roi)
    # Compiled functions are loaded when they are first called.
    graph = merge_region_graphs([region_graph(affinities[:, :2], fragments[:2])] * 2)
    agglomerate(graph).segmentation(fragments[:2], 1.0)
    return affinities, fragments


def by_waterz(volume: str, store: str) -> None:
    """Everything in one call."""
    affinities, fragments = read(volume, store)
    affinities = affinities.astype(np.float32) / 255
    watch = Watch()
    with without_stdout():
        made = waterz.agglomerate(affinities, [0, 1], fragments=fragments, **WATERZ)
        for stage in ("region graph, scores", "agglomeration, segmentation"):
            next(made)
            watch.mark(stage)
    watch.report()


def in_one_process(volume: str, store: str) -> None:
    """All in one block."""
    affinities, fragments = read(volume, store)
    watch = Watch()
    graph = region_graph(affinities, fragments)
    watch.mark("region graph")
    tree = agglomerate(graph)
    watch.mark("agglomeration")
    tree.segmentation(fragments, 1.0)
    watch.mark("segmentation")
    watch.report(fragments=len(graph.fragments), edges=len(graph.edges), entries=len(graph.bins))


def half(volume: str, store: str, file: str, is_upper: str) -> None:
    """The region graph of half of the volume, once told to go on."""
    shape = open_volume(store, "fragments").shape_zyx
    begin, end = (shape[0] // 2 - 1, shape[0]) if is_upper == "True" else (0, shape[0] // 2)
    affinities, fragments = read(volume, store, Roi((begin, 0, 0), (end, *shape[1:])))
    print("ready", flush=True)
    sys.stdin.readline()
    watch = Watch()
    region_graph(affinities, fragments, context=(int(is_upper == "True"), 0, 0)).save(file)
    watch.report()
    # To end takes time, too, which no other process has counted.
    sys.stdin.readline()


def in_two_processes(volume: str, store: str) -> None:
    """Region graphs of both halves side by side; then as in one process."""
    fragments = read(volume, store)[1]
    files = [f"{store}/{is_upper}.npz" for is_upper in (False, True)]
    halves = [start("half", volume, store, file, str(file.endswith("True.npz"))) for file in files]
    for process in halves:
        process.stdout.readline()
    watch = Watch()
    for process in halves:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [json.loads(process.stdout.readline()) for process in halves]
    watch.mark("region graphs of halves")
    graph = merge_region_graphs(files)
    watch.mark("merging them")
    tree = agglomerate(graph)
    watch.mark("agglomeration")
    tree.segmentation(fragments, 1.0)
    watch.mark("segmentation")
    watch.report(growth_of_halves_mb=max(one["growth_mb"] for one in found))


def start(*arguments: str) -> subprocess.Popen:
    """This script in a process of its own, to talk to."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(*arguments: str) -> dict:
    """What a process of its own reports."""
    output, _ = start(*arguments).communicate()
    return json.loads(output)


def check_merges(volume: str, store: str) -> int:
    """The number of merges, all of which are waterz's, one by one."""
    affinities, fragments = read(volume, store)
    tree = build_merge_tree(affinities, fragments)
    theirs, floats = [], affinities.astype(np.float32) / 255
    with without_stdout():
        for _, history in waterz.agglomerate(floats, [0, 1], fragments=fragments, return_merge_history=True, **WATERZ):
            theirs += [(merge["a"], merge["b"], merge["score"]) for merge in history]
    ours = [(int(u), int(v), float(s)) for (u, v), s in zip(tree.merges, tree.merge_scores, strict=True)]
    if ours != theirs:
        raise SystemExit("the merges are not those of waterz")
    return len(ours)


def make_large(folder: str, edge: str) -> None:
    """Region graphs of ``edge``³ fragments on a lattice, in files that share a tenth of their edges."""
    rng, ids = np.random.default_rng(0), 1 + 1000 * np.arange(int(edge) ** 3, dtype=np.uint64).reshape((int(edge),) * 3)
    edges = []
    for steps in itertools.product((0, 1), repeat=3):
        lowers = ids[tuple(slice(None, len(ids) - step) for step in steps)]
        uppers = ids[tuple(slice(step, None) for step in steps)]
        edges.append(np.stack([lowers.ravel(), uppers.ravel()], axis=1))
    edges = np.concatenate(edges[1:])
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    for file, own in enumerate(np.array_split(np.arange(len(edges)), FILES)):
        here = edges[max(0, own[0] - len(own) // 10) : own[-1] + 1]
        first = rng.integers(0, 256 - BINS_PER_EDGE, len(here))
        fragments, n_entries = np.unique(here), len(here) * BINS_PER_EDGE
        RegionGraph(
            fragments=fragments,
            sizes=np.full(len(fragments), 1000),
            edges=here,
            starts=np.arange(0, n_entries + 1, BINS_PER_EDGE),
            bins=(first[:, None] + np.arange(BINS_PER_EDGE)).astype(np.uint8).ravel(),
            counts=rng.integers(1, 4, n_entries).astype(np.int32),
        ).save(f"{folder}/{file}.npz")


def large(folder: str) -> None:
    """What the job does that agglomerates a whole volume."""
    # Compiled functions are loaded when they are first called.
    build_merge_tree(np.ones((3, 1, 1, 2), np.uint8), np.array([[[1, 2]]], np.uint64))
    watch = Watch()
    graph = merge_region_graphs(f"{folder}/{file}.npz" for file in range(FILES))
    watch.mark("merging")
    tree = agglomerate(graph)
    watch.mark("agglomeration")
    tree.save(f"{folder}/tree.zarr")
    watch.mark("saving")
    watch.report(fragments=len(graph.fragments), edges=len(graph.edges), entries=len(graph.bins))


def beside_waterz(volume: str, store: str, n_voxels: int) -> list[str]:
    """A table of stages, and what was agglomerated."""
    methods = {"waterz": "by_waterz", "one process": "in_one_process", "two processes": "in_two_processes"}
    runs = {name: [] for name in methods}
    for turn in range(REPEATS):
        note(f"turn {turn + 1} of {REPEATS}")
        for name, method in methods.items():
            runs[name].append(run(method, volume, store))
    totals = {name: np.median([sum(one["stages"].values()) for one in found]) for name, found in runs.items()}
    lines = ["| | stage | seconds | MVx/s | times as fast as waterz | memory (MB) |", "|---|---|---:|---:|---:|---:|"]
    for name, found in runs.items():
        for stage in found[0]["stages"]:
            seconds = np.median([one["stages"][stage] for one in found])
            lines.append(f"| {name} | {stage} | {seconds:.3f} | {n_voxels / seconds / 1e6:.0f} | | |")
        growth = f"{np.median([one['growth_mb'] for one in found]):.0f}"
        if "growth_of_halves_mb" in found[0]:
            growth += f", halves {np.median([one['growth_of_halves_mb'] for one in found]):.0f}"
        lines.append(
            f"| {name} | **all** | **{totals[name]:.3f}** | {n_voxels / totals[name] / 1e6:.0f} | "
            f"{totals['waterz'] / totals[name]:.2f} | {growth} |"
        )
    graph = runs["one process"][0]
    what = f"{graph['fragments']} fragments and {graph['edges']} edges"
    return [what, *lines]


def large_graphs() -> list[str]:
    """Time and memory against the number of fragments."""
    lines = [
        "| fragments | edges | bins (million) | merging (s) | agglomeration (s) | saving (s) | process (GiB) |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for edge in EDGES:
        note(f"{edge}³ fragments")
        with tempfile.TemporaryDirectory() as folder:
            start("make_large", folder, str(edge)).communicate()
            found = run("large", folder)
        seconds = " | ".join(f"{value:.1f}" for value in found["stages"].values())
        lines.append(
            f"| {found['fragments']} | {found['edges']} | {found['entries'] / 1e6:.1f} | {seconds} | "
            f"{found['peak_gib']:.2f} |"
        )
    return lines


def main(path: str, page: Path) -> None:
    """Measure and write the page to ``page``."""
    volume = open_volume(path, "affinities")
    shape = volume.shape_zyx
    with tempfile.TemporaryDirectory() as store:
        note("fragments")
        fragments = watershed_fragments(volume.read(channels=slice(NEAREST)))
        write_volume(store, "fragments", Volume(fragments, volume.voxel_size))
        n_merges = check_merges(path, store)
        what, *table = beside_waterz(path, store, int(np.prod(shape)))
    text = [
        "# Agglomeration: what it costs",
        "",
        f"Written by `benchmarks/agglomeration.py` on: {processor()}, {os.cpu_count()} cores.",
        "",
        "## Beside waterz",
        "",
        f"Affinities (uint8) of {' × '.join(map(str, shape))} voxels that a network predicted, with {what},",
        f"scored by `hist_quant_75`. waterz {version('waterz')} has a queue of 256 bins and the thresholds 0 and 1.",
        f"All {n_merges} merges and their scores are the same. Seconds are medians of {REPEATS} runs, in turn, each in",
        "a process of its own, with affinities (for waterz as float32) and fragments in memory and functions compiled.",
        "Memory is by how much the process grew at most. Of two processes, each makes the region graph of one half of",
        "the volume and saves it; then one goes on with both.",
        "",
        *table,
        "",
        "## Large graphs",
        "",
        f"Fragments on a lattice, with 14 neighbours each and {BINS_PER_EDGE} bins that are not empty on each edge,",
        f"at random; saved in {FILES} files that share a tenth of their edges. Read and merged, agglomerated, and",
        "saved as a merge tree; memory is all of the process, Python included. With fragments of 10³ voxels, 1024³",
        "voxels have a million.",
        "",
        *large_graphs(),
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(text) + "\n")
    print("\n".join(text))


CHILDREN = (by_waterz, in_one_process, half, in_two_processes, make_large, large)

if __name__ == "__main__":
    children = {function.__name__: function for function in CHILDREN}
    if sys.argv[1] in children:
        children[sys.argv[1]](*sys.argv[2:])
    else:
        main(sys.argv[1], Path(sys.argv[2]))
