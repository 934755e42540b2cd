"""What the metrics cost: beside peers on the same labels, for a sweep over thresholds, in blocks, and on large graphs.

``metrics.py LABELS.zarr PAGE`` writes a page of tables, with the hardware that it ran on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import waterz
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from scipy.spatial import KDTree
from skimage.metrics import adapted_rand_error
from skimage.metrics import variation_of_information as skimage_voi

from affinities import medians
from lsdflow.agglomeration import agglomerate
from lsdflow.blocks import BlockGrid
from lsdflow.merge_tree import MergeTree
from lsdflow.metrics import expected_run_length, min_cut_metric, rand_scores, variation_of_information
from lsdflow.metrics.contingency import ContingencyTable, contingency_table
from lsdflow.metrics.scores import overlap_scores
from lsdflow.metrics.skeletons import SkeletonArrays
from lsdflow.provenance import processor
from lsdflow.region_graph import region_graph
from lsdflow.roi import Roi
from lsdflow.volumes import Volume, open_volume, write_volume

REPEATS = 3
BLOCK = (64, 64, 64)
THRESHOLDS = np.linspace(0, 1, 100)


def note(text: str) -> None:
    """Tell how far the benchmark is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def cut_into_fragments(truth: np.ndarray) -> np.ndarray:
    """Objects cut by a grid of boxes, 8 to 20 voxels wide."""
    rng = np.random.default_rng(0)
    boxes = np.zeros(truth.shape, np.uint64)
    for axis, n in enumerate(truth.shape):
        box = np.searchsorted(np.cumsum(rng.integers(8, 21, n)), np.arange(n), side="right").astype(np.uint64)
        boxes = boxes * np.uint64(n) + np.expand_dims(box, [a for a in range(3) if a != axis])
    pairs = truth * (boxes.max() + np.uint64(1)) + boxes
    return (np.unique(pairs, return_inverse=True)[1].reshape(truth.shape) + 1).astype(np.uint64) * (truth != 0)


def merge_at_random(fragments: np.ndarray, truth: np.ndarray) -> MergeTree:
    """A merge tree of random affinities, which are higher within objects."""
    rng = np.random.default_rng(0)
    graph = region_graph(np.zeros((3, *fragments.shape), np.uint8), fragments)
    ids, first = np.unique(fragments, return_index=True)
    objects = truth.ravel()[first[np.searchsorted(ids, graph.edges)]]
    bins = rng.integers(0, 160, len(graph.edges)) + 95 * (objects[:, 0] == objects[:, 1])
    # One affinity on each edge.
    histograms = {
        "starts": np.arange(len(bins) + 1),
        "bins": bins.astype(np.uint8),
        "counts": np.ones(len(bins), np.int32),
    }
    return agglomerate(replace(graph, **histograms), merge_function="mean")


def beside_peers(segmentation: np.ndarray, truth: np.ndarray) -> list[str]:
    """VOI and Rand scores, their times and differences."""
    note("peers")
    signed, signed_truth = segmentation.astype(np.int64), truth.astype(np.int64)
    voi, rand, both, voi_peer, rand_peer, both_peer = medians(
        [
            lambda: variation_of_information(segmentation, truth),
            lambda: rand_scores(segmentation, truth),
            lambda: overlap_scores(contingency_table(segmentation, truth)),
            lambda: skimage_voi(signed_truth, signed, ignore_labels=[0]),
            lambda: adapted_rand_error(signed_truth, signed),
            lambda: waterz.evaluate(segmentation, truth),
        ],
        REPEATS,
    )
    ours = overlap_scores(contingency_table(segmentation, truth))
    waterz_scores = waterz.evaluate(segmentation, truth)
    names = ["voi_split", "voi_merge", "rand_split", "rand_merge"]
    from_voi = np.abs(skimage_voi(signed_truth, signed, ignore_labels=[0]) - [ours[n] for n in names[:2]]).max()
    from_rand = abs(adapted_rand_error(signed_truth, signed)[0] - ours["adapted_rand_error"])
    from_waterz = max(abs(waterz_scores[n] - ours[n]) for n in names)
    return [
        "| scores | lsdflow (s) | peer | peer (s) | ratio | largest difference |",
        "|---|---:|---|---:|---:|---:|",
        f"| VOI | {voi:.2f} | skimage `variation_of_information` | {voi_peer:.2f} | {voi_peer / voi:.1f} | "
        f"{from_voi:.1g} |",
        f"| Rand | {rand:.2f} | skimage `adapted_rand_error` | {rand_peer:.2f} | {rand_peer / rand:.1f} | "
        f"{from_rand:.1g} |",
        f"| both | {both:.2f} | `waterz.evaluate` | {both_peer:.2f} | {both_peer / both:.1f} | {from_waterz:.1g} |",
    ]


