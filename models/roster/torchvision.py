"""Every float architecture of torchvision: classification, segmentation, detection, optical flow, video.

torchvision's wheel on PyPI goes with the CUDA build of PyTorch. Beside a CPU build its compiled operators do not load;
what an exporter needs of them is then defined here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.roster import Entry
from models.roster.export import EXPORTERS, batches, enliven, export, taking_tensors

if TYPE_CHECKING:
    import torch

SIDE = 128  # of images, in pixels, where an architecture does not need more

# By kind of task, small ones first.
NAMES = {
    "classification": """
        squeezenet1_1 squeezenet1_0 shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
        mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large regnet_x_400mf
        regnet_y_400mf regnet_x_800mf regnet_y_800mf googlenet resnet18 resnet34 resnet50 resnext50_32x4d densenet121
        efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 regnet_x_1_6gf regnet_y_1_6gf densenet169
        densenet201 densenet161 inception_v3 efficientnet_v2_s efficientnet_b4 regnet_x_3_2gf regnet_y_3_2gf
        convnext_tiny swin_t swin_v2_t efficientnet_b5 regnet_x_8gf regnet_y_8gf resnet101 resnet152 convnext_small
        efficientnet_b6 efficientnet_v2_m efficientnet_b7 maxvit_t swin_s swin_v2_s alexnet resnext101_32x8d
        resnext101_64x4d regnet_x_16gf regnet_y_16gf wide_resnet50_2 vit_b_32 vit_b_16 swin_b swin_v2_b convnext_base
        efficientnet_v2_l vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn wide_resnet101_2 regnet_x_32gf
        regnet_y_32gf convnext_large vit_l_32 vit_l_16 vit_h_14 regnet_y_128gf
    """,
    "segmentation": """
        lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large deeplabv3_resnet50 deeplabv3_resnet101 fcn_resnet50
        fcn_resnet101
    """,
    "detection": """
        ssdlite320_mobilenet_v3_large fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_mobilenet_v3_large_fpn
        fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 fcos_resnet50_fpn keypointrcnn_resnet50_fpn
        maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_v2 retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 ssd300_vgg16
    """,
    "optical flow": "raft_small raft_large",
    "video": "mc3_18 r2plus1d_18 r3d_18 s3d mvit_v1_b mvit_v2_s swin3d_t swin3d_s swin3d_b",
}
KINDS = {kind: names.split() for kind, names in NAMES.items()}
# Exported by the newer exporter too.
TWICE = """
    convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 mnasnet1_0 mobilenet_v2 mobilenet_v3_small
    regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x1_0 squeezenet1_1 swin_t swin_v2_t
    maxvit_t vgg11_bn vit_b_32 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large r3d_18 s3d
"""
# Sides that differ from `SIDE`: what windows, patches and poolings of fixed size divide.
SIDES = {name: 224 for name in KINDS["classification"] if name.startswith(("alexnet", "maxvit", "swin", "vgg"))}
SIDES |= {"vit_h_14": 126, "ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
SIDES |= {name: 224 if name.startswith(("mvit", "s3d")) else 64 for name in KINDS["video"]}
FRAMES = {name: 16 if name.startswith(("mvit", "s3d")) else 4 for name in KINDS["video"]}


def _options(name: str, kind: str) -> dict[str, Any]:
    """What a network is made with."""
    side = SIDES.get(name, SIDE)
    if name.startswith("vit"):
        return {"image_size": side}
    if name in ("googlenet", "inception_v3"):
        return {"init_weights": True, "aux_logits": False}
    backbone: dict[str, Any] = {"weights_backbone": None} if kind in ("segmentation", "detection") else {}
    resized = kind == "detection" and not name.startswith("ssd")
    return backbone | ({"min_size": side, "max_size": side} if resized else {})


def build(path: Path, name: str, kind: str, dynamo: bool) -> None:
    """Export architecture `name` to `path`."""
    import torch

    torchvision = import_torchvision()
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX form
    network = torchvision.models.get_model(name, weights=None, **_options(name, kind))
    side = SIDES.get(name, SIDE)
    shape = (1, 3, FRAMES[name], side, side) if name in FRAMES else (1, 3, side, side)
    if kind == "optical flow":
        example, open_sizes = [torch.randn(shape), torch.randn(shape)], batches(["first", "second"])
    elif kind == "detection":
        example, open_sizes = [torch.rand(shape)], {"image": {}}
    else:
        example, open_sizes = [torch.randn(shape)], batches(["image"])
    tensors = taking_tensors(network, _CALLS.get(kind, _call))
    enliven(tensors, example)
    export(path, tensors, example, open_sizes=open_sizes, dynamo=dynamo)


def _call(network: Any, *tensors: torch.Tensor) -> Any:
    return network(*tensors)


_CALLS: Mapping[str, Callable[..., Any]] = {
    "segmentation": lambda network, image: network(image)["out"],
    "detection": lambda network, images: tuple(network(list(images.unbind()))[0].values()),
    "optical flow": lambda network, first, second: network(first, second, num_flow_updates=2)[-1],
}


# What torchvision asks for when it is imported, and what its detectors call.
_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
}


def import_torchvision() -> Any:
    """The package; where its compiled operators do not load, with stand-ins an exporter cannot tell from them.

    An exporter writes ONNX's NonMaxSuppression and RoiAlign for them; of the values only shapes matter to it.
    """
    import torch

    try:
        import torchvision

        return torchvision
    except RuntimeError:  # operator torchvision::nms does not exist
        pass
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, signature in _OPERATORS.items():
        library.define(name + signature)
    library.impl("nms", lambda boxes, scores, limit: scores.argsort(descending=True), "CompositeExplicitAutograd")
    library.impl("roi_align", _roi_align, "CompositeExplicitAutograd")
    import torchvision

    torchvision.extension._has_ops = sys.modules["torchvision.ops.roi_align"]._has_ops = _loaded  # type: ignore[attr-defined]
    _LIBRARIES.append(library)  # a library's operators go when it does
    return torchvision


_LIBRARIES: list[Any] = []


def _loaded() -> bool:  # a function that has a name, for the exporter reads its source
    return True


def _roi_align(image: torch.Tensor, boxes: torch.Tensor, scale: float, height: int, width: int, *_: Any) -> Any:
    return image.mean() + image.new_zeros(len(boxes), image.shape[1], height, width)


ENTRIES = tuple(
    Entry(
        f"torchvision/{name}{'@dynamo' if dynamo else ''}",
        f"torchvision, {kind}",
        f"torchvision.models.{name}, {EXPORTERS[dynamo]}",
        partial(build, name=name, kind=kind, dynamo=dynamo),
    )
    for kind, names in KINDS.items()
    for name in names
    for dynamo in ((False, True) if name in TWICE.split() else (False,))
)
