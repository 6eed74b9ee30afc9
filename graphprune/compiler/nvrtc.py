"""CUDA to machine code, without a graphics processor or NVIDIA's toolkit: NVRTC of PyPI's `nvidia-cuda-nvrtc-cu12`."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from graphprune.compiler.targets import NVRTC, package
from graphprune.errors import CompileError

# What TVM's code includes of NVIDIA's C++ library; the toolkit that has it is not needed for so little.
_HEADERS = {
    "cuda/std/cstdint": """namespace cuda { namespace std {
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned uint32_t;
typedef unsigned long long uint64_t;
} }""",
    "cuda/std/type_traits": """namespace cuda { namespace std {
template <bool V> struct constant { static constexpr bool value = V; };
template <class A, class B> struct is_same : constant<false> {};
template <class A> struct is_same<A, A> : constant<true> {};
template <class A, class B> constexpr bool is_same_v = is_same<A, B>::value;
template <class A> struct is_integral : constant<(A)1 / (A)2 == (A)0> {};
template <class A> struct is_signed : constant<(A)-1 < (A)0> {};
template <class A> struct is_unsigned : constant<(A)0 < (A)-1> {};
template <class A> struct is_floating_point : constant<!((A)1 / (A)2 == (A)0)> {};
template <bool V, class A = void> struct enable_if {};
template <class A> struct enable_if<true, A> { typedef A type; };
template <bool V, class A, class B> struct conditional { typedef A type; };
template <class A, class B> struct conditional<false, A, B> { typedef B type; };
} }""",
}


def compile_cuda(source: str, architecture: str) -> bytes:
    """Machine code of `source` for `sm_80` and the like, or PTX for `compute_80`.

    Raises:
        CompileError: NVRTC is not installed, or refuses the source or the architecture.
    """
    nvrtc = _library()
    program = ctypes.c_void_p()
    count = len(_HEADERS)
    texts = (ctypes.c_char_p * count)(*(text.encode() for text in _HEADERS.values()))
    names = (ctypes.c_char_p * count)(*(name.encode() for name in _HEADERS))
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", count, texts, names)
    try:
        option = ctypes.c_char_p(f"--gpu-architecture={architecture}".encode())
        if failed := nvrtc.nvrtcCompileProgram(program, 1, ctypes.byref(option)):
            log = _read(nvrtc, program, "ProgramLog").decode(errors="replace")
            reason = next((line for line in log.splitlines() if "error" in line), f"NVRTC's code {failed}")
            raise CompileError(f"compiling kernels for {architecture} failed: {reason[:300]}")
        return _read(nvrtc, program, "PTX" if architecture.startswith("compute") else "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    content = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, content)
    return content.raw


@cache
def _library() -> ctypes.CDLL:
    spec = package(NVRTC)
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    found = [file for folder in folders for file in sorted(folder.glob("*/*nvrtc*")) if _is_library(file.name)]
    if not found:
        raise CompileError("NVIDIA's compiler for kernels is not installed", 'pip install "graphprune[cuda]"')
    return ctypes.CDLL(str(found[0]))


def _is_library(name: str) -> bool:
    return name.startswith(("libnvrtc.so", "nvrtc64_")) and "alt" not in name
