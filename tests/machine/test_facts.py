"""What is told of a machine, also of one where half of the questions have no answer."""

import json
import os
import platform
import sys
from importlib import metadata

import pytest

from normface import cpu, machine
from normface.machine import cores, software, speed
from normface.system_facts import UNKNOWN, or_unknown


class TestKind:
    @pytest.mark.parametrize(
        ("abilities", "restrictions", "kind"),
        [
            ((), {}, "x86-64"),
            (("avx2", "fma"), {}, "avx2"),
            (("avx2", "avx512f"), {}, "avx512"),
            (("avx2", "avx512f", "avx512_bf16"), {}, "avx512-bf16"),
            (("avx2", "avx512f", "avx512_bf16", "amx_bf16"), {}, "avx512-amx"),
            (("avx2", "avx512f", "avx512_bf16"), {"ATEN_CPU_CAPABILITY": "avx2"}, "avx2"),
            (("avx2", "avx512f", "avx512_bf16"), {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avx2"),
            (("avx2", "avx512f", "avx512_bf16"), {"ONEDNN_MAX_CPU_ISA": "avx512_core"}, "avx512"),
            (("avx2", "avx512f", "avx512_bf16", "amx_bf16"), {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "avx512-bf16"),
            (("avx2", "avx512f", "avx512_bf16", "amx_bf16"), {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, "avx512-amx"),
            (("avx2",), {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "avx2"),
            (("avx2",), {"ONEDNN_MAX_CPU_ISA": "ALL", "ATEN_CPU_CAPABILITY": "default"}, "x86-64"),
            (("avx2", "avx512f"), {"OMP_NUM_THREADS": "1"}, "avx512"),
        ],
    )
    def test_is_the_least_of_processor_and_environment(self, abilities, restrictions, kind):
        assert cpu.kind("x86_64", abilities, restrictions) == kind

    def test_of_arm(self):
        assert cpu.kind("arm64", ("neon",), {}) == "arm64"
        assert cpu.kind("arm64", ("neon", "bf16"), {}) == "arm64-bf16"

    def test_restrictions_are_told_but_no_folders(self):
        found = machine.processor({"OMP_NUM_THREADS": "1", "TORCH_LOGS": "/home/ann/logs", "HOME": "/home/ann"})
        assert found.restrictions == {"OMP_NUM_THREADS": "1", "TORCH_LOGS": "(set)"}


@pytest.fixture
def system(tmp_path):
    """Write a /proc and a /sys/fs/cgroup; returns both."""

    def make(groups, files):
        proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        (proc / "self" / "cgroup").write_text(groups)
        (proc / "meminfo").write_text("MemTotal:       8388608 kB\nMemAvailable:   4194304 kB\n")
        for name, text in files.items():
            (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
            (cgroup / name).write_text(text)
        return proc, cgroup

    return make


@pytest.mark.skipif(sys.platform == "win32", reason="Linux's files are read on Linux alone")
class TestLimits:
    def test_version_2(self, system):
        found = machine.limits(
            *system("0::/app\n", {"app/cpu.max": "50000 100000\n", "app/memory.max": "1073741824\n"})
        )
        assert found["container_cpus"] == 0.5
        assert found["usable_cores"] == 1
        assert found["container_memory_mib"] == 1024
        assert (found["memory_mib"], found["available_memory_mib"]) == (8192, 4096)

    def test_version_2_takes_the_tightest_of_all_levels(self, system):
        files = {
            "cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n",
            "a/memory.max": "2147483648\n", "a/b/memory.max": "max\n",
        }  # fmt: skip
        found = machine.limits(*system("0::/a/b\n", files))
        assert found["container_cpus"] == 1.5
        assert found["container_memory_mib"] == 2048

    def test_version_1(self, system):
        files = {
            "cpu/box/cpu.cfs_quota_us": "200000\n", "cpu/box/cpu.cfs_period_us": "100000\n",
            "memory/box/memory.limit_in_bytes": "536870912\n", "memory/memory.limit_in_bytes": "9223372036854771712\n",
        }  # fmt: skip
        found = machine.limits(*system("4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/\n0::/\n", files))
        assert found["container_cpus"] == 2
        assert found["container_memory_mib"] == 512

    def test_no_limit(self, system):
        files = {
            "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
        }  # fmt: skip
        found = machine.limits(*system("4:memory:/\n3:cpu:/\n0::/\n", files))
        assert found["container_cpus"] is None
        assert found["container_memory_mib"] is None

    def test_damaged_files_are_unknown(self, system):
        found = machine.limits(*system("0::/\n", {"cpu.max": "a lot\n", "memory.max": "more\n"}))
        assert found["container_cpus"] == UNKNOWN
        assert found["container_memory_mib"] == UNKNOWN
        assert found["usable_cores"] >= 1

    def test_without_proc(self, tmp_path):
        found = machine.limits(tmp_path / "none", tmp_path / "none")
        assert found["cores"] == os.cpu_count()
        assert found["container_cpus"] is None
        assert found["available_memory_mib"] == UNKNOWN

    def test_load(self, monkeypatch, tmp_path):
        monkeypatch.setattr(cores.os, "getloadavg", lambda: (1.26, 0.0, 0.0))
        assert machine.limits(tmp_path, tmp_path)["load"] == 1.3
        monkeypatch.delattr(cores.os, "getloadavg")  # as on Windows
        assert machine.limits(tmp_path, tmp_path)["load"] == UNKNOWN


class TestExtras:
    @pytest.fixture
    def package(self, monkeypatch):
        """A package with the given requirements, on a machine with the given versions."""

        def make(requires, **installed):
            def version(name):
                if name not in installed:
                    raise metadata.PackageNotFoundError(name)
                return installed[name]

            class Fields:
                def get_all(self, _):
                    return ["train", "gpu", "all"]

            monkeypatch.setattr(software.metadata, "requires", lambda _: requires)
            monkeypatch.setattr(software.metadata, "metadata", lambda _: Fields())
            monkeypatch.setattr(software.metadata, "version", version)

        return make

    REQUIRES = (
        "numpy>=2", 'torch>=2.6; extra == "train"', 'safetensors; extra == "train"',
        'triton; sys_platform == "nowhere" and extra == "gpu"', 'normface[gpu,train]; extra == "all"',
    )  # fmt: skip

    def test_what_is_missing_or_too_old_is_named_with_its_command(self, package):
        package(self.REQUIRES, torch="2.5")
        found = machine.extras()
        assert found["train"]["missing"] == {"torch>=2.6": "2.5", "safetensors": None}
        assert found["train"]["install"] == "pip install 'normface[train]'"
        assert not found["train"]["installed"]
        assert found["gpu"]["installed"]  # its one requirement is for another system
        assert found["all"]["missing"] == found["train"]["missing"]

    def test_what_is_there(self, package):
        package(self.REQUIRES, torch="2.13.0+cpu", safetensors="0.5")
        assert all(found["installed"] for found in machine.extras().values())

    def test_are_those_of_the_installed_package(self):
        assert set(machine.extras()) == set(metadata.metadata("normface").get_all("Provides-Extra"))

    def test_no_metadata(self, monkeypatch):
        monkeypatch.setattr(software, "PROJECT", "there-is-no-such-package")
        assert machine.extras() == {}
        assert machine.versions()["there-is-no-such-package"] == UNKNOWN


class TestDefaultModel:
    def test_is_the_one_of_its_card_and_certificate(self):
        found = machine.default_model()
        assert found["matches_its_card"] is True
        assert found["matches_its_certificate"] is True
        assert found["weights_intact"] in (True, UNKNOWN)

    def test_another_file_does_not_match(self, monkeypatch):
        monkeypatch.setattr(software, "_named", lambda: "0" * 64)
        found = machine.default_model()
        assert found["matches_its_card"] is False
        assert found["matches_its_certificate"] is False

    def test_none(self, monkeypatch, tmp_path):
        monkeypatch.setattr(software, "DEFAULT", tmp_path / "none.onnx")
        assert "missing" in machine.default_model()["file"]


def test_a_probe_that_fails_is_unknown():
    assert or_unknown(lambda: 1 / 0) == UNKNOWN
    assert or_unknown(lambda: None) == UNKNOWN
    assert or_unknown(lambda: 0) == 0
    assert or_unknown(lambda: False) is False


def test_nothing_stops_the_report(monkeypatch, tmp_path):
    """No torch, no ONNX Runtime, no /proc, no system that answers: still a report."""

    def broken(*_, **__):
        raise OSError("no")

    for name in ("torch", "onnxruntime", "threadpoolctl", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    for module, name in ((cpu, "_name"), (cpu, "_of_the_system"), (cpu, "_of_numpy"), (cpu, "_blas")):
        monkeypatch.setattr(module, name, broken)
    for name in ("_affinity", "_cpus", "_memory", "_total", "_available"):
        monkeypatch.setattr(cores, name, broken)
    found = machine.facts()
    assert found["processor"]["name"] == UNKNOWN
    assert found["processor"]["abilities"] == []
    assert found["limits"]["memory_mib"] == UNKNOWN
    assert found["gpu"]["onnxruntime_providers"] == UNKNOWN
    json.dumps(found)


def test_tells_nothing_personal(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what torch tells holds no names, and loading it takes seconds
    told = json.dumps(machine.facts())
    private = [platform.node(), os.path.expanduser("~"), sys.prefix, os.getcwd()]
    assert not [each for each in private if len(each) > 3 and each in told]


class TestSpeed:
    @pytest.mark.slow
    def test_without_torch(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        monkeypatch.setattr(speed, "PRODUCT", 64)
        monkeypatch.setattr(speed, "CROPS", 2)
        monkeypatch.setattr(speed, "PHOTOGRAPHS", 2)
        found = speed.measure(0)
        assert all(found[name] > 0 for name in ("product_gflops", "detect_ms", "embed_per_second", "verify_ms"))
        assert found["train_per_second"] == UNKNOWN
        assert "pip install 'normface[train]'" in found["left_out"]["train_per_second"]

    def test_a_part_that_fails_leaves_the_others(self, monkeypatch):
        def broken(*_):
            raise ValueError("a model\nthat does not load")

        monkeypatch.setattr(speed.Embedder, "load", broken)
        monkeypatch.setattr(speed, "PRODUCT", 64)
        monkeypatch.setattr(speed, "photograph", lambda *_: None)
        monkeypatch.setattr(speed, "training_step", lambda *_: lambda: None)
        found = speed.measure(0)
        assert found["product_gflops"] > 0
        assert found["embed_per_second"] == UNKNOWN
        assert found["left_out"]["embed_per_second"] == "ValueError: a model"

    def test_beside_the_docs(self, monkeypatch):
        docs = {"avx2": {"on": "a laptop", "detect_ms": 10.0, "embed_per_second": 100.0}}
        monkeypatch.setattr(speed, "published", lambda: docs)
        here = {"detect_ms": 20.0, "embed_per_second": 50.0, "train_per_second": UNKNOWN}
        rows = {row["what"]: row for row in speed.beside(here, "avx2")}
        assert [row["times_docs"] for row in rows.values()] == [0.5, 0.5, None]  # half as fast either way
        assert all(row["docs"] is None for row in speed.beside(here, "arm64"))

    def test_published_figures_have_the_names_that_are_measured(self):
        for figures in speed.published().values():
            assert set(figures) <= {*speed.UNITS, "on", "date"}
            assert "on" in figures
