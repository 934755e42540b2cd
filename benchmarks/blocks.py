"""Fragments beside the same steps with scipy and scikit-image, and segmentations of a volume in any number of blocks.

``blocks.py AFFINITIES.zarr VOLUME.zarr PAGES`` writes two pages and a picture of where blocks meet. The affinities are
those of the whole volume, whose truth is its labels.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from lsdflow.agglomeration import agglomerate, build_merge_tree
from lsdflow.block_fragments import FragmentSettings, fragments_of_block
from lsdflow.blocks import BlockGrid
from lsdflow.figures import style
from lsdflow.fragments import watershed_fragments
from lsdflow.merge_tree import MergeTree
from lsdflow.metrics import variation_of_information
from lsdflow.metrics.contingency import contingency_table
from lsdflow.metrics.scores import overlap_scores
from lsdflow.provenance import processor
from lsdflow.region_graph import merge_region_graphs, region_graph, window_of_pairs
from lsdflow.volumes import Volume, open_volume

REPEATS = 3
WINDOW = 10
THRESHOLDS = np.arange(0.02, 1, 0.02)
ALONG = (2, 3, 4)  # blocks along each axis
CONTEXTS = (16, 32, 48)
NEAREST = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
SHOWN = 144  # voxels along an edge of the picture


def by_scipy_and_skimage(affinities: np.ndarray) -> np.ndarray:
    """The published steps, one library call each."""
    inside = affinities.mean(axis=0, dtype=np.float32) > 0.5 * 255
    distance = ndimage.distance_transform_edt(inside)
    seeds, _ = ndimage.label(ndimage.maximum_filter(distance, WINDOW) == distance)
    return watershed(distance.max() - distance, seeds).astype(np.uint64)


def voi(segmentation: np.ndarray, truth: np.ndarray) -> float:
    """The sum of both halves, bits."""
    return float(sum(variation_of_information(segmentation, truth)))


def best(tree: MergeTree, fragments: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The lowest VOI sum of all thresholds, and its threshold."""
    table = contingency_table(fragments, truth)
    sums = [overlap_scores(table.relabel(tree.fragments, tree.segments(t)))["voi_sum"] for t in THRESHOLDS]
    return min(zip(sums, THRESHOLDS.tolist(), strict=True))


