"""The viewer's server hands out what Neuroglancer asks for and nothing else, and a browser shows the data."""

import http.client
import json
import shutil
import socket
from urllib.parse import urlsplit

import imageio.v3 as imageio
import numpy as np
import pytest
import requests

from lsdflow.errors import UserError
from lsdflow.view import BROWSERS, main, screenshot, serving
from lsdflow.viewing import find_scene
from lsdflow.volumes import Volume, write_volume

RNG = np.random.default_rng(0)
# The volume is larger than the test region, which begins at z 40.
SHAPE, BEGIN, VOXEL_SIZE = (72, 80, 96), 40, (10.0, 8.0, 8.0)


def write(root, path, name, data, begin=0, **more):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    write_volume(root / path, name, Volume(data, VOXEL_SIZE, (begin * VOXEL_SIZE[0], 0, 0)), **more)


def blobs(shape, *ids):
    """Labels in slabs along y, one for each of ``ids``."""
    return np.repeat(np.array(ids, np.uint64), shape[1] // len(ids))[None, :, None] * np.ones(shape, np.uint64)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A folder as the workflow leaves it, of two setups and a segmentation from elsewhere."""
    root = tmp_path_factory.mktemp("project")
    folder = root / "results/tiny"
    raw = np.full(SHAPE, 200, np.uint8)
    raw[:, :, 48:] = 50
    write(root, "resources/volumes/tiny.zarr", "raw", raw, pyramid="mean")
    write(root, "resources/volumes/tiny.zarr", "labels", blobs(SHAPE, 1, 2, 3, 4), pyramid="majority")
    write(root, "resources/segmentations/ffn.zarr", "segmentation", blobs(SHAPE, 9, 8), pyramid="majority")
    (folder / "scores/external/ffn").mkdir(parents=True)
    shape = (SHAPE[0] - BEGIN, *SHAPE[1:])
    for setup in ("mtlsd", "baseline"):
        predicted, place = f"results/tiny/predictions/{setup}/0/test.zarr", f"results/tiny/segmentations/{setup}/0/test"
        affinities = np.stack([np.full(shape, value, np.uint8) for value in (255, 128, 0)])
        write(root, predicted, "affinities", affinities, BEGIN)
        write(root, f"{place}/fragments.zarr", "fragments", blobs(shape, *range(1, 9)), BEGIN)
        write(root, f"{place}/segmentation.zarr", "segmentation", blobs(shape, 1, 2), BEGIN, pyramid="majority")
        provenance = root / place / "provenance/create_fragments.json"
        provenance.parent.mkdir()
        provenance.write_text(json.dumps({"inputs": ["config/x.yaml", "resources/volumes/tiny.zarr"]}))
    write(
        root, "results/tiny/predictions/mtlsd/0/test.zarr", "lsds", RNG.integers(0, 255, (10, *shape), np.uint8), BEGIN
    )
    return folder


@pytest.fixture(scope="module")
def url(experiment):
    with serving(find_scene(experiment)) as address:
        yield address


def sources(url):
    """The addresses of all layers, by their names."""
    layers = requests.get(f"{url}/state.json").json()["layers"]
    found = {layer["name"]: layer["source"] for layer in layers}
    return {name: source if isinstance(source, str) else source["url"] for name, source in found.items()}


def test_every_layer_is_an_ome_zarr_image_that_can_be_fetched(url, experiment):
    found = sources(url)
    assert len(found) == 10
    for source in found.values():
        address, driver = source.split("|")
        assert (driver, address[-1]) == ("zarr3:", "/")
        metadata = requests.get(f"{address}zarr.json")
        assert metadata.status_code == 200
        (image,) = metadata.json()["attributes"]["ome"]["multiscales"]
        for dataset in image["datasets"]:
            assert requests.get(f"{address}{dataset['path']}/zarr.json").json()["node_type"] == "array"


def test_pieces_of_files_are_served_to_any_page(url, experiment):
    address = sources(url)["MtLSD LSDs"].partition("|")[0]
    file = experiment / "predictions/mtlsd/0/test.zarr/lsds/0/c/0/0/0/0"
    content = file.read_bytes()
    for span, expected in [("bytes=5-104", content[5:105]), ("bytes=-100", content[-100:])]:
        answer = requests.get(f"{address}0/c/0/0/0/0", headers={"Range": span, "Origin": "http://elsewhere"})
        assert (answer.status_code, answer.content) == (206, expected)
        assert answer.headers["Content-Range"].endswith(f"/{len(content)}")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert requests.get(f"{address}0/c/0/0/0/0").content == content
    head = requests.head(f"{address}0/c/0/0/0/0")
    assert int(head.headers["Content-Length"]) == len(content)
    preflight = requests.options(f"{address}0/c/0/0/0/0")
    assert preflight.status_code == 204 and "range" in preflight.headers["Access-Control-Allow-Headers"]


def test_a_chunk_of_background_is_not_found(url):
    address = sources(url)["Raw"].partition("|")[0]
    assert requests.get(f"{address}0/c/9/9/9").status_code == 404


def test_a_store_that_is_made_again_is_fetched_again(url, experiment):
    address = sources(url)["Baseline"].partition("|")[0] + "zarr.json"
    tag = requests.get(address).headers["Etag"]
    assert requests.get(address, headers={"If-None-Match": tag}).status_code == 304
    file = experiment / "segmentations/baseline/0/test/segmentation.zarr/segmentation/zarr.json"
    file.write_text(file.read_text() + "\n")
    assert requests.get(address, headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/results/tiny/segmentations/mtlsd/0/test/provenance/create_fragments.json",
        "/resources/volumes/tiny.zarr/raw/../../../../secret.txt",
        "/resources/volumes/tiny.zarr/raw/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret.txt",
        "/v/lsdflow/../../../secret.txt",
        "/secret.txt",
    ],
)
def test_other_files_are_not_served(url, experiment, path):
    (experiment.parents[1] / "secret.txt").write_text("secret")
    place = urlsplit(url)
    # Clients of higher level would tidy up the path.
    connection = http.client.HTTPConnection(place.hostname, place.port)
    connection.request("GET", path)
    assert connection.getresponse().status in (403, 404)


