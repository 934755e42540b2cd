"""What there is to see of an experiment, and the Neuroglancer state that shows it side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsdflow.errors import UserError
from lsdflow.figures.style import LABELS, label
from lsdflow.volumes import Volume, open_volume

# Of affinities those of the nearest neighbours along z, y, x; of descriptors the offset to the mean.
RGB = """void main() {
  emitRGB(vec3(toNormalized(getDataValue(0)), toNormalized(getDataValue(1)), toNormalized(getDataValue(2))));
}
"""
# What a window is expected to have for panels, and a panel's lines of names, in pixels.
WINDOW_YX = (1000, 1900)
NAMES = 90


@dataclass(frozen=True)
class Layer:
    """One volume as the viewer shows it.

    Attributes
    ----------
    name : what the reader sees.
    store : folder of the OME-Zarr image.
    kind : ``"grey"``, ``"rgb"`` or ``"segmentation"``.
    is_shown : whether it is seen at once, or after a click on its name.
    """

    name: str
    store: Path
    kind: str
    is_shown: bool = True


@dataclass(frozen=True)
class Scene:
    """The panels of the viewer, side by side, and where they look.

    Attributes
    ----------
    root : the folder that holds ``results`` and ``resources``.
    panels : the layers of each, the lowest first; a layer may be in several.
    region : the volume whose extent all panels show; its voxels are not read.
    """

    root: Path
    panels: tuple[tuple[Layer, ...], ...]
    region: Volume

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, each once."""
        return tuple(dict.fromkeys(layer for panel in self.panels for layer in panel))

    def path(self, layer: Layer) -> str:
        """Where a layer's store lies below `root`, with slashes."""
        return layer.store.relative_to(self.root).as_posix()


def find_scene(
    folder: str | Path,
    *,
    region: str = "test",
    setups: Sequence[str] | None = None,
    replicates: Sequence[str] | None = None,
) -> Scene:
    """What the results in ``folder`` have of a region: raw, truth, affinities, descriptors and segmentations.

    Where there is no segmentation yet, or never is one (of the validation region), its fragments stand for it.

    Parameters
    ----------
    folder : ``results/<experiment>``; volumes lie where the workflow puts them, in ``resources`` beside ``results``.
    region : ``"test"`` or ``"validation"``.
    setups, replicates : those to show; by default all setups, with the segmentations from elsewhere that the experiment
        compares them with, and the first replicate of each.

    Raises
    ------
    UserError
        If there is no such experiment, or nothing of what is asked for has been segmented.
    """
    # Not resolved: results may be a link to another disk, and the volumes lie beside the link.
    folder = Path(folder).absolute()
    root = folder.parents[1]
    runs = _runs(folder / "segmentations", f"{region}/fragments.zarr/fragments", setups, replicates)
    if not runs:
        raise UserError(_nothing_there(folder, region))
    there = {path.name for part in ("predictions", "segmentations") for path in (folder / part).glob("*")}
    if unknown := sorted(set(setups or ()) - there):
        raise UserError(f"{folder.name} has nothing of {', '.join(unknown)}; it has {', '.join(sorted(there))}")
    volume = _volume_of(folder, region)

    def name(setup: str, replicate: str) -> str:
        return f"{label(setup)}, replicate {replicate}" if replicates else label(setup)

    raw = Layer("Raw", root / volume / "raw", "grey")
    panels = [(raw,), (raw, Layer("Truth", root / volume / "labels", "segmentation"))]
    for part, words in (("affinities", "affinities"), ("lsds", "LSDs")):
        inner = f"{region}.zarr/{part}"
        predicted = [
            Layer(f"{name(*run)} {words}", folder / "predictions" / Path(*run) / inner, "rgb", is_shown=index == 0)
            for index, run in enumerate(_runs(folder / "predictions", inner, setups, replicates))
        ]
        panels += [tuple(predicted)] if predicted else []
    for run in runs:
        place = folder / "segmentations" / Path(*run) / region
        found = Layer(name(*run), place / "segmentation.zarr/segmentation", "segmentation")
        is_done = _is_written(found.store)
        fragments = Layer(
            f"{found.name} fragments", place / "fragments.zarr/fragments", found.kind, is_shown=not is_done
        )
        panels.append((raw, fragments, found) if is_done else (raw, fragments))
    if setups is None and region == "test":
        for scores in sorted(path for path in (folder / "scores/external").glob("*") if path.is_dir()):
            store = root / "resources/segmentations" / f"{scores.name}.zarr/segmentation"
            panels += [(raw, Layer(label(scores.name), store, "segmentation"))] if store.is_dir() else []
    return Scene(root, tuple(panels), open_volume(place / "fragments.zarr", "fragments"))


