"""Normalisations over odd sizes, and the kernels that compute them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.compiler.oracle import check, kinds, model


def affine(channels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(1, 0.5, channels).astype(np.float32) for name in ("s", "b")}


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 1, 1, 9), (1, 4, 33)])
def test_instances(shape: tuple[int, ...], tmp_path: Path) -> None:
    sizes = ",".join(map(str, shape))
    text = f"g (float[{sizes}] x) => (float[{sizes}] y) {{ y = InstanceNormalization (x, s, b) }}"
    artefact = check(model(text, **affine(shape[1])), tmp_path)
    assert [k.name for k in artefact.manifest.kernels] == ["group_norm"]
    assert artefact.manifest.kernels[0].nodes == ("y",)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_groups(groups: int, tmp_path: Path) -> None:
    text = f"""g (float[2,6,5,3] x) => (float[2,6,5,3] y) {{
        y = GroupNormalization <num_groups = {groups}, epsilon = 0.01> (x, s, b)
    }}"""
    proto = model(text, **affine(6))
    proto.opset_import[0].version = 21
    assert kinds(check(proto, tmp_path)) == {"ours": 1}


@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 19), -1), ((3, 4, 6), 1), ((1, 1, 8), -1)])
def test_layers(shape: tuple[int, ...], axis: int, tmp_path: Path) -> None:
    sizes = ",".join(map(str, shape))
    text = f"g (float[{sizes}] x) => (float[{sizes}] y) {{ y = LayerNormalization <axis = {axis}> (x, s, b) }}"
    rng = np.random.default_rng(2)
    weights = {name: rng.normal(1, 0.5, shape[axis:]).astype(np.float32) for name in ("s", "b")}
    artefact = check(model(text, **weights), tmp_path)
    assert [k.name for k in artefact.manifest.kernels] == ["layer_norm"]
