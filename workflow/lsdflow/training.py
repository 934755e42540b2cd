"""The training loop: batches in, checkpoint and log out; resumes to the very same numbers.

While it runs, ``state.pt`` beside the checkpoint holds everything needed to go on after a kill.
"""

from __future__ import annotations

import io
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from lsdflow.checkpoints import save_torch, what_made
from lsdflow.devices import computes_bfloat16, is_out_of_memory
from lsdflow.errors import UserError
from lsdflow.losses import LOSSES
from lsdflow.malis import malis_loss
from lsdflow.networks import crop
from lsdflow.progress import Progress
from lsdflow.sampling import Batch, CropSampler
from lsdflow.setups import Pipeline, Setup
from lsdflow.training_log import TrainingLog, batch_picture
from lsdflow.validation import Validator


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Attributes
    ----------
    iterations : steps of the optimiser.
    learning_rate, betas : of Adam; the paper takes 0.5e-4 and (0.95, 0.999) for its plain nets.
    schedule : ``"cosine"`` (down to a hundredth, after the warm-up) or ``"constant"``.
    warmup : iterations over which the learning rate rises linearly.
    accumulate : parts in which a batch is computed, one after the other, where it does not fit as a whole.
    clip : the longest gradient; longer ones are shortened to it. 0 for any length.
    average : decay per iteration of the running mean of the weights, which is what is validated and kept; 0 keeps the
        weights themselves.
    precision : of the arithmetic: ``"float32"``, ``"bfloat16"``, or ``"auto"``: the latter on GPUs that compute it.
    compile : whether PyTorch compiles the network.
    checkpoint_every, log_every : iterations between saved states and between rows of the log.
    validate_every, snapshot_every : iterations between validations and between pictures of a batch; 0 for none.
    workers : threads that make batches.
    seed : of the initial weights; batches have the sampler's.
    """

    iterations: int
    learning_rate: float
    betas: tuple[float, float] = (0.95, 0.999)
    schedule: str = "cosine"
    warmup: int = 0
    accumulate: int = 1
    clip: float = 0.0
    average: float = 0.0
    precision: str = "auto"
    compile: bool = False
    checkpoint_every: int = 1000
    log_every: int = 10
    validate_every: int = 0
    snapshot_every: int = 0
    workers: int = 1
    seed: int = 0

    def rate(self, iteration: int) -> float:
        """The learning rate at ``iteration``."""
        warm = min(1.0, (iteration + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "constant":
            return self.learning_rate * warm
        part = max(0, iteration - self.warmup) / max(1, self.iterations - self.warmup)
        return self.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))

    def dtype(self, device: torch.device) -> torch.dtype:
        """The precision of the arithmetic on ``device``."""
        if self.precision != "auto":
            return getattr(torch, self.precision)
        return torch.bfloat16 if computes_bfloat16(device) else torch.float32


def seed_everything(seed: int, device: torch.device) -> None:
    """Make torch's numbers repeatable, on the CPU to the last bit; GPUs may take their fastest convolutions."""
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    else:
        torch.use_deterministic_algorithms(True, warn_only=True)


def losses_of(
    setup: Setup,
    predictions: Mapping[str, torch.Tensor],
    batch: Batch,
    iteration: int,
) -> dict[str, torch.Tensor]:
    """The loss per output of one batch, on the device of the predictions."""
    losses = {}
    for output in setup.outputs:
        prediction, name = predictions[output], setup.losses.get(output, "mse")
        if not torch.isfinite(prediction).all():
            losses[output] = prediction.sum()  # no loss takes it; the loop says what to do about it
            continue
        if name == "malis" and iteration >= setup.malis.after:
            losses[output] = _malis(setup, prediction, batch)
            continue
        # Before it, MALIS would spend its few edges on what any loss puts right.
        loss = LOSSES["mse" if name == "malis" else name]
        arrays = (batch.targets[output], batch.weights[output])
        losses[output] = loss(prediction, *(torch.from_numpy(a).to(prediction.device) for a in arrays))
    return losses


