"""Put the scores of all rows of the comparison into one table, and all curves and sizes into others."""

import json
from pathlib import Path

import pandas as pd

from lsdflow.metrics.selection import CRITERIA
from lsdflow_job import job

KEYS = ["row", "replicate"]

with job(snakemake):
    rows, curves, selection = [], [], []
    files, params = snakemake.input, snakemake.params
    scores = (files.test, files.validation, files.test_run_length, files.validation_run_length)
    scores += (files.fragments, files.selected, files.min_cut)
    for (setup, replicate, kind), *paths in zip(params.runs, *scores, strict=True):
        tables = [pd.read_csv(path) for path in paths[:4]]
        test, validation = (tables[i].merge(tables[i + 2], on="threshold", validate="one_to_one") for i in (0, 1))
        fragments, cuts = pd.read_csv(paths[4]).iloc[0], pd.read_csv(paths[6]).iloc[0]
        selected = json.loads(Path(paths[5]).read_text())
        at = {threshold: scores for threshold, (_, scores) in zip(test["threshold"], test.iterrows(), strict=True)}
        best = test.loc[test["voi_sum"].idxmin()]
        name = {"row": setup, "replicate": replicate}
        cuts = cuts.rename({"splits": "min_cut_splits", "merges": "min_cut_merges"})
        best = {"best_threshold": best["threshold"], "best_voi_sum": best["voi_sum"]}
        rows.append({**name, "kind": kind, **at[selected["threshold"]], **cuts, **best})
        rows.append({**name, "kind": "fragments", **fragments})
        for metric, threshold in selected["by_metric"].items():
            extreme = test[metric].max() if CRITERIA[metric] else test[metric].min()
            value = {"metric": metric, "threshold": threshold, "value": at[threshold][metric], "best_on_test": extreme}
            selection.append({**name, **value})
        for part, curve in (("validation", validation), ("test", test)):
            marks = {
                "is_selected": curve["threshold"] == selected["threshold"],
                "is_best": curve.index == curve["voi_sum"].idxmin(),
            }
            curves.append(curve.assign(**name, part=part, **marks))
    for name, path in zip(params.externals, files.externals, strict=True):
        rows.append({"row": name, "kind": "external", **pd.read_csv(path).iloc[0]})
    table = pd.DataFrame(rows)
    starts = ("min_cut_", "unsplit", "run_length_", "merging_", "split_skeletons", "corrected_")
    counts = [c for c in table.columns if c in ("replicate", "segments") or c.startswith(starts)]
    table = table.astype({c: "Int64" for c in counts})
    # A segmentation that is not trained has replicate 0 here, for it has a folder like the others, and none there.
    intervals = pd.read_csv(files.intervals).astype({"replicate": "Int64"})
    is_scored = table["kind"] != "fragments"
    key = table["replicate"].mask(table["kind"] != "network")
    joined = table.assign(replicate=key)[is_scored].merge(intervals, on=KEYS, how="left", validate="one_to_one")
    for column in intervals.columns.difference(KEYS, sort=False):
        table.loc[is_scored, column] = joined[column].to_numpy()
    front = ["row", "kind", "replicate", "threshold"]
    table = table[front + [c for c in table.columns if c not in front]]
    table.to_csv(snakemake.output.rows, index=False, lineterminator="\n")
    pd.concat(curves, ignore_index=True).to_csv(snakemake.output.curves, index=False, lineterminator="\n")
    pd.DataFrame(selection).to_csv(snakemake.output.selection, index=False, lineterminator="\n")
    sizes = [
        pd.read_csv(path).assign(row=row, replicate=replicate)
        for (row, replicate), path in zip(params.rows, files.sizes, strict=True)
    ]
    sizes = pd.concat(sizes, ignore_index=True)
    sizes = sizes.astype(dict.fromkeys(["replicate", "skeletons", "min_cut_splits", "min_cut_merges"], "Int64"))
    sizes = sizes[KEYS + [c for c in sizes.columns if c not in KEYS]]
    sizes.to_csv(snakemake.output.sizes, index=False, lineterminator="\n")
