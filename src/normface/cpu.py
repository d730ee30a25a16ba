"""The processor: its model, its instruction sets, and which of them libraries use in this environment."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .system_facts import UNKNOWN, or_unknown, output_of

PROCESSOR_KINDS = ("x86-64", "avx2", "avx512", "avx512-bf16", "avx512-amx")  # each includes the previous ones
ABILITIES = (
    "avx2 fma avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_int8 amx_bf16 neon sve bf16 i8mm".split()
)  # fmt: skip
# Variables that prevent a library from using all abilities or cores of the processor.
RESTRICTIONS = (
    "ATEN_CPU_CAPABILITY ONEDNN_MAX_CPU_ISA DNNL_MAX_CPU_ISA OPENBLAS_CORETYPE MKL_ENABLE_INSTRUCTIONS "
    "MKL_DEBUG_CPU_TYPE NPY_DISABLE_CPU_FEATURES OMP_NUM_THREADS OMP_THREAD_LIMIT OMP_PROC_BIND OMP_WAIT_POLICY "
    "KMP_AFFINITY GOMP_CPU_AFFINITY OPENBLAS_NUM_THREADS MKL_NUM_THREADS VECLIB_MAXIMUM_THREADS RAYON_NUM_THREADS "
    "CUDA_VISIBLE_DEVICES MALLOC_ARENA_MAX PYTORCH_CUDA_ALLOC_CONF TORCH_LOGS"
).split()
_CEILINGS = {  # variable → prefix of its value in capitals → the best instructions that the library then uses
    "ATEN_CPU_CAPABILITY": {"DEFAULT": "x86-64", "AVX2": "avx2"},
    "ONEDNN_MAX_CPU_ISA": {
        "SSE": "x86-64", "AVX2": "avx2", "AVX512_CORE_AMX": "avx512-amx", "AVX512_CORE_BF16": "avx512-bf16",
        "AVX512_CORE_FP16": "avx512-bf16", "AVX512": "avx512", "AVX10_1_512_AMX": "avx512-amx",
        "AVX10": "avx512-bf16", "AVX": "x86-64",
    },
}  # fmt: skip
_CEILINGS["DNNL_MAX_CPU_ISA"] = _CEILINGS["ONEDNN_MAX_CPU_ISA"]
_CPUINFO = {"asimd": "neon", "avx512_bf16": "avx512_bf16"}  # names in /proc/cpuinfo → ours, if they differ
_NUMPY = {"X86_V3": ("avx2", "fma"), "X86_V4": ("avx512f",), "AVX512F": ("avx512f",), "AVX2": ("avx2",),
          "FMA3": ("fma",), "AVX512_SPR": ("avx512_fp16", "avx512_bf16"), "ASIMD": ("neon",), "NEON": ("neon",),
          "SVE": ("sve",)}  # fmt: skip
_SYSCTL = {"FEAT_BF16": "bf16", "FEAT_I8MM": "i8mm", "AdvSIMD": "neon"}  # hw.optional[.arm].NAME on macOS


@dataclass(frozen=True)
class Processor:
    """The processor and the restrictions on its use.

    Attributes:
        name: its model, or "unknown".
        architecture: x86_64, arm64, …
        abilities: those of `ABILITIES` that it has.
        restrictions: environment variables that limit the instructions that libraries use, with their values.
        kind: class of processors with comparable speed: one of `PROCESSOR_KINDS`, "arm64", "arm64-bf16" or the
            architecture; takes restrictions into account.
    """

    name: str
    architecture: str
    abilities: tuple[str, ...]
    restrictions: Mapping[str, str]
    kind: str

    @property
    def has_bf16(self) -> bool:
        """Whether the processor multiplies bfloat16 natively."""
        return self.kind in ("avx512-bf16", "avx512-amx", "arm64-bf16")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {**asdict(self), "abilities": list(self.abilities), "has_bf16": self.has_bf16}


def processor(environment: Mapping[str, str] | None = None) -> Processor:
    """Describe this processor under `environment`, by default that of the process."""
    environment = os.environ if environment is None else environment
    able = or_unknown(_abilities)
    held = tuple(name for name in ABILITIES if name in able) if able != UNKNOWN else ()
    limited = {name: _harmless(environment[name]) for name in RESTRICTIONS if environment.get(name)}
    architecture = platform.machine().replace("AMD64", "x86_64").replace("aarch64", "arm64")
    return Processor(or_unknown(_name), architecture, held, limited, kind(architecture, held, limited))


def kind(architecture: str, abilities: tuple[str, ...], restrictions: Mapping[str, str]) -> str:
    """Return the kind of processor that libraries see, restrictions included."""
    if architecture != "x86_64":
        return f"{architecture}-bf16" if architecture == "arm64" and "bf16" in abilities else architecture
    steps = {"avx2": "avx2", "avx512f": "avx512", "avx512_bf16": "avx512-bf16", "amx_bf16": "avx512-amx"}
    found = max((PROCESSOR_KINDS.index(step) for name, step in steps.items() if name in abilities), default=0)
    for variable, ceilings in _CEILINGS.items():
        value = restrictions.get(variable, "").upper()
        beginnings = [beginning for beginning in ceilings if value.startswith(beginning)]
        if beginnings:
            found = min(found, PROCESSOR_KINDS.index(ceilings[max(beginnings, key=len)]))
    return PROCESSOR_KINDS[found]


def libraries() -> dict[str, Any]:
    """Return the instruction sets that NumPy's BLAS, ATen and oneDNN use here. Imports torch if installed."""
    found = {"numpy_blas": or_unknown(_blas), "onnxruntime": "chooses by the processor; no variable restricts it"}
    if find_spec("torch") is not None:
        found |= {"aten": or_unknown(_aten), "aten_threads": or_unknown(_aten_threads), "onednn": or_unknown(_onednn)}
        found["torch_blas"] = or_unknown(_torch_blas)
    return found


