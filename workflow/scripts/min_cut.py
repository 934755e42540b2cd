"""Splits and merges that correct the segmentation of the test region, on skeletons of the truth."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from lsdflow.agglomeration import MergeTree
from lsdflow.metrics.min_cut import min_cut_metric
from lsdflow.metrics.skeletons import labels_at_nodes, load_skeletons, skeleton_arrays
from lsdflow.volumes import open_volume
from lsdflow_job import job

with job(snakemake):
    threshold = json.loads(Path(snakemake.input.selected).read_text())["threshold"]
    tree = MergeTree.load(snakemake.input.tree)
    graph = load_skeletons(snakemake.input.skeletons)
    skeletons = skeleton_arrays(graph)
    fragments = open_volume(Path(snakemake.input.fragments).parent, "fragments")
    found = labels_at_nodes(graph, fragments, snakemake.params.block_shape)
    scores = min_cut_metric(
        skeletons.components,
        found,
        skeletons.positions,
        tree.edges,
        tree.scores,
        float(np.float32(threshold)),  # scores are float32, and the tree compares them as such
        skeleton_edges=skeletons.edges,
    )
    row = asdict(scores)
    if len(skeletons.components) == 0:
        # Without skeletons nothing was measured, and nothing is perfect.
        row = dict.fromkeys(row, math.nan)
    pd.DataFrame([row]).to_csv(snakemake.output[0], index=False, lineterminator="\n")
