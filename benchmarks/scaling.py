"""What segmenting volumes of growing size costs, stage by stage: the workflow's own jobs on synthetic affinities.

``scaling.py SNAKEMAKE FOLDER PAGES [EDGE ...]`` makes volumes of EDGE³ voxels (256, 512, 768 and 1024 by default, the
largest of which needs 15 GB of disk in FOLDER), segments each with two cores, and writes a table and a figure to PAGES.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import yaml

from lsdflow.blocks import BlockGrid
from lsdflow.figures import style
from lsdflow.metrics.contingency import ContingencyTable, contingency_table
from lsdflow.metrics.scores import overlap_scores
from lsdflow.provenance import processor
from lsdflow.roi import Roi
from lsdflow.volumes import create_volume, open_volume
from tissue import tissue

SNAKEFILE = Path(__file__).parents[1] / "workflow/Snakefile"
EDGES = (256, 512, 768, 1024)
MADE = 256  # voxels along an edge of the blocks that the volume is made in
BLOCK, CONTEXT, JOBS = 512, 32, 2
STAGES = ("fragments", "region_graph", "merge_tree", "segmentation")
LIMIT_GIB = 4
TERAVOXEL = 1e12


def configuration(edge: int) -> dict:
    """An experiment whose test region is the whole volume; of the others only the configuration is there."""
    side = {"shape": [64, 64, 64], "voxel_size": [10, 10, 10], "simulate": {"seed": 1}}
    stored = {"path": "tissue", "format": "zarr"}
    return {
        "experiment": "scaling",
        "volumes": {
            "side": side,
            "other": side,
            "tissue": {"shape": [edge] * 3, "voxel_size": [10, 10, 10], "raw": stored, "labels": stored},
        },
        "split": {"train": [{"volume": "side"}], "validation": {"volume": "other"}, "test": {"volume": "tissue"}},
        "setups": {"net": {"inputs": ["raw"], "outputs": ["affinities"]}},
        "training": {"crop_shape": [40, 40, 40]},
        "replicates": [0],
        "raw_watershed": {"enabled": False},
        "segmentation": {"block_shape": [BLOCK] * 3, "context": [CONTEXT] * 3, "chunks": JOBS},
    }


def make_block(folder: str, edge: int, index: int) -> None:
    """One block of the volume, in the stores that the rules read."""
    block = BlockGrid(Roi.of_shape((edge,) * 3), (MADE,) * 3)[index]
    labels, affinities = tissue(block.begin, block.shape)
    open_volume(f"{folder}/resources/volumes/tissue.zarr", "labels", mode="r+").write(block, labels)
    store = f"{folder}/results/scaling/predictions/net/0/test.zarr"
    open_volume(store, "affinities", mode="r+").write(block, affinities)


def make_volume(folder: Path, edge: int) -> None:
    """Everything that the rules of the segmentation ask for."""
    predictions = folder / "results/scaling/predictions/net/0"
    for path, name, lead, dtype in (
        (folder / "resources/volumes/tissue.zarr", "raw", (), "uint8"),
        (folder / "resources/volumes/tissue.zarr", "labels", (), "uint64"),
        (predictions / "test.zarr", "affinities", (3,), "uint8"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (*lead, edge, edge, edge)
        create_volume(path, name, shape=shape, dtype=dtype, voxel_size=(10, 10, 10), shard_zyx=(MADE,) * 3)
    with ProcessPoolExecutor(2) as pool:
        count = len(BlockGrid(Roi.of_shape((edge,) * 3), (MADE,) * 3))
        list(pool.map(make_block, [str(folder)] * count, [edge] * count, range(count)))
    scores = folder / "results/scaling/scores/net/0"
    scores.mkdir(parents=True)
    (scores / "selected.json").write_text(json.dumps({"threshold": 0.5}))
    (predictions / "test").mkdir()
    (predictions / "test/chunk-0-of-1.json").write_text(json.dumps({"fingerprint": f"tissue of {edge} voxels"}))
    (folder / "tissue").mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration(edge)))


def segment(snakemake: str, folder: Path) -> float:
    """Run the rules of the segmentation and no others; seconds."""
    targets = [f"results/scaling/segmentations/net/0/test/segmentation/chunk-{i}-of-{JOBS}.json" for i in range(JOBS)]
    rules = ["create_fragments", "create_segmentation", *STAGES]
    command = [snakemake, "-s", str(SNAKEFILE), "-d", str(folder), "--configfile", str(folder / "config.yaml")]
    command += ["--cores", "2", "--allowed-rules", *rules, "--", *targets]
    begin = time.monotonic()
    with open(folder / "snakemake.log", "w") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            raise SystemExit(f"the segmentation failed: see {log.name}")
    return time.monotonic() - begin


def measurements(folder: Path, edge: int) -> list[dict]:
    """A row per job: what its script took, and the most memory of its process."""
    rows = []
    for stage in STAGES:
        for file in sorted((folder / "results/scaling").rglob(f"provenance/{stage}*.json")):
            made = json.loads(file.read_text())
            memory = made["peak_memory_mib"] / 1024
            rows.append({"edge": edge, "stage": stage, "seconds": made["seconds"], "gib": memory})
    return rows


def score(folder: Path, edge: int) -> dict[str, float]:
    """The scores of the segmentation, and the share of true objects that are one segment each."""
    truth = open_volume(folder / "resources/volumes/tissue.zarr", "labels")
    store = folder / "results/scaling/segmentations/net/0/test/segmentation.zarr"
    found = open_volume(store, "segmentation")
    grid = BlockGrid(truth.roi, (MADE,) * 3)
    blocks = [grid[index] for index in range(len(grid))]
    return overlap_scores(ContingencyTable.merge(contingency_table(found.read(b), truth.read(b)) for b in blocks))


def figure(path: Path, table: pd.DataFrame) -> None:
    """Time and memory against the number of voxels."""
    with style.context():
        drawn = style.new_figure(7.2, 3.2)
        times, memory = drawn.subplots(1, 2)
        for stage in STAGES:
            rows = table[table["stage"] == stage]
            sums = rows.groupby("edge").agg(seconds=("seconds", "sum"), gib=("gib", "max")).reset_index()
            voxels = sums["edge"] ** 3 / 1e6
            times.loglog(voxels, sums["seconds"], "o-")
            memory.semilogx(voxels, sums["gib"], "o-", label=stage.replace("_", " "))
        sums = table.groupby("edge")["seconds"].sum()
        voxels = sums.index.to_numpy() ** 3 / 1e6
        times.loglog(voxels, sums.iloc[0] * voxels / voxels[0], color=style.GREY, linestyle=":")
        times.annotate("proportional", (voxels[0], sums.iloc[0] * 4), color=style.GREY)
        memory.axhline(LIMIT_GIB, color=style.GREY, linestyle=":")
        memory.set_ylim(0, LIMIT_GIB * 1.1)
        times.set(xlabel="volume (voxels)", ylabel="seconds of a core, all jobs")
        memory.set(xlabel="volume (voxels)", ylabel="memory of the largest job (GiB)")
        for ax in (times, memory):
            ax.set_xticks(list(voxels), [f"{edge}³" for edge in sums.index])
            ax.minorticks_off()
        times.yaxis.set_major_formatter(style.plain_numbers())
        memory.legend(loc="lower right", bbox_to_anchor=(1, 0.14))
        style.save(drawn, path)


def page(table: pd.DataFrame, walls: dict[int, float], scores: dict[int, dict], blocks_of: dict[int, int]) -> str:
    """The page of tables."""
    edges = sorted(walls)
    first, last = edges[0], edges[-1]
    per = table.groupby(["edge", "stage"])["seconds"].sum().unstack()[list(STAGES)]
    per = per.div(pd.Series({e: e**3 / 1e6 for e in edges}), axis=0)
    lines = [
        "# Volumes of growing size",
        "",
        "Affinities of synthetic neurites (three channels, uint8, `benchmarks/tissue.py`) are segmented by the "
        f"workflow's own jobs, two at a time on two cores: blocks of {BLOCK}³ voxels with {CONTEXT} voxels of context, "
        f"`chunks: {JOBS}`, so that each rule has at most two jobs whatever the volume. Seconds are those of a core, "
        "summed over the jobs of a rule, from where its script begins to work; the wall time has everything, the start "
        "of Snakemake and of each Python too. Memory is the largest resident set of any job's process.",
        "",
        "| volume | blocks | "
        + " | ".join(s.replace("_", " ") for s in STAGES)
        + " | all stages | wall | largest job | VOI |",
        "|---|---|" + "---|" * (len(STAGES) + 4),
    ]
    for edge in edges:
        rows = table[table["edge"] == edge]
        cells = [f"{rows.loc[rows['stage'] == s, 'seconds'].sum():.1f} s" for s in STAGES]
        voi = scores[edge]["voi_split"] + scores[edge]["voi_merge"]
        lines.append(
            f"| {edge}³ | {blocks_of[edge]} | {' | '.join(cells)} | {rows['seconds'].sum():.1f} s | "
            f"{walls[edge]:.0f} s | {rows['gib'].max():.2f} GiB | {voi:.3f} |"
        )
    totals = per.sum(axis=1)
    ratio = totals[last] / totals[first]
    lines += [
        "",
        f"Time per voxel at {last}³ is **{ratio:.2f}** times that at {first}³: "
        + ", ".join(f"{s.replace('_', ' ')} {per.loc[last, s] / per.loc[first, s]:.2f}" for s in STAGES)
        + ". (Small volumes pay more for the start of each job; beside "
        f"{edges[1]}³ it is {totals[last] / totals[edges[1]]:.2f}.)"
        + f" A block of {BLOCK}³ in a corner of a volume sees {(1 + CONTEXT / BLOCK) ** 3:.2f} times its own "
        f"voxels, and one in the middle {(1 + 2 * CONTEXT / BLOCK) ** 3:.2f} times.",
        "",
        "| stage | microseconds per voxel | memory of the largest job | a teravoxel, one core | on 1000 cores |",
        "|---|---|---|---|---|",
    ]
    middle = (1 + 2 * CONTEXT / BLOCK) ** 3 / (1 + CONTEXT / BLOCK) ** 3
    for stage in STAGES:
        each = per.loc[last, stage] * (middle if stage == "fragments" else 1)
        memory = table.loc[(table["edge"] == last) & (table["stage"] == stage), "gib"].max()
        hours = each * TERAVOXEL / 1e6 / 3600
        spread = f"{hours * 3600:.0f} s" if stage == "merge_tree" else f"{hours * 3.6:.0f} s"
        if stage == "merge_tree":
            growth = memory - table.loc[(table["edge"] == first) & (table["stage"] == stage), "gib"].max()
            memory_there = growth / (last**3 - first**3) * TERAVOXEL
            spread = f"one job: {hours:.1f} h, {memory_there:.0f} GiB"
        lines.append(f"| {stage.replace('_', ' ')} | {each:.3f} | {memory:.2f} GiB | {hours:.1f} h | {spread} |")
    lines += [
        "",
        "The last columns follow the line from the largest volume, with blocks that have neighbours on all sides. "
        "Only the merge tree holds something of the whole volume, the region graph: it is one job, and its memory "
        "grows with the volume (jobs of the segmentation read the tree, 150 bytes for each fragment: 16 GB at a "
        f"teravoxel). A block of {BLOCK}³ with neighbours on all sides is {BLOCK + 2 * CONTEXT}³ voxels "
        f"with its context, {middle:.2f} times those measured here, and needs that much more memory: blocks of 448³ "
        f"stay below {LIMIT_GIB} GiB anywhere.",
        "",
        "![Time and memory against volume](scaling.png)",
        "",
        f"Measured on {processor()}, two cores.",
    ]
    return "\n".join(lines) + "\n"


def main(snakemake: str, folder: str, pages: str, *edges: str) -> None:
    rows, walls, scores, blocks = [], {}, {}, {}
    for edge in [int(e) for e in edges] or EDGES:
        here = Path(folder).resolve() / str(edge)
        if not (here / "done.json").exists():
            if here.exists():
                raise SystemExit(f"{here} is there, and not whole: remove it")
            here.mkdir(parents=True)
            begin = time.monotonic()
            make_volume(here, edge)
            print(f"{edge}³: made in {time.monotonic() - begin:.0f} s", flush=True)
            wall = segment(str(Path(snakemake).absolute()), here)
            (here / "done.json").write_text(json.dumps({"wall": wall, "scores": score(here, edge)}))
        done = json.loads((here / "done.json").read_text())
        walls[edge], scores[edge] = done["wall"], done["scores"]
        rows += measurements(here, edge)
        blocks[edge] = len(BlockGrid(Roi.of_shape((edge,) * 3), (BLOCK,) * 3))
        print(f"{edge}³: segmented in {walls[edge]:.0f} s, {scores[edge]}", flush=True)
    table, target = pd.DataFrame(rows), Path(pages)
    target.mkdir(parents=True, exist_ok=True)
    (target / "scaling.md").write_text(page(table, walls, scores, blocks))
    figure(target / "scaling", table)


if __name__ == "__main__":
    main(*sys.argv[1:])