def _is_written(store: Path) -> bool:
    """Whether a volume has any voxels: jobs make an empty one before others fill it."""
    return (store / "0/c").is_dir()


def _runs(
    folder: Path, inner: str, setups: Sequence[str] | None, replicates: Sequence[str] | None
) -> list[tuple[str, str]]:
    """The (setup, replicate) that are asked for and have a volume ``inner``, with voxels, below ``folder``."""
    known = list(LABELS)
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob(f"*/*/{inner}")):
        setup, replicate = path.relative_to(folder).parts[:2]
        is_wanted = (setups is None or setup in setups) and (replicates is None or replicate in replicates)
        if is_wanted and _is_written(path):
            found.setdefault(setup, []).append(replicate)
    order = sorted(found, key=lambda setup: (known.index(setup) if setup in known else len(known), setup))
    return [(setup, replicate) for setup in order for replicate in found[setup][: None if replicates else 1]]


def _nothing_there(folder: Path, region: str) -> str:
    """Why there is nothing to see, and what to do about it."""
    if not folder.is_dir():
        others = sorted(path.parent.name for path in folder.parent.glob("*/segmentations"))
        there_are = f"those in {folder.parent} are {', '.join(others)}" if others else "none has been run: `make run`"
        return f"there is no experiment in {folder}; {there_are}"
    if done := _runs(folder / "segmentations", f"{region}/fragments.zarr/fragments", None, None):
        there_are = ", ".join(f"{setup} (replicate {replicate})" for setup, replicate in done)
        return f"{folder.name} has no such segmentation of its {region} region; it has {there_are}"
    return f"{folder.name} has no segmentation of its {region} region yet: run it again, it goes on where it stopped"


def _volume_of(folder: Path, region: str) -> str:
    """The store of the volume that a region lies in, by what the results say of their inputs."""
    for pattern in (f"segmentations/*/*/{region}/provenance/*.json", f"predictions/*/*/provenance/*-{region}.json"):
        for path in sorted(folder.glob(pattern)):
            for source in json.loads(path.read_text())["inputs"]:
                if Path(source).parent == Path("resources/volumes"):
                    return source
    raise UserError(f"nothing below {folder} says which volume its {region} region lies in: run the workflow again")


def neuroglancer_state(scene: Scene, url: str) -> dict[str, Any]:
    """The state of a Neuroglancer that shows ``scene``, whose root is served at ``url``.

    All panels show the same section, through the middle of the region.
    """
    voxel_size, extent = scene.region.voxel_size, scene.region.shape_zyx
    dimensions = {axis: [size, "nm"] for axis, size in zip("zyx", voxel_size, strict=True)}
    middle = [o / v + n / 2 for o, v, n in zip(scene.region.offset, voxel_size, extent, strict=True)]
    viewers = [{"type": "viewer", "layers": [layer.name for layer in panel], "layout": "xy"} for panel in scene.panels]
    columns = math.ceil(len(viewers) / round(math.sqrt(len(viewers) / 1.5)))
    rows = [viewers[begin : begin + columns] for begin in range(0, len(viewers), columns)]
    panel_yx = (WINDOW_YX[0] / len(rows) - NAMES, WINDOW_YX[1] / columns)
    nm_per_pixel = max(n * v / p for n, v, p in zip(extent[1:], voxel_size[1:], panel_yx, strict=True))
    return {
        "dimensions": {axis: dimensions[axis] for axis in "xyz"},
        "position": middle[::-1],
        "crossSectionScale": nm_per_pixel / min(voxel_size),
        "layers": [_layer_state(layer, f"{url}/{scene.path(layer)}/|zarr3:", dimensions) for layer in scene.layers],
        "layout": {"type": "column", "children": [{"type": "row", "children": row} for row in rows]},
    }


def _layer_state(layer: Layer, source: str, dimensions: dict[str, Any]) -> dict[str, Any]:
    common = {"name": layer.name, "visible": layer.is_shown}
    if layer.kind == "segmentation":
        return {**common, "type": "segmentation", "source": source, "selectedAlpha": 0.4}
    if layer.kind == "grey":
        return {**common, "type": "image", "source": source}
    # Channels are a dimension of the shader then, not one to scroll through.
    channels = {"c^": [1, ""]}
    source = {"url": source, "transform": {"outputDimensions": {**channels, **dimensions}}}
    return {**common, "type": "image", "source": source, "channelDimensions": channels, "shader": RGB}
