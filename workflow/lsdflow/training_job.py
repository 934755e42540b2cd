"""A training as one job: from paths and settings to a checkpoint, in one process or in several that share each batch.

Several processes are started by PyTorch's ``torchrun``, each with a GPU of its own, or on the CPU:

    torchrun --nproc-per-node 2 -m lsdflow.training_job job.json
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from lsdflow.checkpoints import build_pipeline, to_device
from lsdflow.devices import acquire_device
from lsdflow.errors import UserError
from lsdflow.roi import as_roi
from lsdflow.sampling import Augmentation, CropSampler, TargetSettings, TrainingVolume, in_memory
from lsdflow.setups import Pipeline, setup_from
from lsdflow.training import TrainingSettings, losses_of, seed_everything, train
from lsdflow.validation import Validator, centre_of
from lsdflow.volumes import open_volume

# Others wait for the process that validates or writes a checkpoint.
TIMEOUT = timedelta(hours=1)


@dataclass(frozen=True)
class TrainingJob:
    """All that a training needs, as plain values.

    Attributes
    ----------
    setup : the name of the setup to train.
    setups : entries of `setups.setup_from`, of this setup and of those that it sees.
    checkpoints : of the setups that it sees, by name.
    context : of `setups.Pipeline`.
    regions : for each training region ``volume`` and ``targets`` (Zarr stores), ``roi`` and ``probability``.
    validation : ``volume`` and ``roi`` of the validation region.
    targets : of `sampling.TargetSettings`.
    training : the configuration's ``training`` of the setup.
    seed : of weights and batches.
    folder : where the results go.
    fingerprint, provenance : of `training.train`.
    gpus, threads : granted to the job; shared by its processes.
    device : what the configuration demands, of `devices.acquire_device`.
    """

    setup: str
    setups: dict[str, Any]
    checkpoints: dict[str, str]
    context: list[int]
    regions: list[dict[str, Any]]
    validation: dict[str, Any]
    targets: dict[str, Any]
    training: dict[str, Any]
    seed: int
    folder: str
    fingerprint: str
    provenance: dict[str, Any]
    gpus: int
    threads: int
    device: str = "auto"


def run(job: TrainingJob) -> str:
    """Train, in as many processes as ``job.training["processes"]`` says; the name of the (first) device.

    Raises
    ------
    UserError
        For what is wrong with the configuration or the data, and if one of several processes fails.
    """
    processes = job.training["processes"]
    if processes == 1:
        return _run_here(job)
    if job.device != "cpu" and 0 < job.gpus < processes:
        raise UserError(
            f"training.processes is {processes}, but the job was granted {job.gpus} of as many GPUs: "
            "raise resources.gpu in the profile, or take fewer processes"
        )
    path = Path(job.folder) / "job.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(job), default=str))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "lsdflow.training_job", str(path)]
    environment = dict(os.environ, OMP_NUM_THREADS=str(max(1, job.threads // processes)))
    # A state of gigabytes takes longer to save than the half minute that is given otherwise.
    environment.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    paths = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    started = subprocess.Popen(command, env=environment, stdout=sys.stdout, stderr=sys.stderr)
    with started, _passing_on(started):
        code = started.wait()
    if code:
        raise UserError(f"the training in {processes} processes ended with code {code}; its log says why")
    path.unlink()
    return f"{processes} processes"


def _run_here(job: TrainingJob) -> str:
    training = dict(job.training)
    share = training.pop("processes")
    device = acquire_device(min(1, job.gpus), max(1, job.threads // share), demanded=job.device)
    seed_everything(job.seed, device)
    setups = {name: setup_from(name, entry) for name, entry in job.setups.items()}
    setup = setups[job.setup]
    pipeline = build_pipeline(setup, setups, job.checkpoints, context=job.context)
    crop_shape, validation_shape = training.pop("crop_shape"), training.pop("validation_shape")
    targets = TargetSettings(**job.targets)
    sampler = CropSampler(
        [_volume(region) for region in job.regions],
        outputs=setup.outputs,
        offsets=setup.offsets,
        raw_shape=pipeline.raw_shape(setup.network.input_shape(crop_shape)),
        output_shape=crop_shape,
        batch_size=training.pop("batch_size"),
        seed=job.seed,
        targets=targets,
        min_labelled=training.pop("min_labelled"),
        augmentation=Augmentation(**training.pop("augment")),
    )
    # On a GPU the processor's threads are for the batches; on the CPU they compute.
    workers = max(1, job.threads // share) if device.type == "cuda" else 1
    settings = TrainingSettings(seed=job.seed, workers=workers, **training)
    validator = None
    if settings.validate_every and _is_first():
        validator = _validator(job, pipeline, crop_shape, validation_shape, targets, settings)
    train(
        to_device(pipeline, device),
        sampler,
        settings,
        Path(job.folder),
        device=device,
        fingerprint=job.fingerprint,
        validator=validator,
        provenance=job.provenance,
    )
    return str(device)


def _is_first() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


def has_mask(store: str) -> bool:
    """Whether a volume was imported with a mask."""
    return (Path(store) / "mask").is_dir()


def _volume(region: Mapping[str, Any]) -> TrainingVolume:
    raw, roi, targets = open_volume(region["volume"], "raw"), as_roi(region["roi"]), region["targets"]
    return TrainingVolume(
        raw=in_memory(raw),
        labels=open_volume(region["volume"], "labels").cut(roi),
        boundaries=in_memory(open_volume(targets, "labels")),
        lsds=in_memory(open_volume(targets, "lsds")),
        roi=roi,
        probability=region["probability"],
        mask=open_volume(region["volume"], "mask").cut(roi) if has_mask(region["volume"]) else None,
    )


def _validator(
    job: TrainingJob, pipeline: Pipeline, crop_shape, shape, targets: TargetSettings, settings: TrainingSettings
) -> Validator:
    path = job.validation["volume"]
    raw, labels = open_volume(path, "raw"), open_volume(path, "labels")
    box = centre_of(as_roi(job.validation["roi"]), shape)
    if not labels.read(box).any():
        raise UserError(
            f"the centre of split.validation, {list(box.shape)} voxels, has no label: take a larger "
            "training.validation_shape, or set training.validate_every to 0"
        )

    def loss(predictions, batch):
        # The last iteration's loss, from the beginning: a network is compared with its earlier states.
        return losses_of(pipeline.setup, predictions, batch, settings.iterations - 1)

    return Validator(
        pipeline,
        raw,
        labels,
        box,
        loss,
        targets=targets,
        crop_shape=crop_shape,
        in_sections=job.validation["in_sections"],
        mask=open_volume(path, "mask") if has_mask(path) else None,
    )


@contextmanager
def _passing_on(process: subprocess.Popen):
    """SIGTERM goes to the processes that train, so that they save their state."""
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(path: str) -> None:
    """One of several processes."""
    job = TrainingJob(**json.loads(Path(path).read_text()))
    backend = "nccl" if job.gpus and job.device != "cpu" and torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=TIMEOUT)
    try:
        _run_here(job)
    except UserError as error:
        # Others may still wait for this process: torchrun ends them.
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
