"""Put the scores of all rows of the comparison into one table, and all curves into another."""

import json
from pathlib import Path

import pandas as pd

from lsdflow_job import job

with job(snakemake):
    rows, curves = [], []
    files = snakemake.input
    scores = (files.test, files.validation, files.fragments, files.selected, files.min_cut)
    runs = zip(snakemake.params.runs, *scores, strict=True)
    for (setup, replicate, kind), test_csv, validation_csv, fragments_csv, selected_json, min_cut_csv in runs:
        test, validation = pd.read_csv(test_csv), pd.read_csv(validation_csv)
        threshold = json.loads(Path(selected_json).read_text())["threshold"]
        best = test.loc[test["voi_sum"].idxmin()]
        at_threshold = test[test["threshold"] == threshold].iloc[0]
        cuts = pd.read_csv(min_cut_csv).iloc[0].rename({"splits": "min_cut_splits", "merges": "min_cut_merges"})
        name = {"row": setup, "replicate": replicate}
        best = {"best_threshold": best["threshold"], "best_voi_sum": best["voi_sum"]}
        rows.append({**name, "kind": kind, **at_threshold, **cuts, **best})
        rows.append({**name, "kind": "fragments", **pd.read_csv(fragments_csv).iloc[0]})
        for part, curve in (("validation", validation), ("test", test)):
            marks = {
                "is_selected": curve["threshold"] == threshold,
                "is_best": curve.index == curve["voi_sum"].idxmin(),
            }
            curves.append(curve.assign(**name, part=part, **marks))
    for name, path in zip(snakemake.params.externals, files.externals, strict=True):
        rows.append({"row": name, "kind": "external", **pd.read_csv(path).iloc[0]})
    table = pd.DataFrame(rows)
    counts = [c for c in table.columns if c in ("replicate", "segments") or c.startswith(("min_cut_", "unsplit"))]
    counts += [c for c in ("merging_segments", "split_skeletons", "corrected_merges") if c in table.columns]
    table = table.astype({c: "Int64" for c in counts})
    front = ["row", "kind", "replicate", "threshold"]
    table = table[front + [c for c in table.columns if c not in front]]
    table.to_csv(snakemake.output.rows, index=False, lineterminator="\n")
    pd.concat(curves, ignore_index=True).to_csv(snakemake.output.curves, index=False, lineterminator="\n")
