"""ONNX operators that we translate to Relax ourselves: where TVM's importer hides from the kernels what they can fuse.

Each rule takes the node's inputs and attributes, and returns None where TVM's own translation shall do it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tvm
from tvm import relax

WINDOWED = {"Conv", "MaxPool", "AveragePool"}


def _clip(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Clip with known bounds as maximum and minimum, which kernels can fuse; None where a bound is computed."""
    value = inputs[0]
    if str(value.ty.dtype) != "float32":
        return None
    for position, key, bound in ((1, "min", relax.op.maximum), (2, "max", relax.op.minimum)):
        given = inputs[position] if len(inputs) > position else None
        if given is None and key in attrs:
            given = relax.const(attrs[key], "float32")
        if given is not None:
            if not isinstance(given, tvm.ir.GenericConst):
                return None
            value = bound(value, relax.const(given.value.numpy().reshape(()), "float32"))
    return value if value is not inputs[0] else None


def _pad(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Pad with known zeros as an operator, which a convolution can take in; None for any other padding."""
    mode = attrs.get("mode", b"constant")
    known = [i if i is None or not isinstance(i, tvm.ir.GenericConst) else i.value.numpy() for i in inputs[1:4]]
    if mode != b"constant" or any(i is not None and not isinstance(i, np.ndarray) for i in known):
        return None
    pads, value, axes = (*known, None, None, None)[:3]
    widths = attrs.get("pads") if pads is None else pads.tolist()
    if widths is None or axes is not None or min(widths) < 0 or str(inputs[0].ty.dtype) != "float32":
        return None
    rank = len(widths) // 2
    fill = float(attrs.get("value", 0.0) if value is None else value.item())
    return relax.op.nn.pad(inputs[0], [w for i in range(rank) for w in (widths[i], widths[rank + i])], "constant", fill)


def _conv1d(inputs: Any, attrs: dict[str, Any]) -> Any:
    """A 1-d convolution with known weights as a 2-d one of height 1; None for any other convolution."""
    x, weight, bias = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    known = all(i is None or isinstance(i, tvm.ir.GenericConst) for i in (weight, bias))
    if len(x.ty.shape.values) != 3 or not known or attrs.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    batch, channels, width = (int(d) for d in x.ty.shape.values)
    filters = weight.value.numpy()[:, :, None]
    pads = attrs.get("pads", (0, 0)) if attrs.get("auto_pad", b"NOTSET") == b"NOTSET" else (0, 0)
    stride, dilation = attrs.get("strides", (1,))[0], attrs.get("dilations", (1,))[0]
    out = (width + sum(pads) - dilation * (filters.shape[3] - 1) - 1) // stride + 1
    value = relax.op.nn.conv2d(
        relax.op.reshape(x, (batch, channels, 1, width)),
        relax.const(np.ascontiguousarray(filters)),
        strides=(1, stride),
        padding=(0, pads[0], 0, pads[1]),
        dilation=(1, dilation),
        groups=attrs.get("group", 1),
    )
    if bias is not None:
        value = relax.op.add(value, relax.const(bias.value.numpy().reshape(1, -1, 1, 1)))
    return relax.op.reshape(value, (batch, filters.shape[0], out))


def _gather(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Gather that clips its indices: one out of range gives some element; TVM alone would read beyond the array."""
    data, indices = inputs
    if not all(isinstance(i.ty, relax.TensorType) and isinstance(i.ty.shape, relax.ShapeExpr) for i in inputs):
        return None
    axis = attrs.get("axis", 0)
    extent, dtype = int(data.ty.shape.values[axis]), str(indices.ty.dtype)
    if isinstance(indices, tvm.ir.GenericConst):
        indices = relax.const(indices.value.numpy() % extent, dtype)
    else:
        wrapped = relax.op.add(indices, relax.const(extent, dtype))
        indices = relax.op.where(relax.op.less(indices, relax.const(0, dtype)), wrapped, indices)
    return relax.op.take(data, indices, axis, mode="clip")


def _sum(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Sum as additions, which a kernel can take in."""
    return functools.reduce(relax.op.add, inputs) if len(inputs) > 1 else None


def _batch_normalization(inputs: Any, attrs: dict[str, Any]) -> Any:
    """BatchNormalization with known parameters as one multiplication and one addition per channel."""
    parameters = inputs[1:5]
    known = all(isinstance(p, tvm.ir.GenericConst) for p in parameters)
    if not known or attrs.get("training_mode", 0) or attrs["tvm_custom"]["num_outputs"] != 1:
        return None
    scale, shift, mean, variance = (p.value.numpy().astype(np.float64) for p in parameters)
    factor = scale / np.sqrt(variance + attrs.get("epsilon", 1e-5))
    shape, dtype = (-1, *[1] * (len(inputs[0].ty.shape.values) - 2)), str(inputs[0].ty.dtype)
    factor, offset = (relax.const(v.reshape(shape).astype(dtype)) for v in (factor, shift - mean * factor))
    return relax.op.add(relax.op.multiply(inputs[0], factor), offset)


def explicit_padding(inputs: Any, attrs: dict[str, Any]) -> None:
    """Replace `auto_pad` SAME of a convolution or pooling by the paddings it stands for (ONNX, operator Conv)."""
    if attrs.get("auto_pad") not in (b"SAME_UPPER", b"SAME_LOWER") or "output_padding" in attrs:
        return
    shape = [int(d) for d in inputs[0].ty.shape.values][2:]
    kernel = attrs.get("kernel_shape") or tuple(int(d) for d in inputs[1].ty.shape.values)[2:]
    ones = (1,) * len(shape)
    strides, dilations = attrs.get("strides", ones), attrs.get("dilations", ones)
    total = [
        max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        for size, k, stride, dilation in zip(shape, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    attrs["pads"] = tuple(less + more if attrs.pop("auto_pad") == b"SAME_UPPER" else more + less)


TRANSLATIONS = {
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Conv": _conv1d,
    "Gather": _gather,
    "Pad": _pad,
    "Sum": _sum,
}
