"""The house keeps its own rules: floors, light imports, listed and documented names."""

import inspect
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import normface
from normface import errors
from normface.registry import Registry

SOURCE = Path(normface.__file__).parent
ARRAY_WING = (
    "types, errors, registry, theory, atomic, prefetch, data, faces, protocols, report, gallery, embed, serve, cli"
).split(", ")
PACKAGES = "data, faces, protocols, report, gallery, embed, ops, losses, models, train, figures, serve".split(", ")
PUBLIC = ["normface"] + [f"normface.{package}" for package in PACKAGES]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_floors():
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=SOURCE.parents[1], capture_output=True, text=True
    )
    assert lint.returncode == 0, lint.stdout


@pytest.mark.slow
def test_array_wing_leaves_torch_out():
    modules = ", ".join(f"normface.{name}" for name in ARRAY_WING)
    assert python(f"import sys, normface, {modules}; print('torch' in sys.modules)").strip() == "False"


def test_import_is_light():
    # What takes its time is counted, not the time: one file of ours, and nothing that Python does not load for itself.
    new = python("import sys; before = set(sys.modules); import normface; print(*set(sys.modules) - before)").split()
    assert [name for name in new if name.startswith("normface")] == ["normface"]
    assert {name.partition(".")[0] for name in new} <= {"normface", "importlib", "warnings", "_weakrefset"}


@pytest.mark.slow
def test_the_porch_offers_what_people_reach_for():
    from normface.data import read_image
    from normface.embed import Embedder
    from normface.gallery import open_gallery
    from normface.types import InputSpec

    assert (normface.Embedder, normface.InputSpec) == (Embedder, InputSpec)
    assert (normface.open_gallery, normface.read_image) == (open_gallery, read_image)
    folder = SOURCE.parents[1] / "examples" / "photographs"
    ann, again, bob = (folder / f"{name}.jpg" for name in ("ann-1", "ann-2", "bob-1"))
    same, other = normface.verify(ann, str(again)), normface.verify(ann, normface.read_image(bob))
    assert (same.decision, other.decision) == (True, False)
    assert same.score == Embedder.load().verify(read_image(ann), read_image(again)).score


def test_the_version_is_the_one_of_the_project_file():
    stated = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert normface.__version__ == stated
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = normface.nothing_of_that_name
    assert set(normface.__all__) <= set(dir(normface))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_listed_and_documented(name):
    module = import_module(name)
    assert module.__doc__
    assert module.__all__
    for public in module.__all__:
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name}.{public} has no docstring"


def test_designed_surface():
    from normface import embed, faces, gallery, losses, models, ops, protocols, theory, train

    surface = {
        theory: "loss_lower_bound, scale_for_probability",
        ops: "l2_normalize, cosine_cross_entropy",
        losses: "LOSSES, CosineSoftmax",
        models: "MODELS, build",
        embed: "Embedder",
        gallery: "open_gallery, Gallery",
        faces: "DETECTORS, TEMPLATES, align",
        protocols: "PROTOCOLS, lfw",
        train: "train, TrainConfig",
    }
    for owner, names in surface.items():
        for name in names.split(", "):
            assert hasattr(owner, name), f"{owner.__name__}.{name}"


def test_error_tree_is_the_one_drawn():
    drawn = errors.__doc__
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.NormfaceError)]
    assert len(classes) == 8
    assert all(c.__name__ in drawn for c in classes)


def test_an_error_is_one_line_with_three_parts():
    error = errors.DataError("a\nfolder", "nothing", "make one")
    assert str(error) == "expected a folder, got nothing; make one"
    assert isinstance(error, ValueError)


def test_missing_dependency_names_the_command():
    with pytest.raises(errors.MissingDependency, match=r"pip install 'normface\[train\]'"):
        errors.require("no_such_module", "train")


def test_registry_finds_and_suggests():
    detectors: Registry[object] = Registry("detector", "normface.faces")

    @detectors.register
    def mtcnn() -> str:
        return "made"

    assert detectors.build("mtcnn") == "made"
    with pytest.raises(errors.ConfigError, match="did you mean 'mtcnn'"):
        detectors.build("mtcn")