def _name() -> str | None:
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
        return named[0] if named else platform.processor()
    if sys.platform == "darwin":
        return output_of(["sysctl", "-n", "machdep.cpu.brand_string"])
    if sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return platform.processor()


def _abilities() -> set[str]:
    """Combine all available sources; a source that fails adds nothing."""
    found: set[str] = set()
    for source in (_of_the_system, _of_numpy):
        more = or_unknown(source)
        found |= more if more != UNKNOWN else set()
    return found


def _of_the_system() -> set[str]:
    if sys.platform == "linux":
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
        return {_CPUINFO.get(name, name) for name in (line[1].split() if line else [])}
    if sys.platform == "darwin":
        lines = [line.partition(": ") for line in output_of(["sysctl", "-a"]).splitlines()]
        held = {name.rpartition(".")[2] for name, _, value in lines if name.startswith("hw.optional") and value == "1"}
        found = {_SYSCTL.get(name, name.lower()) for name in held}
        return found | {"neon"} if platform.machine() == "arm64" else found
    return set()


def _of_numpy() -> set[str]:
    """Ask NumPy, which knows on every system. It reports bfloat16 only through AVX512-FP16, which implies it."""
    config: Any = np.show_config("dicts")
    names = [*config["SIMD Extensions"]["baseline"], *config["SIMD Extensions"]["found"]]
    return {ability for name in names for ability in _NUMPY.get(name, ())}


def _blas() -> str:
    config: Any = np.show_config("dicts")
    blas = config["Build Dependencies"]["blas"]
    text = f"{blas['name']} {blas['version']}"
    if find_spec("threadpoolctl") is None:
        return f"{text}, kernels unknown (pip install threadpoolctl tells)"
    pools = [pool for pool in import_module("threadpoolctl").threadpool_info() if "numpy" in pool["filepath"]]
    used = [f"kernels {pool.get('architecture', UNKNOWN)}, {pool['num_threads']} threads" for pool in pools]
    return ", ".join([text, *used])


def _aten() -> str:
    return str(import_module("torch").backends.cpu.get_cpu_capability())


def _aten_threads() -> int:
    return int(import_module("torch").get_num_threads())


def _torch_blas() -> str | None:
    built = re.search(r"BLAS_INFO=(\w+)", import_module("torch").__config__.show())
    return built[1] if built else None


def _onednn() -> str | None:
    """Read the instruction set from oneDNN's log while it computes, because nothing else reports it."""
    code = "import torch; torch.ones(4, 4).to_mkldnn()"
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "ONEDNN_VERBOSE": "1"}, capture_output=True, text=True,
        timeout=60,
    ).stdout  # fmt: skip
    version, isa = re.search(r"oneDNN v(\S+)", told), re.search(r"cpu,isa:(.*)", told)
    return ", ".join(each[1].strip() for each in (version, isa) if each) or None


def _harmless(value: str) -> str:
    """Return a value, unless it may name a folder."""
    return "(set)" if re.search(r"[/\\~]", value) else value
