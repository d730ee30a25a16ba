"""What this machine is and how fast it is: the facts that a bug report and a benchmark's record need.

Every fact comes from a probe of its own; a probe that fails says "unknown" and stops no other. Nothing here names the
host, the user or a folder.
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
    """All facts but the speed, as JSON holds them: section → name → value. Takes a few seconds where torch is there."""
    found = processor()
    return {
        "versions": versions(),
        "processor": {**found.to_dict(), "libraries": libraries()},
        "limits": limits(),
        "gpu": {"devices": gpus(), "onnxruntime_providers": providers()},
        "default_model": default_model(),
        "extras": extras(),
    }
