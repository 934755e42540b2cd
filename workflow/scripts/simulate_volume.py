"""Make synthetic neuropil with exact labels."""

from lsdflow.synthetic import simulate_neuropil
from lsdflow.volumes import Volume, write_volume
from lsdflow_job import job

with job(snakemake):
    params = snakemake.params
    raw, labels = simulate_neuropil(params.shape, voxel_size=params.voxel_size, **params.simulate)
    for part, data in (("raw", raw), ("labels", labels)):
        pyramid = "mean" if part == "raw" else "majority"
        write_volume(snakemake.output[0], part, Volume(data, tuple(params.voxel_size)), pyramid=pyramid)
