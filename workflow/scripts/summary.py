"""Write the page that shows everything: table, figures, and how it was made."""

import json
from pathlib import Path

import pandas as pd

from lsdflow.figures.page import page
from lsdflow.figures.scores import headline, summarise, table_html, table_markdown
from lsdflow.figures.style import label
from lsdflow.provenance import code_version
from lsdflow_job import job

with job(snakemake):
    params, files, name = snakemake.params, snakemake.input, snakemake.wildcards.experiment
    table = summarise(pd.read_csv(files.rows), params.setups)
    table.to_csv(snakemake.output.summary, index=False, lineterminator="\n")
    Path(snakemake.output.table).write_text(table_markdown(table) + "\n")
    jobs, pairs = pd.read_csv(files.resources), pd.read_csv(files.pair_table)
    training = jobs.loc[jobs["rule"] == "train", "seconds"].sum()
    hardware = set()
    for log in files.logs:
        made = json.loads((Path(log).parent / "provenance" / "train.json").read_text())
        host, threads = made["host"], made["threads"]
        hardware.add(f"{host['processor']}, {host['cores']} cores; {threads} per network, on {made['device']}")
    facts = [
        ("Experiment", name),
        ("Training regions", "; ".join(params.train)),
        ("Validation region", params.validation),
        ("Test region", params.test),
        ("Replicates (seeds)", ", ".join(map(str, params.replicates))),
        ("Computing time", f"{jobs['seconds'].sum() / 60:.1f} min in all jobs, {training / 60:.1f} min of it training"),
        ("Trained on", "; ".join(sorted(hardware))),
        ("Code", code_version()),
    ]
    sections = [
        ("Comparison", "Scores on the test region, mean and spread over replicates.", files.bars),
        (
            "Which setups differ",
            "Difference of the VOI sum, row minus column, with its interval over parts of the test region and seeds. "
            "Coloured only where it is separated from 0.",
            files.pairs,
        ),
        (
            "Split against merge errors",
            "Each line is one replicate over all agglomeration thresholds on the test region. Filled: the threshold "
            "selected on the validation region. Ring: the best one on the test region, which no user could know.",
            files.voi,
        ),
        ("Size of the region", "Boxes in the middle of the test region, up to the whole of it.", files.sizes),
        (
            "Quality against compute",
            "Operations are counted from the networks; speed is that of the predict jobs, which ran side by side.",
            files.compute,
        ),
        (
            "Training",
            "Loss over iterations, at the end marked; of networks that were validated, the VOI sum on a piece of the "
            "validation region, marked where it is least: that network is kept.",
            files.training,
        ),
        (
            "Augmentations",
            "What each of them makes of the centre of the first train region, whether this experiment uses it or not, "
            "at strengths that can be seen, not its own. Colours and outlines: the labels, which move with the image.",
            files.augmentations,
        ),
        (
            "Local shape descriptors",
            "What networks with the output lsds learn, in the middle section of the first train region.",
            files.targets,
        ),
        *(
            (f"Pictures: {label(setup)}", "A section and a cut of the test region, first replicate.", path)
            for setup, path in zip(params.panels, files.panels, strict=True)
        ),
        *(
            (f"Worst errors: {label(setup)}", "The worst merges and splits of the first replicate.", path)
            for setup, path in zip(params.with_errors, files.errors, strict=True)
        ),
        ("Skeletons", "What run length and the min-cut metric are measured on.", files.skeletons),
        ("Time and memory", "Measured for each job, summed by stage.", files.times),
    ]
    note = (
        "Bold: the best mean of the networks, whether it is separated from others or not. "
        "VOI in bits; unlabelled truth is ignored. Thresholds are selected on the validation region. ± is the sample "
        "standard deviation over replicates. External segmentations were made on more than the test region: their "
        "segments may be joined outside it."
    )
    html = page(f"lsdflow: {name}", facts, table_html(table), sections, lead=headline(table, pairs), table_note=note)
    Path(snakemake.output.page).write_text(html)
