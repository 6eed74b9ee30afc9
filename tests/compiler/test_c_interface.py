"""The C interface, used as its reader would: from a clean folder, by the system's compiler and by zig."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphprune.compiler import compile_model, targets
from tests.compiler.oracle import model, need

PROGRAM = r"""
#include "model.h"

#include <stdio.h>
#include <string.h>

static _Alignas(64) char weights[GRAPHPRUNE_WEIGHTS_BYTES + 1];

int main(void) {
  float x[GRAPHPRUNE_INPUT_0_BYTES / sizeof(float)] = {1, -2, 3, 0.5, 0, -1};
  float y[GRAPHPRUNE_OUTPUT_0_BYTES / sizeof(float)];
  const void* inputs[GRAPHPRUNE_INPUTS] = {x};
  void* outputs[GRAPHPRUNE_OUTPUTS] = {y};
  const char* reason;
  FILE* file = fopen("weights.bin", "rb");
  size_t bytes = fread(weights, 1, sizeof weights, file);
  fclose(file);
  const graphprune_tensor* in = graphprune_input(0);
  printf("%s %s %d ", in->name, in->dtype, (int)in->ndim);
  printf("%d %d %d\n", (int)in->shape[0], (int)in->shape[1], (int)in->bytes);
  printf("%s %d %d\n", graphprune_output(0)->name, graphprune_output(1) == 0, graphprune_input(-1) == 0);
  printf("%d\n", !strcmp(GRAPHPRUNE_INPUT_0_NAME, in->name) && bytes == graphprune_weights_bytes());
  if (graphprune_create(weights, bytes - 1, &reason)) return 2;
  puts(reason);
  if (graphprune_create(weights + 1, bytes, &reason)) return 3;
  puts(reason);
  if (graphprune_create(0, bytes, 0)) return 4;
  graphprune_model* model = graphprune_create(weights, bytes, &reason);
  if (!model) return 5;
  graphprune_model* other = graphprune_create(weights, bytes, 0);
  if (graphprune_run(model, inputs, outputs) || *graphprune_error(model)) return 6;
  for (int i = 0; i < 8; ++i) printf("%g ", y[i]);
  const size_t short_of[] = {sizeof x - 1}, right_in[] = {sizeof x}, right_out[] = {sizeof y};
  const void* nothing[] = {0};
  if (graphprune_run_sized(model, inputs, short_of, outputs, right_out) != -1) return 8;
  puts(graphprune_error(model));
  if (graphprune_run_sized(model, inputs, right_in, outputs, short_of) != -1) return 9;
  puts(graphprune_error(model));
  if (graphprune_run(model, nothing, outputs) != -1) return 10;
  puts(graphprune_error(model));
  if (graphprune_run_sized(model, inputs, right_in, outputs, right_out) || *graphprune_error(model)) return 11;
  graphprune_destroy(model);
  if (graphprune_run(other, inputs, outputs)) return 7;
  graphprune_destroy(other);
  graphprune_destroy(0);
  return 0;
}
"""
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
Y = np.maximum(np.array([[1, -2, 3], [0.5, 0, -1]]) @ WEIGHTS, 0)
NAME = 'a "quoted" \\ name? */ é @IDENTITY@'
EXPECTED = f"""{NAME} float32 2 2 3 24
y 1 1
1
the weights are not those of this model: wrong size
the weights are not aligned to 64 bytes
{"".join(f"{value:g} " for value in Y.flatten())}input 0 ({NAME}) has 23 bytes, the model's has 24
output 0 (y) has 23 bytes, the model's has 32
input 0 ({NAME}) is null
"""
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
COMPILERS = {"cc": ["cc"], "zig": [sys.executable, "-m", "ziglang", "cc"]}


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    proto = model("g (float[2,3] x) => (float[2,4] y) { m = MatMul (x, w) y = Relu (m) }", w=WEIGHTS)
    proto.graph.input[0].name = proto.graph.node[0].input[0] = NAME
    folder = tmp_path_factory.mktemp("host")
    compile_model(proto, folder)
    return folder


@pytest.fixture
def clean(artefact: Path, tmp_path: Path) -> Path:
    """A folder of another's project: what was compiled, and a program that uses it."""
    for file in artefact.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "program.c").write_text(PROGRAM)
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="library search paths of other systems were not tried")
@pytest.mark.parametrize("library", ["libmodel.a", "./model.so"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_program_links_either_library(compiler: str, library: str, clean: Path) -> None:
    need({"cc": "cc", "zig": targets.ZIG}[compiler])
    run([*COMPILERS[compiler], *STRICT, "program.c", library, "-lm", "-Wl,-rpath,.", "-o", "program"], clean)
    assert run(["./program"], clean) == EXPECTED


def test_the_header_is_cpp_too(clean: Path) -> None:
    need(targets.ZIG)
    (clean / "program.cpp").write_text('#include "model.h"\nint main() { return graphprune_supported() ? 0 : 1; }\n')
    zig = [sys.executable, "-m", "ziglang", "c++", "-Wall", "-Werror"]
    run([*zig, "-c", "program.cpp", "-o", "program.o"], clean)


def test_a_static_program_runs_on_arm(tmp_path: Path) -> None:
    need(targets.ZIG, "qemu-aarch64-static")
    proto = model("g (float[2,3] x) => (float[2,4] y) { m = MatMul (x, w) y = Relu (m) }", w=WEIGHTS)
    proto.graph.input[0].name = proto.graph.node[0].input[0] = NAME
    compile_model(proto, tmp_path, "aarch64")
    (tmp_path / "program.c").write_text(PROGRAM)
    compiler = [*COMPILERS["zig"], "-target", "aarch64-linux-musl", "-static", *STRICT]
    run([*compiler, "program.c", "libmodel.a", "-o", "program"], tmp_path)
    assert run(["qemu-aarch64-static", "program"], tmp_path) == EXPECTED


REASON = r"""
#include "model.h"

#include <stdio.h>

int main(void) {
  const char* reason;
  graphprune_model* model = graphprune_create(0, 0, &reason);
  printf("%s, %d\n", reason, graphprune_supported());
  graphprune_destroy(model);
  return model != 0;
}
"""


def test_a_processor_without_the_instructions_is_told_so(tmp_path: Path) -> None:
    """QEMU as a processor of 2008: the program must get as far as the check, and no further."""
    need(targets.ZIG, "qemu-x86_64-static")
    proto = model("g (float[2,3] x) => (float[2,4] y) { m = MatMul (x, w) y = Relu (m) }", w=WEIGHTS)
    compile_model(proto, tmp_path, "x86-64", embed_weights=True)
    (tmp_path / "reason.c").write_text(REASON)
    zig = [*COMPILERS["zig"], "-target", "x86_64-linux-musl", "-static", *STRICT]
    run([*zig, "reason.c", "libmodel.a", "-o", "reason"], tmp_path)
    said = run(["qemu-x86_64-static", "-cpu", "Nehalem", "reason"], tmp_path)
    assert said == "this processor lacks an instruction set the model was compiled for, 0\n"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_without_memory_it_says_so(tmp_path: Path) -> None:
    need("cc")
    compile_model(
        model("g (float[64,1024,1024] x) => (float[64,1024,1024] y) { y = Exp (x) }"), tmp_path, embed_weights=True
    )
    (tmp_path / "reason.c").write_text(REASON)
    run(["cc", *STRICT, "reason.c", "libmodel.a", "-lm", "-pthread", "-o", "reason"], tmp_path)
    assert run(["sh", "-c", "ulimit -v 200000; ./reason"], tmp_path) == "out of memory, 1\n"


SHARED = r"""
#include "model.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static _Alignas(64) char weights[GRAPHPRUNE_WEIGHTS_BYTES], copy[GRAPHPRUNE_WEIGHTS_BYTES];
static float x[GRAPHPRUNE_INPUT_0_BYTES / sizeof(float)];
static float first[GRAPHPRUNE_OUTPUT_0_BYTES / sizeof(float)], again[GRAPHPRUNE_OUTPUT_0_BYTES / sizeof(float)];

static int run(graphprune_model* model, float* y) {
  const void* inputs[] = {x};
  void* outputs[] = {y};
  return graphprune_run(model, inputs, outputs);
}

int main(void) {
  FILE* file = fopen("weights.bin", "rb");
  if (fread(weights, 1, sizeof weights, file) != sizeof weights) return 1;
  fclose(file);
  memcpy(copy, weights, sizeof copy);
  for (size_t i = 0; i < sizeof x / sizeof *x; ++i) x[i] = (float)(i % 7) - 3;
  graphprune_model* one = graphprune_create(weights, sizeof weights, 0);
  if (!one || run(one, first)) return 2;
  unsigned long pages;
  file = fopen("/proc/self/statm", "r");
  if (fscanf(file, "%lu", &pages) != 1) return 3;
  fclose(file);
  struct rlimit limit = {4096 * pages + 2 * GRAPHPRUNE_WORKSPACE_BYTES + GRAPHPRUNE_PREPARED_BYTES / 2, RLIM_INFINITY};
  if (setrlimit(RLIMIT_AS, &limit)) return 4;
  const char* reason;
  graphprune_model* two = graphprune_create(weights, sizeof weights, &reason);
  if (!two) return puts(reason), 5;
  graphprune_destroy(one);
  if (run(two, again) || memcmp(first, again, sizeof first)) return 6;
  if (graphprune_create(copy, sizeof copy, &reason)) return 7;
  puts(reason);
  graphprune_destroy(two);
  graphprune_model* three = graphprune_create(copy, sizeof copy, &reason);
  if (!three) return puts(reason), 8;
  if (run(three, again) || memcmp(first, again, sizeof first)) return 9;
  graphprune_destroy(three);
  return 0;
}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_models_on_the_same_weights_share_what_is_made_of_them(tmp_path: Path) -> None:
    """There is memory for filters in Winograd's form once; a second time is an error, until they are let go."""
    need("cc")
    net = "g (float[1,256,8,8] x) => (float[1,256,8,8] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    manifest = compile_model(model(net, w=(256, 256, 3, 3)), tmp_path).manifest
    assert manifest.prepared_bytes > 16 * 256 * 256 * 4 > 4 * manifest.workspace_bytes
    (tmp_path / "program.c").write_text(SHARED)
    flags = [*STRICT, "-D_DEFAULT_SOURCE", "-Wl,-rpath,."]
    run(["cc", *flags, "program.c", "./model.so", "-lm", "-o", "program"], tmp_path)
    assert run(["./program"], tmp_path) == "out of memory\n"
