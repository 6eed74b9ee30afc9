"""The same as classify.c, with Python's ctypes and nothing else: `python classify.py FOLDER IMAGE`."""

import ctypes
import sys
from pathlib import Path


class Tensor(ctypes.Structure):
    """`graphprune_tensor` of model.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("ndim", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("bytes", ctypes.c_size_t),
    ]


folder, image = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
library = ctypes.CDLL(str((folder / "model.so").resolve()))
library.graphprune_create.restype = ctypes.c_void_p
library.graphprune_create.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_char_p)]
library.graphprune_output.restype = ctypes.POINTER(Tensor)
library.graphprune_error.restype = ctypes.c_char_p
library.graphprune_error.argtypes = library.graphprune_destroy.argtypes = [ctypes.c_void_p]
library.graphprune_run_sized.argtypes = [ctypes.c_void_p] * 5

# Weights have to begin at a multiple of 64 bytes.
content = (folder / "weights.bin").read_bytes()
room = ctypes.create_string_buffer(len(content) + 64)
weights = -(-ctypes.addressof(room) // 64) * 64
ctypes.memmove(weights, content, len(content))

reason = ctypes.c_char_p()
model = library.graphprune_create(weights, len(content), ctypes.byref(reason))
if not model:
    sys.exit(f"graphprune_create: {reason.value.decode()}")
output = library.graphprune_output(0).contents
scores = (ctypes.c_float * (output.bytes // 4))()
inputs, outputs = (ctypes.c_char_p * 1)(image), (ctypes.c_void_p * 1)(ctypes.addressof(scores))
sizes = (ctypes.c_size_t * 1)(len(image)), (ctypes.c_size_t * 1)(output.bytes)
if library.graphprune_run_sized(model, inputs, sizes[0], outputs, sizes[1]):
    sys.exit(f"graphprune_run: {library.graphprune_error(model).decode()}")
best = max(range(len(scores)), key=scores.__getitem__)
print(f"class {best}, {output.name.decode()} {scores[best]:g}")
library.graphprune_destroy(model)
