"""A model compiled for `cuda`, without a graphics processor: its kernels, as C++, behind a driver of our own."""

from __future__ import annotations

import os
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphprune import execute
from graphprune.compiler import build, compile_model, targets
from tests.compiler.oracle import need

DRIVER = Path(__file__).with_name("fake_cuda.cc")


class Fake:
    """A compiled folder beside a driver that runs its kernels here."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        folder: Path,
        shapes: dict[str, tuple[int, ...]] | None = None,
        embed: bool = False,
        pick: Any = None,
    ) -> None:
        need("g++", targets.ZIG)
        if targets.machine() != "x86-64":
            pytest.skip("the library is for x86-64")
        texts: list[str] = []

        def captured(source: str, architecture: str) -> bytes:
            texts.append(source)
            return architecture.encode() + b"\0"

        self.folder, self.driver = folder / "out", folder / "driver"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build.nvrtc, "compile_cuda", captured)
            artefact = compile_model(proto, self.folder, "cuda", shapes, embed_weights=embed, pick=pick)
        self.manifest = artefact.manifest
        self.driver.mkdir()
        (self.driver / "kernels.cu").write_text(texts[0])
        (self.driver / "cuda.h").touch()  # NVIDIA's, of which the kernels use nothing
        command = ["g++", "-std=c++17", "-w", "-O0", "-shared", "-fPIC", f"-I{self.driver}"]
        run([*command, "-Wl,-soname,libcuda.so.1", str(DRIVER), "-o", str(self.driver / "libcuda.so.1"), "-ldl"])
        with resources.as_file(resources.files("graphprune").joinpath("drive.c")) as main:
            code = [str(main), str(self.folder / "libmodel.a"), "-ldl", "-lm", "-pthread"]
            run(["cc", f"-I{self.folder}", *code, "-o", str(self.driver / "drive")])

    def run(self, inputs: dict[str, np.ndarray], **environment: str) -> dict[str, np.ndarray]:
        """Outputs of the library; its error as an AssertionError."""

        def drive(scratch: Path) -> str:
            env = {**os.environ, "LD_LIBRARY_PATH": str(self.driver), **environment}
            self.said = run([str(self.driver / "drive"), str(self.folder), str(scratch)], env)
            return self.said

        return execute._with_files(drive, self.manifest, inputs)[0]


def run(command: list[str], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr
