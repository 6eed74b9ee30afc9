"""The memory plan: no two arrays that live together overlap, and memory is shared where they do not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tvm")

from graphprune.compiler.memory import ALIGNMENT, DEVICE_ALIGNMENT, SLACK, plan, rooms
from graphprune.compiler.program import Call, Program


def chain(sizes: list[int]) -> Program:
    """Arrays of these sizes, each computed from the one before."""
    program = Program()
    indices = [program.add("float32", (size,)) for size in sizes]
    program.inputs, program.outputs = indices[:1], indices[-1:]
    program.calls = [Call("f", pair) for pair in pairwise(indices)]
    return program


def test_a_chain_needs_two_buffers() -> None:
    workspace, weights, _ = plan(chain([256] * 6))
    assert workspace == 2 * 1024 + SLACK
    assert weights == SLACK


def test_constants_lie_one_after_the_other_and_views_share() -> None:
    program = chain([16, 16])
    for _ in range(2):
        program.add("float32", (5,), value=np.ones(5, np.float32))
    view = program.add("float32", (4, 4), root=1)
    _, weights, _ = plan(program)
    assert [t.offset for t in program.constants] == [0, ALIGNMENT]
    assert weights == 2 * ALIGNMENT + SLACK
    assert program.tensors[view].offset == program.tensors[1].offset


def test_what_is_prepared_has_memory_of_its_own() -> None:
    program = chain([100] * 3)
    for size in (40, 8):
        constant = program.add("float32", (5,), value=np.ones(5, np.float32))
        made, scratch = program.add("float32", (size,)), program.add("float32", (100,))
        program.tensors[made].prepared = True
        program.once.append(Call("f", (constant, made, scratch)))
    sizes = plan(program)
    assert sizes == (2 * 448 + SLACK, 2 * ALIGNMENT + SLACK, 192 + ALIGNMENT + SLACK)  # scratch: where others will lie
    assert [t.offset for t in program.prepared] == [0, 192]


def test_buffers_that_live_together_are_different_ones() -> None:
    program = chain([256, 100, 256, 300])
    program.add("float32", (5,), value=np.ones(5, np.float32))
    sizes, weights = rooms(program)
    assert sizes == [1200, 1024, 400]
    assert [t.offset for t in program.tensors] == [0, 2, 1, 0, 0]  # the constant: its place in the weights
    assert weights == DEVICE_ALIGNMENT + SLACK


@given(st.data())
def test_what_lives_together_never_overlaps(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    program = Program()
    indices = [program.add("uint8", (data.draw(st.integers(1, 500)),)) for _ in range(count)]
    program.inputs = indices[:1]
    for number in range(1, count):
        read = data.draw(st.lists(st.sampled_from(indices[:number]), min_size=1, max_size=3))
        program.calls.append(Call("f", (*read, indices[number])))
    program.outputs = data.draw(st.lists(st.sampled_from(indices), min_size=1, max_size=3, unique=True))
    workspace, _, prepared = plan(program)
    assert not prepared
    touched = {i: [s for s, c in enumerate(program.calls) if i in c.arguments] for i in indices}
    for i in program.inputs:
        touched[i].append(-1)
    for i in program.outputs:
        touched[i].append(len(program.calls))
    for a in indices:
        tensor = program.tensors[a]
        assert tensor.offset % ALIGNMENT == 0
        assert tensor.offset + tensor.nbytes + SLACK <= workspace
        for b in indices[:a]:
            other = program.tensors[b]
            together = min(touched[a]) <= max(touched[b]) and min(touched[b]) <= max(touched[a])
            apart = tensor.offset + tensor.nbytes <= other.offset or other.offset + other.nbytes <= tensor.offset
            assert apart or not together
