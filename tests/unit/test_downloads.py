"""What ends in the folder is what the list vouches for, wherever it came from; nothing else stays there."""

import functools
import hashlib
import http.server
import logging
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lsdflow.downloads import download, read_checksums
from lsdflow.errors import UserError

CONTENT = {"a.txt": b"first", "deep/er/b 1.bin": bytes(range(256)) * 50, "deep/c.gz": b"\x1f\x8b not really"}


@dataclass
class Server:
    """A web server on the loopback interface; ``failures`` holds the status codes of its next answers."""

    root: Path
    requests: list = field(default_factory=list)
    failures: list = field(default_factory=list)
    address: str = ""

    @property
    def host(self):
        return self.address.removeprefix("http://")


@pytest.fixture
def serve(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = []

    def start(name):
        server = Server(tmp_path / name)
        server.root.mkdir(exist_ok=True)

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                server.requests.append(self.path)
                if server.failures:
                    self.send_error(server.failures.pop(0))
                else:
                    super().do_GET()

            def log_message(self, *_):
                pass

        listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=server.root))
        running.append(listener)
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        server.address = f"http://127.0.0.1:{listener.server_address[1]}"
        return server

    yield start
    for listener in running:
        listener.shutdown()
        listener.server_close()


@pytest.fixture
def no_pause(monkeypatch):
    """Pooch waits between attempts; the tests need not."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def dead_address(monkeypatch):
    """An address where nobody listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/data/"


def write_files(root, content=CONTENT):
    for path, data in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "list.sha256"
    path.write_text("".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in CONTENT.items()))
    return path


def files_below(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- from the original address --------------------------------------------------------------------------------


def test_listed_files_end_in_the_folder_and_nothing_else(tmp_path, serve, listed):
    original = serve("original")
    write_files(original.root / "data")
    paths = download(f"{original.address}/data", listed, tmp_path / "out")
    assert files_below(tmp_path / "out") == CONTENT
    assert paths == [tmp_path / "out" / name for name in CONTENT]


def test_downloads_are_as_readable_as_their_folder(tmp_path, serve, listed):
    original = serve("original")
    write_files(original.root)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o755)
    paths = download(original.address, listed, tmp_path / "out")
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o644}


def test_resume_fetches_only_what_is_missing_or_wrong(tmp_path, serve, listed, caplog):
    original = serve("original")
    write_files(original.root)
    write_files(tmp_path / "out", {"a.txt": CONTENT["a.txt"], "deep/c.gz": CONTENT["deep/c.gz"][:3]})
    before = (tmp_path / "out/a.txt").stat().st_mtime_ns
    download(original.address, listed, tmp_path / "out")
    assert files_below(tmp_path / "out") == CONTENT
    assert sorted(original.requests) == ["/deep/c.gz", "/deep/er/b%201.bin"]
    assert (tmp_path / "out/a.txt").stat().st_mtime_ns == before
    assert "c.gz has a wrong checksum" in caplog.text


def test_complete_folder_needs_no_connection(tmp_path, dead_address, listed):
    write_files(tmp_path / "out")
    download(dead_address, listed, tmp_path / "out")
    assert files_below(tmp_path / "out") == CONTENT


def test_passing_failures_are_tried_again(tmp_path, serve, listed, no_pause):
    original = serve("original")
    write_files(original.root)
    original.failures = [503, 429]
    download(original.address, listed, tmp_path / "out", threads=1, retries=2)
    assert files_below(tmp_path / "out") == CONTENT


def test_lasting_failures_end_after_the_retries(tmp_path, serve, listed, no_pause):
    original = serve("original")
    original.failures = [500] * 100
    with pytest.raises(UserError, match="HTTP status 500"):
        download(original.address, listed, tmp_path / "out", threads=1, retries=2)
    assert original.requests[:4].count("/a.txt") == 3


def test_wrong_bytes_of_the_original_are_refused_and_removed(tmp_path, serve, listed, no_pause):
    original = serve("original")
    write_files(original.root, {**CONTENT, "a.txt": b"other"})
    with pytest.raises(UserError) as caught:
        download(original.address, listed, tmp_path / "out", retries=1)
    for part in (
        "a.txt",
        f"{original.address}/a.txt",
        f"expected {hashlib.sha256(b'first').hexdigest()}",
        f"got {hashlib.sha256(b'other').hexdigest()}",
    ):
        assert part in str(caught.value)
    assert files_below(tmp_path / "out").items() <= CONTENT.items() and not (tmp_path / "out/a.txt").exists()


def test_wrong_file_does_not_stay_when_the_download_fails(tmp_path, dead_address, listed):
    write_files(tmp_path / "out", {"a.txt": b"partial"})
    with pytest.raises(UserError):
        download(dead_address, listed, tmp_path / "out", retries=0)
    assert files_below(tmp_path / "out") == {}


