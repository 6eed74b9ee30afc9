"""onnxruntime sessions as everything here wants them: on the CPU, and quiet."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
import onnxruntime as ort

from graphprune.plugins import installed

ENTRY_POINTS = "graphprune.onnxruntime"

# The libraries of custom operators that installed packages bring: paths, by a name of the package's choice.
_libraries = cache(lambda: installed(ENTRY_POINTS, "library of operators"))


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
    opened = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    opened.shared = shared  # onnxruntime does not keep them alive
    return opened
