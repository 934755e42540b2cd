"""Predict a range of blocks of a region with a trained network."""

from pathlib import Path

from lsdflow.blocks import BlockGrid, DoneBlocks
from lsdflow.devices import acquire_device
from lsdflow.prediction import BlockPredictor, predict_blocks
from lsdflow.setups import setup_from
from lsdflow.training import load_pipeline, to_device
from lsdflow.volumes import open_volume
from lsdflow_job import as_roi, chunk_of, job, params_hash, write_json

with job(snakemake) as notes:
    params, name = snakemake.params, snakemake.wildcards.setup
    device = acquire_device(snakemake.resources.get("gpu", 0), snakemake.threads)
    notes["device"] = str(device)
    setups = {other: setup_from(other, entry) for other, entry in params.setups.items()}
    checkpoints = dict(zip(params.setups, snakemake.input.checkpoints, strict=True))
    network = to_device(load_pipeline(setups[name], setups, checkpoints), device).network

    raw = open_volume(snakemake.input.volume, "raw")
    seen = dict(zip(params.frozen, snakemake.input.predictions, strict=True))
    inputs = []
    for source in setups[name].inputs:
        other, _, output = source.partition(".")
        volume = raw if source == "raw" else open_volume(Path(seen[other]).parent, output)
        inputs.append((volume, raw.position_of(volume), source == "raw"))
    predictor = BlockPredictor(
        network,
        setups[name].network,
        inputs,
        block_shape=params.block_shape,
        context=params.context,
        device=device,
    )

    store = Path(snakemake.input.store).parent
    roi = as_roi(params.roi)
    volumes = {output: open_volume(store, output, mode="r+") for output in setups[name].outputs}
    grid = BlockGrid(roi, params.block_shape)
    chunk, chunks = chunk_of(snakemake)
    done = DoneBlocks(store / "done", params_hash(snakemake, *snakemake.input.checkpoints))

    blocks = grid.chunk_range(chunk, chunks)
    computed = predict_blocks(
        predictor, volumes, grid, blocks, done, name=f"predict {name}", batch_size=1 if device.type == "cuda" else 2
    )
    write_json(snakemake.output[0], {"blocks": list(blocks), "computed": computed, "fingerprint": done.fingerprint})
