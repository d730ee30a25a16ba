"""What the documents show is run; what they name exists."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import typer
from tests.conftest import ROOT

from benchmarks import losses, paper
from normface.cli import RENAMED, app, main
from normface.protocols import PROTOCOLS, inputs_of
from normface.train import load_config
from normface.types import InputSpec

GENERATED = (ROOT / "docs" / "cli-options.md", *(ROOT / "docs" / "notebooks").glob("*.md"))  # by `make docs`
PAGES = sorted(
    {ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")}
    - set(GENERATED)
)
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
OTHERS = [page for page in PAGES if page not in TUTORIALS]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n(?:\s*^```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)  # and its output
# Which commands are parsed and not run, and why.
LEFT_OUT = {
    r"fetch ": "downloads",
    r".*(--model sface|--detector (yunet|scrfd))": "need downloaded files",
    r"serve ": "ends when it is told to",
    r"demo|figures": "train for minutes",
    r"train (distill|ensemble|millions|casia|vit)": "need a teacher, or sets that are not at hand",
    r"train .*validate_on.protocol": "need published lists; tests/train/test_scale.py",
    r"(calibrate|evaluate) blufr": "BLUFR's list is its authors'",
    r"adopt |.*runs/theirs": "weights of others",
    r".*--engine ray": "a cluster",
    r"calibrate all_pairs .*--far 0.0001": "10,000 impostor pairs are more than the drawn faces make",
    r"calibrate identification": "FPIR 1 % needs more than the dozen people drawn; tests/cli/test_search_thresholds.py",
    r".*--photographs": "the drawn photographs are not all that pairs.csv lists; tests/cli/test_failures.py",
    r".*\bRUN\b": "hours",
    r"models|export": "take ten seconds each, as tests/cli/test_models.py and test_export.py do",
}
SHORT = ["--set", "optim.epochs=1", "--set", "optim.batch=8", "--set", "validate_on.people=0"]  # of training
SHORTER = ["--set", "optim.epochs=0.1", *SHORT[2:]]  # where the page draws more faces than the workshop has
SERVICE = "http://127.0.0.1:8000"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(code: str) -> list[tuple[dict[str, str], list[str]]]:
    """The calls of normface in a block of shell, in order: variables that are set for each, and its words."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for start, word in enumerate(words):
            if word == "normface" and (start == 0 or words[start - 1] in ("&&", "--no-python") or "=" in words[0]):
                end = words.index("&&", start) if "&&" in words[start:] else len(words)
                setting = dict(w.split("=", 1) for w in words[:start] if re.match(r"[A-Z_]+=", w))
                found.append((setting, words[start + 1 : end]))
    return found


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """The blocks of a language, each with the output shown right below it, if any."""
    return [(code, shown) for kind, code, shown in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def shell(page: Path) -> list[tuple[dict[str, str], list[str]]]:
    return [each for code, _ in blocks(page, "sh") for each in commands(code)]


def runs(words: list[str]) -> bool:
    return not any(re.match(pattern, " ".join(words)) for pattern in LEFT_OUT)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    """A folder with everything that the pages name: photographs, crops, lists, vectors and models, all drawn."""
    from normface.data.synthetic import write_dataset
    from normface.embed import Embedder, certificate
    from normface.embed.loading import DEFAULT
    from normface.protocols import read_lfw_pairs, read_pairs_csv, scores

    place = tmp_path_factory.mktemp("workshop")
    photographs = ROOT / "examples" / "photographs"
    shutil.copytree(photographs, place / "examples" / "photographs")
    for target in "a ann ann1 ann-1".split():
        shutil.copy(photographs / "ann-1.jpg", place / f"{target}.jpg")
    for target in "ann2 who one".split():
        shutil.copy(photographs / "ann-2.jpg", place / f"{target}.jpg")
    for target in "b bob-1 two".split():
        shutil.copy(photographs / "bob-1.jpg", place / f"{target}.jpg")
    write_dataset(place / "DIR", people=2, images=2, folds=2, fold_people=6, fold_images=4, fold_pairs=60, strength=0.7)
    shutil.copy(place / "DIR" / "lfw" / "lfw-112x96.zip", place / "crops.zip")
    extracted = {
        "lfw/lfw-112x96": ["crops"], "train/faces-112": ["lfw-crops"], "lfw/lfw-raw-fold1": ["photos", "photographs"],
    }  # fmt: skip
    for archive, folders in extracted.items():
        with zipfile.ZipFile(place / "DIR" / f"{archive}.zip") as opened:
            for folder in folders:
                opened.extractall(place / folder)
    for target in "mine model m".split():
        shutil.copy(DEFAULT, place / f"{target}.onnx")
        point = json.loads(certificate(DEFAULT).read_text("utf-8")) | {"threshold": 0.9}  # drawn people look alike
        certificate(place / f"{target}.onnx").write_text(json.dumps(point))
    vectors = Embedder.load().embed(place / "crops.zip")
    for target in "F vectors".split():
        vectors.save(place / f"{target}.npz")
    pairs = read_lfw_pairs(place / "DIR" / "lfw" / "pairs.txt")
    listed = zip(pairs.left, pairs.right, pairs.same, strict=True)
    once = {frozenset((a, b)): f"{a}, {b}, {int(same)}" for a, b, same in listed}
    (place / "pairs.csv").write_text("\n".join(["a, b, same", *once.values()]) + "\n")
    named, _ = read_pairs_csv(place / "pairs.csv")
    cosines = scores(vectors, named.within(vectors)).scores
    rows = [f"{each!r}, {row}" for each, row in zip(cosines.tolist(), once.values(), strict=True)]
    for target in "scores other-scores".split():
        (place / f"{target}.csv").write_text("\n".join(["score, a, b, same", *rows]) + "\n")
    (place / "list.txt").write_text("a.jpg\nb.jpg\n")
    (place / "gallery.key").write_text("5e" * 32)
    return place


@pytest.fixture
def here(workshop, tmp_path, monkeypatch) -> Path:
    """The workshop, for one page to work in."""
    shutil.copytree(workshop, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(monkeypatch, capfd):
    """Run a command line in this process: what it printed."""

    def call(setting, words):
        monkeypatch.setattr(sys, "argv", ["normface", *words])
        with monkeypatch.context() as during:
            for variable, value in setting.items():
                during.setenv(variable, value)
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capfd.readouterr()
        assert not ended.value.code, f"normface {' '.join(words)}: {err}"
        return out

    return call


def alike(found: str, shown: str) -> bool:
    """The same words in the same order, but for lines left out at a line `…`.

    Numbers may differ by a hundredth, as processors round them.
    """

    def split(text):
        return [line.split() for line in text.strip().splitlines()]

    def same(a, b):
        numbers = [re.sub(r"[,()%:]", "", word) for word in (a, b)]
        try:
            return float(numbers[0]) == pytest.approx(float(numbers[1]), rel=0.01, abs=0.01)
        except ValueError:
            return a == b

    def equal(one, other):
        return len(one) == len(other) and all(map(same, one, other))

    def match(lines, wanted):
        if not wanted or not lines:
            return all(line == ["…"] for line in wanted) and not lines
        if wanted[0] == ["…"]:
            return any(match(lines[start:], wanted[1:]) for start in range(len(lines) + 1))
        return equal(lines[0], wanted[0]) and match(lines[1:], wanted[1:])

    return match(split(found), split(shown))


def performed(code: str, told, monkeypatch, short=SHORT) -> str:
    """Run a block of shell, but for what is LEFT_OUT, and return what it printed."""
    printed = ""
    if into := re.match(r"cd (\S+)\n", code):
        monkeypatch.chdir(into[1])
    for setting, words in commands(code):
        if runs(words):
            if words[0] == "align":  # it makes what the workshop has for the other pages
                shutil.rmtree(words[2], ignore_errors=True)
                Path(words[2]).unlink(missing_ok=True)
            printed += told(setting, words + (short if words[0] == "train" else []))
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in OTHERS if blocks(page, "python")], ids=name)
def test_python_blocks_run(page, here, capsys):
    """Every Python block; the blocks of a page share their names, and print what is shown below them."""
    names = {}
    for code, shown in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), names)
        printed = capsys.readouterr().out
        assert not shown or alike(printed, shown), f"{page.name} shows\n{shown}\nbut this was printed:\n{printed}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if shell(page)], ids=name)
