"""Train the network of one setup, one replicate."""

from pathlib import Path

from lsdflow.devices import acquire_device
from lsdflow.provenance import provenance
from lsdflow.sampling import Augmentation, CropSampler, TrainingVolume, in_memory
from lsdflow.setups import setup_from
from lsdflow.training import TrainingSettings, build_pipeline, seed_everything, to_device, train
from lsdflow.volumes import open_volume
from lsdflow_job import as_roi, job, params_hash

with job(snakemake) as notes:
    params, name = snakemake.params, snakemake.wildcards.setup
    seed = int(snakemake.wildcards.replicate)
    training = dict(params.training)
    device = acquire_device(snakemake.resources.get("gpu", 0), snakemake.threads)
    notes |= {"device": str(device), "seed": seed}
    seed_everything(seed)
    setups = {other: setup_from(other, entry) for other, entry in params.setups.items()}
    checkpoints = dict(zip(params.frozen, snakemake.input.frozen, strict=True))
    pipeline = build_pipeline(setups[name], setups, checkpoints, context=params.context)
    volumes = []
    for region, volume, store in zip(params.regions, snakemake.input.volumes, snakemake.input.targets, strict=True):
        targets = Path(store).parent
        raw, roi = open_volume(volume, "raw"), as_roi(region["roi"])
        volumes.append(
            TrainingVolume(
                raw=in_memory(raw),
                labels=open_volume(volume, "labels").cut(roi),
                boundaries=in_memory(open_volume(targets, "labels")),
                lsds=in_memory(open_volume(targets, "lsds")),
                roi=roi,
                probability=region["probability"],
            )
        )
    crop_shape = training.pop("crop_shape")
    sampler = CropSampler(
        volumes,
        outputs=setups[name].outputs,
        offsets=setups[name].offsets,
        raw_shape=pipeline.raw_shape(setups[name].network.input_shape(crop_shape)),
        output_shape=crop_shape,
        batch_size=training.pop("batch_size"),
        seed=seed,
        min_labelled=training.pop("min_labelled"),
        augmentation=Augmentation(**training.pop("augment")),
    )
    settings = TrainingSettings(seed=seed, **training)
    train(
        to_device(pipeline, device),
        sampler,
        settings,
        Path(snakemake.output.checkpoint).parent,
        device=device,
        fingerprint=params_hash(snakemake, *snakemake.input),
        provenance=provenance(dict(params.items()), seed=seed),
    )
