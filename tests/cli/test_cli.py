"""Each verb as a user runs it: exit codes, one-line errors, JSON."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import onnx
import pytest
import simplejpeg
from tests.cli.conftest import one_line

import normface
from normface import theory
from normface.cli import GROUPS, VERBS
from normface.data import open_reader
from normface.report import evidence
from normface.types import Calibration, Embeddings

TINY = [
    "--set", "model.options.channels=[4, 8, 8, 8]", "--set", "model.options.units=[1, 1, 1]", "--set", "optim.batch=16",
    "--set", "optim.epochs=2", "--set", "optim.lr=0.02", "--set", "model.options.dim=16",
]  # fmt: skip


HEAVY = {"pydantic", "rich", "scipy", "torch"}
COMMANDS = [(verb,) for verb in VERBS if verb not in GROUPS]
COMMANDS += [(group, name) for group, (_, names) in GROUPS.items() for name in names.split()]


class TestHelp:
    def test_lists_every_verb(self, run):
        code, out, _ = run("-h")
        assert code == 0
        assert all(verb in out for verb in VERBS)
        assert run()[:2] == (0, out)
        assert set(GROUPS) <= set(VERBS)

    @pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
    def test_of_each_command(self, run, words):
        code, out, _ = run(*words, "--help")
        assert code == 0
        assert "--json" in out
        assert len(out) > 400

    def test_version(self, run):
        assert run("--version") == (0, f"normface {normface.__version__}\n", "")

    def test_as_a_module(self):
        command = [sys.executable, "-m", "normface", "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == f"normface {normface.__version__}\n"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("typed", "completed"), [("normface ver", ["verify"]), ("normface gallery co", ["compact"])]
    )
    def test_completion(self, typed, completed):
        asked = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_NORMFACE_COMPLETE": "complete_bash"}
        command = [sys.executable, "-m", "normface"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | asked)
        assert done.stdout.split() == completed

    @pytest.mark.parametrize(
        ("words", "parts"),
        [
            (["embark"], ["a command of normface, got 'embark'; see: normface --help"]),
            (["nope"], ["got 'nope'; see:"]),
            (["serach"], ["did you mean 'search'?"]),
            (["gallery", "lst"], ["a command of normface gallery, got 'lst'; did you mean 'list'?"]),
            (["gallery"], ["a command of normface gallery, got nothing"]),
            (["--loud"], ["an option of normface, got --loud"]),
            (["bound", "--klasses", "3"], ["an option of normface bound, got --klasses; did you mean '--classes'?"]),
            (["bound"], ["expected --classes, got nothing; see: normface bound --help"]),
            (["bound", "--classes", "ten"], ["--classes to be a valid integer"]),
            (["bound", "--classes"], ["a value for --classes, got none"]),
            (["verify", "a.jpg"], ["expected B, got nothing"]),
            (["verify", "a", "b", "c"], ["valid arguments of normface verify, got unexpected", "(c)"]),
            (["search", "a", "-k", "0"], ["-k to be greater than or equal to 1"]),
        ],
    )
    def test_mistakes_of_the_parser_are_told_like_all_others(self, run, words, parts):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert one_line(err, *parts)

    def test_old_spellings(self, run, tmp_path):
        assert one_line(run("enroll", "Ann")[2], "PERSON and IMG…", "got PERSON")
        assert one_line(run("train", "nothing", f"--data={tmp_path}", "--out", tmp_path / "r")[2], "scratch")
        assert "lfw-pairs" in run("fetch", "--to", tmp_path)[1]
        assert "digits" in run("figures", "--list")[1]

    @pytest.mark.slow
    def test_verify_loads_neither_pydantic_nor_protocols(self, tmp_path):
        """What its start does not need: their imports took a third of its time."""
        code = "import sys, normface.cli as c\nsys.argv = ['normface', 'verify', 'a.jpg', 'b.jpg']\n"
        code += "try: c.main()\nexcept SystemExit: pass\n"
        code += f"print({{each.partition('.')[0] for each in sys.modules}} & {HEAVY}, "
        code += "[each for each in sys.modules if each.startswith('normface.protocols')])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert "a.jpg" in done.stderr
        assert done.stdout == "set() []\n"

    @pytest.mark.slow
    def test_help_does_not_load_torch(self):
        code = "import sys, normface.cli as c\nsys.argv = ['normface', 'train', '--help']\n"
        code += "try: c.main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.splitlines()[-1] == "False"


class TestDoctorOfTheMachine:
    @pytest.mark.slow
    def test_as_text_and_json_without_torch(self, run, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        code, out, err = run("doctor", "--machine", "--no-speed", "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert set(found) == {"versions", "processor", "limits", "gpu", "default_model", "extras"}
        code, out, _ = run("doctor", "--machine", "--no-speed")
        assert code == 0
        assert f"kind: {found['processor']['kind']}" in out
        assert found["default_model"]["weights_sha256"] in out

    @pytest.mark.slow
    def test_with_its_speed(self, run, monkeypatch):
        from normface.machine import speed

        monkeypatch.setitem(sys.modules, "torch", None)
        measured = {"detect_ms": 20.0, "train_per_second": "unknown", "left_out": {"train_per_second": "no torch"}}
        monkeypatch.setattr(speed, "measure", lambda **_: measured)
        found = json.loads(run("doctor", "--machine", "--json")[1])["speed"]
        assert [row["here"] for row in found["rows"]] == [20.0, "unknown"]
        assert "skipped: train_per_second: no torch" in run("doctor", "--machine")[1]

    def test_mistakes(self, run, tmp_path):
        assert one_line(run("doctor")[2], "either the folder of a run or --machine", "got neither")
        assert one_line(run("doctor", tmp_path, "--machine")[2], "got both")
        assert one_line(run("doctor", "--machine", "--plot", "m.svg")[2], "drop --plot")


class TestBound:
    def test_of_a_scale(self, run):
        code, out, _ = run("bound", "--classes", 10575, "--scale", 1)
        assert code == 0
        assert "With 10,575 classes and scale 1 the loss cannot fall below 8.266 (it starts near 9.267)" in out
        assert "can reach probability 0.0002" in out
        assert "use a scale of at least 18.5 for 99.99 %" in out
        _, out, _ = run("bound", "--classes", 10575, "--scale", 30)
        assert "probability 1 - " in out

    def test_for_a_probability(self, run):
        _, out, _ = run("bound", "--classes", 10572, "--probability", 0.9999, "--json")
        found = json.loads(out)
        assert found["scale"] == pytest.approx(18.47, abs=0.005)
        assert found["loss_lower_bound"] == pytest.approx(1e-4, rel=1e-3)
        assert "at least 18.47" in run("bound", "--classes", 10572, "--probability", 0.9999)[1]
        assert "any scale" in run("bound", "--classes", 10, "--probability", 0.1)[1]

    def test_overview(self, run):
        code, out, _ = run("bound", "--classes", 10572)
        assert code == 0
        assert all(figure in out for figure in ("11.46", "13.86", "18.47", "13.10", "AdaCos"))
        found = json.loads(run("bound", "--classes", 10572, "--dim", 128, "--json")[1])
        assert (found["classes"], found["dim"]) == (10572, 128)
        assert found["scale_for_probability"]["0.9"] == pytest.approx(11.46, abs=5e-3)
        assert "AdaCos" not in run("bound", "--classes", 2)[1]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["b.svg", "b.png"])
    def test_picture(self, run, tmp_path, name):
        assert run("bound", "--classes", 2, "--plot", tmp_path / name)[0] == 0
        assert run("bound", "--classes", 100, "--scale", 30, "--plot", tmp_path / name)[0] == 0
        assert (tmp_path / name).read_bytes()[:4] in (b"<svg", b"\x89PNG")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("words", "part"),
        [
            (["--classes", 10, "--scale", 1, "--probability", 0.5], "got both"),
            (["--classes", 1, "--scale", 1], "at least 2 classes, got 1"),
            (["--classes", 10, "--probability", 1.5], "between 0 and 1"),
            (["--classes", 10, "--scale", -2], "positive"),
            (["--classes", 10, "--dim", 1], "at least 2 dimensions"),
            (["--classes", 10, "--plot", "b.pdf"], ".svg or .png, got b.pdf"),
        ],
    )
    def test_mistakes(self, run, words, part):
        code, _, err = run("bound", *words)
        assert code == 2
        assert one_line(err, part)


class TestDoctor:
    @pytest.fixture
    def folder(self, tmp_path):
        """A log whose scale is too small for 1000 classes."""
        figures = {
            "loss": 6.0,
            "lr": 0.1,
            "classes": 1000,
            "scale": 1.0,
            "bound": 5.908,
            "feature_norm": 1,
            "accuracy": 0.5,
        }
        lines = [json.dumps({"step": 10 * k, "epoch": 0.35 * k, **figures}) + "\n" for k in range(1, 21)]
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text("{}")
        (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines))
        return tmp_path / "run"

    @pytest.mark.slow
    def test_says_what_is_wrong(self, run, folder, tmp_path):
        code, out, _ = run("doctor", folder, "--plot", tmp_path / "m.svg")
        assert code == 1
        assert out.startswith("error: scale-too-small: At scale 1 and 1,000 classes")
        assert "step 200, epoch 7, loss 6" in out
        assert (tmp_path / "m.svg").read_text().startswith("<svg")
        found = json.loads(run("doctor", folder, "--json")[1])
        assert not found["healthy"]
        assert set(found["diagnoses"][0]) == {"name", "severity", "seen", "why", "do"}

    def test_healthy(self, run, folder):
        text = (folder / "metrics.jsonl").read_text()
        (folder / "metrics.jsonl").write_text(text.replace("5.908", "0.01"))
        code, out, _ = run("doctor", folder)
        assert code == 0
        assert "no problems found" in out

    def test_mistakes(self, run, folder, tmp_path):
        code, _, err = run("doctor", tmp_path)
        assert code == 2
        assert one_line(err, "config.json", "--out folder of normface train")
        assert one_line(run("doctor", folder, "--plot", "m.pdf")[2], ".svg or .png")


@pytest.fixture
def converted(monkeypatch):
    """torch's exporter takes seconds: it runs once, and every later export starts from a copy of what it made."""
    from normface.embed import export

    convert, made = export._to_onnx, []

    def once(*arguments):
        if not made:
            made.append(convert(*arguments).SerializeToString())
        return onnx.load_from_string(made[0])

    monkeypatch.setattr(export, "_to_onnx", once)


