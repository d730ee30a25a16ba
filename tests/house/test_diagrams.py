"""The diagrams that are committed are those that the script draws."""

import runpy
from xml.etree import ElementTree

from tests.conftest import ROOT


def test_the_diagrams_are_the_drawn_ones():
    drawings = list(runpy.run_path(str(ROOT / "docs" / "figures" / "diagrams.py"))["drawings"]())
    assert len(drawings) == 4
    for path, text in drawings:
        assert path.read_text("utf-8") == text, f"run: python docs/figures/diagrams.py ({path.name})"
        assert ElementTree.fromstring(text).tag.endswith("svg")
