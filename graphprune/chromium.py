"""Runs the JavaScript of a compiled folder in headless Chromium: a page served from here, arrays by HTTP.

Nothing of a network is used but a port of this machine's own address. WebGPU is asked of SwiftShader, which computes it
on the processor, so that it is there without a graphics card: slow, and right.
"""

from __future__ import annotations

import http.server
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from graphprune.errors import CompileError

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
)
WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
_TYPES = {".html": "text/html", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}


def browser() -> str | None:
    """The program, where one is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def drive(folder: Path, scratch: Path, patience: float = 300.0) -> str:
    """Run the model in `folder` on the arrays in `scratch`, as drive.html says; nothing is printed.

    Raises:
        CompileError: the page failed, or had no answer in `patience` seconds.
    """
    program = browser()
    if program is None:
        raise CompileError("Chromium is not installed", "on Debian: apt-get install chromium")
    answers: queue.Queue[str] = queue.Queue()
    with (
        resources.as_file(resources.files("graphprune").joinpath("drive.html")) as page,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(page, folder, scratch, answers.put)) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        command = [program, *OPTIONS, *WEBGPU, f"--user-data-dir={profile}", address]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            failed = answers.get(timeout=patience)
        except queue.Empty:
            failed = f"no answer in {patience:.0f} seconds"
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
    if failed:
        raise CompileError(f"{Path(program).name} failed: {failed[:300]}")
    return ""


def _handler(page: Path, folder: Path, scratch: Path, done: Callable[[str], None]) -> Any:
    """What serves the page, `folder` as /model/ and `scratch` as /scratch/, whose files can be posted too."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            _, _, place, name = ["", *self.path.split("/"), ""][:4]
            file = {"model": folder, "scratch": scratch}[place] / name if place in ("model", "scratch") else page
            found = (name or file == page) and file.is_file()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", _TYPES.get(file.suffix, "application/octet-stream"))
            # A page may share memory among its workers only where nothing of another origin can look in.
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.end_headers()
            if found:
                with file.open("rb") as content:
                    shutil.copyfileobj(content, self.wfile)

        def do_POST(self) -> None:
            name = Path(self.path).name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            if name == "done":
                done(body.decode())
            else:
                (scratch / name).write_bytes(body)

    return Handler
