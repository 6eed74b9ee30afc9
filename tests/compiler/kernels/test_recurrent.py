"""LSTM and GRU: directions, initial states, all outputs, odd sizes; and what it does not do is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphprune.compiler import compile_model
from graphprune.errors import CompileError
from tests.compiler.oracle import check, model

TEXT = """g (float[{s},{b},{i}] x{states}) => (float[{s},{d},{b},{h}] y, float[{d},{b},{h}] v, float[{d},{b},{h}] c) {{
    y, v, c = LSTM <hidden_size = {h}, direction = "{direction}"> (x, w, r, bias, none{given})
}}"""


@pytest.mark.parametrize(
    ("direction", "s", "b", "i", "h", "states"),
    [
        ("forward", 6, 1, 10, 24, False),
        ("reverse", 3, 2, 5, 7, True),
        ("bidirectional", 5, 3, 4, 33, True),
        ("forward", 1, 1, 1, 1, False),
    ],
)
def test_every_direction(direction: str, s: int, b: int, i: int, h: int, states: bool, tmp_path: Path) -> None:
    d = 1 + (direction == "bidirectional")
    more = f", float[{d},{b},{h}] h0, float[{d},{b},{h}] c0" if states else ""
    text = TEXT.format(s=s, b=b, i=i, h=h, d=d, direction=direction, states=more, given=", h0, c0" * states)
    proto = model(text.replace("none", ""), w=(d, 4 * h, i), r=(d, 4 * h, h), bias=(d, 8 * h))
    kernels = check(proto, tmp_path).manifest.kernels
    cells = [kernel for kernel in kernels if kernel.name.startswith("lstm")]
    assert [(k.kind, k.how, k.nodes) for k in cells] == [("ours", f"{s} steps of {h}", ("y",))] * d


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize(
    ("direction", "s", "b", "i", "h", "states"),
    [("forward", 6, 1, 10, 24, False), ("reverse", 3, 2, 5, 7, True), ("bidirectional", 5, 3, 4, 33, True)],
)
def test_gated_units(direction: str, s: int, b: int, i: int, h: int, states: bool, after: int, tmp_path: Path) -> None:
    d = 1 + (direction == "bidirectional")
    more, given = (f", float[{d},{b},{h}] h0", ", , h0") if states else ("", "")
    proto = model(
        f"""g (float[{s},{b},{i}] x{more}) => (float[{s},{d},{b},{h}] y, float[{d},{b},{h}] v) {{
            y, v = GRU <hidden_size = {h}, direction = "{direction}", linear_before_reset = {after}>
                (x, w, r, bias{given})
        }}""",
        w=(d, 3 * h, i),
        r=(d, 3 * h, h),
        bias=(d, 6 * h),
    )
    kernels = check(proto, tmp_path).manifest.kernels
    cells = [kernel for kernel in kernels if kernel.name.startswith("gru")]
    assert [(k.kind, k.how, k.nodes) for k in cells] == [("ours", f"{s} steps of {h}", ("y",))] * d


def test_peepholes_are_refused(tmp_path: Path) -> None:
    text = """g (float[2,1,3] x) => (float[2,1,1,4] y) {
        y, a, c = LSTM <hidden_size = 4> (x, w, r, b, , h, h, p)
    }"""
    proto = model(text, w=(1, 16, 3), r=(1, 16, 4), b=(1, 32), h=(1, 1, 4), p=(1, 12))
    with pytest.raises(CompileError, match="cannot translate this LSTM: peepholes"):
        compile_model(proto, tmp_path)
