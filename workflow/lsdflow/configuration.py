"""An experiment's configuration: schema, defaults, and what a schema cannot check.

Everything is refused before any work starts, in sentences that name the key, what is wrong and what would be right.
"""

from __future__ import annotations

import difflib
import glob
import math
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from lsdflow.errors import UserError
from lsdflow.network_shapes import NETWORKS, NetworkSettings, n_channels, n_channels_seen
from lsdflow.prediction_shapes import block_of_region, input_box, reach
from lsdflow.roi import AXES, Roi

RAW_WATERSHED = "raw_watershed"
RAW_BLOCK = (128, 128, 128)
Config = dict[str, Any]

# What a refusal says instead of a JSON type or of a regular expression of the schema.
TYPES = {
    "object": "keys and values",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
PATTERNS = {
    "^[A-Za-z0-9][A-Za-z0-9_-]*$": "a name of letters, digits, - and _ that begins with a letter or digit",
    r"^(raw|[A-Za-z0-9][A-Za-z0-9_-]*\.(affinities|lsds))$": "raw, <setup>.affinities or <setup>.lsds",
    "^https?://": "an address that begins with http:// or https://",
}


def load_schema(path: Path) -> dict[str, Any]:
    """The JSON schema, from its YAML file."""
    return yaml.safe_load(Path(path).read_text())


def complete(config: Mapping[str, Any], schema: Mapping[str, Any]) -> Config:
    """A copy of ``config`` with all defaults, checked against ``schema``.

    Raises
    ------
    UserError
        Listing every key that the schema refuses.
    """
    result = deepcopy(dict(config))
    errors = sorted(Draft202012Validator(schema).iter_errors(result), key=lambda e: list(map(str, e.absolute_path)))
    if errors:
        # Each key that is missing is an error of its own, and each tells of all of them.
        lines = dict.fromkeys(line for e in errors for line in _explain(e, schema).split("\n"))
        raise UserError("the configuration cannot be used:\n" + "\n".join(f"  {line}" for line in lines))
    _fill(result, schema, schema)
    # A setup's training is what the experiment says, with what the setup says on top; no defaults in between.
    for name, setup in result["setups"].items():
        own = config["setups"][name].get("training", {})
        merged = {**result["training"], **own}
        merged["augment"] = {**result["training"]["augment"], **own.get("augment", {})}
        setup["training"] = deepcopy(merged)
    return result


def _resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with its reference, if it is one, replaced by what it refers to."""
    if "$ref" not in schema:
        return dict(schema)
    target: Any = root
    for key in schema["$ref"].removeprefix("#/").split("/"):
        target = target[key]
    return {**_resolve(target, root), **{k: v for k, v in schema.items() if k != "$ref"}}


def _fill(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> None:
    schema = _resolve(schema, root)
    if isinstance(value, dict):
        for key, part in schema.get("properties", {}).items():
            part = _resolve(part, root)
            if key not in value and "default" in part:
                value[key] = deepcopy(part["default"])
        for key, item in value.items():
            part = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if isinstance(part, Mapping):
                _fill(item, part, root)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for item in value:
            _fill(item, schema["items"], root)


def _explain(error: ValidationError, root: Mapping[str, Any]) -> str:
    """What the schema refuses, one line for each key."""
    where = ".".join(map(str, error.absolute_path)) or "the configuration"
    rule, value, given = error.validator, error.validator_value, error.instance
    if "propertyNames" in error.absolute_schema_path:
        meant = PATTERNS.get(value, f"a name that matches {value}") if rule == "pattern" else "text; write it in quotes"
        return f"{where}: {given!r} must be {meant}"
    if rule == "additionalProperties" and isinstance(error.schema.get("properties"), Mapping):
        known = list(error.schema["properties"])
        unknown = [key for key in given if key not in known]
        return "\n".join(f"{_join(error, key)}: unknown key{_hint(key, known)}" for key in unknown)
    if rule == "required":
        missing = [key for key in value if key not in given]
        return f"{where}: the key{'s' if len(missing) > 1 else ''} {', '.join(missing)} must be given"
    if rule == "oneOf" and "voxel_size" in error.schema.get("properties", {}):
        return f"{where}: a volume has either `simulate`, or both `raw` and `labels`"
    if rule == "oneOf":
        choices = [_resolve(choice, root) for choice in value]
        wanted = " or ".join(_words(choice, root) for choice in choices)
        return f"{where}: must be {wanted}, not {_shown(given)}{_number_hint(given, 'number')}"
    if rule == "type":
        return f"{where}: must be {_words({'type': value}, root)}, not {_shown(given)}{_number_hint(given, value)}"
    if rule == "enum":
        close = difflib.get_close_matches(str(given), [str(v) for v in value], 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{where}: must be one of {', '.join(map(str, value))}, not {given!r}{hint}"
    if rule in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        relation = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        return f"{where}: must be {relation[rule]} {value}, not {given}"
    if rule == "pattern" and value in PATTERNS:
        return f"{where}: must be {PATTERNS[value]}, not {given!r}"
    if rule in ("minItems", "maxItems"):
        wanted = _words(error.schema, root) if "maxItems" in error.schema else f"a list of at least {value}"
        return f"{where}: must be {wanted}, not {given}"
    if rule == "minProperties":
        return f"{where}: must not be empty"
    if rule == "uniqueItems":
        return f"{where}: must not hold the same twice: {given}"
    return f"{where}: {error.message}"


def _join(error: ValidationError, key: str) -> str:
    return ".".join([*map(str, error.absolute_path), str(key)])


def _words(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """What a (resolved) schema takes: ``a number > 0``, ``a list of 3, each a number > 0``."""
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    text = " or ".join(TYPES[kind] for kind in kinds)
    if "maxItems" in schema:
        text += f" of {schema['maxItems']}, each {_words(_resolve(schema['items'], root), root)}"
    if "exclusiveMinimum" in schema:
        text += f" > {schema['exclusiveMinimum']}"
    if "minimum" in schema:
        text += f" ≥ {schema['minimum']}"
    return text


def _shown(value: Any) -> str:
    """A value in a message; ``key:`` with nothing behind it is no Python None to its writer."""
    return "nothing" if value is None else repr(value)


def _hint(name: str, known: Iterable[str]) -> str:
    known = [str(k) for k in known]
    close = difflib.get_close_matches(str(name), known, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there {'are' if len(known) > 1 else 'is'} {', '.join(known)}" if known else "; none is defined"


def _number_hint(value: Any, kinds: str | list[str]) -> str:
    """How to write a number that YAML took for a word."""
    is_asked = "number" in kinds or "integer" in kinds
    if not is_asked or not isinstance(value, str):
        return ""
    # YAML 1.1 wants a dot before the exponent and a sign in it.
    parts = re.fullmatch(r"([+-]?\d+(?:\.\d*)?)[eE]([+-]?\d+)", value)
    if parts and "integer" in kinds:
        return f": write {float(value):.0f}"
    if parts:
        mantissa, exponent = parts.groups()
        written = f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent):+d}"
        return f": write {written}, because YAML takes {value} for a word"
    try:
        float(value)
    except ValueError:
        return ""
    return ": write it without quotes"


def region_roi(config: Config, region: Mapping[str, Any]) -> Roi:
    """The box of a region of the split, in voxels of its volume."""
    shape = config["volumes"][region["volume"]]["shape"]
    ranges = [region["roi"].get(axis, [0, length]) for axis, length in zip(AXES, shape, strict=True)]
    return Roi(tuple(begin for begin, _ in ranges), tuple(end for _, end in ranges))


def regions(config: Config) -> dict[str, dict[str, Any]]:
    """All regions of the split by name: ``train-0``, ``train-1``, …, ``validation``, ``test``."""
    split = config["split"]
    trains = {f"train-{index}": region for index, region in enumerate(split["train"])}
    return {**trains, "validation": split["validation"], "test": split["test"]}


def thresholds(config: Config) -> list[float]:
    """The agglomeration thresholds to score, rounded to six digits."""
    grid = config["evaluation"]["thresholds"]
    count = int(round((grid["end"] - grid["begin"]) / grid["step"])) + 1
    values = [round(grid["begin"] + index * grid["step"], 6) for index in range(count)]
    return [value for value in values if value <= grid["end"] + 1e-9]


def segmenting(config: Config) -> list[str]:
    """The rows that the graph segments: setups with affinities, and the watershed on the raw image."""
    names = [name for name, setup in config["setups"].items() if "affinities" in setup["outputs"]]
    return names + ([RAW_WATERSHED] if config["raw_watershed"]["enabled"] else [])


def replicates(config: Config, setup: str) -> list[int]:
    """The replicates of a row: the watershed on the raw image has nothing to repeat."""
    return [0] if setup == RAW_WATERSHED else list(config["replicates"])


def input_setups(config: Config, setup: str) -> list[str]:
    """The setups whose predictions ``setup`` sees, in order, none twice."""
    names = [name.partition(".")[0] for name in config["setups"][setup]["inputs"] if name != "raw"]
    return list(dict.fromkeys(names))


def network_of(config: Config, setup: str) -> NetworkSettings:
    """The network of ``setup``: one of the experiment's own, or a built-in one."""
    name = config["setups"][setup].get("network", config["network"])
    own = config["networks"].get(name)
    return NetworkSettings(**own) if own else NETWORKS[name]


def channels_seen(config: Config, setup: str) -> int:
    """Channels of all inputs of ``setup`` together."""
    inputs = config["setups"][setup]["inputs"]
    return n_channels_seen(inputs, lambda name, output: channels_of_output(config, name, output))


def channels_of_output(config: Config, setup: str, output: str) -> int:
    """Channels of one output of ``setup``."""
    return n_channels(output, 3 * len(config["setups"][setup]["affinities"]["offsets"]))


def reach_beyond(config: Config, setup: str, region: str = "test") -> tuple[int, int, int]:
    """Voxels by which the predictions of ``setup`` must reach beyond a region, for the setups that see them."""
    found = (0, 0, 0)
    for name in config["setups"]:
        if setup in input_setups(config, name):
            beyond, block = reach_beyond(config, name, region), prediction_block(config, name, region)
            needed = reach(network_of(config, name), block, config["prediction"]["context"])
            found = tuple(max(f, b + n) for f, b, n in zip(found, beyond, needed, strict=True))
    return found


def prediction_roi(config: Config, setup: str, region: str) -> Roi:
    """The box that is predicted: the region, and what setups that see these predictions need around it."""
    return region_roi(config, regions(config)[region]).grow(reach_beyond(config, setup, region))


def prediction_block(config: Config, setup: str, region: str = "test") -> tuple[int, int, int]:
    """The block shape in which ``setup`` predicts a region; UserError if no block fits into memory."""
    settings = config["prediction"]
    if settings["block_shape"] != "auto":
        return tuple(settings["block_shape"])
    if setup == RAW_WATERSHED:
        return RAW_BLOCK
    network = network_of(config, setup)
    channels = [channels_of_output(config, setup, output) for output in config["setups"][setup]["outputs"]]
    return block_of_region(
        network,
        prediction_roi(config, setup, region).shape,
        crop_shape=tuple(config["setups"][setup]["training"]["crop_shape"]),
        memory_mb=settings["memory_mb"],
        context=tuple(settings["context"]),
        in_channels=channels_seen(config, setup),
        head_channels=sum(channels),
        num_fmaps_out=network.num_fmaps_out(channels),
        chunks=settings["chunks"],
    )


def voxels_of_targets(config: Config, volume: str) -> tuple[int, int]:
    """How many voxels a block of targets of ``volume`` has, and how many its descriptors see."""
    targets, sizes = config["targets"], config["volumes"][volume]["voxel_size"]
    sigma = targets["sigma"] if isinstance(targets["sigma"], list) else [targets["sigma"]] * 3
    # Rounded up generously: this serves to ask for memory.
    reach = [3 * s / v + targets["downsample"] + targets["grow_boundary"] for s, v in zip(sigma, sizes, strict=True)]
    seen = [b + 2 * math.ceil(r) for b, r in zip(targets["block_shape"], reach, strict=True)]
    return math.prod(targets["block_shape"]), math.prod(seen)


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
            raise UserError(f"{where}: there is no network {network!r}{_hint(network, networks)}")
        if setup["affinities"]["offsets"][0] != 1:
            raise UserError(f"setups.{name}.affinities.offsets: must begin with 1, the nearest neighbours")
        for source in setup["inputs"]:
            other, _, output = source.partition(".")
            if source == "raw":
                continue
            if other not in setups:
                raise UserError(
                    f"setups.{name}.inputs: {source!r}, but there is no setup {other!r}{_hint(other, setups)}"
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
                f"{_hint(source['download'], config['downloads'])}"
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
        raise UserError(f"{where}.volume: there is no volume {volume!r}{_hint(volume, config['volumes'])}")
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
                f"{where}.volume: there is no volume {region['volume']!r}{_hint(region['volume'], config['volumes'])}"
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
