"""Schedules for the operators that TVM's legalisation writes, and scratch memory out of the kernels.

The generated functions are plain loop nests with every intermediate in memory. Element-wise intermediates are inlined.
What stays becomes a parameter, so that the static plan places it and no kernel allocates.
"""

from __future__ import annotations

from tvm import s_tir, tirx

OURS = "graphprune.kernel"  # attribute of functions whose loops are final, with their shape in words
WHY = "graphprune.why"  # attribute that says why these loops, where there was a choice
_OPAQUE = 8  # TVM's kOpaque: fused with nothing
_LIMIT = 1000  # characters of a printed statement; polynomials read their argument many times, so texts multiply


def schedule(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with element-wise intermediates inlined into their readers, while expressions stay small."""
    sch = s_tir.Schedule(function, debug_mask="none", error_render_level="fast")
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if len(str(sch.get(block).body)) > _LIMIT:
            continue
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:  # a reduction, an output, or read by something that cannot take it in
            continue
    return sch.mod["main"]


def in_root_block(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with its body in a root block, which Relax's passes look for and the builder leaves out if empty."""
    if isinstance(function.body, s_tir.SBlockRealize):
        return function
    block = s_tir.SBlock([], [], [], "root", function.body)
    return function.with_body(s_tir.SBlockRealize([], True, block))


def final(function: tirx.PrimFunc, how: str, why: str = "") -> tirx.PrimFunc:
    """`function` marked as one whose loops are not to be touched: their shape in words, and the reason for it."""
    return in_root_block(function).with_attrs({OURS: how, WHY: why, "op_pattern": _OPAQUE})


def hoist_scratch(function: tirx.PrimFunc) -> tuple[tirx.PrimFunc, list[tuple[str, tuple[int, ...]]]]:
    """`function` taking its top-level buffers as further parameters, and the dtype and shape of each.

    What lies in the shared memory or the registers of a device stays.
    """
    root = function.body.block if isinstance(function.body, s_tir.SBlockRealize) else None
    if root is None or not root.alloc_buffers:
        return function, []
    buffers = [b for b in root.alloc_buffers if b.scope() == "global"]
    block = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        root.body,
        root.init,
        [b for b in root.alloc_buffers if b.scope() != "global"],
        root.match_buffers,
        root.annotations,
    )
    body = s_tir.SBlockRealize(function.body.iter_values, function.body.predicate, block)
    hoisted = tirx.PrimFunc([*function.params, *buffers], body, function.ret_type, function.attrs)
    return hoisted, [(str(b.dtype), tuple(int(d) for d in b.shape)) for b in buffers]