def sweep(fragments: np.ndarray, tree: MergeTree, truth: np.ndarray) -> list[str]:
    """All scores at many thresholds beside one call of a peer."""
    note("thresholds")

    def count_and_score() -> None:
        table = contingency_table(fragments, truth)
        for threshold in THRESHOLDS:
            overlap_scores(table.relabel(tree.fragments, tree.segments(threshold)))

    signed, signed_truth = fragments.astype(np.int64), truth.astype(np.int64)
    count, swept, peer = medians(
        [
            lambda: contingency_table(fragments, truth),
            count_and_score,
            lambda: skimage_voi(signed_truth, signed, ignore_labels=[0]),
        ],
        REPEATS,
    )
    return [
        f"All scores of {len(THRESHOLDS)} segmentations, made of {len(tree.fragments)} fragments with "
        f"{len(tree.edges)} edges: **{swept:.2f} s**,",
        f"of which {count:.2f} s count the voxels, once. One `variation_of_information` of skimage, of the fragments: "
        f"{peer:.2f} s.",
        f"The sweep takes **{swept / peer:.2f}** times as long as that one call; the aim is less than 2.",
    ]


def count_in_child(volume: str, store: str, edge: str, is_blockwise: str) -> None:
    """Print seconds, growth of memory in bytes and scores of the corner of a volume; in a process of its own."""
    truth, fragments = open_volume(volume, "labels"), open_volume(store, "fragments")
    roi = Roi.of_shape((int(edge),) * 3)
    grid = BlockGrid(roi, BLOCK if is_blockwise == "True" else roi.shape)
    small = Roi.of_shape((8, 8, 8))
    overlap_scores(contingency_table(fragments.read(small), truth.read(small)))
    before = psutil.Process().memory_info().rss
    begin = time.perf_counter()
    blocks = (grid[index] for index in range(len(grid)))
    scores = overlap_scores(
        ContingencyTable.merge(contingency_table(fragments.read(block), truth.read(block)) for block in blocks)
    )
    elapsed = time.perf_counter() - begin
    # Linux counts the peak in KiB.
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    print(json.dumps([elapsed, peak - before, list(scores.values())]))


