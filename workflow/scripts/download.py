"""Bring the files of a download and verify them."""

import shutil
from pathlib import Path

from lsdflow.downloads import download
from lsdflow_job import job

with job(snakemake):
    marker = Path(snakemake.output[0])
    # Where files came from does not change them: as a parameter, another mirror would rerun everything.
    mirror = snakemake.config.get("mirror")
    download(
        snakemake.params.url, Path(snakemake.input.checksums), marker.parent, mirror=mirror, threads=snakemake.threads
    )
    shutil.copyfile(snakemake.input.checksums, marker)
