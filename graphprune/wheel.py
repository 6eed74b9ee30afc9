"""A Python wheel of a compiled C library: a module that needs numpy, not graphprune.

The same model gives the same bytes. Tags follow the C library that the target was linked for (PEP 600).
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
import sysconfig
import zipfile
from importlib import resources
from pathlib import Path

from graphprune.compiler import targets
from graphprune.compiler.manifest import Manifest, Value
from graphprune.errors import UsageError
from graphprune.runtime import read_manifest

_DATE = (1980, 1, 1, 0, 0, 0)
_TAGS = {"x86-64": "x86_64", "cuda": "x86_64", "aarch64": "aarch64", "armv7": "armv7l"}


def write_wheel(folder: Path, name: str) -> Path:
    """Write the wheel of the artefact in `folder` beside its files, and return its path.

    Args:
        folder: of one target, a C library for Linux or for this machine.
        name: of the package; what no identifier may hold becomes an underscore.

    Raises:
        UsageError: the artefact is no library that Python can load.
    """
    manifest = read_manifest(folder)
    module = re.sub(r"\W+|^(?=\d)", "_", name, flags=re.ASCII).strip("_").lower() or "model"
    tag = f"py3-none-{_platform(manifest)}"
    version = "1.0"
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": _code(manifest, module).encode(),
        **{
            f"{module}/{file}": (folder / file).read_bytes()
            for file in (manifest.library, "manifest.json", "weights.bin")
            if (folder / file).exists()
        },
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\nRequires-Python: >=3.8\n"
            f"Requires-Dist: numpy\nSummary: A model compiled by graphprune, {manifest.identity}\n"
        ).encode(),
        f"{info}/WHEEL": (
            f"Wheel-Version: 1.0\nGenerator: graphprune {importlib.metadata.version('graphprune')}\n"
            f"Root-Is-Purelib: false\nTag: {tag}\n"
        ).encode(),
    }
    record = "".join(f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, _DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return wheel


def _platform(manifest: Manifest) -> str:
    name = manifest.target.name
    if name == targets.machine() and not _for_any_linux(manifest):
        return re.sub(r"[-.]", "_", sysconfig.get_platform())
    if name not in _TAGS:
        raise UsageError(
            f"target {name!r} gives nothing that Python can load", "packages are for Linux and this machine"
        )
    return f"manylinux_2_17_{_TAGS[name]}"


def _for_any_linux(manifest: Manifest) -> bool:
    """Whether the library was linked for an old C library, and not by the compiler of this machine for itself."""
    known = targets.TARGETS.get(manifest.target.name)
    return known is not None and known().triple == manifest.target.triple


def _code(manifest: Manifest, module: str) -> str:
    text = resources.files("graphprune").joinpath("package.py.in").read_text("utf-8")
    fields = {
        "MODULE": module,
        "EXAMPLE": ", ".join(f"{v.name!r}: …" for v in manifest.inputs),
        "INPUTS": ", ".join(map(_described, manifest.inputs)),
        "OUTPUTS": ", ".join(map(_described, manifest.outputs)),
    }
    for key, value in fields.items():
        text = text.replace(f"@{key}@", value.replace("\\", "\\\\").replace('"', '\\"'))
    return text


def _described(value: Value) -> str:
    return f"{value.name} {value.dtype} {list(value.shape)}"


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
