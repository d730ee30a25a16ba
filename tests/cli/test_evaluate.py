"""`normface evaluate` on lists of one's own, on published layouts, and in part."""

import json
from inspect import signature

import numpy as np
import pytest
from typer.testing import CliRunner

from normface.cli import app
from normface.data import open_reader, write
from normface.data.bins import write_bin
from normface.errors import ConfigError, DataError
from normface.protocols import PROTOCOLS, inputs_of
from normface.types import Embeddings

RNG = np.random.default_rng(0)


@pytest.fixture
def call(capsys):
    def run(*words):
        found = CliRunner().invoke(app, ["evaluate", *map(str, words)])
        return found.exit_code, found.output, found.exception

    return run


@pytest.fixture
def own(tmp_path):
    """40 people with two images each: pairs.csv and vectors."""
    ids = [f"P{k // 2:02d}/{k % 2}.jpg" for k in range(80)]
    x = np.repeat(RNG.normal(size=(40, 16)), 2, 0) + RNG.normal(size=(80, 16))
    lines = [f"{ids[2 * p]},{ids[(2 * p + 1 + 2 * k) % 80]},{int(k == 0)}" for p in range(40) for k in range(4)]
    (tmp_path / "pairs.csv").write_text("\n".join(["a,b,same", *lines]))
    Embeddings(x, ids).save(tmp_path / "all.npz")
    Embeddings(x[1:], ids[1:]).save(tmp_path / "some.npz")
    return tmp_path


def test_pairs_of_ones_own_need_no_data_folder(call, own):
    code, text, _ = call("pairs_csv", "--list", own / "pairs.csv", "--embeddings", own / "all.npz", "--json")
    assert code == 0
    result = json.loads(text)
    assert result["protocol"] == "pairs_csv"
    assert {"eer", "auc", "tar@far=0.01"} <= set(result["metrics"])
    assert call("pairs_csv", "--data", own, "--embeddings", own / "all.npz", "--json")[1] == text


def test_partial_says_so_first(call, own):
    words = ["pairs_csv", "--data", own, "--embeddings", own / "some.npz"]
    assert "--partial" in str(call(*words)[2])
    code, text, _ = call(*words, "--partial")
    assert code == 0
    first = text.splitlines()[0]
    assert first.startswith("Partial: 1 of 80 images have no vector (first: P00/0.jpg)")
    assert "of 160 pairs were evaluated" in first
    assert "not the protocol's figure" in first


def test_all_pairs_have_no_list(call, own):
    code, text, _ = call("all_pairs", "--embeddings", own / "all.npz", "--json")
    assert code == 0
    assert json.loads(text)["facts"]["impostor_pairs"] == 80 * 78 // 2
    assert "options of all_pairs, got --partial" in str(
        call("all_pairs", "--embeddings", own / "all.npz", "--partial")[2]
    )


def test_where_lists_are_looked_for(tmp_path):
    for name in (
        "ijbc_face_tid_mid.txt",
        "ijbc_1N_probe_mixed.csv",
        "ijbc_1N_gallery_G2.csv",
        "ijbc_1N_gallery_G1.csv",
    ):
        (tmp_path / "ijb").mkdir(exist_ok=True)
        (tmp_path / "ijb" / name).touch()
    found = inputs_of("ijb_identification").find_lists(tmp_path)
    assert [path.name[5:] for path in found] == [
        "face_tid_mid.txt", "1N_probe_mixed.csv", "1N_gallery_G1.csv", "1N_gallery_G2.csv",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"template_pair_label.*--list"):
        inputs_of("ijb_verification").find_lists(tmp_path)
    with pytest.raises(ConfigError, match="--data, or --list"):
        inputs_of("lfw").find_lists(None)
    assert inputs_of("all_pairs").find_lists(None) == []


