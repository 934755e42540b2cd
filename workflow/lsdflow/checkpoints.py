"""Checkpoints: pipelines with fresh or trained weights, and torch files that a kill leaves whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lsdflow.errors import UserError
from lsdflow.setups import Pipeline, Setup, SetupNetwork, in_channels


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
    load_weights(pipeline.network, setup, checkpoints[setup.name])
    return pipeline


def load_network(setup: Setup, setups: Mapping[str, Setup], path: os.PathLike) -> SetupNetwork:
    """The trained, frozen network of ``setup`` alone, to predict from the stored predictions of those that it sees."""
    network = SetupNetwork(setup, in_channels(setup, setups))
    load_weights(network, setup, path)
    return network


def what_made(setup: Setup) -> dict[str, Any]:
    """What a checkpoint must agree in with the setup that loads it, as plain values."""
    return {
        "network": setup.network.as_dict(),
        "inputs": list(setup.inputs),
        "outputs": list(setup.outputs),
        "offsets": [list(offset) for offset in setup.offsets] if "affinities" in setup.outputs else [],
    }


def load_weights(network: SetupNetwork, setup: Setup, path: os.PathLike) -> None:
    """Fill ``network`` with the weights in ``path``, and freeze it.

    Raises
    ------
    UserError
        If they belong to another network; the message names what differs.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file can fail in many ways
        raise UserError(f"{path} cannot be read ({error}): delete it, and train setup {setup.name!r} again") from error
    wanted = what_made(setup)
    made = {key: content.get(key) for key in wanted}
    made, wanted = ({**values.pop("network"), **values} for values in (made, wanted))
    if made != wanted:
        keys = [key for key in {**wanted, **made} if made.get(key) != wanted.get(key)]
        differences = "; ".join(f"{key} {made.get(key)} there, {wanted.get(key)} here" for key in keys)
        raise UserError(
            f"{path} holds another network than setup {setup.name!r} asks for ({differences}): train it again"
        )
    own, stored = network.state_dict(), content["weights"]
    different = [name for name in {**own, **stored} if _shape(own, name) != _shape(stored, name)]
    if different:
        name = different[0]
        raise UserError(
            f"{path} holds other inputs or outputs than setup {setup.name!r} has "
            f"({name}: {_shape(stored, name)} there, {_shape(own, name)} here): train it again"
        )
    network.load_state_dict(stored)
    network.eval().requires_grad_(False)


def _shape(weights: Mapping[str, torch.Tensor], name: str) -> list[int] | str:
    return list(weights[name].shape) if name in weights else "nothing"


def to_device(pipeline: Pipeline, device: torch.device) -> Pipeline:
    """The pipeline with all its networks on ``device``, weights laid out channels-last (faster convolutions)."""
    pipeline.network.to(device, memory_format=torch.channels_last_3d)
    for other in pipeline.frozen.values():
        to_device(other, device)
    return pipeline


def save_torch(path: Path, content: Mapping[str, Any]) -> None:
    """Write a torch file so that a kill leaves the old one or the new one, never half of it."""
    partial = path.with_suffix(".partial")
    torch.save(dict(content), partial)
    os.replace(partial, path)
