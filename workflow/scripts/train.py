"""Train the network of one setup, one replicate."""

from pathlib import Path

from lsdflow.provenance import provenance
from lsdflow.training_job import TrainingJob, run
from lsdflow_job import job, params_hash

with job(snakemake) as notes:
    params, files = snakemake.params, snakemake.input
    seed = int(snakemake.wildcards.replicate)
    stores = zip(params.regions, files.volumes, files.targets, strict=True)
    regions = [{**region, "volume": path, "targets": str(Path(store).parent)} for region, path, store in stores]
    notes["seed"] = seed
    notes["device"] = run(
        TrainingJob(
            setup=snakemake.wildcards.setup,
            setups=params.setups,
            checkpoints=dict(zip(params.frozen, files.frozen, strict=True)),
            context=params.context,
            regions=regions,
            validation={**params.validation, "volume": files.validation},
            targets=params.targets,
            training=params.training,
            seed=seed,
            folder=str(Path(snakemake.output.checkpoint).parent),
            fingerprint=params_hash(snakemake, *files),
            provenance=provenance(dict(params.items()), seed=seed),
            gpus=snakemake.resources.get("gpu", 0),
            threads=snakemake.threads,
            device=snakemake.resources.get("device", "auto"),
        )
    )
