"""How large the seams between predicted blocks are, with windows blended or their context dropped.

``seams.py VOLUME CHECKPOINT FOLDER`` predicts eight blocks in the middle of a volume with a padded network that sees
raw voxels, and writes a page with a table and a figure of a section through the edge where four of them meet.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from lsdflow.blocks import BlockGrid
from lsdflow.checkpoints import load_weights
from lsdflow.figures import style
from lsdflow.network_inputs import NetworkInput
from lsdflow.network_shapes import NetworkSettings
from lsdflow.prediction import BlockPredictor, predict_whole
from lsdflow.provenance import processor
from lsdflow.roi import Roi
from lsdflow.setups import Setup, SetupNetwork
from lsdflow.volumes import Volume, open_volume

BLOCK = 64
CONTEXTS = (4, 8, 16)
SHOWN = 72  # voxels along an edge of the figure's sections


def load(path: str) -> tuple[SetupNetwork, NetworkSettings]:
    """The network of a checkpoint, which says itself what it is."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    settings = NetworkSettings(**content["network"])
    offsets = tuple(tuple(offset) for offset in content["offsets"])
    setup = Setup("seams", tuple(content["inputs"]), tuple(content["outputs"]), settings, offsets)
    network = SetupNetwork(setup, 1)
    load_weights(network, setup, path)
    return network.to(memory_format=torch.channels_last_3d), settings


def predict(network: SetupNetwork, settings: NetworkSettings, raw: Volume, roi: Roi, block: int, context: int):
    """Affinities (3, z, y, x) of ``roi`` in blocks, blended."""
    predictor = BlockPredictor(
        network,
        settings,
        [NetworkInput(raw)],
        block_shape=(block,) * 3,
        context=(context,) * 3,
        device=torch.device("cpu"),
    )
    return predict_whole(predictor, roi)["affinities"]


def predict_dropped(network: SetupNetwork, settings: NetworkSettings, raw: Volume, roi: Roi, context: int):
    """The same with each block from its own window alone."""
    whole = np.empty((3, *roi.shape), np.float32)
    grid = BlockGrid(roi, (BLOCK,) * 3)
    for index in range(len(grid)):
        inside = grid[index].shift([-b for b in roi.begin]).slices
        whole[(slice(None), *inside)] = predict(network, settings, raw, grid[index], BLOCK, context)
    return whole


def steps(values: np.ndarray) -> float:
    """Mean step across the faces of blocks over the mean step between other neighbours: 1 where there is no seam."""
    across, inside = [], []
    for axis in range(1, 4):
        step = np.abs(np.diff(values, axis=axis))
        is_face = np.arange(1, values.shape[axis]) % BLOCK == 0
        across.append(step.compress(is_face, axis).ravel())
        # Voxels as near to the border of the region have other neighbours, but no other steps.
        inside.append(step.compress(~is_face, axis).ravel())
    return float(np.concatenate(across).mean() / np.concatenate(inside).mean())


def depths(shape: tuple[int, int, int]) -> np.ndarray:
    """How far each voxel is from the nearest face between two blocks, in voxels."""
    along = [np.abs(np.arange(n) + 0.5 - BLOCK) for n in shape]
    return np.minimum(np.minimum(along[0][:, None, None], along[1][:, None]), along[2])