def test_commands_are_those_of_the_command_line(page):
    """Verb, options and arguments of every command in a block are accepted by the parser."""
    for _, words in shell(page):
        command, rest = command_of(words)
        assert not hasattr(command, "get_command"), words
        with command.make_context(words[0], rest):
            pass


def command_of(words):
    """The command that words begin with, in its group if it has one, and the words that follow."""
    command, rest = typer.main.get_command(app), list(words)
    while rest and hasattr(command, "get_command") and (inner := command.get_command(None, rest[0])):
        command, rest = inner, rest[1:]
    assert len(rest) < len(words), words
    return command, rest


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_commands_exist(page):
    """Verbs and options in running text, and make's targets."""
    text = page.read_text("utf-8")
    for verb, rest in re.findall(r"`normface (\w+)([^`]*)`", text):
        command, _ = command_of([verb, *rest.split()])
        known = {option for parameter in command.params for option in parameter.opts if not parameter.hidden}
        assert set(re.findall(r"(?<=\s)--[\w-]+", rest)) <= known | {"--help"}, f"normface {verb}{rest}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for named in re.findall(r"(?:normface|')\.?\[([a-z,]+)\]'", text):
        assert set(named.split(",")) <= set(extras), named


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in OTHERS if any(runs(w) for _, w in shell(page))], ids=name)
def test_commands_run(page, here, told, monkeypatch):
    """All but those LEFT_OUT, in the page's order, on drawn data; they print what is shown below them."""
    for code, shown in blocks(page, "sh"):
        printed = performed(code, told, monkeypatch)
        assert not shown or alike(printed, shown), f"{page.name} shows\n{shown}\nbut this was printed:\n{printed}"