def test_the_front_page_leads_to_the_viewer_and_its_state(url):
    answer = requests.get(f"{url}/", allow_redirects=False)
    assert answer.headers["Location"] == f"/v/lsdflow/#!{url}/state.json"
    page = requests.get(f"{url}/v/lsdflow/").text
    script = page.rpartition('src="')[2].partition('"')[0]
    assert requests.get(f"{url}/v/lsdflow/{script}").status_code == 200


def test_addresses_are_those_by_which_the_browser_knows_the_server(url):
    state = requests.get(f"{url}/state.json", headers={"Host": "login.cluster:8000"}).json()
    assert state["layers"][0]["source"] == "http://login.cluster:8000/resources/volumes/tiny.zarr/raw/|zarr3:"


def test_a_port_that_is_taken_is_named(experiment, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([str(experiment), "--port", str(port)]) == 1
    assert f"error: port {port} of 127.0.0.1 cannot be had" in capsys.readouterr().err


def test_an_experiment_that_does_not_exist_is_named_on_the_command_line(experiment, capsys):
    assert main([str(experiment.parent / "other")]) == 1
    assert "those in" in capsys.readouterr().err


def test_without_a_browser_there_is_no_screenshot(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs a browser on PATH, one of chromium"):
        screenshot("http://127.0.0.1:1", tmp_path / "a.png")


# --- in a browser ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="there is no Chromium or Chrome on PATH")
def test_a_browser_shows_all_panels(experiment, tmp_path):
    assert main([str(experiment), "--setups", "baseline", "--screenshot", str(tmp_path / "a.png")]) == 0
    picture = imageio.imread(tmp_path / "a.png")[..., :3].astype(int)
    assert picture.shape == (1080, 1920, 3)
    # Two rows of two panels: raw, truth; affinities, segmentation.  The left half of the region is bright, its right
    # half dark.
    rows, columns = (slice(60, 520), slice(600, 1060)), (slice(0, 950), slice(970, 1920))
    raw, truth, affinities, segmentation = (picture[row, column] for row in rows for column in columns)

    def share(panel, colour):
        return (np.abs(panel - colour).max(axis=-1) <= 3).mean()

    assert share(raw, (200, 200, 200)) > 0.15 and share(raw, (50, 50, 50)) > 0.15
    bright = np.argwhere(np.abs(raw - 200).max(axis=-1) <= 3)[:, 1]
    dark = np.argwhere(np.abs(raw - 50).max(axis=-1) <= 3)[:, 1]
    assert np.median(bright) < 470 < np.median(dark)
    assert share(affinities, (255, 128, 0)) > 0.3
    for panel, objects in ((truth, 4), (segmentation, 2)):
        colours, counts = np.unique(panel.reshape(-1, 3), axis=0, return_counts=True)
        # Each object lies half in the bright part and half in the dark one, and not one of them is grey.
        assert (np.ptp(colours[counts > 5000], axis=1) > 20).sum() == 2 * objects
