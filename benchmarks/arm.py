"""What zeros are worth on 64-bit ARM, without such a machine: `python -m benchmarks.arm`. An estimate, no measurement.

Instructions of one inference are counted exactly: QEMU prints every block of code as it runs it, and a run of one
inference is taken from a run of two. Cycles are estimated: `llvm-mca` gives the throughput of the blocks that make up
nine tenths of the instructions, each repeated without end and with all data in the first-level cache, which flatters
what streams weights. LLVM 14 takes the Cortex-A57 as the model of A72 and A76, so these two say the same. Needs QEMU
(Debian: `qemu-user-static`) and LLVM's tools (`llvm`). Zeros are random, in blocks of 4 × 1.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple

import onnx
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.edge import SHAPES
from benchmarks.zeros import thinned
from graphprune.compiler import compile_model, targets
from graphprune.model import load
from models import find

NETWORKS = ["fashion_resnet20", "ppocr_cls", "efficientnet_lite0"]
SHARES = [0.0, 0.5, 0.7, 0.8]
CORES = ["cortex-a53", "cortex-a72", "cortex-a76"]
COVERED = 0.9  # of all instructions, by the blocks whose cycles are estimated
TOOLS = ["qemu-aarch64-static", "llvm-objdump", "llvm-mca"]
_BLOCK = re.compile(rb"IN:.*\n((?:0x[0-9a-f]+:.*\n)+)")
_RUN = re.compile(rb"Trace \d+: 0x[0-9a-f]+ \[[0-9a-f]+/0*([0-9a-f]+)/")


class Blocks(NamedTuple):
    """How often each block of code ran, and how many instructions it has, by its address."""

    runs: Counter[int]
    lengths: dict[int, int]

    @property
    def instructions(self) -> int:
        """All that was executed."""
        return sum(count * self.lengths[at] for at, count in self.runs.items())

    def hottest(self) -> list[int]:
        """Addresses of the blocks that make up most of the instructions."""
        found, seen, total = [], 0, self.instructions
        for at, _ in sorted(self.runs.items(), key=lambda x: -x[1] * self.lengths[x[0]]):
            if seen >= COVERED * total:
                break
            found.append(at)
            seen += self.runs[at] * self.lengths[at]
        return found


def program(proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], mcpu: str, folder: Path) -> Path:
    """A static program that runs the model."""
    compile_model(proto, folder, targets.resolve("aarch64", mcpu), shapes)
    made = folder / "program"
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-O1", f"-I{folder}"]
    code = [str(Path(__file__).with_suffix(".c")), str(folder / "libmodel.a"), "-lm", "-o", str(made)]
    subprocess.run([*zig, *code], check=True)
    return made


def run(made: Path, times: int) -> Blocks:
    """Run the program in QEMU for so many inferences."""
    command = [
        "qemu-aarch64-static",
        "-d",
        "exec,nochain,in_asm",
        str(made),
        str(made.with_name("weights.bin")),
        str(times),
    ]
    runs: Counter[int] = Counter()
    lengths: dict[int, int] = {}
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        rest = b""
        while chunk := process.stderr.read(1 << 24):
            text = rest + chunk
            end = text.rfind(b"\n--") if b"\n--" in text[-(1 << 16) :] else text.rfind(b"\nTrace")
            text, rest = text[: end + 1], text[end + 1 :]
            _count(text, runs, lengths)
        _count(rest, runs, lengths)
    if process.returncode:
        raise SystemExit(f"the program failed in QEMU with exit code {process.returncode}")
    return Blocks(runs, lengths)


def _count(text: bytes, runs: Counter[int], lengths: dict[int, int]) -> None:
    for block in _BLOCK.findall(text):
        lines = block.splitlines()
        lengths[int(lines[0].partition(b":")[0], 16)] = len(lines)
    for at, count in Counter(_RUN.findall(text)).items():
        runs[int(at, 16)] += count


def inference(made: Path) -> Blocks:
    """What one inference runs: two of them without one."""
    one, two = run(made, 1), run(made, 2)
    return Blocks(two.runs - one.runs, two.lengths)


def cycles(made: Path, blocks: Blocks, core: str) -> float:
    """Estimated cycles of the hottest blocks, scaled up to all instructions."""
    hottest = blocks.hottest()
    text = []
    for at in hottest:
        stop = at + 4 * blocks.lengths[at]
        text += [f"# LLVM-MCA-BEGIN {at}", *_assembly(made, at, stop), f"# LLVM-MCA-END {at}"]
    command = ["llvm-mca", "-mtriple=aarch64-linux-gnu", f"-mcpu={core}", "-json", "-iterations=100"]
    done = subprocess.run(command, input="\n".join(text) + "\n", capture_output=True, text=True, check=True)
    found = {r["Name"]: r["SummaryView"]["TotalCycles"] / 100 for r in json.loads(done.stdout)["CodeRegions"]}
    spent = sum(blocks.runs[at] * found.get(str(at), 1.0) for at in hottest)  # a lone branch takes one
    seen = sum(blocks.runs[at] * blocks.lengths[at] for at in hottest)
    return spent * blocks.instructions / seen


def _assembly(made: Path, start: int, stop: int) -> list[str]:
    """The instructions from `start` to `stop`, without the branch at their end, which is foreseen."""
    command = [
        "llvm-objdump",
        "-d",
        "--no-show-raw-insn",
        f"--start-address={start}",
        f"--stop-address={stop}",
        str(made),
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [
        line.partition(":")[2].partition("<")[0].strip()
        for line in printed.splitlines()
        if re.match(r"\s+[0-9a-f]+:", line)
    ]
    return [line for line in lines if not re.match(r"(b|bl|b\.\w+|br|blr|ret|cbn?z|tbn?z|adrp)\s|ret$", line)]


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models; three by default.")] = None,
    mcpu: Annotated[str, typer.Option(help="The processor to compile for.")] = "cortex-a72",
    share: Annotated[list[float], typer.Option(help="Share of zeros; repeatable.")] = SHARES,
) -> None:
    """Print the table."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        raise SystemExit(f"needs {', '.join(missing)} (Debian: qemu-user-static, llvm)")
    table = Table(
        "", "zeros", "instructions", "fewer", *(f"cycles, {core}" for core in CORES),
        box=SIMPLE_HEAD, title=f"An estimate: one inference, compiled for {mcpu}; dense ÷ sparse in brackets",
    )  # fmt: skip
    for name in names or NETWORKS:
        model = load(onnx.load(find(name).path), input_shapes=SHAPES.get(name, {}))
        proto, shapes = model.proto(), model.input_shapes  # all weights are initializers now, which thinning wants
        dense: list[float] = []
        for part in share:
            with tempfile.TemporaryDirectory() as folder:
                made = program(thinned(proto, part, 4) if part else proto, shapes, mcpu, Path(folder))
                blocks = inference(made)
                figures = [float(blocks.instructions), *(cycles(made, blocks, core) for core in CORES)]
            dense = dense or figures
            ratios = [f"{a / b:.2f}" for a, b in zip(dense, figures, strict=True)]
            spent = [f"{c / 1e6:,.1f} M ({r})" for c, r in zip(figures[1:], ratios[1:], strict=True)]
            table.add_row("" if part else name, f"{part:.0%}", f"{figures[0] / 1e6:,.1f} M", ratios[0], *spent)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
