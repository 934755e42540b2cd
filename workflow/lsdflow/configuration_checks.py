"""What a schema cannot check of a configuration: everything is refused before any work starts.

Sentences name the key, what is wrong and what would be right.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsdflow.configuration import (
    RAW_WATERSHED,
    Config,
    context_of_fragments,
    distances_of_affinities,
    hint,
    input_setups,
    network_of,
    prediction_block,
    region_roi,
    regions,
    segmenting,
    window_of_fragments,
)
from lsdflow.errors import UserError
from lsdflow.network_shapes import NETWORKS
from lsdflow.prediction_shapes import input_box
from lsdflow.roi import AXES, Roi

# A job counts a block's affinities, three for each voxel, in 32 bits.
LARGEST_WINDOW = 7 * 10**8


def check(config: Config) -> None:
    """Refuse what the schema cannot see.

    Raises
    ------
    UserError
        For setups, volumes or downloads that do not exist, cycles of setups, regions outside their volume or
        overlapping, crops and blocks that a network cannot take, files that are not there, and threshold grids that
        run backwards.
    """
    _check_setups(config, [*NETWORKS, *config["networks"]])
    _check_sources(config)
    _check_regions(config)
    _check_shapes(config)
    _check_symmetries(config)
    _check_sigma(config)
    _check_training(config)
    _check_segmentation(config)
    grid = config["evaluation"]["thresholds"]
    if grid["end"] < grid["begin"]:
        raise UserError(f"evaluation.thresholds: begin ({grid['begin']}) must not be above end ({grid['end']})")


def _check_setups(config: Config, networks: list[str]) -> None:
    setups = config["setups"]
    if RAW_WATERSHED in setups:
        raise UserError(f"setups.{RAW_WATERSHED}: this name belongs to the row without a network; choose another name")
    if "raw" in setups:
        raise UserError("setups.raw: among inputs, raw means the image; choose another name")
    if not any("affinities" in setup["outputs"] for setup in setups.values()):
        raise UserError("setups: none has affinities among its outputs, so there is nothing to segment")
    for name, setup in setups.items():
        if (network := setup.get("network", config["network"])) not in networks:
            where = f"setups.{name}.network" if "network" in setup else "network"
            raise UserError(f"{where}: there is no network {network!r}{hint(network, networks)}")
        if setup["affinities"]["offsets"][0] != 1:
            raise UserError(f"setups.{name}.affinities.offsets: must begin with 1, the nearest neighbours")
        for source in setup["inputs"]:
            other, _, output = source.partition(".")
            if source == "raw":
                continue
            if other not in setups:
                raise UserError(
                    f"setups.{name}.inputs: {source!r}, but there is no setup {other!r}{hint(other, setups)}"
                )
            if output not in setups[other]["outputs"]:
                raise UserError(
                    f"setups.{name}.inputs: {source!r}, but the outputs of setup {other!r} are "
                    f"{', '.join(setups[other]['outputs'])} only"
                )
    for name in setups:
        _check_cycle(config, name, [])


def _check_sigma(config: Config) -> None:
    sigma = config["targets"]["sigma"]
    transposed = [name for name, setup in config["setups"].items() if setup["training"]["augment"]["transpose"]]
    for volume in {region["volume"] for region in config["split"]["train"]}:
        pairs = (
            list(zip(config["volumes"][volume]["voxel_size"], sigma, strict=True)) if isinstance(sigma, list) else []
        )
        if transposed and len({size for size, _ in pairs}) < len(set(pairs)):
            raise UserError(
                f"targets.sigma: {sigma} differs between axes of equal voxel size, which training.augment.transpose "
                f"exchanges (setup {transposed[0]!r}): set it to false, or give those axes the same sigma"
            )


def _check_training(config: Config) -> None:
    for name, setup in config["setups"].items():
        training, own = setup["training"], config["training"]

        def where(key, training=training, own=own, name=name):
            return f"training.{key}" if training[key] == own[key] else f"setups.{name}.training.{key}"

        if training["batch_size"] % training["processes"]:
            raise UserError(
                f"{where('batch_size')}: {training['batch_size']} crops cannot be shared evenly by "
                f"training.processes, {training['processes']}: take a multiple of it"
            )
        if training["accumulate"] > training["batch_size"] // training["processes"]:
            raise UserError(
                f"{where('accumulate')}: a batch of {training['batch_size'] // training['processes']} crops for each "
                f"process cannot be computed in {training['accumulate']} parts: take at most as many parts as crops"
            )
        after = setup["malis"]["after"]
        if setup["losses"]["affinities"] == "malis" and after >= training["iterations"]:
            raise UserError(
                f"setups.{name}.malis.after: {after}, but the training ends after {training['iterations']} iterations, "
                "so MALIS would never begin: take less, or more training.iterations"
            )
        augment = training["augment"]
        for key in ("shift_probability", "slip_probability"):
            missing = [needed for needed in ("elastic", "max_misalign") if not augment[needed]]
            if augment[key] and missing:
                raise UserError(
                    f"training.augment.{key}: {augment[key]} does nothing while training.augment.{missing[0]} is 0 "
                    f"(setup {name!r}): sections of deformed crops are displaced, by up to max_misalign voxels"
                )
        for volume in {region["volume"] for region in config["split"]["train"]} if augment["elastic"] else ():
            _, y, x = config["volumes"][volume]["voxel_size"]
            if augment["rotation"] and y != x:
                raise UserError(
                    f"training.augment.rotation: voxels of volume {volume!r} are {y} × {x} nm along y and x, so that a "
                    "crop turned about z would be stretched: set it to 0"
                )


def _check_segmentation(config: Config) -> None:
    settings = config["segmentation"]
    shapes = [region_roi(config, regions(config)[name]).shape for name in ("validation", "test")]
    sizes = (settings["block_shape"], context_of_fragments(config), *shapes)
    for axis, block, context, *lengths in zip(AXES, *sizes, strict=True):
        if block <= context and block < max(lengths):
            raise UserError(
                f"segmentation.block_shape: {settings['block_shape']} must be larger than segmentation.context, "
                f"{settings['context']}, along {axis} too, or each voxel is computed many times: take larger blocks, "
                "or less context"
            )
    largest = max(math.prod(window_of_fragments(config, name)) for name in ("validation", "test"))
    if largest > LARGEST_WINDOW:
        raise UserError(
            f"segmentation.block_shape: {settings['block_shape']} with context are {largest:.2g} voxels, but a job can "
            f"count {LARGEST_WINDOW:.2g}: take smaller blocks"
        )
    if settings["method"] != "mutex_watershed":
        return
    for name in segmenting(config):
        if len(distances_of_affinities(config, name)) == 1:
            where = f"setups.{name}.affinities.offsets: must hold a larger distance, such as [1, 3, 9]"
            if name == RAW_WATERSHED:
                where = "raw_watershed.enabled: must be false, because grey values tell of neighbours only"
            raise UserError(f"{where}: segmentation.method mutex_watershed needs long-range affinities")


def _check_symmetries(config: Config) -> None:
    """Refuse to exchange y and x where a network, or what it predicts, tells them apart."""
    names = {config["split"][part]["volume"] for part in ("validation", "test")}
    sizes = [config["volumes"][name]["voxel_size"] for name in names]
    if config["prediction"]["augment"] != "all" or all(y != x for _, y, x in sizes):
        return
    for name, setup in config["setups"].items():
        differ = [f for f in network_of(config, name).downsample_factors if f[1] != f[2]]
        if differ:
            what, where = f"its network goes down by {list(differ[0])}", "networks"
        elif along := [d for d in setup["affinities"]["offsets"] if isinstance(d, list) and d[1] != d[2]]:
            what, where = f"its affinities have the distances {along[0]}", f"setups.{name}.affinities.offsets"
        else:
            continue
        raise UserError(
            f"prediction.augment: all exchanges y and x, but for setup {name!r} they differ ({what}): take flips, or "
            f"make them alike in {where}"
        )


def _check_cycle(config: Config, name: str, path: list[str]) -> None:
    if name in path:
        cycle = " → ".join([*path[path.index(name) :], name])
        raise UserError(
            f"setups.{name}.inputs: {cycle} is a cycle; a setup cannot see its own predictions, "
            "neither directly nor through others: take one of these inputs out"
        )
    for other in input_setups(config, name):
        _check_cycle(config, other, [*path, name])


def _check_sources(config: Config) -> None:
    sources = {}
    for name, volume in config["volumes"].items():
        parts = [part for part in ("raw", "labels", "mask") if part in volume]
        if "simulate" in volume and parts:
            raise UserError(f"volumes.{name}: has `simulate` and also `{parts[0]}`; a volume is simulated or read")
        sources |= {f"volumes.{name}.{part}": volume[part] for part in [*parts, "skeletons"] if part in volume}
    for name, external in config["external_segmentations"].items():
        _check_external(config, name, external["volume"])
        sources[f"external_segmentations.{name}.source"] = external["source"]
    for where, source in sources.items():
        if "download" not in source:
            _check_file(f"{where}.path", source)
        elif source["download"] not in config["downloads"]:
            raise UserError(
                f"{where}.download: there is no download {source['download']!r}"
                f"{hint(source['download'], config['downloads'])}"
            )
    for name, download in config["downloads"].items():
        if not Path(download["checksums"]).is_file():
            raise UserError(
                f"downloads.{name}.checksums: there is no file {download['checksums']}; "
                "it lists what to bring, one `<sha256>  <path below url>` a line"
            )
    mirror = config["mirror"]
    is_address = mirror is None or mirror.startswith(("http://", "https://"))
    if config["downloads"] and not is_address and not Path(mirror).expanduser().is_dir():
        raise UserError(f"mirror: {mirror} must be an existing folder or an http(s) address")


def _check_external(config: Config, name: str, volume: str) -> None:
    where = f"external_segmentations.{name}"
    if name == RAW_WATERSHED:
        raise UserError(f"{where}: this name belongs to the row without a network; choose another name")
    if name in config["setups"]:
        raise UserError(f"{where}: a setup has the same name; choose another name")
    if volume not in config["volumes"]:
        raise UserError(f"{where}.volume: there is no volume {volume!r}{hint(volume, config['volumes'])}")
    test = config["split"]["test"]["volume"]
    if volume != test and test in config["volumes"]:
        raise UserError(f"{where}.volume: must be {test!r}, the volume of split.test, which it is scored on")


def _check_file(where: str, source: Mapping[str, Any]) -> None:
    """Refuse a source on this machine that is not there."""
    path = source["path"]
    if source.get("format") == "image_stack":
        if not glob.glob(path, recursive=True):
            raise UserError(f"{where}: no file matches {path!r}; give a pattern such as folder/*.png, or a download")
    elif not Path(path).exists():
        is_pattern = any(c in path for c in "*?[")
        remedy = "only the format image_stack takes a pattern" if is_pattern else "correct it, or name a download"
        raise UserError(f"{where}: there is no file {path!r} (seen from {Path.cwd()}); {remedy}")


def _check_regions(config: Config) -> None:
    boxes = {}
    for name, region in regions(config).items():
        where = f"split.{name.replace('-', '.')}"
        if region["volume"] not in config["volumes"]:
            raise UserError(
                f"{where}.volume: there is no volume {region['volume']!r}{hint(region['volume'], config['volumes'])}"
            )
        box = region_roi(config, region)
        whole = Roi.of_shape(config["volumes"][region["volume"]]["shape"])
        for axis, begin, end, length in zip(AXES, box.begin, box.end, whole.shape, strict=True):
            if begin >= end:
                raise UserError(f"{where}.roi.{axis}: [{begin}, {end}] is empty; its end must be above its begin")
            if end > length:
                raise UserError(
                    f"{where}.roi.{axis}: [{begin}, {end}] reaches beyond the volume {region['volume']!r}, "
                    f"which has {length} voxels along {axis}"
                )
        boxes[name] = (region["volume"], box)
    for name, (volume, box) in boxes.items():
        for other, (other_volume, other_box) in boxes.items():
            both_train = name.startswith("train") and other.startswith("train")
            if name < other and not both_train and volume == other_volume and box.overlaps(other_box):
                raise UserError(
                    f"split: {name} and {other} overlap in volume {volume!r}, at {box.intersect(other_box)}; "
                    "what is trained on, selected on and reported must lie apart"
                )


def _check_shapes(config: Config) -> None:
    prediction = config["prediction"]
    for name, setup in config["setups"].items():
        network, crop = network_of(config, name), setup["training"]["crop_shape"]
        is_own = crop != config["training"]["crop_shape"]
        where = f"setups.{name}.training.crop_shape" if is_own else "training.crop_shape"
        try:
            network.input_shape(crop)
        except UserError as error:
            raise UserError(f"{where} {crop} does not suit the network of setup {name!r}: {error}") from None
        try:
            for region_name in ("validation", "test"):
                input_box(network, prediction_block(config, name, region_name), prediction["context"])
        except UserError as error:
            if prediction["block_shape"] == "auto":
                where = "prediction.memory_mb: too little for"
                raise UserError(f"{where} the network of setup {name!r}: {error}") from None
            with_context = f" + 2 × context {prediction['context']}" if network.is_padded else ""
            raise UserError(
                f"prediction.block_shape {prediction['block_shape']}{with_context} does not suit the network of setup "
                f"{name!r}: {error}"
            ) from None
        for region_name, region in regions(config).items():
            shape = region_roi(config, region).shape
            if region_name.startswith("train") and any(c > n for c, n in zip(crop, shape, strict=True)):
                raise UserError(
                    f"{where} {crop} of setup {name!r} is larger than the region "
                    f"split.{region_name.replace('-', '.')} {list(shape)}; choose a smaller crop"
                )
