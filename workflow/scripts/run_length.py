"""Expected run length at all thresholds, on the skeletons of a region."""

from pathlib import Path

import numpy as np
import pandas as pd

from lsdflow.agglomeration import MergeTree
from lsdflow.metrics.run_length import run_length_columns
from lsdflow.metrics.skeletons import labels_at_nodes, load_skeletons, skeleton_arrays
from lsdflow.volumes import open_volume
from lsdflow_job import job

with job(snakemake):
    params = snakemake.params
    tree = MergeTree.load(snakemake.input.tree)
    graph = load_skeletons(snakemake.input.skeletons)
    skeletons = skeleton_arrays(graph)
    fragments = open_volume(Path(snakemake.input.fragments).parent, "fragments")
    found = labels_at_nodes(graph, fragments, params.block_shape)
    place = np.searchsorted(tree.fragments, found[found != 0])
    rows = []
    for threshold in params.thresholds:
        segments = np.zeros_like(found)
        segments[found != 0] = tree.segments(threshold)[place]
        scores = run_length_columns(skeletons, segments, merge_tolerance=params.merge_tolerance)
        rows.append({"threshold": threshold, **scores})
    pd.DataFrame(rows).to_csv(snakemake.output[0], index=False, lineterminator="\n")
