"""Versions, extras, GPUs, execution providers and the default model, with as few imports as possible."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from ..embed.loading import DEFAULT
from ..embed.network import SHA_KEY, certificate
from ..embed.weights import fingerprint
from ..system_facts import UNKNOWN, or_unknown, output_of
from ..types import OperatingPoint

PROJECT = "normface"
NAMED = (  # optional packages whose versions are reported
    "numpy scipy onnxruntime onnxruntime-gpu opencv-python-headless opencv-python simplejpeg pillow torch triton onnx"
).split()


def versions() -> dict[str, str]:
    """Return the versions of normface, Python, the system and the packages that compute."""
    found = {
        PROJECT: or_unknown(lambda: metadata.version(PROJECT)),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()).strip() or UNKNOWN,
    }
    return found | {name: version for name in NAMED if (version := _version(name))}


def extras() -> dict[str, dict[str, Any]]:
    """Return each extra of the installed package with the requirements it lacks and the command that installs them.

    Read from the metadata of the installed package. A value is
    `{"installed": bool, "missing": {requirement: version found, or None}, "install": command}`.
    """
    found = or_unknown(_extras)
    return found if isinstance(found, dict) else {}


def _extras() -> dict[str, dict[str, Any]]:
    from packaging.requirements import Requirement  # onnxruntime requires it

    requirements = [Requirement(text) for text in metadata.requires(PROJECT) or ()]

    def lacking(extra: str, seen: tuple[str, ...] = ()) -> dict[str, str | None]:
        missing: dict[str, str | None] = {}
        for each in requirements:
            if each.marker is None or each.marker.evaluate({"extra": ""}) or not each.marker.evaluate({"extra": extra}):
                continue
            if each.name == PROJECT:  # an extra that combines others
                for other in sorted(set(each.extras) - {*seen, extra}):
                    missing |= lacking(other, (*seen, extra))
                continue
            version = _version(each.name)
            if version is None or not each.specifier.contains(version, prereleases=True):
                missing[f"{each.name}{each.specifier}"] = version
        return missing

    names = metadata.metadata(PROJECT).get_all("Provides-Extra") or []
    return {
        name: {"installed": not (missing := lacking(name)), "missing": missing, "install": _install(name)}
        for name in names
    }


def _install(extra: str) -> str:
    return f"pip install '{PROJECT}[{extra}]'"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def providers() -> Any:
    """Return the execution providers of the installed ONNX Runtime, best first."""
    return or_unknown(lambda: list(import_module("onnxruntime").get_available_providers()))


def gpus() -> list[str]:
    """Return the GPUs that torch or the NVIDIA driver sees: name, memory, versions."""
    for source in (_of_torch, _of_the_driver):
        found = or_unknown(source)
        if found != UNKNOWN and found:
            return list(found)
    return []


def _of_torch() -> list[str]:
    if find_spec("torch") is None:
        return []
    torch = import_module("torch")
    found = []
    for index in range(torch.cuda.device_count()):
        held = torch.cuda.get_device_properties(index)
        able = f"capability {held.major}.{held.minor}, CUDA {torch.version.cuda}"
        found.append(f"{held.name}, {held.total_memory >> 20} MiB, {able}")
    if sys.platform == "darwin" and torch.backends.mps.is_available():
        found.append("Apple GPU (torch: mps)")
    return found


def _of_the_driver() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return output_of(query).splitlines()


def default_model() -> dict[str, Any]:
    """Return the default model's SHA-256s and whether its weights match its card and its certificate.

    `weights_sha256` is the hash recorded in the file; `weights_intact` says whether its weights have that hash.
    """
    if not DEFAULT.is_file():
        return {"file": "missing: install normface again"}
    named = or_unknown(_named)
    card = or_unknown(lambda: re.search(r"SHA-256[^|]*\|\s*`([0-9a-f]{64})`", _card())[1])  # type: ignore[index]
    point = or_unknown(lambda: OperatingPoint.from_json(certificate(DEFAULT).read_bytes()).model_sha256)
    return {
        "file": DEFAULT.name, "bytes": DEFAULT.stat().st_size,
        "file_sha256": or_unknown(lambda: hashlib.sha256(DEFAULT.read_bytes()).hexdigest()),
        "weights_sha256": named, "weights_intact": or_unknown(lambda: _computed() == named),
        "matches_its_card": _agree(named, card), "matches_its_certificate": _agree(named, point),
    }  # fmt: skip


def _agree(one: str, other: str) -> bool | str:
    return UNKNOWN if UNKNOWN in (one, other) else one == other


def _card() -> str:
    return DEFAULT.with_name("model-card.md").read_text(encoding="utf-8")


def _named() -> str | None:
    session = import_module("onnxruntime").InferenceSession(str(DEFAULT), providers=["CPUExecutionProvider"])
    named = session.get_modelmeta().custom_metadata_map.get(SHA_KEY)
    return str(named) if named else None


def _computed() -> str:
    return fingerprint(DEFAULT.read_bytes())