@pytest.mark.slow
@pytest.mark.usefixtures("converted")
def test_from_faces_to_a_verified_pair(run, drawn, tmp_path):
    """train → evaluate --certify → export → verify, each by its command."""
    run_folder, model = tmp_path / "run", tmp_path / "model.onnx"
    training = ["train", "normface", "--crops", drawn / "train" / "faces-112.zip", "--out", run_folder, *TINY]
    evaluating = ["evaluate", "lfw", "--data", drawn, "--json"]
    code, out, _ = run(*training, "--json")
    assert code == 0
    assert json.loads(out)["finished"]
    code, out, _ = run(*evaluating, "--model", run_folder, "--certify", "--out", tmp_path / "e")
    assert code == 0
    result = json.loads(out)
    assert result["protocol"] == "lfw"
    assert set(result["metrics"]["accuracy"]) == {"value", "low", "high", "n"}
    assert {p.name for p in (tmp_path / "e").iterdir()} == {"embeddings.npz", "report.html", "report.md", "result.json"}
    assert json.loads((tmp_path / "e" / "result.json").read_text()) == result
    assert run("export", run_folder, model)[0] == 0

    # The exported file, its own embeddings, and anybody's vectors are judged alike
    code, out, _ = run(*evaluating, "--model", model)
    assert json.loads(out)["metrics"]["auc"]["value"] == pytest.approx(result["metrics"]["auc"]["value"], abs=0.02)
    code, out, _ = run(*evaluating, "--embeddings", tmp_path / "e" / "embeddings.npz")
    assert json.loads(out)["metrics"] == result["metrics"]

    from PIL import Image

    from normface.data import open_reader

    raw = open_reader(drawn / "lfw" / "lfw-raw-fold1.zip")
    for i in range(2):
        Image.fromarray(raw.read(i)).save(tmp_path / f"{i}.png")
    photos = [tmp_path / "0.png", tmp_path / "1.png"]
    code, out, _ = run("verify", *photos, "--model", model, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["same"] == (found["score"] >= found["operating_point"]["threshold"])
    assert found["operating_point"]["protocol"] == "lfw, mirror sum"
    code, out, _ = run("verify", *photos, "--model", run_folder)
    assert code == 0
    assert float(re.search(r"cosine (-?[\d.]+)", out)[1]) == pytest.approx(found["score"], abs=1e-3)
    assert "impostor pairs" in out
    kept = json.loads((run_folder / "operating_point.json").read_text())
    calibration = Calibration(**kept.pop("calibration"))
    assert found["operating_point"] == kept
    assert found["llr"] == calibration.llr(found["score"])
    assert f"evidence: {evidence(calibration, found['score'])}" in out
    # The same comparisons calibrated by their own verb give the same certificate, with more beside it
    code, out, _ = run("calibrate", "lfw", "--data", drawn, "--model", run_folder, "--out", tmp_path / "c", "--json")
    assert code == 0
    certificate = json.loads(out)["facts"]["operating_point"]
    assert certificate["threshold"] == found["operating_point"]["threshold"]
    assert json.loads((run_folder / "operating_point.json").read_text()) == certificate
    assert "data:image/jpeg;base64" in (tmp_path / "c" / "report.html").read_text()

    Image.fromarray(np.zeros((90, 90, 3), np.uint8)).save(tmp_path / "dark.png")
    code, _, err = run("verify", photos[0], tmp_path / "dark.png", "--model", model)
    assert code == 2
    assert one_line(err, "a face in", "dark.png", "none found")

    # A model replaced under its old certificate: refused to verify, until it is certified anew
    other = json.loads((run_folder / "operating_point.json").read_text()) | {"model_sha256": "feed" * 16}
    model.with_suffix(".operating_point.json").write_text(json.dumps(other))
    assert one_line(run("verify", *photos, "--model", model)[2], "calibrate model.onnx again")
    assert run(*evaluating, "--model", model, "--certify")[0] == 0
    assert run("verify", *photos, "--model", model)[0] == 0
    assert "removed" in run("export", run_folder, model)[2]
    assert not model.with_suffix(".operating_point.json").exists()

    # In 8 bits: without a certificate, or judged and with its own
    small, gating = tmp_path / "small.onnx", ["--int8", "--gate", "lfw", "--data", drawn, "--far", 0.2]
    assert "no operating point (export with --gate" in run("export", run_folder, small, "--int8")[1]
    code, out, err = run("export", run_folder, small, *gating, "--max-loss", 0.9, "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["bytes"] == small.stat().st_size < model.stat().st_size
    assert made["gate"]["facts"]["passed"]
    assert made["gate"]["metrics"]["tar_loss"]["n"] == 12
    code, out, _ = run("verify", *photos, "--model", small, "--json")
    assert code == 0
    assert json.loads(out)["operating_point"]["model_sha256"] == made["weights_sha256"]

    code, _, err = run(*training)
    assert code == 2
    assert one_line(err, "--resume")


class TestMistakes:
    def test_data(self, run, drawn, tmp_path):
        (tmp_path / "empty").mkdir()
        for data in (tmp_path / "absent", tmp_path / "empty"):
            code, _, err = run("train", "normface", "--crops", data, "--out", tmp_path / "r")
            assert code == 2
            assert one_line(err, str(data))
        assert not (tmp_path / "r").exists()

    def test_one_identity_only(self, run, drawn, tmp_path):
        from normface.data import open_reader

        faces = open_reader(drawn / "train" / "faces-112.zip")
        (tmp_path / "faces" / "Ann").mkdir(parents=True)
        for i in range(3):
            (tmp_path / "faces" / "Ann" / f"{i}.jpg").write_bytes(simplejpeg.encode_jpeg(faces.read(i)))
        code, _, err = run("train", "normface", "--crops", tmp_path / "faces", "--out", tmp_path / "r")
        assert code == 2
        assert one_line(err, "at least 2 people")

    @pytest.mark.slow
    def test_strict_refuses_what_is_skipped_otherwise(self, run, drawn, tmp_path):
        shutil.copy(drawn / "train" / "faces-112.zip", tmp_path / "f.zip")
        with zipfile.ZipFile(tmp_path / "f.zip", "a") as archive:
            archive.writestr("Person_0000/broken.jpg", b"no image")
        words = ["train", "normface", "--crops", tmp_path / "f.zip", *TINY, "--set", "optim.epochs=0.2"]
        code, _, err = run(*words, "--out", tmp_path / "a")
        assert code == 0
        assert "normface: warning: 1 of 97 images unreadable and skipped: Person_0000/broken.jpg" in err
        code, _, err = run(*words, "--out", tmp_path / "b", "--strict")
        assert code == 2
        assert one_line(err, "Person_0000/broken.jpg")

    def test_a_photograph_among_the_crops_is_named_and_skipped(self, run, drawn, tmp_path):
        shutil.copy(drawn / "train" / "faces-112.zip", tmp_path / "f.zip")
        with zipfile.ZipFile(tmp_path / "f.zip", "a") as archive:
            archive.writestr("Person_0000/big.jpg", simplejpeg.encode_jpeg(np.zeros((250, 250, 3), np.uint8)))
        words = ["train", "normface", "--crops", tmp_path / "f.zip", *TINY, "--set", "optim.epochs=0.2"]
        code, _, err = run(*words, "--out", tmp_path / "a")
        assert code == 0
        assert "Person_0000/big.jpg (250×250, not an aligned crop)" in err

    def test_demo_looks_for_its_inputs_first(self, run, drawn, tmp_path):
        shutil.copytree(drawn, tmp_path / "d")
        (tmp_path / "d" / "lfw" / "lfw-raw-fold1.zip").unlink()
        code, _, err = run("demo", "--data", tmp_path / "d", "--out", tmp_path / "o")
        assert code == 2
        assert one_line(err, "lfw-raw-fold1.zip")
        assert not (tmp_path / "o").exists()

    def test_recipe_and_setting(self, run, drawn, tmp_path):
        words = ["--crops", drawn / "train" / "faces-112.zip", "--out", tmp_path / "r"]
        assert one_line(run("train", "arcface", *words)[2], "normface, scratch, small, softmax")
        assert one_line(run("train", "normface", *words, "--set", "optim.rate=1")[2], "optim.rate")
        assert one_line(
            run("train", "normface", *words, "--set", "model.name=mobilefacnet")[2], "did you mean 'mobilefacenet'"
        )
        assert one_line(run("train", "normface", *words, "--set", "model.options.depth=3")[2], "depth")

    def test_resume_without_a_run(self, run, drawn, tmp_path):
        code, _, err = run(
            "train", "normface", "--crops", drawn / "train" / "faces-112.zip", "--out", tmp_path, "--resume"
        )
        assert code == 2
        assert one_line(err, "checkpoint/step")

    def test_evaluate(self, run, drawn, tmp_path):
        Embeddings(np.eye(2), ["a/a_0001.jpg", "b/b_0001.jpg"]).save(tmp_path / "f.npz")
        vectors = ["--embeddings", tmp_path / "f.npz"]
        words = ["evaluate", "lfw", "--data", drawn, *vectors]
        assert one_line(run(*words, "--model", tmp_path)[2], "either --model or --embeddings")
        assert one_line(
            run("evaluate", "blurf", "--data", drawn, *vectors)[2],
            "a protocol among agedb_30, all_pairs, bin, blufr",
            "'blufr'?",
        )
        assert one_line(run("evaluate", "blufr", "--data", drawn, *vectors)[2], "blufr_lfw_config.mat")
        assert one_line(run("evaluate", "lfw", "--data", tmp_path, *vectors)[2], "pairs.txt")
        assert one_line(run(*words)[2], "a vector for each", "no id is like it, they are as a/a_0001.jpg")
        assert one_line(run(*words, "--certify")[2], "--certify")
        assert one_line(run(*words, "--far", "0.1")[2], "--far with --certify")
        assert one_line(run(*words, "--mirror", "none")[2], "--mirror")

    def test_verify(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr("normface.embed.loading.DEFAULT", tmp_path / "none.onnx")
        (tmp_path / "text.jpg").write_text("no image")
        assert one_line(run("verify", tmp_path / "a.jpg", tmp_path / "b.jpg")[2], "no default model ships yet")
        assert one_line(run("verify", "a", "b", "--model", tmp_path)[2], "checkpoint/step")
        assert one_line(run("export", tmp_path / "nothing", tmp_path / "m.onnx")[2], "train it first")


@pytest.mark.slow
def test_demo(run, tmp_path, monkeypatch):
    """The whole job on very few drawn faces."""
    from normface.data import synthetic

    few = dict(people=20, images=8, folds=3, fold_people=4, fold_images=4, fold_pairs=8)
    whole = synthetic.write_dataset
    monkeypatch.setattr(synthetic, "write_dataset", lambda folder, **kw: whole(folder, **(kw | few)))
    code, out, err = run("demo", "--out", tmp_path / "demo", "--epochs", 1, "--json")
    assert code == 0, err
    found = json.loads(out)
    rows = ["plain softmax", "unit vectors, no scale", "NormFace", "NormFace with growing margin"]
    assert list(found["results"]) == rows
    assert list(found["differences"]) == rows[1:]
    assert all(each["low"] <= each["value"] <= each["high"] for each in found["differences"].values())
    assert [v["truth"] in ("right", "wrong") for v in found["verified"]] == [True, True]
    page = (tmp_path / "demo" / "report.html").read_text()
    assert f"no lower without a scale: {theory.loss_lower_bound(20, 1.0):.2f}" in page
    assert page.count("data:image/jpeg") == 4
    assert (tmp_path / "demo" / "normface.onnx").stat().st_size > 1e6
    runs = [json.loads((tmp_path / "demo" / name / "config.json").read_text()) for name in ("growing", "softmax")]
    options = runs[0]["loss"]["options"]
    assert options["margin"]["until"] == options["growth"] == 0.5
    assert [{**each, "loss": None} for each in runs[1:]] == [{**runs[0], "loss": None}]  # all but the loss is alike
    code, _, err = run("demo", "--out", tmp_path / "demo")
    assert code == 2
    assert one_line(err, "a new folder for --out")
    code, _, err = run("demo", "--out", tmp_path / "new", "--epochs", 1, "--minutes", 2)
    assert code == 2
    assert one_line(err, "--minutes or --epochs")


def test_demo_plans_to_the_time_it_has(drawn, monkeypatch):
    """Passes · images / speed is the share of a row; the first network that gets enough of them is taken."""
    from normface.cli import demo_plan
    from normface.train import speed

    faces = open_reader(drawn / "train" / "faces-112.zip")
    speeds = {2: 10.0, 4: 100.0}  # by the stride of the network's first convolution
    monkeypatch.setattr(speed, "images_per_second", lambda config, reader: speeds[config.model.options["stem"]])
    monkeypatch.setattr(demo_plan.time, "perf_counter", lambda: 60.0)
    kind = replace(demo_plan.PLANS["real"], least=0.1, most=1000, each=10, rest=30)
    network, epochs = demo_plan.planned(kind, faces, 5.0, None, 30.0)
    left = (300 - 30 - 30 - 3 * 10) / 3
    assert epochs == pytest.approx(left * 10 / len(faces), abs=0.05)
    assert network["stem"] == 2
    network, epochs = demo_plan.planned(replace(kind, enough=2 * epochs), faces, 5.0, None, 30.0)
    assert network["stem"] == 4
    assert epochs == pytest.approx(left * 100 / len(faces), abs=0.05)
