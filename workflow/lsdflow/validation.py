"""Scores of a network while it is trained, on a piece of the validation region."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lsdflow.affinities import affinities, affinity_weights, grow_boundary
from lsdflow.lsd import local_shape_descriptors
from lsdflow.network_shapes import NetworkSettings, Shape
from lsdflow.roi import Roi
from lsdflow.sampling import Batch, TargetSettings
from lsdflow.setups import Pipeline, Setup, quantise
from lsdflow.volumes import Volume

# Voxels around a block of a padded network, at least: fewer leave seams, more are no better.
CONTEXT = 8

Losses = Callable[[Mapping[str, torch.Tensor], Batch], Mapping[str, torch.Tensor]]


def centre_of(roi: Roi, shape: Sequence[int]) -> Roi:
    """The box of ``shape``, or as much of it as there is room for, in the middle of ``roi``."""
    size = [min(s, n) for s, n in zip(shape, roi.shape, strict=True)]
    begin = [b + (n - s) // 2 for b, n, s in zip(roi.begin, roi.shape, size, strict=True)]
    return Roi(tuple(begin), tuple(b + s for b, s in zip(begin, size, strict=True)))


def whole_batch(
    setup: Setup, raw: Volume, labels: Volume, box: Roi, targets: TargetSettings, mask: Volume | None = None
) -> Batch:
    """Raw voxels of a box, and the targets of its labels, as a batch of one without augmentation."""
    is_known = np.ones(box.shape, bool) if mask is None else mask.read(box) != 0
    grown = grow_boundary(labels.read(box), targets.steps, only_xy=targets.only_xy)
    made, weights = {}, {}
    if "affinities" in setup.outputs:
        made["affinities"] = affinities(grown, setup.offsets)
        known = affinities(is_known.view(np.uint8), setup.offsets)
        weights["affinities"] = affinity_weights(made["affinities"], known)
    if "lsds" in setup.outputs:
        made["lsds"] = local_shape_descriptors(grown, targets.sigma, raw.voxel_size, downsample=targets.downsample)
        weights["lsds"] = ((grown != 0) | ~is_known).astype(np.float32)[None]
    return Batch(
        (raw.read(box).astype(np.float32) / 255 * 2 - 1)[None, None],
        {name: target.astype(np.float32)[None] for name, target in made.items()},
        {name: weight[None] for name, weight in weights.items()},
        grown.astype(np.int64)[None],
    )


def block_of(network: NetworkSettings, crop_shape: Sequence[int]) -> tuple[Shape, Shape]:
    """Block shape and context to predict with: about the crop, which normalisation has learned to see."""
    block = tuple(max(p, c // p * p) for p, c in zip(network.period, crop_shape, strict=True))
    context = tuple(-(-CONTEXT // p) * p if network.is_padded else 0 for p in network.period)
    return block, context


class Validator:
    """Scores a network on one piece of labelled volume, predicted block by block as volumes are.

    Parameters
    ----------
    pipeline : what is trained, and the frozen networks that it sees.
    raw, labels : the whole volume.
    box : the piece, in voxels of ``raw``.
    mask : 0 where nobody looked for objects.
    loss : ``loss(predictions, batch) -> {output: tensor}``, as in training.
    targets : how targets are made.
    crop_shape : of training.
    in_sections : whether fragments are found in each section of its own.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        raw: Volume,
        labels: Volume,
        box: Roi,
        loss: Losses,
        *,
        targets: TargetSettings,
        crop_shape: Sequence[int],
        in_sections: bool = False,
        mask: Volume | None = None,
    ):
        self.pipeline, self.raw, self.box, self.loss = pipeline, raw, box, loss
        self.truth: NDArray[np.integer] = labels.read(box)
        self.batch = whole_batch(pipeline.setup, raw, labels, box, targets, mask)
        self.crop_shape = tuple(crop_shape)
        self.in_sections = in_sections
        self._inputs = None

    @torch.inference_mode()
    def __call__(self, network: torch.nn.Module, device: torch.device) -> dict[str, float]:
        """``loss``; for affinities also ``voi_split``, ``voi_merge``, ``voi_sum`` (bits), at the best ``threshold``."""
        # By name, out of sight of `code_hash`: an edit of prediction, watershed or scores is no reason to train all
        # networks again, since all it could change is which state of a network is kept.
        prediction, scoring = map(importlib.import_module, ("lsdflow.prediction", "lsdflow.quick_scores"))
        setup = self.pipeline.setup

        def shapes(network: NetworkSettings) -> tuple[Shape, Shape]:
            return block_of(network, self.crop_shape)

        if self._inputs is None:
            self._inputs = prediction.inputs_seen(self.pipeline, self.raw, self.box, shapes, device=device)
        was_training, (block, context) = network.training, shapes(setup.network)
        predictor = prediction.BlockPredictor(
            network.eval(),
            setup.network,
            self._inputs,
            block_shape=block,
            context=context,
            device=device,
            name=setup.name,
        )
        found = prediction.predict_whole(predictor, self.box)
        network.train(was_training)
        losses = self.loss({name: torch.from_numpy(values)[None] for name, values in found.items()}, self.batch)
        scores = {"loss": float(sum(setup.loss_weights.get(name, 1.0) * value for name, value in losses.items()))}
        if "affinities" in found:
            stored = quantise(torch.from_numpy(found["affinities"][:3])).numpy()
            sections, size = self.in_sections, self.raw.voxel_size
            scores |= scoring.best_voi(stored, self.truth, in_sections=sections, voxel_size=size)
        return scores
