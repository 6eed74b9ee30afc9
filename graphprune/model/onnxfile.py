"""ONNX files: read into a protobuf and checked, so that nothing unreadable or unsafe goes further."""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import load_external_data_for_tensor

from graphprune.errors import InvalidModelError
from graphprune.model import wellformed
from graphprune.model.wellformed import tensors

OLDEST_OPSET = 9
# Serialised protobufs end at 2 GiB; past this much weight data goes into a file beside the model, and is streamed.
LARGEST_INLINE = 1_900_000_000
# Tensors below this many bytes are read into memory even then.
SMALLEST_STREAMED = 1 << 20


def read(path: Path) -> tuple[ModelProto, bool]:
    """The model in a file, and whether its weights were in a file of their own.

    All weights are read, unless they are too large together: then large initializers still refer to their file.

    Raises:
        InvalidModelError: the file is missing, unreadable, truncated or not valid ONNX, or its external data is
            missing, too short or outside the model's folder.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidModelError(
            f"cannot read {path}: {error.strerror or error}", "give the path of an ONNX file"
        ) from error
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise InvalidModelError(
            f"{path} is not an ONNX file, or is truncated", "check the file with `onnx.checker` or export it again"
        ) from error
    if not proto.ir_version or not proto.HasField("graph"):
        raise InvalidModelError(f"{path} is not an ONNX model: it holds no graph", "export the model again")
    external = _check_external(proto, path)
    check(proto, str(path), str(path))
    if external:
        _load_external(proto, path.parent)
    return proto, external


def _load_external(proto: ModelProto, folder: Path) -> None:
    sizes = [_external_size(t) if t.data_location == TensorProto.EXTERNAL else 0 for t in tensors(proto)]
    large = sum(sizes) > LARGEST_INLINE
    for k, (tensor, size) in enumerate(zip(tensors(proto), sizes, strict=True)):
        initializer = k < len(proto.graph.initializer)  # these come first
        if large and initializer and size >= SMALLEST_STREAMED and size == _size(tensor):
            continue
        if tensor.data_location == TensorProto.EXTERNAL:
            load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def _external_size(tensor: TensorProto) -> int:
    return next((int(entry.value) for entry in tensor.external_data if entry.key == "length"), _size(tensor))


def _size(tensor: TensorProto) -> int:
    """Bytes of a tensor whose elements are whole bytes."""
    return prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _check_external(proto: ModelProto, path: Path) -> bool:
    """Whether tensors live outside the file; each of them must lie inside the model's folder, and be complete."""
    root = path.parent.resolve()
    found = False
    for tensor in tensors(proto):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        found = True
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = (root / location).resolve()
        if not location or not file.is_relative_to(root):
            raise InvalidModelError(
                f"{path}: tensor '{tensor.name}' points outside the model's folder ('{location}')",
                "put the data file beside the model and export it again",
            )
        if not file.is_file():
            raise InvalidModelError(
                f"{path}: tensor '{tensor.name}' needs the external data file '{location}', which is missing",
                "copy it beside the model",
            )
        bounds = [entries.get("offset", "0"), entries.get("length", "0")]
        if not all(bound.isdecimal() for bound in bounds):
            raise InvalidModelError(
                f"{path}: tensor '{tensor.name}' lies at no place in '{location}': offset and length are {bounds}",
                "export the model again",
            )
        if sum(map(int, bounds)) > file.stat().st_size:
            raise InvalidModelError(
                f"{path}: external data file '{location}' is too short for tensor '{tensor.name}'",
                "copy it again: it is truncated",
            )
    return found


def _know_simplified() -> None:
    """onnxruntime writes this one operator of its own into the default domain, where onnx's checker would refuse it."""
    name, kinds = "SimplifiedLayerNormalization", ["tensor(float16)", "tensor(float)", "tensor(double)"]
    if onnx.defs.has(name):
        return
    parameter, schema = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema
    optional = schema.FormalParameterOption.Optional
    onnx.defs.register_schema(
        schema(
            name,
            "",
            1,
            inputs=[parameter("X", "T"), parameter("scale", "V")],
            outputs=[parameter("Y", "V"), parameter("inv_std_var", "U", param_option=optional)],
            type_constraints=[(letter, kinds, "") for letter in "TUV"],
            attributes=[
                schema.Attribute("axis", schema.AttrType.INT, required=False),
                schema.Attribute("epsilon", schema.AttrType.FLOAT, required=False),
                schema.Attribute("stash_type", schema.AttrType.INT, required=False),
            ],
        )
    )


_know_simplified()


def check(proto: ModelProto, name: str, file: str | None = None) -> None:
    """Have onnx check a model of a known opset; by its ``file`` where it has one, which may be of any size.

    Raises:
        InvalidModelError: with the first complaint.
    """
    newest = onnx.defs.onnx_opset_version()
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx") and not OLDEST_OPSET <= entry.version <= newest:
            hint = "install a newer onnx" if entry.version > newest else "convert it with onnx.version_converter"
            raise InvalidModelError(
                f"{name} uses opset {entry.version}; this installation knows {OLDEST_OPSET} to {newest}", hint
            )
    if file is None and any(t.data_location == TensorProto.EXTERNAL for t in tensors(proto)):
        raise InvalidModelError(
            f"{name} refers to external data that was not loaded",
            "load it with onnx.load, or give the path of the file",
        )
    try:
        onnx.checker.check_model(file or proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        first = " ".join(str(error).split("\n\n")[0].split())
        raise InvalidModelError(f"{name} is not valid ONNX: {first}", "export the model again") from error
    wellformed.check(proto, name)