def in_blocks(path: str, fragments: np.ndarray, voxel_size: tuple[float, float, float]) -> list[str]:
    """Whole volumes beside their blocks: time, memory, and the difference of scores."""
    lines = ["| volume | ids (MB) | whole (s) | in blocks (s) | whole (MB) | in blocks (MB) | largest difference |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as store:
        write_volume(store, "fragments", Volume(fragments, voxel_size))
        for edge in (128, 192, min(fragments.shape)):
            note(f"blocks of {edge}³")
            found = []
            for is_blockwise in (False, True):
                command = [sys.executable, __file__, path, store, str(edge), str(is_blockwise)]
                runs = [
                    json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                    for _ in range(REPEATS)
                ]
                seconds, growths, scores = zip(*runs, strict=True)
                found.append((np.median(seconds), np.median(growths) / 1e6, np.array(scores[0])))
            (whole, whole_mb, scores), (blocks, blocks_mb, same) = found
            lines.append(
                f"| {edge}³ | {2 * 8 * edge**3 / 1e6:.0f} | {whole:.2f} | {blocks:.2f} | {whole_mb:.0f} | "
                f"{blocks_mb:.0f} | {np.abs(scores - same).max():.1g} |"
            )
    return lines


def near_neighbours(n_nodes: int, n_edges: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in a box, and the shortest of the edges between near ones."""
    points = np.random.default_rng(0).random((n_nodes, 3))
    distances, near = KDTree(points).query(points, k=13)
    edges = np.sort(np.column_stack([np.repeat(near[:, 0], 12), near[:, 1:].ravel()]))
    edges, first = np.unique(edges, axis=0, return_index=True)
    shortest = np.argsort(distances[:, 1:].ravel()[first], kind="stable")[:n_edges]
    return points, edges[np.sort(shortest)]


def random_pairs(n_nodes: int, n_edges: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in a box, and edges between any of them."""
    rng = np.random.default_rng(0)
    edges = np.unique(np.sort(rng.integers(n_nodes, size=(2 * n_edges, 2))), axis=0)
    return rng.random((n_nodes, 3)), rng.permutation(edges[edges[:, 0] != edges[:, 1]])[:n_edges]


def walks(n_nodes: int, edges: np.ndarray, n_walks: int, length: int) -> np.ndarray:
    """Paths of different nodes, (n_walks, length), that share none."""
    rng = np.random.default_rng(0)
    neighbours = [[] for _ in range(n_nodes)]
    for u, v in edges.tolist():
        neighbours[u].append(v)
        neighbours[v].append(u)
    taken, found = set(), []
    while len(found) < n_walks:
        path = [int(rng.integers(n_nodes))]
        while len(path) < length and (free := [v for v in neighbours[path[-1]] if v not in taken and v not in path]):
            path.append(free[rng.integers(len(free))])
        if len(path) == length and path[0] not in taken:
            taken.update(path)
            found.append(path)
    return np.array(found)


def min_cuts() -> list[str]:
    """The min-cut metric on graphs of one segment, beside a single flow of scipy."""
    lines = [
        "| region graph | components | cuts | seconds | ms per cut | one `maximum_flow` (ms) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    n_nodes, n_edges, length = 20_000, 100_000, 10
    for name, make in (("near neighbours", near_neighbours), ("random pairs", random_pairs)):
        points, edges = make(n_nodes, n_edges)
        weights = np.random.default_rng(1).random(len(edges))
        ends = np.concatenate([edges, edges[:, ::-1]]).T
        capacity = csr_array((np.tile((weights * 2**20).astype(np.int32), 2), ends), shape=(n_nodes, n_nodes))
        for n_components in (20, 200):
            note(f"min cuts of {name}, {n_components} components")
            paths = walks(n_nodes, edges, n_components, length)
            rows = np.arange(paths.size).reshape(paths.shape)
            arguments = {
                "node_components": np.repeat(np.arange(n_components), length),
                "node_fragments": 1 + paths.ravel(),
                "node_positions": points[paths.ravel()],
                "edges": 1 + edges,
                "edge_scores": 1 - weights,
                "threshold": 1.0,
                "skeleton_edges": np.column_stack([rows[:, :-1].ravel(), rows[:, 1:].ravel()]),
            }
            n_cuts = min_cut_metric(**arguments).splits
            (elapsed,) = medians([lambda a=arguments: min_cut_metric(**a)], REPEATS)
            # Between the nearest of one component and the next, as the metric's own cuts.
            flows = []
            for path, other in zip(paths[:10], paths[1:11], strict=True):
                distances = np.linalg.norm(points[path][:, None] - points[other], axis=-1)
                i, j = np.unravel_index(np.argmin(distances), distances.shape)
                begin = time.perf_counter()
                maximum_flow(capacity, path[i], other[j])
                flows.append(time.perf_counter() - begin)
            lines.append(
                f"| {name} | {n_components} | {n_cuts} | {elapsed:.2f} | {1000 * elapsed / n_cuts:.2f} | "
                f"{1000 * np.median(flows):.1f} |"
            )
    return lines


def run_lengths() -> list[str]:
    """Expected run lengths of chains of nodes."""
    lines = ["| skeleton nodes | seconds | ns per node |", "|---:|---:|---:|"]
    for n_nodes in (10**5, 10**6):
        note(f"run length of {n_nodes} nodes")
        rng = np.random.default_rng(0)
        rows = np.arange(n_nodes)
        components = 1 + rows // 1000
        skeletons = SkeletonArrays(
            positions=100.0 * np.column_stack([rows, rows, rows]),
            components=components,
            labels=components.astype(np.uint64),
            edges=np.column_stack([rows[:-1], rows[1:]])[components[:-1] == components[1:]],
            lengths=np.full(n_nodes - components[-1], 100.0),
        )
        # Every segment about 50 nodes of a chain; one in ten again somewhere else, and so a merger.
        segments = 1 + np.cumsum(rng.random(n_nodes) < 0.02)
        segments = np.where(segments % 10 == 0, rng.integers(1, segments[-1], segments[-1] + 1)[segments], segments)
        (elapsed,) = medians([lambda s=skeletons, n=segments: expected_run_length(s, n)], REPEATS)
        lines.append(f"| {n_nodes} | {elapsed:.3f} | {1e9 * elapsed / n_nodes:.0f} |")
    return lines


def main(path: str, page: Path) -> None:
    """Measure and write the page to ``page``."""
    volume = open_volume(path, "labels")
    truth = volume.read()
    note("fragments")
    fragments = cut_into_fragments(truth)
    tree = merge_at_random(fragments, truth)
    segmentation = tree.segmentation(fragments, 0.4)
    n_objects, n_segments = (np.count_nonzero(np.unique(a)) for a in (truth, segmentation))
    text = [
        "# Metrics: what they cost",
        "",
        f"Written by `benchmarks/metrics.py` on: {processor()}, {os.cpu_count()} cores. Seconds are medians of",
        f"{REPEATS} runs, in turn with the peers. The truth are the labels of the FIB-SEM medulla volume,",
        f"{' × '.join(map(str, truth.shape))} voxels, {n_objects} objects; fragments are boxes of 8–20 voxels within",
        "them, merged at random, within objects first.",
        "",
        "## Beside peers",
        "",
        f"A segmentation of {n_segments} segments. `both` are all scores of lsdflow, from one table.",
        "",
        *beside_peers(segmentation, truth),
        "",
        "## A sweep over thresholds",
        "",
        *sweep(fragments, tree, truth),
        "",
        "## In blocks",
        "",
        f"Fragments and truth read from disk, whole and in blocks of {BLOCK[0]}³, each in a process of its own: time",
        "from the first read to the scores, and what the process grew by at most (`VmHWM` less what it used before).",
        "",
        *in_blocks(path, fragments, volume.voxel_size),
        "",
        "## Minimum cuts",
        "",
        "The min-cut metric of one segment of 20 000 fragments and 100 000 edges with random weights, and skeletons of",
        "10 fragments each. Beside it one `scipy.sparse.csgraph.maximum_flow` on the same graph, between fragments of",
        "two skeletons (median of 10).",
        "",
        *min_cuts(),
        "",
        "## Expected run length",
        "",
        "Chains of 1000 nodes, of segments of 50 nodes, a tenth of them mergers.",
        "",
        *run_lengths(),
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        count_in_child(*sys.argv[1:])
