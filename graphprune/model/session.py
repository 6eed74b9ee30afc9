"""onnxruntime sessions as everything here wants them: quiet, and on the CPU unless a calibration asks for more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from functools import cache
from io import StringIO
from types import MappingProxyType

import numpy as np
import onnxruntime as ort
from onnx import parser

from graphprune.errors import UsageError
from graphprune.plugins import installed
from graphprune.typed import provider as known

ENTRY_POINTS = "graphprune.onnxruntime"

# The libraries of custom operators that installed packages bring: paths, by a name of the package's choice.
_libraries = cache(lambda: installed(ENTRY_POINTS, "library of operators"))

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_provider: ContextVar[str] = ContextVar("provider", default="cpu")


@contextmanager
def running_on(provider: str) -> Iterator[None]:
    """Within it, sessions that may rewrite the graph run on ``provider``: ``cpu``, or ``cuda`` in full float32.

    Raises:
        UsageError: there is no such provider, or onnxruntime cannot start it on this machine.
    """
    before = _provider.set(known(provider))
    try:
        if provider == "cuda" and not _starts():
            raise UsageError(
                "onnxruntime cannot run on CUDA here",
                "it needs an NVIDIA processor, and pip install 'onnxruntime-gpu[cuda,cudnn]'; or leave --provider out",
            )
        yield
    finally:
        _provider.reset(before)


def _starts() -> bool:
    """Whether a session gets CUDA and computes with it: onnxruntime falls back to the CPU where it cannot load it."""
    if CUDA not in ort.get_available_providers():
        return False
    ort.set_default_logger_severity(4)  # it is not this session that would complain
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(StringIO()):  # it prints what it does not find
            ort.preload_dlls(directory="")  # NVIDIA's libraries, from their packages
    try:
        opened = session(smallest(), optimise=True)
        (found,) = opened.run(None, {"x": np.ones(1, np.float32)})
    except Exception:  # onnxruntime raises a class per status code, none of them public
        return False
    return bool(opened.get_providers()[0] == CUDA and found == 1)


def smallest() -> bytes:
    """A serialised model of one operator, to see whether sessions open."""
    text = '<ir_version: 8, opset_import: ["": 17]> net (float[1] x) => (float[1] y) { y = Relu(x) }'
    return parser.parse_model(text).SerializeToString()


def on_device() -> bool:
    """Whether sessions that may rewrite the graph do not run on the CPU: they then want weights in the protobuf."""
    return _provider.get() != "cpu"


def session(
    model: bytes | str,
    *,
    values: Mapping[str, np.ndarray] = MappingProxyType({}),
    optimise: bool = False,
    threads: int = 0,
    keep: bool = True,
    shapes_first: bool = False,
    profile: str = "",
) -> ort.InferenceSession:
    """A session over a serialised model or the path of one; raises what onnxruntime raises.

    Args:
        model: a protobuf's bytes, or a path where it is too large for that.
        values: of initializers that the protobuf refers to and does not hold. They are read where they are, not copied.
        optimise: whether onnxruntime may rewrite the graph.
        threads: of one operator; 0 lets onnxruntime decide.
        keep: whether it is run often; else it takes no memory beyond that of the run, maps weights from their file, and
            its threads do not wait busily.
        shapes_first: whether ``Shape`` is computed as soon as it can be, so that what it is asked of can be let go.
        profile: where to write the times of nodes, a path without its ending; empty for not at all.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if threads > 1:  # its threads would go on looking for work, on processors that what is timed next needs
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if not keep:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
    if shapes_first:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    for library in _libraries().values():
        options.register_custom_ops_library(str(library))
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    shared = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in values.values()]
    options.add_external_initializers(list(values), shared)  # says where the protobuf's references lead
    for name, value in zip(values, shared, strict=True):
        options.add_initializer(name, value)  # and that they need not be copied
    first = []
    if optimise and on_device():
        options.use_deterministic_compute = True
        # By default, factors are rounded to ten bits of mantissa, and kernels are those that happen to be the fastest.
        first = [(CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})]
    opened = ort.InferenceSession(model, options, providers=[*first, CPU])
    opened.shared = shared  # onnxruntime does not keep them alive
    return opened
