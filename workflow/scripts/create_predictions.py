"""Make the empty volumes that the prediction jobs of a region write into."""

import shutil
from pathlib import Path

from lsdflow.volumes import create_volume, open_volume
from lsdflow_job import as_roi, job

with job(snakemake):
    params = snakemake.params
    folder = Path(snakemake.output[0]).parent
    shutil.rmtree(folder, ignore_errors=True)
    raw = open_volume(snakemake.input.volume, "raw")
    roi = as_roi(params.roi)
    for name, channels in params.outputs.items():
        create_volume(
            folder,
            name,
            shape=(channels, *roi.shape),
            dtype="uint8",
            voxel_size=raw.voxel_size,
            offset=[o + b * v for o, b, v in zip(raw.offset, roi.begin, raw.voxel_size, strict=True)],
            shard_zyx=params.block_shape,
        )
