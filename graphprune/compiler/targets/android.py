"""64-bit ARM under Android 10 (API 29) or later.

Nothing of Android's kit is needed to build: the kernels and their C call a dozen functions that every C library has, so
the library is linked without one, and the system finds its own.
"""

from __future__ import annotations

from dataclasses import replace

from graphprune.compiler.targets.aarch64 import TARGET as LINUX

TARGET = replace(LINUX, name="aarch64-android", triple="aarch64-linux-android29", zig="aarch64-linux-musl")
