"""The benchmarks' harness: what fails, is missing or cannot be measured is named, and costs nothing else."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from benchmarks.harness import command, page, quick
from benchmarks.harness.sheet import LeftOut, MissingPeer, Sheet, peer

from normface.errors import MissingDependency

FACTS = {
    "commit": "abc", "kind": "avx2", "processor": "A processor", "abilities": ["avx2"], "has_bf16": False,
    "restrictions": {}, "cores": 2, "load": 0.0, "memory_mib": 1, "gpu": None, "versions": {"python": "3"},
}  # fmt: skip


@pytest.fixture
def sheet(tmp_path):
    return Sheet("fake", tmp_path / "fake.json", facts=FACTS)


def read(path):
    return json.loads(path.read_text("utf-8"))


def failing():
    raise ValueError("it broke\nin two lines")


class TestSheet:
    def test_keeps_figures_in_their_places(self, sheet):
        assert sheet.measure("a/b", lambda: 1) == 1
        sheet.measure("a/c", lambda x: {"d": x}, 2)
        sheet.measure("", lambda: {"top": 3})
        assert read(sheet.finish()) == read(sheet.path)
        record = read(sheet.path)
        assert record["a"] == {"b": 1, "c": {"d": 2}}
        assert record["top"] == 3
        assert (record["kind"], record["abilities"], record["cores"]) == ("avx2", ["avx2"], 2)
        assert not sheet.partial.exists()

    def test_a_failing_part_costs_no_other(self, sheet):
        sheet.measure("first", lambda: 1)
        assert sheet.measure("second", failing) is None
        sheet.measure("third", lambda: 3)
        file = sheet.finish()
        assert file == sheet.partial
        assert not sheet.path.exists()
        record = read(file)
        assert (record["first"], record["third"]) == (1, 3)
        assert record["failed"] == {"second": "ValueError: it broke in two lines"}

    def test_an_older_whole_record_outlives_a_failure(self, sheet):
        sheet.measure("a", lambda: 1)
        sheet.finish()
        again = Sheet("fake", sheet.path, facts=FACTS)
        again.measure("a", failing)
        again.finish()
        assert read(sheet.path)["a"] == 1

    def test_is_on_disk_after_every_part(self, sheet):
        sheet.measure("first", lambda: 1)
        assert read(sheet.partial)["first"] == 1
        with pytest.raises(KeyboardInterrupt):  # as a user stops it
            sheet.measure("second", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        assert read(sheet.partial)["first"] == 1

    @pytest.mark.parametrize(
        "reason",
        [
            LeftOut("no such instructions; buy others"),
            MissingPeer("lancedb", "pip install lancedb"),
            MissingDependency("the package 'x'", "none", "install it with: pip install x"),
        ],
    )
    def test_what_cannot_be_measured_is_left_out(self, sheet, reason):
        def part():
            raise reason

        sheet.measure("part", part)
        sheet.measure("other", lambda: 1)
        record = read(sheet.finish())
        assert record["left_out"] == {"part": str(reason)}
        assert record["other"] == 1
        assert not record["failed"]

    def test_a_part_that_fails_may_be_tried_again(self, sheet):
        sheet.attempt("same name", failing)
        assert sheet.measure("same name", lambda: 2) == 2
        assert sheet.figures == {"same name": 2}

    def test_nothing_begins_after_its_seconds(self, tmp_path):
        sheet = Sheet("fake", tmp_path / "fake.json", facts=FACTS, seconds=-1)
        assert sheet.measure("late", lambda: 1) is None
        assert "were over" in sheet.left_out["late"]

    def test_goes_on_where_it_was_stopped(self, sheet):
        sheet.resume("code")
        sheet.measure("a", lambda: 1)
        again = Sheet("fake", sheet.path, facts=FACTS)
        again.resume("code")
        assert again.measure("a", failing) is None
        again.measure("b", lambda: 2)
        record = read(again.finish())
        assert (record["a"], record["b"], record["failed"]) == (1, 2, {})

    def test_begins_anew_with_other_code_or_size(self, sheet):
        sheet.resume("code")
        sheet.measure("a", lambda: 1)
        for other, small in (("new code", False), ("code", True)):
            again = Sheet("fake", sheet.path, facts=FACTS, quick=small)
            again.resume(other)
            assert again.figures == {}

    def test_messages_hold_no_folders(self, sheet):
        sheet.measure("a", (Path(sys.prefix) / "no-such-file").read_text)
        assert sys.prefix not in sheet.failed["a"]

    def test_bfloat16_where_it_is_emulated(self, tmp_path):
        with pytest.raises(LeftOut, match="emulated"):
            Sheet("fake", tmp_path / "a.json", facts=FACTS).need_bf16()
        Sheet("fake", tmp_path / "a.json", facts={**FACTS, "has_bf16": True}).need_bf16()


class TestPeers:
    def test_a_package(self):
        assert peer("json", "").dumps([]) == "[]"
        with pytest.raises(MissingPeer, match="install it with: pip install lancedb"):
            peer("there_is_no_such_package", "pip install lancedb")

    @pytest.mark.parametrize(
        ("name", "call", "variable"),
        [
            ("arcface_torch", lambda m: m.trainer(10), "ARCFACE_TORCH"),
            ("cvlface", lambda m: m.load(), "CVLFACE"),
            ("insightface", lambda m: m.load(), "INSIGHTFACE"),
            ("facenet_pytorch", lambda m: m.load(20), "FACENET_PYTORCH"),
            ("deepface", lambda m: m.check(), "DEEPFACE"),
        ],
    )
    def test_a_checkout_that_is_not_there(self, name, call, variable, monkeypatch):
        pytest.importorskip("torch")
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(MissingPeer, match=f"export {variable}="):
            call(import_module(f"benchmarks.peers.{name}"))

    def test_a_gallery_that_is_not_there(self, monkeypatch, tmp_path):
        from benchmarks.peers import galleries

        for name in ("lancedb", "faiss", "pymilvus", "milvus_lite"):
            monkeypatch.setitem(sys.modules, name, None)
        for load in (galleries.lancedb, galleries.faiss_flat, galleries.milvus_lite):
            with pytest.raises(MissingPeer, match="pip install"):
                load(None, tmp_path)


class TestTraining:
    def test_leaves_bfloat16_out_where_it_is_emulated(self, sheet, monkeypatch):
        training = pytest.importorskip("benchmarks.training")
        halves = []
        monkeypatch.setattr(training, "training_step", lambda name, half: halves.append(half))
        monkeypatch.setattr(training, "least", lambda work, steps: 1.0)
        training.run(sheet)
        assert set(sheet.figures["images_per_second"]) == {"smallresnet fp32", "mobilefacenet fp32"}
        assert set(sheet.left_out) == {
            "images_per_second/smallresnet bf16", "images_per_second/mobilefacenet bf16",
            "matmul_gflops_torch.bfloat16",
        }  # fmt: skip
        assert not any(halves)


class TestCommandLine:
    @pytest.fixture
    def run(self, monkeypatch, tmp_path, capsys):
        """Run `python -m benchmarks fake WORDS` with a benchmark of the given body: code, its file, what was said."""

        def call(body, *words):
            module = ModuleType("benchmarks.fake")
            module.run = body
            monkeypatch.setitem(sys.modules, "benchmarks.fake", module)
            monkeypatch.setattr(command, "benchmarks", lambda: {"fake": command.Benchmark("About it.", 10)})
            monkeypatch.setattr(command, "facts", lambda: FACTS)
            monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
            monkeypatch.setattr(command, "BUILD", tmp_path / "build")
            with pytest.raises(SystemExit) as ended:
                command.main(["fake", *words])
            files = [path for path in tmp_path.rglob("*.json") if path.is_file()]
            return ended.value.code, files, capsys.readouterr()

        return call

    def test_results_lie_by_kind_of_processor(self, run, tmp_path):
        code, files, said = run(lambda sheet: sheet.measure("a", lambda: 1))
        assert code == 0
        assert files == [tmp_path / "results" / "avx2" / "fake.json"]
        assert json.loads(said.out)["a"] == 1

    def test_quick_ones_lie_elsewhere(self, run, tmp_path):
        _, files, _ = run(lambda sheet: sheet.put("size", sheet.pick("large", "small")), "--quick")
        assert files == [tmp_path / "build" / "avx2" / "fake.json"]
        assert read(files[0])["size"] == "small"

    def test_a_missing_peer_is_no_failure(self, run):
        def body(sheet):
            sheet.measure("beside/lancedb", peer, "there_is_no_such_package", "pip install lancedb")
            sheet.measure("ours", lambda: 1)

        code, files, said = run(body)
        assert code == 0
        assert read(files[0])["ours"] == 1
        assert "install it with: pip install lancedb" in said.err

    def test_a_failure_has_its_code_and_keeps_the_rest(self, run):
        def body(sheet):
            sheet.measure("before", lambda: 1)
            sheet.measure("broken", failing)
            sheet.measure("after", lambda: 2)

        code, files, said = run(body)
        assert code == 1
        record = read(files[0])
        assert files[0].name == "fake.partial.json"
        assert (record["before"], record["after"]) == (1, 2)
        assert "fake: failed: broken: ValueError: it broke in two lines" in said.err

    def test_so_has_one_outside_of_any_part(self, run):
        def body(sheet):
            sheet.measure("before", lambda: 1)
            failing()

        code, files, _ = run(body)
        assert code == 1
        assert read(files[0])["before"] == 1
        assert read(files[0])["failed"] == {"fake": "ValueError: it broke in two lines"}

    def test_lists_all_without_arguments(self, capsys):
        command.main([])
        told = capsys.readouterr().out
        for name, known in command.benchmarks().items():
            assert f"  {name}" in told
            assert known.about in told

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["galery"], "choose from: align"),
            (["all"], "add --quick"),
            (["all", "gallery", "--quick"], "one after another"),
        ],
    )
    def test_mistakes(self, words, said, capsys):
        with pytest.raises(SystemExit) as ended:
            command.main(words)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err

    def test_facts_hold_what_restricts_the_processor(self, monkeypatch):
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
        told = command.facts()
        assert told["restrictions"]["ATEN_CPU_CAPABILITY"] == "avx2"
        assert told["kind"] in ("avx2", "x86-64") or not told["kind"].startswith("avx")
        assert set(told) == set(FACTS)


KNOWN = {"machine": command.Benchmark("One.", 10), "paper": command.Benchmark("Hours.", None)}


class TestQuick:
    @pytest.fixture
    def run(self, monkeypatch, tmp_path):
        def call(found, minutes=10.0):
            monkeypatch.setattr(quick, "facts", lambda: FACTS)
            monkeypatch.setattr(quick.machine, "libraries", lambda: {"aten": "AVX2"})
            monkeypatch.setattr(quick, "faces", lambda: None)
            monkeypatch.setattr(quick, "kind_of_faces", lambda: "drawn")
            monkeypatch.setattr(quick, "_in_a_process", lambda name, *_: {"name": name, "left_out": {}, **found})
            code = quick.measure_all(KNOWN, minutes, tmp_path, tmp_path / "build")
            return code, read(tmp_path / "avx2" / "quick.json"), (tmp_path / "avx2" / "quick.md").read_text("utf-8")

        return call

    def test_one_page_and_one_json(self, run):
        code, whole, told = run({"failed": {}, "detect_ms": 12.5})
        assert code == 0
        assert whole["benchmarks"]["machine"]["detect_ms"] == 12.5
        assert "python -m benchmarks paper" in whole["benchmarks"]["paper"]["left_out"]["paper"]
        assert "12.5" in told
        assert "- paper: it is run by itself" in told

    def test_a_failure_is_told(self, run):
        code, _, told = run({"failed": {"machine": "stopped after 20 s"}})
        assert code == 1
        assert "- machine: **failed**: stopped after 20 s" in told

    def test_no_time_left(self, run):
        code, whole, _ = run({"failed": {}}, minutes=0)
        assert code == 0
        assert "--minutes" in whole["benchmarks"]["machine"]["left_out"]["machine"]

    def child(self, tmp_path, code, limit):
        return quick._in_a_process("fake", [sys.executable, "-S", "-c", code], limit, tmp_path)

    def test_a_child_that_dies_leaves_what_it_measured(self, tmp_path):
        kept = {"a": 1, "left_out": {}, "failed": {}, "figures": {"a": 1}, "done": ["a"], "code": ""}
        code = f"open({str(tmp_path / 'fake.partial.json')!r}, 'w').write({json.dumps(kept)!r}); raise SystemExit(9)"
        found = self.child(tmp_path, code, 600)
        assert found == {"a": 1, "left_out": {}, "failed": {"fake": "ended with code 9"}}

    def test_a_child_that_hangs_is_stopped(self, tmp_path):
        found = self.child(tmp_path, "import time; time.sleep(600)", 0.1)
        assert found["failed"] == {"fake": "stopped after 0 s"}

    def test_an_older_file_is_not_taken_for_a_result(self, tmp_path):
        (tmp_path / "fake.json").write_text('{"a": 1, "left_out": {}, "failed": {}}')
        assert "a" not in self.child(tmp_path, "", 600)


class TestPages:
    def test_the_docs_page_is_the_generated_one(self):
        assert page.PAGE.read_text("utf-8") == page.render(), "write it anew: python -m benchmarks page"

    def test_the_figures_of_doctor_are_the_measured_ones(self):
        assert page.FIGURES.read_text("utf-8") == page.figures(), "write them anew: python -m benchmarks page"

    def test_kinds_stand_side_by_side(self, tmp_path):
        row = next(row for row in page.ROWS if row.name == "bulk")
        for kind, share in (("avx512-bf16", 0.98), ("avx2", 0.5)):
            (tmp_path / kind).mkdir()
            record = {**FACTS, "date": "2026-01-01", "local_of_bare": share, "ray_of_local": 0.25}
            (tmp_path / kind / "bulk.json").write_text(json.dumps(record))
        assert [kind.name for kind in page.kinds(tmp_path)] == ["avx2", "avx512-bf16"]
        assert f"| {row.what} | 50% / 25% | 98% / 25% |" in page.render(tmp_path)

    def test_quick_figures_fill_gaps_and_are_marked(self, tmp_path):
        small = {"local_of_bare": 0.5, "quick": True}
        (tmp_path / "quick.json").write_text(json.dumps({"benchmarks": {"bulk": small, "align": {"quick": True}}}))
        row = next(row for row in page.ROWS if row.name == "bulk")
        assert page.cell(row, page.records(tmp_path)) == "50% / – *"
        (tmp_path / "bulk.json").write_text(json.dumps({"local_of_bare": 0.9}))
        (tmp_path / "bulk.partial.json").write_text("{}")
        assert page.cell(row, page.records(tmp_path)) == "90% / –"

    def test_figures_measured_beside_other_work_are_provisional(self, tmp_path):
        for kind, load in (("avx2", 3.5), ("avx512", 0.1), ("arm64", "unknown")):
            (tmp_path / kind).mkdir()
            record = {**FACTS, "date": "2026-01-01", "load": load, "local_of_bare": 0.5}
            (tmp_path / kind / "bulk.json").write_text(json.dumps(record))
        told = page.render(tmp_path)
        assert told.count("Provisional") == 1
        assert "2 cores of A processor, 2026-01-01. **Provisional**: other work ran on the machine (load 3.5" in told

    def test_what_was_not_measured_is_a_dash(self):
        assert all(page.cell(row, {row.name: {"quick": True}}) == page.NONE for row in page.ROWS)
        assert all(page.cell(row, {}) == page.NONE for row in page.ROWS)

    def test_doctors_figures_come_from_its_own_test_first(self, tmp_path):
        (tmp_path / "avx2").mkdir()
        own = {**FACTS, "date": "2026-01-01", "detect_ms": 20.0, "train_per_second": "unknown"}
        (tmp_path / "avx2" / "machine.json").write_text(json.dumps(own))
        assert json.loads(page.figures(tmp_path)) == {
            "avx2": {"on": "2 cores of A processor", "date": "2026-01-01", "detect_ms": 20.0}
        }


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(command.benchmarks()))
def test_every_benchmark_says_what_it_is(name):
    known = command.benchmarks()[name]
    assert known.about.endswith((".", "!"))
    assert known.quick is None or 0 < known.quick <= 120
