"""Facts about this machine and its speed, for bug reports and benchmark records.

Each fact has its own probe; a probe that fails gives "unknown" and does not affect the others. No fact contains the
name of the host, the user or a folder.
"""

from __future__ import annotations

from typing import Any

from ..cpu import Processor, libraries, processor
from .cores import limits
from .software import default_model, extras, gpus, providers, versions

__all__ = [
    "Processor", "default_model", "extras", "facts", "gpus", "libraries", "limits", "processor", "providers",
    "versions",
]  # fmt: skip


def facts() -> dict[str, Any]:
    """Return all facts except speed as JSON values, section → name → value; with torch it takes a few seconds."""
    found = processor()
    return {
        "versions": versions(),
        "processor": {**found.to_dict(), "libraries": libraries()},
        "limits": limits(),
        "gpu": {"devices": gpus(), "onnxruntime_providers": providers()},
        "default_model": default_model(),
        "extras": extras(),
    }
