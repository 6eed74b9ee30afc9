"""The target `cuda`: machine code for every generation without a graphics processor, and the library around it.

Without a graphics processor the kernels run on the processor, as C++ behind a driver of our own (fake_cuda.cc): that
checks the kernels' arithmetic, indexing and barriers, the plan of launches, and what is said where the driver fails.
"""

from __future__ import annotations

import importlib.util
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from tvm.s_tir import dlight

from graphprune import execute, runtime
from graphprune.compiler import build, compile_model, nvrtc, targets
from graphprune.errors import CompileError, InvalidModelError
from tests.compiler.fake_cuda import Fake, run
from tests.compiler.oracle import assert_same, check, feeds, model, need, reference
from tests.compiler.test_compile import residual_net

NETS = {
    "product": model(
        "g (float[5,7] x) => (float[5,4] y) { m = MatMul (x, w) a = Add (m, b) y = Relu (a) }", w=(7, 4), b=(4,)
    ),
    "convolutions": model(
        """g (float[2,3,9,7] x) => (float[2,6] y) {
            a = Conv <pads = [1,1,1,1]> (x, u, c)
            b = Clip (a, low, high)
            d = Conv <strides = [2,2], group = 8> (b, v)
            e = MaxPool <kernel_shape = [2,2]> (d)
            f = Conv (e, w)
            m = ReduceMean <axes = [2,3], keepdims = 0> (f)
            y = Softmax (m)
        }""",
        u=(8, 3, 3, 3),
        c=(8,),
        v=(8, 1, 3, 3),
        w=(6, 8, 1, 1),
        low=np.float32(0),
        high=np.float32(6),
    ),
    "residual": residual_net(1, 4),
    "tokens": model(
        """g (int64[1,6] i) => (float[1,6,4] y) {
            a = Gather (t, i) b = Sigmoid (a) y = LayerNormalization <axis = -1> (b, s)
        }""",
        t=(9, 4),
        s=np.ones(4, np.float32),
    ),
}
SHAPES = {"residual": {"x": (1, 3, 32, 32)}}


@pytest.mark.parametrize("name", NETS)
def test_kernels_and_launches_compute_what_onnxruntime_does(name: str, tmp_path: Path) -> None:
    fake = Fake(NETS[name], tmp_path, SHAPES.get(name))
    inputs = feeds(NETS[name], SHAPES.get(name))
    assert_same(fake.run(inputs), reference(NETS[name], inputs))


def test_where_a_rule_of_dlight_fails_the_next_one_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object, *given: object) -> None:
        raise AssertionError("some consumers are not inlined")

    for rule in (dlight.gpu.Matmul, dlight.gpu.GEMV, dlight.gpu.Reduction, dlight.gpu.GeneralReduction):
        monkeypatch.setattr(rule, "apply", fails)
    inputs = feeds(NETS["tokens"])
    assert_same(Fake(NETS["tokens"], tmp_path).run(inputs), reference(NETS["tokens"], inputs))


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Fake:
    return Fake(NETS["product"], tmp_path_factory.mktemp("cuda"), embed=True)


def test_weights_can_be_inside(fake: Fake) -> None:
    inputs = feeds(NETS["product"])
    assert_same(fake.run(inputs), reference(NETS["product"], inputs))