def _malis(setup: Setup, prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
    shape = [min(s, n) for s, n in zip(setup.malis.shape, prediction.shape[2:], strict=True)]
    known = crop(batch.weights["affinities"], shape) != 0
    labels = crop(batch.labels[:, None], shape)[:, 0]
    return malis_loss(crop(prediction, shape), labels, known, setup.offsets, relabel=setup.malis.relabel)


def train(
    pipeline: Pipeline,
    sampler: CropSampler,
    settings: TrainingSettings,
    folder: Path,
    *,
    device: torch.device,
    fingerprint: str,
    validator: Validator | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Train ``pipeline.network``; write ``checkpoint.pt``, tables, pictures and TensorBoard events into ``folder``.

    Where `torch.distributed` is initialised, each process computes its share of every batch, and the first one writes.

    Parameters
    ----------
    fingerprint : names configuration, code and data; a state left by a killed run is only resumed where it is equal.
    validator : scores the network every ``settings.validate_every`` iterations; the best one is kept.
    provenance : kept in the checkpoint.

    Raises
    ------
    UserError
        If the loss is not a number; the state before it is kept, and the batch is saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    setup, is_first = pipeline.setup, _rank() == 0
    run = _Run(pipeline.network.train(), settings, device)
    run.resume(folder / "state.pt", fingerprint)
    forward = run.forward(device)
    precision = torch.autocast(device.type, settings.dtype(device), enabled=settings.dtype(device) != torch.float32)
    input_shape = setup.network.input_shape(sampler.output_shape)
    places = _places(sampler.batch_size)
    voxels = math.prod(sampler.output_shape) * sampler.batch_size

    def step(iteration: int, batch: Batch) -> dict[str, float]:
        """One step of the optimiser; the losses."""
        run.optimiser.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        for part in _parts(batch, settings.accumulate):
            share = len(part) / len(batch)
            with precision:
                inputs = pipeline.inputs(torch.from_numpy(part.raw).to(device), input_shape)
                predictions = forward(inputs.contiguous(memory_format=torch.channels_last_3d))
            losses = losses_of(setup, predictions, part, iteration)
            loss = sum(setup.loss_weights.get(name, 1.0) * value for name, value in losses.items())
            (loss * share).backward()
            for name, value in {"loss": loss, **losses}.items():
                totals[name] = totals.get(name, 0.0) + share * float(value.detach())
        run.predictions = {name: value.detach() for name, value in predictions.items()}
        return totals

    def refuse(what: str, iteration: int, batch: Batch, *, is_own: bool) -> None:
        """End the training before a step that would spoil the weights."""
        path = folder / (f"failed_batch-{_rank()}.npz" if _world() > 1 else "failed_batch.npz")
        if is_own:
            np.savez_compressed(path, **batch.arrays())
        raise UserError(
            f"{what} of setup {setup.name!r} is not a number at iteration {iteration}: lower training.learning_rate, "
            f"or look for what is wrong in the batch, kept in {path}"
        )

    begin = time.monotonic()
    with (
        TrainingLog(folder if is_first else None, run.done, run.rows, run.validations) as log,
        _stop_flag() as stop,
        Progress(settings.iterations, setup.name, "step", initial=run.done, stream=_stream()) as bar,
        closing(sampler.batches(run.done, settings.iterations, workers=settings.workers, places=places)) as batches,
    ):
        elapsed_before = run.seconds
        while run.done < settings.iterations:
            asked = time.monotonic()
            iteration, batch = next(batches)
            waited = time.monotonic() - asked
            for group in run.optimiser.param_groups:
                group["lr"] = settings.rate(iteration)
            try:
                own = step(iteration, batch)
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error):
                    raise UserError(_no_memory(sampler, settings, setup)) from error
                raise
            values = _mean_over_processes({**own, "stop": float(stop.is_set)}, device)
            must_stop = values.pop("stop") > 0
            if not math.isfinite(values["loss"]):
                refuse("the loss", iteration, batch, is_own=not math.isfinite(own["loss"]))
            values["gradient"] = float(
                torch.nn.utils.clip_grad_norm_(run.network.parameters(), settings.clip or math.inf)
            )
            if not math.isfinite(values["gradient"]):
                refuse("the gradient", iteration, batch, is_own=is_first)
            run.step(values | {"waited": waited})
            run.seconds = elapsed_before + time.monotonic() - begin
            seen = (run.done - run.begun) * voxels / max(1e-9, time.monotonic() - begin)
            bar.update(1, loss=values["loss"], **{"voxels/s": seen})
            if run.done % settings.log_every == 0 or run.done == settings.iterations:
                log.add(run.row(settings.rate(iteration)))
            if is_first and settings.snapshot_every and run.done % settings.snapshot_every == 0:
                log.add_snapshot(run.done, _picture(batch, run.predictions))
            if is_first and validator and settings.validate_every and run.done % settings.validate_every == 0:
                log.add_validation(run.validate(validator, device))
            if is_first and (must_stop or run.done - run.saved >= settings.checkpoint_every):
                run.save(folder / "state.pt", fingerprint)
            if must_stop and run.done < settings.iterations:
                raise UserError(f"stopped by a signal at iteration {run.done}; run again to go on from there")
        if is_first and run.validations and run.validations[-1]["iteration"] != run.done:
            log.add_validation(run.validate(validator, device))
    if not is_first:
        return
    kept, weights = run.best_weights()
    save_torch(
        folder / "checkpoint.pt",
        {
            "weights": weights,
            "iteration": kept,
            **what_made(setup),
            "setup": setup.name,
            "settings": asdict(settings),
            "provenance": dict(provenance or {}),
        },
    )
    (folder / "state.pt").unlink(missing_ok=True)


class _Run:
    """A training's moving parts: network, optimiser, mean of the weights, and what was noted of the way so far."""

    def __init__(self, network: torch.nn.Module, settings: TrainingSettings, device: torch.device):
        self.network, self.settings = network, settings
        self.optimiser = torch.optim.Adam(
            network.parameters(), lr=settings.learning_rate, betas=settings.betas, fused=device.type == "cuda"
        )
        self.average = AveragedModel(network, multi_avg_fn=self._drift) if settings.average else None
        self.begun = self.done = self.saved = 0
        self.seconds = 0.0
        self.rows: list[dict[str, float]] = []
        self.validations: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}
        self.best: dict[str, Any] | None = None
        self.predictions: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def _drift(self, means, weights, count) -> None:
        # A long memory would keep the first, random weights for as long.
        decay = min(self.settings.average, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(means, weights, 1 - decay)

    def forward(self, device: torch.device) -> Callable:
        """The network as it is called: compiled, and with gradients shared between processes, where asked for."""
        network = self.network
        if self.settings.compile:
            network = torch.compile(network)
        if _world() == 1:
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def step(self, values: Mapping[str, float]) -> None:
        """Step the optimiser, and note ``values``."""
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.done += 1

    def row(self, rate: float) -> dict[str, float]:
        """Means since the last row, and the share of the time in which the step waited for its batch."""
        last = self.rows[-1] if self.rows else {"iteration": 0, "seconds": 0.0}
        count, waited = self.done - last["iteration"], self.sums.pop("waited")
        row = {"iteration": self.done, **{name: total / count for name, total in self.sums.items()}}
        self.sums = {}
        share = waited / max(1e-9, self.seconds - last["seconds"])
        return row | {"learning_rate": rate, "waited": share, "seconds": self.seconds}

    @property
    def kept(self) -> torch.nn.Module:
        """The network that is validated and kept: with the mean of the weights where there is one."""
        return self.network if self.average is None else self.average.module

    def validate(self, validator: Validator, device: torch.device) -> dict[str, float]:
        """Score the network, and remember it if it is the best so far."""
        scores = validator(self.kept, device)
        score = scores.get("voi_sum", scores["loss"])
        if self.best is None or score < self.best["score"]:
            weights = {name: value.detach().cpu().clone() for name, value in self.kept.state_dict().items()}
            self.best = {"score": score, "iteration": self.done, "weights": weights}
        return {"iteration": self.done, **scores, "seconds": self.seconds}

    def best_weights(self) -> tuple[int, dict[str, torch.Tensor]]:
        """The iteration and the weights that are kept: the best validated ones, or the last."""
        if self.best is not None:
            return self.best["iteration"], self.best["weights"]
        return self.done, {name: value.cpu() for name, value in self.kept.state_dict().items()}

    def save(self, path: Path, fingerprint: str) -> None:
        """Keep all that is needed to go on."""
        content = {name: getattr(self, name) for name in self._PLAIN}
        content |= {"weights": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}
        content["average"] = None if self.average is None else self.average.state_dict()
        save_torch(path, {"fingerprint": fingerprint, "settings": asdict(self.settings), **content})
        self.saved = self.done

    def resume(self, path: Path, fingerprint: str) -> None:
        """Go on from the state of a killed run, if there is one of the same fingerprint."""
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a torn file can fail in many ways
            print(f"{path} cannot be read ({error}): starting anew", file=sys.stderr)
            return
        if state["fingerprint"] != fingerprint:
            own, aside = asdict(self.settings), path.with_name("state-of-another-configuration.pt")
            keys = [key for key, value in own.items() if state["settings"].get(key) != value]
            changes = [f"{key} {state['settings'].get(key)} there, {own[key]} here" for key in keys]
            print(
                "the state of an earlier run was made by another configuration, code or data "
                f"({', '.join(changes) or 'of the same training settings'}): starting anew, and keeping it as {aside}",
                file=sys.stderr,
            )
            os.replace(path, aside)
            return
        self.network.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name in self._PLAIN:
            setattr(self, name, state[name])
        self.begun = self.saved = self.done
        print(f"going on from iteration {self.done}", file=sys.stderr)

    _PLAIN = ("done", "seconds", "rows", "validations", "sums", "best")


def _parts(batch: Batch, count: int) -> list[Batch]:
    """The batch in ``count`` parts (fewer where it has fewer crops)."""
    count = min(count, len(batch))
    if count == 1:
        return [batch]
    bounds = [len(batch) * index // count for index in range(count + 1)]
    return [batch[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]


def _no_memory(sampler: CropSampler, settings: TrainingSettings, setup: Setup) -> str:
    """What to try where a step does not fit into memory."""
    share = sampler.batch_size // _world()
    if settings.accumulate < share:
        return (
            f"out of memory with {share} crops of {list(sampler.output_shape)} voxels at a time: set "
            f"training.accumulate to {share}, which computes them one after the other"
        )
    lengths = setup.network.valid_input_shapes((1, 1, 1), setup.network.input_shape(sampler.output_shape))
    smaller = [
        max((made for made in axis.values() if made < n), default=n)
        for axis, n in zip(lengths, sampler.output_shape, strict=True)
    ]
    return (
        f"out of memory with one crop of {list(sampler.output_shape)} voxels: try training.crop_shape {smaller}, "
        "the next smaller one that the network can make, or a smaller network"
    )


def _picture(batch: Batch, predictions: Mapping[str, torch.Tensor]) -> np.ndarray:
    shown = {name: value.detach().float().cpu().numpy() for name, value in predictions.items()}
    # Of a batch in parts, the last one's predictions are at hand.
    last = batch[-len(next(iter(shown.values()))) :]
    return batch_picture(last.raw, last.labels, last.targets, shown)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _world() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _stream() -> TextIO:
    """Where progress is shown: by the first process only."""
    return sys.stderr if _rank() == 0 else io.StringIO()


def _places(batch_size: int) -> range:
    """The crops of a batch that this process computes."""
    if batch_size % _world():
        raise UserError(f"training.batch_size {batch_size} must be a multiple of training.processes, {_world()}")
    share = batch_size // _world()
    return range(_rank() * share, (_rank() + 1) * share)


def _mean_over_processes(values: dict[str, float], device: torch.device) -> dict[str, float]:
    if _world() == 1:
        return values
    mean = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(mean)
    return dict(zip(values, (mean / _world()).tolist(), strict=True))


class _Stop:
    is_set = False


@contextmanager
def _stop_flag():
    """Notes SIGTERM, so that the loop can save its state before it ends."""
    stop = _Stop()

    def note(*_):
        stop.is_set = True

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not in the main thread, such as in a notebook's worker
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