def errors(values: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """Mean difference, in grey levels of 255: at faces, up to 8 voxels from them, and deeper."""
    difference, depth = 255 * np.abs(values - reference).mean(axis=0), depths(values.shape[1:])
    return tuple(float(difference[m].mean()) for m in (depth < 1, depth < 8, depth >= 8))


def picture(path: Path, raw: np.ndarray, made: dict[str, np.ndarray], reference: np.ndarray) -> None:
    """The section around the edge between four blocks where blocks differ most: affinities along x, and differences."""
    near = slice(BLOCK - SHOWN // 2, BLOCK + SHOWN // 2)
    differences = {name: 255 * (values - reference)[2, :, near, near] for name, values in made.items()}
    section = int(np.argmax(sum(np.abs(d).sum(axis=(1, 2)) for d in differences.values())))
    figure = style.new_figure(7.2, 4.8)
    top, bottom = figure.subplots(2, 3)
    top[0].imshow(raw[section, near, near], cmap="gray", vmin=0, vmax=255)
    top[0].set_title("raw")
    for ax, (name, values) in zip((*top[1:], bottom[0]), {**made, "one pass": reference}.items(), strict=True):
        grey = ax.imshow(values[2, section, near, near], cmap="gray", vmin=0, vmax=1)
        ax.set_title(name)
    figure.colorbar(grey, ax=list(top), label="affinity along x")
    limit = max(np.percentile(np.abs(d[section]), 99) for d in differences.values())
    for ax, (name, difference) in zip(bottom[1:], differences.items(), strict=True):
        shown = ax.imshow(difference[section], cmap="RdBu", vmin=-limit, vmax=limit)
        ax.set_title(f"{name} − one pass")
    figure.colorbar(shown, ax=list(bottom), label="difference (grey levels)")
    for ax in (*top, *bottom):
        ax.set_xticks([SHOWN // 2 - 0.5], ["face"])
        ax.set_yticks([SHOWN // 2 - 0.5], ["face"], rotation=90, verticalalignment="center")
    style.save(figure, path)


def main(volume: str, checkpoint: str, folder: str) -> None:
    network, settings = load(checkpoint)
    if not settings.is_padded:
        raise SystemExit("blocks of a valid network have no seams: name the checkpoint of a padded one")
    raw = open_volume(volume, "raw")
    begin = tuple((n - 2 * BLOCK) // 2 for n in raw.shape_zyx)
    roi = Roi(begin, tuple(b + 2 * BLOCK for b in begin))
    reference = predict(network, settings, raw, roi, 2 * BLOCK, 2 * max(CONTEXTS))
    dropped = {c: predict_dropped(network, settings, raw, roi, c) for c in (*CONTEXTS, 2 * max(CONTEXTS))}
    blended = {c: predict(network, settings, raw, roi, BLOCK, c) for c in CONTEXTS}
    rows: list[str] = []
    for context in CONTEXTS:
        for name, values in (("dropped", dropped[context]), ("blended", blended[context])):
            cells = [f"{steps(values):.3f}"]
            for other in (reference, dropped[2 * context]):
                cells.append(" / ".join(f"{e:.2f}" for e in errors(values, other)))
            cost = ((BLOCK + 2 * context) / BLOCK) ** 3
            rows.append(f"| {context} | {name} | {cost:.2f} | {' | '.join(cells)} |")
    lines = [
        "# Seams between blocks",
        "",
        f"Affinities of 2 × 2 × 2 blocks of {BLOCK}³ voxels in the middle of `{Path(volume).name}`, by a "
        f"`{settings.architecture}` with {settings.num_fmaps} feature maps. Each block is predicted with context on "
        "all sides; then predictions of the context are dropped, or blended with those of the neighbours, as "
        "`lsdflow` does.",
        "",
        "* Step: mean difference between neighbours across faces of blocks, over that inside blocks; one pass over all "
        f"of it has {steps(reference):.3f}.",
        "* Errors: mean absolute difference in grey levels of 255, at a face / up to 8 voxels from one / deeper; from "
        f"one pass over all of it with {2 * max(CONTEXTS)} voxels of context, and from blocks with twice the context, "
        "dropped.",
        "",
        "Deep inside a block the error is that of the normalisation, whose mean and spread are those of the window; it "
        "makes the steps that blending takes away.",
        "",
        "| context | its predictions | computed per kept voxel | step | error from one pass | from twice the context |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "![A section through the edge between four blocks](seams.png)",
        "",
        f"Measured on {processor()}; errors do not depend on it.",
    ]
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / "seams.md").write_text("\n".join(lines) + "\n")
    context = CONTEXTS[1]
    made = {"dropped": dropped[context], "blended": blended[context]}
    with style.context():
        picture(target / "seams", raw.read(roi), made, reference)


if __name__ == "__main__":
    main(*sys.argv[1:])
