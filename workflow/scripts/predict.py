"""Predict a range of blocks of a region with a trained network."""

from pathlib import Path

import torch

from lsdflow.blocks import BlockGrid
from lsdflow.checkpoints import load_network
from lsdflow.devices import acquire_device
from lsdflow.network_inputs import NetworkInput, inputs_of
from lsdflow.prediction import BlockPredictor, predict_blocks
from lsdflow.roi import as_roi
from lsdflow.setups import setup_from
from lsdflow.symmetrised import symmetries_of
from lsdflow.volumes import open_mask, open_volume
from lsdflow_chunk import chunk_of, done_blocks, write_chunk
from lsdflow_job import job

with job(snakemake) as notes:
    params, name, resources = snakemake.params, snakemake.wildcards.setup, snakemake.resources
    device = acquire_device(resources.get("gpu", 0), snakemake.threads, demanded=resources.get("device", "auto"))
    notes["device"] = str(device)
    setups = {other: setup_from(other, entry) for other, entry in params.setups.items()}
    # Its own checkpoint stands last; the others only count for what is seen of them.
    network = load_network(setups[name], setups, snakemake.input.checkpoints[-1])
    network.to(device, memory_format=torch.channels_last_3d)

    volume = Path(snakemake.input.volume)
    raw = open_volume(volume, "raw")
    mask = open_mask(volume)
    mask = mask and NetworkInput(mask)
    seen = {other: Path(store).parent for other, store in zip(params.frozen, snakemake.input.predictions, strict=True)}
    predictor = BlockPredictor(
        network,
        setups[name].network,
        inputs_of(setups[name], setups, raw, lambda other, output: open_volume(seen[other], output)),
        block_shape=params.block_shape,
        context=params.context,
        device=device,
        precision=params.precision,
        symmetries=symmetries_of(params.augment, raw.voxel_size),
        offsets=setups[name].offsets,
        name=name,
    )

    store = Path(snakemake.input.store).parent
    volumes = {output: open_volume(store, output, mode="r+") for output in setups[name].outputs}
    grid = BlockGrid(as_roi(params.roi), params.block_shape)
    chunk, chunks = chunk_of(snakemake)
    done = done_blocks(snakemake, store, grid, list(volumes.values()), *snakemake.input.checkpoints)

    blocks = grid.chunk_range(chunk, chunks)
    computed = predict_blocks(predictor, volumes, grid, blocks, done, name=f"predict {name}", mask=mask)
    write_chunk(snakemake, blocks, computed, done)
