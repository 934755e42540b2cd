"""The training loop: batches in, checkpoint and log out; resumes to the very same numbers.

While it runs, ``state.pt`` beside the checkpoint holds everything needed to go on after a kill.
"""

from __future__ import annotations

import csv
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from lsdflow.errors import UserError
from lsdflow.losses import LOSSES
from lsdflow.progress import Progress
from lsdflow.sampling import Batch, CropSampler
from lsdflow.setups import Pipeline, Setup, SetupNetwork, in_channels


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Attributes
    ----------
    iterations : batches to see.
    learning_rate, betas : of Adam; the paper takes 0.5e-4 and (0.95, 0.999) for its plain nets.
    schedule : ``"cosine"`` (down to a hundredth, after the warm-up) or ``"constant"``.
    warmup : iterations over which the learning rate rises linearly.
    checkpoint_every, log_every : iterations between saved states and between rows of the log.
    seed : of the initial weights; batches have the sampler's.
    """

    iterations: int
    learning_rate: float
    betas: tuple[float, float] = (0.95, 0.999)
    schedule: str = "cosine"
    warmup: int = 0
    checkpoint_every: int = 1000
    log_every: int = 10
    seed: int = 0

    def rate(self, iteration: int) -> float:
        """The learning rate at ``iteration``."""
        warm = min(1.0, (iteration + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "constant":
            return self.learning_rate * warm
        part = max(0, iteration - self.warmup) / max(1, self.iterations - self.warmup)
        return self.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


LOG_COLUMNS = ("iteration", "loss", "affinities", "lsds", "learning_rate", "seconds")


def seed_everything(seed: int) -> None:
    """Make torch's numbers repeatable on this machine."""
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def build_pipeline(
    setup: Setup,
    setups: Mapping[str, Setup],
    checkpoints: Mapping[str, os.PathLike],
    *,
    context: Sequence[int] = (0, 0, 0),
) -> Pipeline:
    """A pipeline with fresh weights for ``setup`` and frozen ones, from ``checkpoints``, for the setups it sees.

    ``context`` is that of `Pipeline`.
    """
    frozen = {name: load_pipeline(setups[name], setups, checkpoints, context=context) for name in setup.input_setups}
    return Pipeline(setup, SetupNetwork(setup, in_channels(setup, setups)), frozen, context)


def load_pipeline(
    setup: Setup,
    setups: Mapping[str, Setup],
    checkpoints: Mapping[str, os.PathLike],
    *,
    context: Sequence[int] = (0, 0, 0),
) -> Pipeline:
    """A trained, frozen pipeline, ready to predict; see `build_pipeline`."""
    pipeline = build_pipeline(setup, setups, checkpoints, context=context)
    path = checkpoints[setup.name]
    content = torch.load(path, map_location="cpu", weights_only=True)
    made, wanted = content["network"], setup.network.as_dict()
    if made != wanted:
        raise UserError(f"{path} holds the network {made}, but setup {setup.name!r} asks for {wanted}: train it again")
    try:
        pipeline.network.load_state_dict(content["weights"])
    except RuntimeError as error:
        raise UserError(
            f"{path} holds other inputs or outputs than setup {setup.name!r} has: train it again"
        ) from error
    pipeline.network.eval().requires_grad_(False)
    return pipeline


def to_device(pipeline: Pipeline, device: torch.device) -> Pipeline:
    """The pipeline with all its networks on ``device``, weights laid out channels-last (faster convolutions)."""
    pipeline.network.to(device, memory_format=torch.channels_last_3d)
    for other in pipeline.frozen.values():
        to_device(other, device)
    return pipeline


