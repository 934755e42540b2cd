"""An experiment's volumes, predictions and segmentations in Neuroglancer, in a browser on this computer.

``python -m lsdflow.view results/<experiment>``

The viewer comes with the package `neuroglancer`, so there is no need of the internet; the Zarr stores are served as
they lie, piece by piece, so that volumes of any size open.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tornado.httpserver
import tornado.netutil
import tornado.web

from lsdflow.errors import UserError
from lsdflow.viewing import Scene, find_scene, neuroglancer_state

# The packaged viewer wants to be called so.
VIEWER = "/v/lsdflow"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# A page is loaded when its pictures are: this one comes when all panels are drawn, or have had ten minutes for it.
SCREENSHOT_SCRIPT = """<script>
const timer = setInterval(() => {
  const isDrawn = window.viewer?.layerManager.managedLayers.length && viewer.isReady();
  if (!isDrawn && performance.now() < 600000) return;
  clearInterval(timer);
  window.viewer?.display.draw();
  requestAnimationFrame(() => fetch("drawn", {method: "POST"}));
}, 100);
</script><img src="drawn" hidden>"""


class StoreHandler(tornado.web.StaticFileHandler):
    """The files of one Zarr store, to any page and in any piece."""

    def set_default_headers(self) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Access-Control-Allow-Headers", "range")
        self.set_header("Access-Control-Expose-Headers", "content-range, content-length")
        # Results may be made again while the viewer is open.
        self.set_header("Cache-Control", "no-cache")

    def options(self, path: str) -> None:
        self.set_status(204)

    def compute_etag(self) -> str:
        # By default it is a hash of the file, which would have to be read as a whole for each piece.
        return f'"{self.modified.timestamp()}-{self.get_content_size()}"'


class StateHandler(tornado.web.RequestHandler):
    """The state that shows a scene, with the address by which the browser knows this server."""

    def initialize(self, scene: Scene) -> None:
        self.scene = scene

    def get(self) -> None:
        self.write(neuroglancer_state(self.scene, f"{self.request.protocol}://{self.request.host}"))


class StartHandler(tornado.web.RequestHandler):
    """To the viewer, with the state's address in the fragment, where it looks for it."""

    def get(self) -> None:
        self.redirect(f"{VIEWER}/#!{self.request.protocol}://{self.request.host}/state.json")


class EventsHandler(tornado.web.RequestHandler):
    """The line on which the packaged viewer waits for commands; there are none, but it complains if it is cut."""

    def initialize(self) -> None:
        self.closed = asyncio.Event()

    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.flush()
        await self.closed.wait()

    def on_connection_close(self) -> None:
        self.closed.set()


class ScreenshotHandler(tornado.web.RequestHandler):
    """The viewer in a page that counts as loaded only when all is drawn."""

    def initialize(self, client: Path) -> None:
        self.client = client

    def get(self) -> None:
        self.write((self.client / "index.html").read_text().replace("</body>", f"{SCREENSHOT_SCRIPT}</body>"))


class DrawnHandler(tornado.web.RequestHandler):
    """The picture that the page waits for, and the note that releases it."""

    def initialize(self, drawn: asyncio.Event) -> None:
        self.drawn = drawn

    async def get(self) -> None:
        await self.drawn.wait()

    def post(self) -> None:
        self.drawn.set()


def application(scene: Scene) -> tornado.web.Application:
    """The viewer, its state, and the stores of ``scene`` below their paths; no other file."""
    client = Path(importlib.util.find_spec("neuroglancer").origin).parent / "static" / "client"
    stores = [(rf"/{scene.path(layer)}/(.*)", StoreHandler, {"path": layer.store}) for layer in scene.layers]
    pages = [
        (r"/", StartHandler),
        (r"/state\.json", StateHandler, {"scene": scene}),
        (r"/events/.*", EventsHandler),
        (rf"{VIEWER}/screenshot", ScreenshotHandler, {"client": client}),
        (rf"{VIEWER}/drawn", DrawnHandler, {"drawn": asyncio.Event()}),
        (rf"{VIEWER}/(.*)", tornado.web.StaticFileHandler, {"path": client, "default_filename": "index.html"}),
    ]
    # Chunks of background are not stored: that they are not found is no news.
    return tornado.web.Application([*stores, *pages], log_function=lambda handler: None)


@contextmanager
def serving(scene: Scene, *, port: int = 0, bind: str = "127.0.0.1") -> Iterator[str]:
    """Serve ``scene`` in a thread of its own for as long as the context lasts; yields the address.

    Raises
    ------
    UserError
        If the port (0: any that is free) or the address to bind cannot be had.
    """
    try:
        sockets = tornado.netutil.bind_sockets(port, bind)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"port {port} of {bind} cannot be had ({error}): name another (0 for any that is free)"
        ) from error
    pages, ready, loops = application(scene), threading.Event(), []

    async def serve() -> None:
        server = tornado.httpserver.HTTPServer(pages)
        server.add_sockets(sockets)
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    host = socket.getfqdn() if bind in ("0.0.0.0", "::") else bind
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{sockets[0].getsockname()[1]}"
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def screenshot(url: str, path: str | os.PathLike, *, size: tuple[int, int] = (1920, 1080)) -> None:
    """Draw the page of a server at ``url`` to a PNG, in a Chromium or Chrome without a window.

    Raises
    ------
    UserError
        If there is no such browser, or it fails.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(f"a screenshot needs a browser on PATH, one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [
            "--headless=new",
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
            "--hide-scrollbars",
            # WebGL in software: there need not be a graphics card.
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--ignore-gpu-blocklist",
            # Root, as in a container, cannot have Chromium's sandbox.
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            f"--screenshot={Path(path).absolute()}",
        ]
        done = subprocess.run(
            [browser, *options, f"{url}{VIEWER}/screenshot#!{url}/state.json"], capture_output=True, text=True
        )
    if done.returncode or not Path(path).is_file():
        raise UserError(f"{browser} made no screenshot: {done.stderr.strip()[-500:]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments ``argv``, those of the process by default; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lsdflow.view", description=__doc__.partition("\n")[0])
    parser.add_argument("results", help="folder of the experiment, results/<experiment>")
    parser.add_argument("--region", default="test", choices=["test", "validation"])
    parser.add_argument("--setups", nargs="+", metavar="SETUP", help="only these; by default all that are segmented")
    parser.add_argument("--replicates", nargs="+", metavar="N", help="by default the first of each setup")
    parser.add_argument("--port", type=int, default=8080, help="0 for any that is free (default: %(default)s)")
    parser.add_argument("--bind", default="127.0.0.1", help="0.0.0.0 lets other computers look (default: %(default)s)")
    parser.add_argument("--screenshot", metavar="PNG", help="write a picture and end; needs Chromium or Chrome")
    options = parser.parse_args(argv)
    try:
        scene = find_scene(options.results, region=options.region, setups=options.setups, replicates=options.replicates)
        with serving(scene, port=0 if options.screenshot else options.port, bind=options.bind) as url:
            if options.screenshot:
                screenshot(url, options.screenshot)
                return 0
            print(f"{len(scene.layers)} layers at {url} (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
