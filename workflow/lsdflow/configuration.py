"""An experiment's configuration: its schema, its defaults, and what follows from it.

What the schema refuses is told in sentences that name the key, what is wrong and what would be right.
"""

from __future__ import annotations

import difflib
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
from lsdflow.prediction_shapes import block_of_region, reach
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
        return "\n".join(f"{_join(error, key)}: unknown key{hint(key, known)}" for key in unknown)
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
        meant = f"; did you mean {close[0]}?" if close else ""
        return f"{where}: must be one of {', '.join(map(str, value))}, not {given!r}{meant}"
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


def hint(name: str, known: Iterable[str]) -> str:
    """What was meant by a ``name`` that is not ``known``, or what there is; the end of a message."""
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


def distances_of_affinities(config: Config, setup: str) -> list[int | list[int]]:
    """The distances, in voxels, that a row's affinities reach; three channels each."""
    return [1] if setup == RAW_WATERSHED else config["setups"][setup]["affinities"]["offsets"]


def window_of_fragments(config: Config, region: str) -> tuple[int, int, int]:
    """The largest box of voxels that a job of fragments sees of a region: a block with its context."""
    shape = region_roi(config, regions(config)[region]).shape
    seen = zip(config["segmentation"]["block_shape"], context_of_fragments(config), shape, strict=True)
    return tuple(min(b + 2 * c, n) for b, c, n in seen)


def context_of_fragments(config: Config) -> list[int]:
    """Voxels around a block that its fragments are found with: sections by themselves have none along z."""
    settings = config["segmentation"]
    is_in_sections = settings["in_sections"] and settings["method"] == "watershed"
    return [0, *settings["context"][1:]] if is_in_sections else settings["context"]


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
