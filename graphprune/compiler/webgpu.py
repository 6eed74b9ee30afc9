"""What a model for WebGPU ships with: `program.json`, which holds the kernels in WGSL and the launches of one run.

kernels   name → WGSL, with storage buffers in the order of a launch's tensors, then a uniform: the last block along x
rooms     bytes of each buffer that tensors take turns in
tensors   [room, byte offset, bytes]; room 0 is the weights, room i the i-th of `rooms`, counted from 1; what the model
          has as int64 or bool is int32 here
launches  [kernel, tensors, blocks along x and y]
inputs, outputs   tensors
weights   base64, where they are embedded
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from graphprune.compiler.device import Launch
from graphprune.compiler.program import Program
from graphprune.errors import CompileError


def write(
    path: Path,
    program: Program,
    rooms: Sequence[int],
    kernels: Mapping[str, str],
    launches: Sequence[Launch],
    embed: bool,
) -> str:
    """Write `program.json` to `path`, which has `weights.bin` beside it; its identity."""
    tensors = []
    for index, tensor in enumerate(program.tensors):
        root = program.tensors[tensor.root]
        constant = root.value is not None
        room, offset = (0, root.offset) if constant else (1 + root.offset, 0)
        tensors.append([room, offset, -(-program.tensors[index].nbytes // 4) * 4])
    for launch in launches:
        if launch.grid[2] != 1:
            raise CompileError(f"kernel {launch.kernel} has blocks along z, which have no form in WGSL here")
    content: dict[str, object] = {
        "kernels": dict(kernels),
        "rooms": list(rooms),
        "tensors": tensors,
        "launches": [[x.kernel, list(x.arguments), list(x.grid[:2])] for x in launches],
        "inputs": program.inputs,
        "outputs": program.outputs,
    }
    identity = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
    if embed:
        content["weights"] = base64.b64encode((path.parent / "weights.bin").read_bytes()).decode()
    path.write_text(json.dumps({"identity": identity, **content}), "utf-8")
    return identity