def timed(methods: dict[str, Callable[[], np.ndarray]]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What each method finds, and its median seconds; they take turns, so that all see the same machine."""
    found, seconds = {}, {name: [] for name in methods}
    for _ in range(REPEATS):
        for name, method in methods.items():
            begin = time.perf_counter()
            found[name] = method()
            seconds[name].append(time.perf_counter() - begin)
    return found, {name: float(np.median(values)) for name, values in seconds.items()}


def fragments_page(affinities: np.ndarray, truth: np.ndarray) -> str:
    """Time and quality of fragments."""
    watershed_fragments(affinities[:, :32, :32, :32])
    ours, theirs = "lsdflow", "scipy + scikit-image"
    found, seconds = timed(
        {ours: lambda: watershed_fragments(affinities), theirs: lambda: by_scipy_and_skimage(affinities)}
    )
    rows = []
    for name, fragments in found.items():
        score, threshold = best(build_merge_tree(affinities, fragments), fragments, truth)
        alone = variation_of_information(fragments, truth)
        rows.append(
            f"| {name} | {seconds[name]:.2f} s | {seconds[theirs] / seconds[name]:.1f} × | "
            f"{len(np.unique(fragments))} | {alone[0]:.2f} + {alone[1]:.3f} | **{score:.3f}** at {threshold:.2f} |"
        )
    shape = " × ".join(map(str, truth.shape))
    return "\n".join(
        [
            "# Fragments",
            "",
            f"Fragments of {shape} voxels of affinities that a network predicted: mean above 0.5, Euclidean "
            f"distance, the largest distance in a window of {WINDOW} as seed, watershed. One thread, median of "
            f"{REPEATS} turns. VOI (bits) against the truth of the whole volume, of the fragments themselves (split "
            "+ merge) and after agglomeration with `hist_quant_75` at the best threshold.",
            "",
            "| | time | faster | fragments | VOI of fragments | VOI after agglomeration |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"Measured on {processor()}.",
        ]
    )


def in_blocks(volume: Volume, along: int, context: int) -> tuple[np.ndarray, MergeTree]:
    """Fragments and merge tree from ``along``³ blocks, as the workflow's jobs make them."""
    grid = BlockGrid(volume.roi, [-(-n // along) for n in volume.shape_zyx])
    fragments = np.zeros(volume.shape_zyx, np.uint64)
    for block in (grid[i] for i in range(len(grid))):
        fragments[block.slices] = fragments_of_block(
            volume, block, FragmentSettings(), within=volume.roi, context=(context,) * 3, offsets=NEAREST
        )
    graphs = []
    for block in (grid[i] for i in range(len(grid))):
        seen, before = window_of_pairs(block)
        graphs.append(region_graph(volume.read(seen), fragments[seen.slices], context=before))
    return fragments, agglomerate(merge_region_graphs(graphs))


def picture(path: Path, affinities: np.ndarray, made: dict[str, np.ndarray], face: int) -> None:
    """Segments around the edge where four blocks meet, in colours that agree between the panels as far as may be."""
    z, near = face, slice(face - SHOWN // 2, face + SHOWN // 2)
    with style.context():
        figure = style.new_figure(7.2, 2.6)
        panels = figure.subplots(1, 1 + len(made))
        panels[0].imshow(affinities[:, z, near, near].mean(axis=0), cmap="gray", vmin=0, vmax=255)
        panels[0].set_title("mean affinity")
        reference = next(iter(made.values()))[z, near, near]
        colours = np.random.default_rng(0).uniform(0.2, 1, (len(np.unique(reference)) + 1000, 3))
        names = {int(segment): i for i, segment in enumerate(np.unique(reference))}
        for ax, (title, segmentation) in zip(panels[1:], made.items(), strict=True):
            shown = segmentation[z, near, near]
            image = np.zeros((*shown.shape, 3))
            for segment in np.unique(shown):
                # The colour of the reference's segment that it covers most of.
                ids, counts = np.unique(reference[shown == segment], return_counts=True)
                image[shown == segment] = colours[names[int(ids[counts.argmax()])]]
            ax.imshow(image)
            ax.set_title(title)
        for ax in panels:
            ax.set_xticks([SHOWN // 2 - 0.5], ["face"])
            ax.set_yticks([SHOWN // 2 - 0.5], ["face"], rotation=90, verticalalignment="center")
        style.save(figure, path)


def blocks_page(volume: Volume, truth: np.ndarray, pages: Path) -> str:
    """How much the number of blocks matters."""
    fragments, tree = in_blocks(volume, 1, 0)
    score, threshold = best(tree, fragments, truth)
    whole, n_whole = tree.segmentation(fragments, threshold), len(tree.fragments)
    rows, shown = [f"| 1 | – | 1.00 | {n_whole} | 100 % | {score:.4f} | – | – |"], {"one block": whole}
    for along in ALONG:
        edge = -(-volume.shape_zyx[0] // along)
        for context in CONTEXTS:
            found, blocked = in_blocks(volume, along, context)
            segmentation = blocked.segmentation(found, threshold)
            apart, own = voi(segmentation, whole), voi(segmentation, truth)
            grid = BlockGrid(volume.roi, (edge,) * 3)
            seen = sum(grid[i].grow((context,) * 3).intersect(volume.roi).size for i in range(len(grid)))
            rows.append(
                f"| {along**3} of {edge}³ | {context} | {seen / volume.roi.size:.2f} | {len(blocked.fragments)} | "
                f"{100 * np.mean(found == fragments):.2f} % | {own:.4f} | {own - score:+.4f} | {apart:.4f} |"
            )
            if along == ALONG[0] or along == ALONG[-1]:
                if context == 32:
                    shown[f"{along**3} blocks"] = segmentation
    # The face that both 8 and 64 blocks have.
    picture(pages / "blocks", volume.read(), shown, -(-volume.shape_zyx[0] // 2))
    return "\n".join(
        [
            "# The same segmentation in any number of blocks",
            "",
            "A volume of affinities that a network predicted is segmented in one block, and in many with context "
            f"around them, each way at threshold {threshold:.2f} (the best of one block). VOI sums in bits, against "
            "the truth and between the segmentations. *Same fragment* is the share of voxels that have the very "
            "fragment of the whole volume, with the same id; *computed* is how many voxels are computed for each "
            "that is kept.",
            "",
            "| blocks | context | computed | fragments | same fragment | VOI to truth | difference | VOI to one "
            "block |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "![Segments where blocks meet](blocks.png)",
            "",
            "The middle of the picture is where eight of the blocks meet, with 32 voxels of context.",
            "",
            f"Computed on {processor()}; the numbers do not depend on it.",
        ]
    )


def main(affinities: str, volume: str, pages: str) -> None:
    predicted, truth = open_volume(affinities, "affinities"), open_volume(volume, "labels").read()
    target = Path(pages)
    target.mkdir(parents=True, exist_ok=True)
    (target / "fragments.md").write_text(fragments_page(predicted.read(channels=slice(3)), truth) + "\n")
    (target / "blocks.md").write_text(blocks_page(predicted, truth, target) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
