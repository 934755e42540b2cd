"""Draw quality against what predictions cost: operations counted from the networks, and their measured speed."""

import math

import pandas as pd

from lsdflow.figures import style
from lsdflow.figures.compute import quality_against_compute
from lsdflow.network_cost import NetworkPass, flop_per_voxel
from lsdflow.network_shapes import NetworkSettings
from lsdflow_job import job

with job(snakemake):
    params, files = snakemake.params, snakemake.input
    rows, jobs = (pd.read_csv(path, dtype={"row": str, "setup": str}) for path in (files.rows, files.resources))
    table = rows.loc[rows["kind"] == "network", ["row", "replicate", "voi_sum"]].reset_index(drop=True)
    table = table.astype({"replicate": int})

    def network_pass(link):
        settings, channels = NetworkSettings(**link["network"]), (link["in_channels"], link["head_channels"])
        return NetworkPass(settings, link["input_shape"], *channels, link["num_fmaps_out"])

    def operations(setup):
        return sum(flop_per_voxel([network_pass(link)], link["block_shape"]) for link in params.chains[setup])

    flop = {setup: operations(setup) for setup in table["row"].unique()}
    table["flop_per_voxel"] = table["row"].map(flop)
    # A setup that sees predictions of others waits for them too: its time is that of its whole chain.
    predicted = jobs[jobs["rule"] == "predict"].astype({"replicate": int})
    seconds = predicted.groupby(["setup", "replicate"])["seconds"].sum()

    def speed(line):
        voxels = params.voxels[line["row"]]
        keys = [(one["name"], int(line["replicate"])) for one in params.chains[line["row"]]]
        return voxels / 1e6 / seconds[keys].sum() if all(key in seconds for key in keys) else math.nan

    table["mvx_per_s"] = table.apply(speed, axis=1)
    table.to_csv(snakemake.output.table, index=False, lineterminator="\n")
    figure = quality_against_compute(table, style.Palette(params.setups))
    style.save(figure, snakemake.output.png.removesuffix(".png"))
