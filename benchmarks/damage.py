"""Files damaged at random: their bytes, the fields of a protobuf, the values of JSON, the pieces of a pipeline."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import ModelProto

from graphprune.pipeline import available

INTEGERS = [0, 1, 2, 3, 7, 8, 16, -1, -2, 127, 255, 1 << 16, 1 << 31, -(1 << 31), (1 << 31) - 1, 1 << 40, (1 << 63) - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan")]
TEXTS = [
    "",
    "x",
    "x" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "\x1b[31mred\x1b[0m",
    "<script>alert(1)</script>",
]
TEXTS += [
    "[bold]markup[/]",
    "{0}",
    "%s%n",
    "a\nb",
    "\u202egnp",
    "*/ int main() {",
    "ai.onnx",
    "com.microsoft",
    "?",
    "-1",
]


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, blank or insert a few stretches of bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at, length = rng.randrange(len(changed) + 1), rng.choice([1, 1, 2, 8, 64, 1024])
        part = bytes(changed[at : at + length])
        new = {
            "flip": bytes(b ^ (1 << rng.randrange(8)) for b in part),
            "cut": b"",
            "repeat": part * rng.choice([2, 3, 50]),
            "blank": bytes(len(part)),
            "insert": rng.randbytes(length) + part,
        }
        changed[at : at + length] = new[rng.choice(list(new))]
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.1 else changed)


def damage_fields(data: bytes, rng: random.Random) -> bytes:
    """Change a few fields of the protobuf: numbers, names, types, wiring, whole parts repeated, swapped or left out."""
    proto = ModelProto.FromString(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        messages = list(_messages(proto))
        message = rng.choice(messages)
        fields = [f for f in message.DESCRIPTOR.fields if f.name != "raw_data" or len(message.raw_data) < 4096]
        set_fields = [f for f, _ in message.ListFields() if f in fields]
        field = rng.choice(set_fields if set_fields and rng.random() < 0.8 else fields)
        try:
            _damage_field(message, field, rng, messages)
        except (ValueError, TypeError):  # the type does not hold this value
            continue
    return proto.SerializeToString()


def _messages(message: Message) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if hasattr(value, "add") else [value]:
                yield from _messages(inner)


def _damage_field(message: Any, field: Any, rng: random.Random, messages: list[Any]) -> None:
    value = getattr(message, field.name)
    if field.message_type is not None:
        donors = [m for m in messages if m.DESCRIPTOR is field.message_type]
        donor = copy.deepcopy(rng.choice(donors)) if donors else None  # it may be what this message is a part of
        if not hasattr(value, "add"):
            if rng.random() < 0.5 or donor is None:
                message.ClearField(field.name)
            else:
                value.CopyFrom(donor)
        elif len(value) and rng.random() < 0.4:
            del value[rng.randrange(len(value))]
        elif len(value) > 1 and rng.random() < 0.4:
            parts = copy.deepcopy(list(value))
            rng.shuffle(parts)
            del value[:]
            value.extend(parts)
        elif donor is not None:
            value.add().CopyFrom(donor)
        else:
            value.add()
        return
    if isinstance(value, (int, float, str, bytes)):
        if rng.random() < 0.1:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _other(value, field, rng, messages))
    elif len(value) and rng.random() < 0.7:
        at = rng.randrange(len(value))
        value[at] = _other(value[at], field, rng, messages)
    elif len(value) and rng.random() < 0.5:
        del value[rng.randrange(len(value))]
    else:
        blank = {str: "", bytes: b"", int: 0, float: 0.0}
        kind = next(k for k in (str, bytes, float, int) if _holds(value, blank[k]))
        value.append(_other(blank[kind], field, rng, messages))


def _holds(values: Any, value: object) -> bool:
    try:
        values.append(value)
    except (TypeError, ValueError):
        return False
    values.pop()
    return True


def _other(value: Any, field: Any, rng: random.Random, messages: list[Any]) -> Any:
    if field.enum_type is not None:
        return rng.choice(field.enum_type.values).number
    if isinstance(value, str):
        same = [getattr(m, field.name) for m in messages if m.DESCRIPTOR is field.containing_type]
        known = [t for v in same for t in ([v] if isinstance(v, str) else v)]
        if field.name == "op_type":
            known = [schema.name for schema in onnx.defs.get_all_schemas()]
        return rng.choice(known if known and rng.random() < 0.7 else TEXTS)
    if isinstance(value, bytes):
        return damage_bytes(value, rng) if value and rng.random() < 0.7 else rng.choice(TEXTS).encode()
    return rng.choice(FLOATS if isinstance(value, float) else [*INTEGERS, value + 1, value - 1, value * 2])


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """Change a few values of a plan, or its text."""
    if rng.random() < 0.3:
        return damage_bytes(data, rng)
    tree = json.loads(data)
    junk = [None, True, [], {}, "", *INTEGERS, *TEXTS, 0.5, [[]], [0, 0], list(range(1000))]
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = tree
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.85:
                at = at[key]
                continue
            if rng.random() < 0.2:
                del at[key]
            else:
                at[key] = copy.deepcopy(rng.choice(junk))
            break
    return json.dumps(tree).encode()


def damage_text(text: str, rng: random.Random) -> str:
    """Put pieces of a pipeline together anew."""
    pieces = [
        *available(),
        *text.replace("(", "|(|").replace(",", "|,|").split("|"),
        *map(str, INTEGERS + FLOATS),
        *TEXTS,
    ]
    parts = [text[: rng.randrange(len(text))], *(rng.choice(pieces) for _ in range(rng.choice([1, 2, 3])))]
    parts.append(text[rng.randrange(len(text)) :])
    return "".join(parts).replace("\0", "")
