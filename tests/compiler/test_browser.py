"""A compiled WebAssembly folder in headless Chromium: in the example page and in a worker."""

from __future__ import annotations

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

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{served.server_port}/"
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
