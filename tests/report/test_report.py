import os
import re

import numpy as np
import pytest

from normface.errors import DataError
from normface.protocols import lfw
from normface.report import render_html, render_markdown, write_report
from normface.types import Embeddings


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("lfw") / "pairs.txt"
    lines = ["2\t10"]
    for fold in "AB":
        lines += [f"{fold}{k}\t1\t2" for k in range(10)]
        lines += [f"{fold}{k}\t1\t{fold}{(k + 1) % 10}\t1" for k in range(10)]
    path.write_text("\n".join(lines))
    ids = [f"{f}{p}/{f}{p}_000{k}.jpg" for f in "AB" for p in range(10) for k in (1, 2)]
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(20, 4)), 2, axis=0)
    one, two = (lfw(Embeddings(x + s * rng.normal(size=x.shape), ids), path) for s in (0.3, 1))
    return {"<script>alert(1)</script>": one, "two & more": two}


def test_page_is_whole_and_self_contained(results):
    page = render_html(results, title="A <b>title</b>", command="normface evaluate lfw --data 'x & y'")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "A &lt;b&gt;title&lt;/b&gt;" in page
    assert "normface evaluate lfw --data &#x27;x &amp; y&#x27;" in page
    assert page.count("<svg") == 3
    assert all(label for label in re.findall(r'aria-label="([^"]*)"', page))
    assert not re.search(r'(?:src|href)="(?!#)', page)  # nothing is fetched
    assert "prefers-color-scheme: dark" in page
    assert len(page) < 1_000_000


def test_every_figure_is_shown_with_interval_and_count(results):
    page, text = render_html(results, title="t", command="c"), render_markdown(results)
    for result in results.values():
        for found in result.metrics.values():
            figure = f"{100 * found.value:.2f} % ({100 * found.low:.2f} to {100 * found.high:.2f})"
            assert figure in page
            assert figure in text
        for value in result.facts["fold_accuracy"]:
            assert f"{100 * value:.2f} %" in page
    assert "impostor pairs cannot resolve it" in page


def test_equal_results_give_equal_pages(results):
    assert render_html(results, title="t", command="c") == render_html(results, title="t", command="c")


def test_written_whole_or_not_at_all(results, tmp_path):
    write_report(tmp_path / "new" / "r.html", results, title="t", command="c")
    assert os.listdir(tmp_path / "new") == ["r.html"]
    with pytest.raises(DataError, match="to write"):
        write_report(tmp_path / "new", results, title="t", command="c")
