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


def _instance_normalization(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Instance normalisation as one of groups of one channel each, which has a kernel."""
    x, scale, shift = inputs
    if str(x.ty.dtype) != "float32":
        return None
    rank, channels = len(x.ty.shape.values), int(x.ty.shape.values[1])
    return relax.op.nn.group_norm(x, scale, shift, channels, 1, list(range(2, rank)), attrs.get("epsilon", 1e-5))


def _group_normalization(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Group normalisation with known scales, which were per group before opset 21, as one operator."""
    x, *affine = inputs
    known = all(isinstance(p, tvm.ir.GenericConst) for p in affine)
    if str(x.ty.dtype) != "float32" or not known:
        return None
    rank, channels = len(x.ty.shape.values), int(x.ty.shape.values[1])
    values = [p.value.numpy() for p in affine]
    scale, shift = (relax.const(np.repeat(v, channels // len(v))) for v in values)
    axes, groups = list(range(2, rank)), attrs["num_groups"]
    return relax.op.nn.group_norm(x, scale, shift, groups, 1, axes, attrs.get("epsilon", 1e-5))


def _conv_transpose(inputs: Any, attrs: dict[str, Any]) -> Any:
    """A 2-d transposed convolution with known weights as convolutions, one for each phase of the stride.

    Output y·s + p sums the taps k with k ≡ p + pad (mod s), each of the input at y + (p + pad − k) / s: a convolution
    with every s-th tap, last first. None where a phase has no tap or would crop the input, and for what is not 2-d.
    """
    x, weight, bias = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    known = all(i is None or isinstance(i, tvm.ir.GenericConst) for i in (weight, bias))
    plain = attrs.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and "output_shape" not in attrs
    if len(x.ty.shape.values) != 4 or not known or not plain or max(attrs.get("dilations", (1, 1))) > 1:
        return None
    batch, _, *size = (int(d) for d in x.ty.shape.values)
    taps = weight.value.numpy()  # [channels, filters / groups, height, width]
    groups, stride, pads = attrs.get("group", 1), attrs.get("strides", (1, 1)), attrs.get("pads", (0, 0, 0, 0))
    more = attrs.get("output_padding", (0, 0))
    out = [stride[a] * (size[a] - 1) + more[a] + taps.shape[2 + a] - pads[a] - pads[2 + a] for a in range(2)]
    turned = taps.reshape(groups, -1, *taps.shape[1:]).swapaxes(1, 2).reshape(-1, len(taps) // groups, *taps.shape[2:])
    steps = [-(-out[a] // stride[a]) for a in range(2)]
    phases = []
    for phase in np.ndindex(*stride):
        parts, around = [], []
        for a in range(2):
            first, shift = (phase[a] + pads[a]) % stride[a], (phase[a] + pads[a]) // stride[a]
            chosen = list(range(first, taps.shape[2 + a], stride[a]))[::-1]
            before = len(chosen) - 1 - shift
            after = steps[a] - size[a] + shift
            if not chosen or min(before, after) < 0:
                return None
            parts.append(chosen)
            around.append((before, after))
        part = turned[:, :, parts[0]][:, :, :, parts[1]]
        padding = tuple(around[a][side] for side in range(2) for a in range(2))
        made = relax.op.nn.conv2d(x, relax.const(np.ascontiguousarray(part)), padding=padding, groups=groups)
        if bias is not None:
            made = relax.op.add(made, relax.const(bias.value.numpy().reshape(1, -1, 1, 1)))
        phases.append(made)
    filters = len(turned)
    value = relax.op.concat(phases, axis=1) if len(phases) > 1 else phases[0]
    if len(phases) > 1:
        value = relax.op.reshape(value, (batch, *stride, filters, *steps))
        value = relax.op.permute_dims(value, (0, 3, 4, 1, 5, 2))
        value = relax.op.reshape(value, (batch, filters, steps[0] * stride[0], steps[1] * stride[1]))
    if [steps[a] * stride[a] for a in range(2)] != out:
        value = relax.op.strided_slice(value, axes=[2, 3], begin=[0, 0], end=out)
    return value


def _resize(inputs: Any, attrs: dict[str, Any]) -> Any:
    """Nearest neighbours of images as repetition at whole factors, else by indices; None for any other resizing."""
    x, *_ = inputs
    scales, sizes = ([*inputs, None, None][k] for k in (2, 3))
    given = sizes if sizes is not None else scales
    known = isinstance(given, tvm.ir.GenericConst) and len(x.ty.shape.values) == 4 and "axes" not in attrs
    plain = attrs.get("keep_aspect_ratio_policy", b"stretch") == b"stretch"
    if attrs.get("mode", b"nearest") != b"nearest" or not known or not plain:
        return None
    shape = [int(d) for d in x.ty.shape.values]
    scale = given.value.numpy().astype(np.float32) / np.asarray(shape if sizes is not None else 1, np.float32)
    mode = attrs.get("coordinate_transformation_mode", b"half_pixel")
    rounding = attrs.get("nearest_mode", b"round_prefer_floor")
    indices = [_nearest(n, by, mode, rounding) for n, by in zip(shape, scale, strict=True)]
    found = [i for i in indices if i is not None]
    if len(found) < 4 or any(len(found[axis]) != shape[axis] for axis in (0, 1)):
        return None
    factors = [len(found[axis]) // shape[axis] for axis in (2, 3)]
    repeated = [np.arange(shape[axis]).repeat(factors[axis - 2]) for axis in (2, 3)]
    if all(np.array_equal(repeated[axis - 2], found[axis]) for axis in (2, 3)):
        batch, channels, height, width = shape
        value = relax.op.reshape(x, (batch, channels, height, 1, width, 1))
        value = relax.op.broadcast_to(value, (batch, channels, height, factors[0], width, factors[1]))
        return relax.op.reshape(value, (batch, channels, height * factors[0], width * factors[1]))
    for axis in (2, 3):
        x = relax.op.take(x, relax.const(found[axis]), axis, mode="fast")
    return x


def _nearest(size: int, scale: np.float32, mode: bytes, rounding: bytes) -> np.ndarray | None:
    """Which of `size` positions each output is a copy of (ONNX, operator Resize), int64; None for a mode not known."""
    count = int(np.floor(size * scale))
    places = np.arange(count, dtype=np.float32)
    found = {
        b"half_pixel": (places + np.float32(0.5)) / scale - np.float32(0.5),
        b"pytorch_half_pixel": ((places + np.float32(0.5)) / scale - np.float32(0.5)) * (count > 1),
        b"asymmetric": places / scale,
        b"align_corners": places * np.float32((size - 1) / max(count - 1, 1)),
    }.get(mode)
    if found is None or not count:
        return None
    rounded = {
        b"round_prefer_floor": np.ceil(found - np.float32(0.5)),
        b"round_prefer_ceil": np.floor(found + np.float32(0.5)),
        b"floor": np.floor(found),
        b"ceil": np.ceil(found),
    }[rounding]
    return np.clip(rounded, 0, size - 1).astype(np.int64)


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
    "ConvTranspose": _conv_transpose,
    "Gather": _gather,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "Pad": _pad,
    "Resize": _resize,
    "Sum": _sum,
}
