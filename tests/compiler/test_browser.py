"""A compiled WebAssembly folder in headless Chromium: in the example page and in a worker."""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from graphprune.compiler import compile_model, targets
from tests.compiler.oracle import need, reference

ROOT = Path(__file__).parents[2]
RESNET = ROOT / "models" / "fashion_resnet20.onnx"
CLASSES = ["T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The example page with a model beside it, and the address it is served at."""
    need(targets.ZIG)
    folder = tmp_path_factory.mktemp("site") / "web"
    shutil.copytree(ROOT / "examples" / "web", folder, ignore=shutil.ignore_patterns("wasm32", "ort", "*.onnx"))
    compile_model(onnx.load(RESNET), folder / "wasm32", "wasm32", {"image": (1, 1, 28, 28)})
    with _served(folder, isolated=False) as address:
        yield folder, address


@contextlib.contextmanager
def _served(folder: Path, isolated: bool) -> Iterator[str]:
    """The address that `folder` is served at; its pages may share memory with workers where they are `isolated`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def end_headers(self) -> None:
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/"
        served.shutdown()


def test_the_page_classifies_a_chosen_picture(browser: Any, site: tuple[Path, str], tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, 60)
    _, address = site
    browser.get(address)

    def told(text: str) -> Any:
        return lambda driver: text in driver.find_element(By.TAG_NAME, "table").text.partition("\n")[0]

    wait.until(lambda driver: "graphprune" in driver.find_element(By.ID, "latency").text)
    fixture = np.load(ROOT / "models" / "fashion_test_2000.npz")
    images, labels = fixture["images"], fixture["labels"]
    for number in (int(np.flatnonzero(labels == kind)[0]) for kind in (1, 8, 9)):  # trousers, a bag, an ankle boot
        Image.fromarray(images[number].reshape(28, 28)).save(tmp_path / f"{number}.png")
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / f"{number}.png"))
        wait.until(told(CLASSES[labels[number]]))
    assert "ms" in browser.find_element(By.ID, "latency").text
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [message for message in severe if "/ort/" not in message]  # onnxruntime-web is not served here


def test_a_worker_computes_what_onnxruntime_does(browser: Any, site: tuple[Path, str]) -> None:
    folder, address = site
    (folder / "worker.mjs").write_text(
        """import { load } from "./wasm32/model.mjs";
        onmessage = async ({ data }) => {
          const out = await (await load()).run({ image: new Float32Array(data) });
          postMessage(Object.values(out).map(({ data, dims }) => ({ data: Array.from(data), dims })));
        };"""
    )
    browser.get(address)
    browser.set_script_timeout(60)
    image = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    (found,) = browser.execute_async_script(
        """const [image, done] = arguments;
        const worker = new Worker("./worker.mjs", { type: "module" });
        worker.onmessage = ({ data }) => done(data);
        worker.postMessage(image);""",
        image.ravel().tolist(),
    )
    (expected,) = reference(onnx.load(RESNET), {"image": image}).values()
    assert found["dims"] == list(expected.shape)
    error = np.abs(np.reshape(found["data"], expected.shape) - expected).max()
    assert error <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("isolated", [True, False])
def test_threads_give_the_same_bits_where_memory_may_be_shared(
    browser: Any, site: tuple[Path, str], isolated: bool
) -> None:
    """In a page and in a worker of it, which start their threads from the module itself."""
    folder, _ = site
    (folder / "threads.mjs").write_text(
        """import { load } from "./wasm32/model.mjs";
        export async function compare(image) {
          const [one, three] = [await load(), await load(undefined, { threads: 3 })];
          const outputs = [];
          for (let i = 0; i < 100; ++i) {
            for (const model of [one, three]) {
              outputs.push(Object.values(await model.run({ image: new Float32Array(image) }))[0].data.join());
            }
          }
          const { threads } = three;
          three.close();
          return [threads, new Set(outputs).size, outputs[0].split(",").map(Number)];
        }
        if (!globalThis.document) onmessage = async ({ data }) => postMessage(await compare(data));"""
    )
    image = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    (expected,) = reference(onnx.load(RESNET), {"image": image}).values()
    with _served(folder, isolated) as address:
        browser.get(address)
        browser.set_script_timeout(120)
        told = browser.execute_async_script(
            """const [image, done] = arguments;
            const { compare } = await import("./threads.mjs");
            const worker = new Worker("./threads.mjs", { type: "module" });
            const heard = new Promise((resolve) => { worker.onmessage = ({ data }) => resolve(data); });
            worker.postMessage(image);
            done([await compare(image), await heard]);""",
            image.ravel().tolist(),
        )
    for threads, kinds, found in told:
        assert (threads, kinds) == (3 if isolated else 1, 1)
        assert np.abs(np.reshape(found, expected.shape) - expected).max() <= 1e-4 * np.abs(expected).max()