def losses_of(pipeline: Pipeline, batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    """The loss per output of one batch."""
    setup = pipeline.setup
    output_shape = next(iter(batch.targets.values())).shape[2:]
    inputs = pipeline.inputs(torch.from_numpy(batch.raw).to(device), setup.network.input_shape(output_shape))
    predictions = pipeline.network(inputs.contiguous(memory_format=torch.channels_last_3d))
    return {
        output: LOSSES[setup.losses.get(output, "mse")](
            predictions[output],
            torch.from_numpy(batch.targets[output]).to(device),
            torch.from_numpy(batch.weights[output]).to(device),
        )
        for output in setup.outputs
    }


def train(
    pipeline: Pipeline,
    sampler: CropSampler,
    settings: TrainingSettings,
    folder: Path,
    *,
    device: torch.device,
    fingerprint: str,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Train ``pipeline.network`` and write ``checkpoint.pt``, ``log.csv`` and TensorBoard events into ``folder``.

    Parameters
    ----------
    fingerprint : names configuration, code and data; a state left by a killed run is only resumed where it is equal.
    provenance : kept in the checkpoint.

    Raises
    ------
    UserError
        If the loss is not a number; the state before it is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = pipeline.network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=settings.betas)
    state_path = folder / "state.pt"
    begin, rows, sums = _resume(state_path, fingerprint, network, optimiser)

    def save_state(done: int) -> None:
        _save(
            state_path,
            {
                "fingerprint": fingerprint,
                "iteration": done,
                "weights": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "rows": rows,
                "sums": sums,
            },
        )

    start, saved = time.monotonic(), begin
    elapsed_before = rows[-1]["seconds"] if rows else 0.0
    with (
        SummaryWriter(str(folder / "events"), purge_step=begin) as events,
        _stop_flag() as stop,
        Progress(settings.iterations, pipeline.setup.name, "step", initial=begin) as bar,
    ):
        for iteration, batch in sampler.batches(begin, settings.iterations):
            for group in optimiser.param_groups:
                group["lr"] = settings.rate(iteration)
            losses = losses_of(pipeline, batch, device)
            loss = sum(pipeline.setup.loss_weights.get(name, 1.0) * value for name, value in losses.items())
            if not math.isfinite(value := float(loss.detach())):
                raise UserError(
                    f"the loss of setup {pipeline.setup.name!r} is {value} at iteration {iteration}: "
                    "lower training.learning_rate, or look for NaN in the raw data"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

            for name, part in {"loss": loss, **losses}.items():
                sums[name] = sums.get(name, 0.0) + float(part.detach())
            done = iteration + 1
            bar.update(1, loss=value)
            if done % settings.log_every == 0 or done == settings.iterations:
                count = done - (rows[-1]["iteration"] if rows else 0)
                row = {"iteration": done, **{name: total / count for name, total in sums.items()}}
                row |= {"learning_rate": settings.rate(iteration), "seconds": elapsed_before + time.monotonic() - start}
                rows.append(row)
                for name in sums:
                    events.add_scalar(f"train/{name}", row[name], done)
                sums = {}
            if stop.is_set or done - saved >= settings.checkpoint_every:
                save_state(done)
                saved = done
            if stop.is_set and done < settings.iterations:
                raise UserError(f"stopped by a signal at iteration {done}; run again to go on from there")
    _write_log(folder / "log.csv", rows)
    _save(
        folder / "checkpoint.pt",
        {
            "weights": network.state_dict(),
            "network": pipeline.setup.network.as_dict(),
            "setup": pipeline.setup.name,
            "settings": asdict(settings),
            "provenance": dict(provenance or {}),
        },
    )
    state_path.unlink(missing_ok=True)


def _resume(path: Path, fingerprint: str, network: torch.nn.Module, optimiser: torch.optim.Optimizer):
    """Load a killed run's state: the first iteration still to do, the log's rows, the sums since the last of them."""
    if not path.exists():
        return 0, [], {}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file can fail in many ways
        print(f"{path} cannot be read ({error}): starting anew", file=sys.stderr)
        return 0, [], {}
    if state["fingerprint"] != fingerprint:
        print("the state of an earlier run was made by another configuration: starting anew", file=sys.stderr)
        return 0, [], {}
    network.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    print(f"going on from iteration {state['iteration']}", file=sys.stderr)
    return state["iteration"], state["rows"], state["sums"]


def _save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a torch file so that a kill leaves the old one or the new one, never half of it."""
    partial = path.with_suffix(".partial")
    torch.save(dict(content), partial)
    os.replace(partial, path)


def _write_log(path: Path, rows: list[dict[str, float]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [c for c in LOG_COLUMNS if any(c in row for row in rows)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


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