def test_where_crops_are_looked_for(tmp_path):
    for place in ("lfw/lfw-112x96.zip", "ytf/crops/x", "crops.zip"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert inputs_of("lfw").find_crops(tmp_path) == tmp_path / "lfw/lfw-112x96.zip"
    assert inputs_of("ytf").find_crops(tmp_path) == tmp_path / "ytf/crops"
    assert inputs_of("pairs_csv").find_crops(tmp_path) == tmp_path / "crops.zip"
    assert inputs_of("cfp_fp").find_crops(tmp_path) == tmp_path / "cfp_fp.bin"
    with pytest.raises(DataError, match="--crops"):
        inputs_of("ijb_verification").find_crops(tmp_path)


def test_every_protocol_declares_as_many_lists_as_it_takes():
    for name in PROTOCOLS:
        taken = [p for p in signature(PROTOCOLS[name]).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        assert len(inputs_of(name).lists) == len(taken) - inputs_of(name).vectors, name


def test_what_a_list_names_is_embedded(tmp_path, own):
    ids = np.array(["P00/0.jpg", "P99/0.jpg", "P00/1.jpg"])
    wanted = inputs_of("pairs_csv").named([own / "pairs.csv"], ids)
    assert wanted.tolist() == [True, False, True]
    (tmp_path / "splits.txt").write_text("1, 1, A/0, A/1, 1\n")
    frames = np.array(["A/0/1.jpg", "A/2/1.jpg", "A/1/9.jpg"])
    assert inputs_of("ytf").named([tmp_path / "splits.txt"], frames).tolist() == [True, False, True]
    write_bin(tmp_path / "a.bin", [b""] * 20, [True] * 10)
    assert inputs_of("calfw").named([tmp_path / "a.bin"], np.array(["000000", "000019", "000020"])).tolist() == [
        True, True, False,
    ]  # fmt: skip
    assert inputs_of("all_pairs").named([], ids).all()


@pytest.mark.slow
def test_a_verification_set_of_ones_own(drawn, tmp_path, call):
    """Images, pairs and model's crops come from one file."""
    reader = open_reader(drawn / "train" / "faces-112.zip")
    rows = [(8 * k % 96, (8 * k + 1 + 8 * (k % 2)) % 96) for k in range(40)]
    images = [reader.encoded(row) for pair in rows for row in pair]
    write_bin(tmp_path / "own.bin", images, [k % 2 == 0 for k in range(40)])
    code, out, error = call("bin", "--file", tmp_path / "own.bin", "--json")
    assert code == 0, error
    told = json.loads(out[out.index("{") :])
    assert told["metrics"]["accuracy"]["n"] == 40


@pytest.mark.slow
def test_snapshots_of_a_run(drawn, tmp_path, call):
    """Mean and standard deviation of what each snapshot gives alone."""
    from normface.train import load_config, train

    small = ["model.options.channels=[4, 8, 8, 8]", "model.options.units=[1, 1, 1]", "model.options.dim=16"]
    settings = ["optim.batch=16", "optim.epochs=1", "precision=fp32", "save_every=2", "keep=2"]
    crops = drawn / "train" / "faces-112.zip"
    train(load_config("normface", [*small, *settings]), open_reader(crops), tmp_path / "run")
    ids = open_reader(crops).ids.tolist()
    lines = [f"{ids[8 * k]},{ids[8 * k + 1]},1\n{ids[8 * k]},{ids[(8 * k + 8) % 96]},0" for k in range(12)]
    (tmp_path / "pairs.csv").write_text("a,b,same\n" + "\n".join(lines) + "\n")
    words = ["pairs_csv", "--list", tmp_path / "pairs.csv", "--crops", crops, "--json"]

    def told(*more):
        code, out, error = call(*words, *more)
        assert code == 0, error
        return json.loads(out[out.index("{") :])

    whole = told("--model", tmp_path / "run", "--snapshots")
    assert whole["steps"] == [4, 6]
    folders = [tmp_path / "run" / "checkpoint" / f"step-0000000{step}" for step in (4, 6)]
    each = [told("--model", folder)["metrics"]["eer"]["value"] for folder in folders]
    assert whole["metrics"]["eer"]["values"] == each
    assert whole["metrics"]["eer"]["mean"] == pytest.approx(np.mean(each))
    assert whole["metrics"]["eer"]["deviation"] == pytest.approx(np.std(each, ddof=1))
    code, _, error = call(*words[:-1], "--snapshots")
    assert code == 1
    assert "keep=5" in str(error)


@pytest.mark.slow
class TestCropsUnderOtherNames:
    def lists(self, tmp_path, names):
        lines = [f"{names[8 * k]},{names[8 * k + 1]},1\n{names[8 * k]},{names[(8 * k + 8) % 96]},0" for k in range(12)]
        (tmp_path / "pairs.csv").write_text("a,b,same\n" + "\n".join(lines) + "\n")
        return ["pairs_csv", "--list", tmp_path / "pairs.csv", "--json", "--crops"]

    def test_saved_as_png(self, drawn, tmp_path, call):
        """The lists say .jpg, the files are .png."""
        reader = open_reader(drawn / "train" / "faces-112.zip")
        words = self.lists(tmp_path, reader.ids.tolist())
        renamed = [record._replace(id=record.id.replace(".jpg", ".png")) for record in reader.records()]
        write(renamed, tmp_path / "png.zip", "zip")
        assert not set(open_reader(tmp_path / "png.zip").ids) & set(reader.ids)
        found = [call(*words, crops) for crops in (drawn / "train" / "faces-112.zip", tmp_path / "png.zip")]
        (code, one, _), (_, other, error) = found
        assert code == 0, error
        one, other = (json.loads(out[out.index("{") :])["metrics"] for out in (one, other))
        assert one == other

    def test_lists_that_name_none(self, drawn, tmp_path, call):
        crops = drawn / "train" / "faces-112.zip"
        names = [f"set/{id}" for id in open_reader(crops).ids.tolist()]
        _, _, error = call(*self.lists(tmp_path, names), crops)
        assert f"got none such as {names[0]}; the nearest is {names[0][4:]}" in str(error)