def test_missing_file_is_named_without_retries(tmp_path, serve, listed):
    original = serve("original")
    write_files(original.root, {"a.txt": CONTENT["a.txt"], "deep/c.gz": CONTENT["deep/c.gz"]})
    with pytest.raises(UserError, match=r"deep/er/b 1.bin cannot be downloaded.*b%201.bin \(HTTP status 404\)"):
        download(original.address, listed, tmp_path / "out")
    assert original.requests.count("/deep/er/b%201.bin") == 1


def test_offline_names_the_address_and_the_remedy(tmp_path, dead_address, listed):
    with pytest.raises(UserError, match=rf"{dead_address}a.txt \(no connection\).*set `mirror`.*127.0.0.1:\d+/data/"):
        download(dead_address, listed, tmp_path / "out", threads=1, retries=0)


# --- from a mirror --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "address"])
def test_complete_mirror_spares_the_original(tmp_path, serve, listed, kind):
    original, mirror = serve("original"), serve("mirror")
    write_files(original.root / "data")
    write_files(mirror.root / "below" / original.host / "data")
    where = f"{mirror.address}/below" if kind == "address" else str(mirror.root / "below")
    download(f"{original.address}/data/", listed, tmp_path / "out", mirror=where)
    assert files_below(tmp_path / "out") == CONTENT
    assert original.requests == []
    assert len(mirror.requests) == (len(CONTENT) if kind == "address" else 0)


@pytest.mark.parametrize("kind", ["folder", "address"])
def test_what_the_mirror_lacks_or_has_wrong_comes_from_the_original(tmp_path, serve, listed, kind, caplog, no_pause):
    original, mirror = serve("original"), serve("mirror")
    write_files(original.root)
    write_files(mirror.root / original.host, {"a.txt": b"other", "deep/c.gz": CONTENT["deep/c.gz"]})
    with caplog.at_level(logging.WARNING):
        download(
            original.address,
            listed,
            tmp_path / "out",
            mirror=mirror.address if kind == "address" else str(mirror.root),
            retries=1,
        )
    assert files_below(tmp_path / "out") == CONTENT
    assert sorted(original.requests) == ["/a.txt", "/deep/er/b%201.bin"]
    assert f"got {hashlib.sha256(b'other').hexdigest()}" in caplog.text and "mirror" in caplog.text


def test_dead_mirror_is_given_up_once(tmp_path, serve, listed, dead_address, caplog):
    original = serve("original")
    write_files(original.root)
    download(original.address, listed, tmp_path / "out", mirror=dead_address, threads=1, retries=0)
    assert files_below(tmp_path / "out") == CONTENT
    assert caplog.text.count("cannot be reached") == 1


def test_missing_mirror_folder_is_refused(tmp_path, listed, dead_address):
    with pytest.raises(UserError, match="mirror: .*nowhere must be an existing folder"):
        download(dead_address, listed, tmp_path / "out", mirror=str(tmp_path / "nowhere"))


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["ftp://host/data", "host/data", "https:///data", "https://host/data?key=1"])
def test_address_that_is_no_web_folder_is_refused(tmp_path, listed, address):
    with pytest.raises(UserError, match="http"):
        download(address, listed, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("abc  a.txt\n", "line 1: must be"),
        (f"# comment\n{'0' * 64}  ../a.txt\n", "line 2: .* below the base address"),
        (f"{'0' * 64}  /etc/a.txt\n", "below the base address"),
        (f"{'0' * 64}  a\n{'1' * 64}  a\n", "line 2: a is listed before"),
    ],
)
def test_malformed_list_is_refused_with_the_line(tmp_path, text, problem):
    (tmp_path / "list").write_text(text)
    with pytest.raises(UserError, match=problem):
        read_checksums(tmp_path / "list")


def test_list_that_is_missing_is_refused(tmp_path):
    with pytest.raises(UserError, match="list cannot be read"):
        read_checksums(tmp_path / "list")


def test_list_of_sha256sum_is_understood(tmp_path):
    (tmp_path / "list").write_text(f"# made by sha256sum\n\n{'A' * 64} *./b c.txt\n{'0' * 64}  d/e\n")
    assert read_checksums(tmp_path / "list") == {"b c.txt": "a" * 64, "d/e": "0" * 64}


def test_lists_of_the_public_data_are_well_formed():
    folder = Path(__file__).parents[2] / "resources" / "checksums"
    counts = {path.name: len(read_checksums(path)) for path in folder.glob("*.sha256")}
    assert counts["neuroproof-training_sample2.sha256"] == 252
    assert counts["ffn-fib25.sha256"] == 1
