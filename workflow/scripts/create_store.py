"""Make the empty volumes of a region that several jobs write into."""

import json
import shutil
import uuid
from pathlib import Path

import zarr

from lsdflow.blocks import BlockGrid
from lsdflow.errors import UserError
from lsdflow.roi import as_roi
from lsdflow.volumes import create_volume, open_volume
from lsdflow_job import job, params_hash, write_json

with job(snakemake):
    params, files = snakemake.params, snakemake.input
    roi, folder = as_roi(params.roi), Path(snakemake.output[0]).parent
    if params.needs_truth:
        # Scores come last: a region that cannot be scored is refused now, not after the training.
        labels = open_volume(files.volume, "labels")
        grid = BlockGrid(roi, params.block_shape)
        if not any(labels.read(grid[index]).any() for index in range(len(grid))):
            where = f"split.{snakemake.wildcards.region}"
            raise UserError(f"{where}: there is no labelled voxel in {roi}: check its roi and the labels of its volume")
    # What was made from the same stays: another run may write into it already.
    note, made_from = folder / "made_from.json", params_hash(snakemake, files.volume)
    made = json.loads(note.read_bytes()) if note.is_file() else {}
    if made.get("made_from") != made_from:
        shutil.rmtree(folder, ignore_errors=True)
        raw = open_volume(files.volume, "raw")
        for name, (channels, dtype) in params.volumes.items():
            create_volume(
                folder,
                name,
                shape=(*([channels] if channels else []), *roi.shape),
                dtype=dtype,
                voxel_size=raw.voxel_size,
                offset=[o + b * v for o, b, v in zip(raw.offset, roi.begin, raw.voxel_size, strict=True)],
                shard_zyx=params.block_shape,
                pyramid=params.pyramid,
            )
        made = {"made_from": made_from, "store": uuid.uuid4().hex}
        write_json(note, made)
    # Snakemake takes a file with the same content for unchanged: what is read from an emptied store must be made again.
    zarr.open_group(folder, mode="a", zarr_format=3).attrs["store"] = made["store"]