@pytest.fixture
def serve():
    """Start the service by the words of a command line: its address."""
    with ExitStack() as stack:

        def start(words):
            program = [sys.executable, "-c", "from normface.cli import main; main()", *words, "--port", "0"]
            process = stack.enter_context(subprocess.Popen(program, stderr=subprocess.PIPE, text=True))
            stack.callback(process.terminate)
            return json.loads(process.stderr.readline())["url"]

        yield start


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=name)
def test_tutorials_run(page, here, told, serve, capfd, monkeypatch):
    """Every block in the page's order: Python, commands, and curl and Python against the service that it starts."""
    names, address = {}, SERVICE
    for language, code, shown in BLOCK.findall(page.read_text("utf-8")):
        code = code.replace(SERVICE, address)
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
            printed = capfd.readouterr().out
        elif code.startswith("curl "):
            printed = subprocess.run(["sh", "-ec", code], check=True, capture_output=True, text=True).stdout
        elif code.startswith("normface serve "):
            address, printed = serve(commands(code)[0][1]), ""
        elif language == "sh":
            printed = performed(code, told, monkeypatch, SHORTER)
        assert not shown or alike(printed, shown), f"{page.name} shows\n{shown}\nbut this was printed:\n{printed}"


def test_nothing_is_left_out_in_vain():
    written = [" ".join(words) for page in PAGES for _, words in shell(page)]
    for pattern in LEFT_OUT:
        assert any(re.match(pattern, words) for words in written), pattern


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower().strip()))


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name)
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    if page.suffix == ".ipynb":
        text = "".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    for target, _, anchor in re.findall(r"\]\((?!http)([^)#]*)(#?)([^)]*)\)", BLOCK.sub("", text)):
        place = page.parent / target if target else page
        if place in GENERATED or place.name == "cli-options.md":
            continue
        assert place.exists(), target
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)$", place.read_text("utf-8"), re.MULTILINE)), anchor


def test_the_site_shows_every_page():
    """Each page is in the navigation, and each entry of it is a page."""
    listed = set(re.findall(r'"([\w/.-]+\.md)"', (ROOT / "zensical.toml").read_text("utf-8")))
    written = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    written |= {f"notebooks/{notebook.stem}.md" for notebook in NOTEBOOKS} | {"cli-options.md"}
    assert listed == written


def test_the_reference_has_every_public_module():
    from tests.house.test_house import PACKAGES

    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    for module in [f"normface.{package}" for package in PACKAGES] + ["normface.types", "normface.theory"]:
        assert f"::: {module}\n" in pages, module


def test_every_extra_is_explained():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "install.md").read_text("utf-8")
    assert all(f"`{extra}`" in page or f"[{extra}]'" in page for extra in extras)


def test_old_spellings_of_options_are_listed_as_deprecated():
    page = (ROOT / "docs" / "stability.md").read_text("utf-8")
    for verb, options in RENAMED.items():
        for old, new in options.items():
            assert re.search(rf"`{verb} {old}`", page), old
            assert re.search(rf"`{verb} {new}`", page), new


def test_the_specification_shown_is_one():
    block = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "models.md").read_text("utf-8"), re.DOTALL)[1]
    assert InputSpec.from_json(block).template == "112x112"


def test_the_table_of_losses_is_the_measured_one():
    figures = json.loads((ROOT / "benchmarks" / "results" / "avx512-bf16" / "losses.json").read_text("utf-8"))
    assert losses.table(figures) in (ROOT / "docs" / "losses.md").read_text("utf-8")


def test_the_table_of_protocols_is_the_registry():
    rows = ["| protocol | lists | ids | what it measures |", "| --- | --- | --- | --- |"]
    for protocol in PROTOCOLS:
        reads = inputs_of(protocol)
        lists = ", ".join(f"`{each}`" for each in reads.lists) or "none"
        about = PROTOCOLS.about(protocol).rstrip(".")
        rows.append(f"| `{protocol}` | {lists} | {reads.ids if ' ' in reads.ids else f'`{reads.ids}`'} | {about} |")
    assert "\n".join(rows) in (ROOT / "docs" / "evaluation.md").read_text("utf-8"), "\n".join(rows)


def test_the_papers_tables_are_the_measured_ones():
    figures = json.loads((ROOT / "benchmarks" / "results" / "avx512-bf16" / "paper.json").read_text("utf-8"))
    page = (ROOT / "docs" / "tables.md").read_text("utf-8")
    assert paper.table(figures) in page
    assert paper.differences(figures) in page
    row = paper.ROWS["from scratch: ArcFace, growing"]
    assert load_config("scratch").loss.model_dump() == json.loads(json.dumps(row["loss"]))
