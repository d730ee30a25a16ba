"""The catalogue: every entry is whole, and the docs list each with the sources of its hash."""

import re
from collections import Counter
from pathlib import Path

import pytest

from normface.data.catalogue import FOLDER, catalogue, find, models_folder
from normface.data.fetch import ENTRIES, needs_consent
from normface.errors import ConfigError
from normface.faces import DETECTORS, TEMPLATES

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.parametrize("name", catalogue())
def test_entries(name):
    listed = catalogue()[name]
    assert re.fullmatch(r"[0-9a-f]{64}", listed.sha256)
    assert listed.url.startswith("https://")
    assert len(listed.hash_sources) >= 2, "pin only what public sources agree on"
    assert listed.license
    assert listed.commercial in ("yes", "no", "unclear")
    assert bool(listed.accuracy) == bool(listed.accuracy_source)
    if listed.kind == "recognizer":
        assert listed.spec
        assert listed.spec.template in TEMPLATES
        assert not listed.detector
    else:
        assert listed.kind in ("detector", "quality")
        assert (listed.detector in DETECTORS) == (listed.kind == "detector")
        assert listed.spec is None
    assert name in ENTRIES
    assert needs_consent(ENTRIES[name]) == (listed.commercial != "yes")


def test_the_catalogue_covers_the_field():
    assert len({listed.sha256 for listed in catalogue().values()}) == len(catalogue()) >= 12
    assert len({listed.project for listed in catalogue().values()}) >= 4
    kinds = Counter(listed.kind for listed in catalogue().values())
    assert min(kinds["recognizer"], kinds["detector"]) >= 6


def test_the_docs_list_every_entry_and_where_its_hash_comes_from():
    rows = {row.split("|")[1].strip(" `"): row for row in DOCS.read_text("utf-8").splitlines() if row.startswith("| `")}
    for name, listed in catalogue().items():
        for part in (listed.sha256[:12], listed.project, f"| {listed.commercial} |", *listed.hash_sources):
            assert part in rows[name], (name, part)


def test_where_fetched_models_lie(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert models_folder() == tmp_path
    monkeypatch.delenv(FOLDER)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert models_folder() == tmp_path / "data" / "normface" / "models"


def test_wrong_names():
    with pytest.raises(ConfigError, match="a detector among yunet, .*did you mean 'yunet'"):
        find("yunett", "detector")
