"""The page on the configuration tells every key with its default, and its examples can be used."""

import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from lsdflow import configuration, configuration_checks

ROOT = Path(__file__).parents[2]
SCHEMA = configuration.load_schema(ROOT / "workflow/schemas/config.schema.yaml")
PAGE = (ROOT / "config/README.md").read_text()
# What stands in several places is told once, under this name.
TOLD_ONCE = {"source": "<source>", "region": "<region>", "roi": "<region>.roi", "training": "training"}


def keys(path: str, schema: dict) -> Iterator[tuple[str, Any]]:
    """The dotted path and the default (``required`` or ``–`` where there is none) of each key that needs a row."""
    for name, entry in schema.get("properties", {}).items():
        place = f"{path}.{name}" if path else name
        told = TOLD_ONCE.get(entry.get("$ref", "").rpartition("/")[2], place)
        entry = configuration._resolve(entry, SCHEMA)
        default = "required" if name in schema.get("required", []) else entry.get("default", "–")
        is_group = "properties" in entry and default == {} and place != "<region>.roi"
        if not is_group:
            yield place, default
        if told != place:
            continue
        inner = configuration._resolve(entry.get("additionalProperties") or {}, SCHEMA)
        yield from keys(place, entry)
        yield from keys(f"{place}.<name>", inner)


def schema_keys() -> dict[str, Any]:
    found = dict(keys("", SCHEMA))
    for name in ("source", "region"):
        found |= keys(TOLD_ONCE[name], SCHEMA["$defs"][name])
    return found


def rows() -> dict[str, tuple[str, str, str]]:
    """Meaning, unit and default by key, as the page's tables have them."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line[:3] == "| `"]
    assert all(len(cells) == 4 for cells in lines), "every row has key, meaning, unit and default"
    names = [cells[0].strip("`| ") for cells in lines]
    assert len(names) == len(set(names)), "no key is told twice"
    return {name: tuple(cells[1:]) for name, cells in zip(names, lines, strict=True)}


def examples() -> list[dict]:
    return [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]


def laid_over(below: Any, above: Any) -> Any:
    """What Snakemake makes of two configuration files."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: laid_over(below.get(key), value) for key, value in above.items()}
    return above


def test_the_walk_through_the_schema_sees_keys_of_every_kind():
    found = schema_keys()
    assert found["experiment"] == "required"
    assert found["training.augment.noise"] == 0.05
    assert found["volumes.<name>.simulate.blur"] == 9
    assert found["setups.<name>.training"] == "–"
    assert found["<source>.lookup"] == "–"
    assert found["<region>.roi.x"] == "–"


def test_every_key_of_the_schema_is_told_and_no_other():
    told, known = set(rows()), set(schema_keys())
    assert sorted(known - told) == []
    assert sorted(told - known) == []


@pytest.mark.parametrize(("key", "default"), sorted(schema_keys().items()))
def test_the_default_told_is_the_schemas(key, default):
    meaning, unit, told = rows()[key]
    assert meaning.endswith(".") and unit
    assert (told if told in ("–", "required") else yaml.safe_load(told.strip("`"))) == default


def test_units_that_the_schema_tells_are_those_of_the_page():
    assert rows()["targets.sigma"][1] == rows()["volumes.<name>.voxel_size"][1] == "nm"


def test_choices_of_the_schema_are_told():
    source, setup = SCHEMA["$defs"]["source"], SCHEMA["properties"]["setups"]["additionalProperties"]
    for format in source["properties"]["format"]["enum"]:
        assert f"`{format}`" in rows()["<source>.format"][0]
    for output in setup["properties"]["outputs"]["items"]["enum"]:
        assert f"`{output}`" in rows()["setups.<name>.outputs"][0]
    for network in configuration.NETWORKS:
        assert f"`{network}`" in PAGE


@pytest.mark.parametrize("example", examples(), ids=lambda example: ",".join(example))
def test_the_examples_are_accepted(example, tmp_path, monkeypatch):
    is_whole = "experiment" in example
    default = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = configuration.complete(example if is_whole else laid_over(default, example), SCHEMA)
    # Files that the examples name, for the checks that look for them.
    monkeypatch.chdir(tmp_path)
    parts = [volume[part] for volume in config["volumes"].values() for part in ("raw", "labels") if part in volume]
    files = [source["path"].replace("*", "0") for source in parts if "download" not in source]
    files += [download["checksums"] for download in config["downloads"].values()]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    configuration_checks.check(config)


def test_the_page_has_an_example_of_each_kind():
    told = reduce(lambda a, b: a | b, [set(example) for example in examples()])
    assert {"experiment", "volumes", "split", "setups", "downloads", "networks"} <= told