def test_kernels_are_timed_where_they_run(fake: Fake) -> None:
    code = """
import sys, numpy as np
from graphprune import runtime
model = runtime.load(sys.argv[1])
inputs = {value.name: np.ones(value.shape, value.dtype) for value in model.manifest.inputs}
for _ in range(2):
    seconds = model.profile(inputs, 3)
    assert seconds.shape == (len(model.manifest.kernels),) and 0 < seconds.min() and seconds.max() < 1, seconds
"""
    run([sys.executable, "-c", code, str(fake.folder)], {**os.environ, "LD_LIBRARY_PATH": str(fake.driver)})


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FAKE_CUDA_FAILS", "cuInit", "graphprune_create: no NVIDIA graphics processor in this machine"),
        ("FAKE_CUDA_FAILS", "cuMemAlloc", "graphprune_create: out of memory: taking memory for weights failed"),
        ("FAKE_CUDA_FAILS", "cuMemAllocHost", "graphprune_create: out of memory: taking memory for inputs failed"),
        ("FAKE_CUDA_FAILS", "cuLaunchKernel", "graphprune_create: .*_kernel failed: made to fail"),
        ("FAKE_CUDA_FAILS", "cuGraphLaunch", "graphprune_run: running the kernels failed: made to fail"),
        ("FAKE_CUDA_GENERATION", "75", "not compiled for graphics processors as old as this one"),
    ],
)
def test_what_goes_wrong_is_said(fake: Fake, variable: str, value: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        fake.run(feeds(NETS["product"]), **{variable: value})


@pytest.mark.parametrize(
    ("generation", "image"), [("80", "sm_80"), ("86", "sm_80"), ("90", "sm_90"), ("120", "compute_9")]
)
def test_a_processor_gets_the_code_of_its_generation(fake: Fake, generation: str, image: str) -> None:
    fake.run(feeds(NETS["product"]), FAKE_CUDA_GENERATION=generation, FAKE_CUDA_SHOWS="1")
    assert fake.said.split() == ["image", image]


def need_nvrtc() -> None:
    need(targets.ZIG)
    if not importlib.util.find_spec("nvidia") or not importlib.util.find_spec(targets.NVRTC):
        pytest.skip("needs nvidia-cuda-nvrtc-cu12, of the extra `cuda`")


@pytest.mark.parametrize("name", ["convolutions", "tokens"])
def test_machine_code_is_made_for_every_generation(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_nvrtc()
    made: dict[str, bytes] = {}
    real = nvrtc.compile_cuda
    monkeypatch.setattr(build.nvrtc, "compile_cuda", lambda s, a: made.setdefault(a, real(s, a)))
    compile_model(NETS[name], tmp_path, "cuda")
    assert sorted(made) == ["compute_90", "sm_80", "sm_90"]  # made side by side, in any order
    for generation in (80, 90):
        code = made[f"sm_{generation}"]
        assert code[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", code, 18)[0] == 190  # EM_CUDA
        assert code in (tmp_path / "model.so").read_bytes()
    assert b".target sm_90" in made["compute_90"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "libmodel.a",
        "manifest.json",
        "model.h",
        "model.so",
        "weights.bin",
    ]


def test_without_a_driver_the_library_says_so(tmp_path: Path) -> None:
    need_nvrtc()
    compile_model(NETS["product"], tmp_path, "cuda")
    if execute.cuda_present():
        pytest.skip("this machine has a graphics processor")
    assert execute.execution(tmp_path).by == "not run here: needs an NVIDIA graphics processor"
    with pytest.raises(InvalidModelError, match=r"no NVIDIA (driver|graphics processor)"):
        runtime.load(tmp_path)


@pytest.mark.parametrize("name", NETS)
def test_on_a_graphics_processor(name: str, tmp_path: Path) -> None:
    need_nvrtc()
    if not execute.cuda_present():
        pytest.skip("needs an NVIDIA graphics processor")
    check(NETS[name], tmp_path, SHAPES.get(name), "cuda")


def test_code_that_nvrtc_refuses_is_an_error() -> None:
    need_nvrtc()
    with pytest.raises(CompileError, match=r"compiling kernels for sm_80 failed: .*error"):
        nvrtc.compile_cuda("not C", "sm_80")


def test_zeros_are_multiplied_and_the_manifest_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(targets.ZIG)
    monkeypatch.setattr(build.nvrtc, "compile_cuda", lambda source, architecture: b"\0")
    weights = np.random.default_rng(0).normal(size=(2, 16, 8)).astype(np.float32)
    weights[0].reshape(4, 4, 8)[:, 1:3] = 0  # two of every four inputs
    weights[1, :5] = 0
    proto = model(
        """g (float[5,16] x) => (float[5,8] a, float[5,8] b, float[5,8] c) {
            a = MatMul (x, v) b = MatMul (x, w) c = MatMul (x, u)
        }""",
        v=weights[0],
        w=weights[1],
        u=(16, 8),
    )
    kernels = compile_model(proto, tmp_path, "cuda").manifest.kernels
    assert sorted(kernel.why for kernel in kernels) == [
        "",
        "31% of the weights are zero, and multiplied like the others",
        "50% of the weights are zero, at most two of every four inputs left, and multiplied like the others",
    ]
