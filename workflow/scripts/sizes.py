"""Scores of a segmentation on nested boxes in the middle of the test region, up to the whole of it."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from lsdflow.agglomeration import MergeTree
from lsdflow.blocks import BlockGrid
from lsdflow.metrics.contingency import ContingencyTable, contingency_table
from lsdflow.metrics.min_cut import min_cut_metric
from lsdflow.metrics.run_length import crop_skeletons, run_length_columns
from lsdflow.metrics.skeletons import labels_at_nodes, load_skeletons, skeleton_arrays
from lsdflow.metrics.voi import voi_from_table
from lsdflow.roi import as_roi
from lsdflow.volumes import Roi, open_volume
from lsdflow_job import job, store_of

with job(snakemake):
    params, files, roi = snakemake.params, snakemake.input, as_roi(snakemake.params.roi)
    truth = open_volume(files.volume, "labels")
    segmentation = open_volume(store_of(files.segmentation), "segmentation")
    to_own = [-p for p in truth.position_of(segmentation)]
    graph = load_skeletons(files.skeletons)
    has_tree = "tree" in files.keys()
    if has_tree:
        tree = MergeTree.load(files.tree)
        fragments = open_volume(Path(files.fragments).parent, "fragments")
        # Scores are float32, and the tree compares them as such.
        threshold = float(np.float32(json.loads(Path(files.selected).read_text())["threshold"]))
    rows = []
    for fraction in params.fractions:
        lengths = [max(1, round(fraction * n)) for n in roi.shape]
        begin = tuple(b + (n - m) // 2 for b, n, m in zip(roi.begin, roi.shape, lengths, strict=True))
        box = Roi(begin, tuple(b + m for b, m in zip(begin, lengths, strict=True)))
        corners = [
            [o + at * v for o, at, v in zip(truth.offset, end, truth.voxel_size, strict=True)]
            for end in (box.begin, box.end)
        ]
        grid = BlockGrid(box, params.block_shape)
        table = ContingencyTable.merge(
            contingency_table(segmentation.read(grid[i].shift(to_own)), truth.read(grid[i])) for i in range(len(grid))
        )
        row = {"fraction": fraction, "volume_um3": math.prod(lengths) * math.prod(truth.voxel_size) / 1e9}
        if table.total:
            split, merge = voi_from_table(table)
            row |= {"voi_split": split, "voi_merge": merge, "voi_sum": split + merge}
        inside = crop_skeletons(graph, *corners)
        skeletons = skeleton_arrays(inside)
        row["skeletons"] = len(np.unique(skeletons.components))
        found = labels_at_nodes(inside, segmentation, params.block_shape)
        row |= run_length_columns(skeletons, found, merge_tolerance=params.merge_tolerance)
        if has_tree and row["skeletons"]:
            found = labels_at_nodes(inside, fragments, params.block_shape)
            cuts = min_cut_metric(
                skeletons.components,
                found,
                skeletons.positions,
                tree.edges,
                tree.scores,
                threshold,
                skeleton_edges=skeletons.edges,
            )
            row |= {"min_cut_splits": cuts.splits, "min_cut_merges": cuts.merges}
        rows.append(row)
    columns = ["fraction", "volume_um3", "voi_split", "voi_merge", "voi_sum", "skeletons"]
    columns += ["expected_run_length", "normalized_run_length", "min_cut_splits", "min_cut_merges"]
    counts = dict.fromkeys(["skeletons", "min_cut_splits", "min_cut_merges"], "Int64")
    pd.DataFrame(rows, columns=columns).astype(counts).to_csv(snakemake.output[0], index=False, lineterminator="\n")
