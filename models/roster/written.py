"""Detectors and U-Nets written for the roster, small, in `models/roster/networks`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from models.roster import Entry
from models.roster.export import EXPORTERS, enliven, export, taking_tensors

BATCH = {0: "batch"}
IMAGE = {"image": ((1, 3, 128, 128), BATCH)}
NOISY = {"sample": ((1, 4, 32, 32), BATCH), "step": ((1,), BATCH)}
CONTEXT = {"context": ((1, 7, 24), {0: "batch", 1: "words"})}
YOLO = """
    yolo_darknet yolo_csp_mish yolo_c3_hardswish yolo_c3 yolo_focus_decoupled yolo_elan yolo_c2f yolo_psa_depthwise
    yolo_bifpn
"""
# Module and table of `networks` → names, and what they are called with: input name → shape and axes left open.
NETWORKS: Mapping[tuple[str, str, str], Mapping[str, Mapping[str, tuple[tuple[int, ...], Mapping[int, str]]]]] = {
    ("detectors", "DETECTORS", "detectors after YOLO"): dict.fromkeys(YOLO.split(), IMAGE),
    ("unets", "UNETS", "U-Nets and diffusion"): {
        "unet": IMAGE,
        "unet_bilinear": IMAGE,
        "unet_gated": IMAGE,
        "unet_diffusion": NOISY,
        "unet_diffusion_shifted": NOISY,
        "unet_diffusion_conditional": NOISY | CONTEXT,
        "diffusion_transformer": NOISY,
    },
}


def build(path: Path, name: str, module: str, table: str, inputs: Mapping, dynamo: bool) -> None:
    """Export network `name` to `path`."""
    from importlib import import_module

    import torch

    torch.manual_seed(0)
    network = getattr(import_module(f"models.roster.networks.{module}"), table)[name]()
    tensors = taking_tensors(network, _call)
    example = [torch.randn(shape) for shape, _ in inputs.values()]
    enliven(tensors, example)
    export(path, tensors, example, open_sizes={key: axes for key, (_, axes) in inputs.items()}, dynamo=dynamo)


def _call(network: object, *tensors: object) -> object:
    return network(*tensors)  # type: ignore[operator]


ENTRIES = tuple(
    Entry(
        f"written/{name}{'@dynamo' if dynamo else ''}",
        family,
        f"models.roster.networks.{module}.{name}, {EXPORTERS[dynamo]}",
        partial(build, name=name, module=module, table=table, inputs=inputs, dynamo=dynamo),
    )
    for (module, table, family), networks in NETWORKS.items()
    for name, inputs in networks.items()
    for dynamo in (False, True)
)
