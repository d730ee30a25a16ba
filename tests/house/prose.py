"""Check the words of the pages: `python -m tests.house.prose` prints each fault, and exits with 1 if there is any.

Checks private words, sentences that begin in the passive, and sentences and pages that are too long. Leaves out code,
tables and generated pages. The vocabulary, and the pages that do not pass yet, are in prose.toml.
"""

import json
import re
import statistics
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
INSTEAD = {re.compile(rf"\b(?:{phrase})(?!\w)", re.IGNORECASE): plain for phrase, plain in SETTINGS["instead"].items()}
PASSIVE = re.compile(
    r"(?:It|They|This|That|These|Those) (?:is|are|was|were) (?:not |never |only |also )?"
    r"(?!based|related|limited|supposed)(?:\w+ed|held|kept|told|taken|said|given|made|known|read|written|drawn|left)\b"
    r"|(?:\S+ ){1,4}(?:is|are) (?:refused|told|kept|held|said)\b"
)
SENTENCE, MEDIAN, PAGE = 40, 18, 250  # most words of a sentence, most of half the sentences of a page, most lines
FEW = 8  # sentences: a page with fewer has no median worth the name
BLOCK = re.compile(r"^([ \t]*)(```|~~~).*?^\1\2[ \t]*$|<!--.*?-->|\A---\n.*?^---$", re.DOTALL | re.MULTILINE)
SKIP = re.compile(r"\s*(\||--8<--|:::|!!!|</?\w|\[[^\]]+\]: )")  # tables, what the site inserts, HTML, targets
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|et al|vs|no|cf|eq|approx|Fig|Eq|Dr|St)\.$", re.IGNORECASE)


def pages() -> list[Path]:
    """The pages that people write: what git keeps, with the notebooks."""
    found = [ROOT / each for each in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
    for folder in ("docs", "src", "deploy", "examples"):
        found += (ROOT / folder).rglob("*.md")
    generated = {ROOT / "docs" / "cli-options.md", *(ROOT / "docs" / "notebooks").glob("*.md")}
    return sorted({*found, *(ROOT / "docs" / "notebooks").glob("*.ipynb")} - generated)


def text_of(page: Path) -> str:
    """A page as Markdown; of a notebook, its cells of text."""
    text = page.read_text("utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(source) for source in cells)


def plain(text: str) -> str:
    """A paragraph without the marks of Markdown; code counts as one word."""
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", text)
    text = re.sub(r"<?https?://\S+", "address", text)
    return " ".join(re.sub(r"[*_]{1,3}(?=\S)|(?<=\S)[*_]{1,3}", "", text).split())


def paragraphs(markdown: str) -> Iterator[tuple[int, str, bool]]:
    """Each paragraph or item of a list: its first line's number, its text, and whether it is a heading."""
    markdown = BLOCK.sub(lambda found: "\n" * found[0].count("\n"), markdown)
    start, held = 0, []
    for number, line in enumerate([*markdown.splitlines(), ""], 1):
        item = re.match(r"\s*(?:[-*+]|\d+\.)\s+", line)
        heading = re.match(r"#+ ", line)
        skipped = SKIP.match(line)
        if held and (item or heading or skipped or not line.strip()):
            yield start, plain(" ".join(held)), False
            held = []
        if heading:
            yield number, plain(line.lstrip("#")), True
        elif line.strip() and not skipped:
            start = start if held else number
            held.append(line[item.end() :] if item else line.strip(" >"))


def sentences(paragraph: str) -> list[str]:
    """A paragraph cut at full stops, colons before a capital aside."""
    found, begin = [], 0
    for stop in re.finditer(r"[.!?][\"'”’)]*\s+(?=[\"'“(]?[A-Z0-9])|[.!?][\"'”’)]*\s+(?=code )", paragraph):
        if not ABBREVIATION.search(paragraph[begin : stop.start() + 1]):
            found.append(paragraph[begin : stop.end()].strip())
            begin = stop.end()
    return [each for each in [*found, paragraph[begin:].strip()] if each]


def words(sentence: str) -> int:
    """How many words a sentence has; numbers, units and symbols between them count as well."""
    return len(re.findall(r"\S*\w\S*", sentence))


def faults(markdown: str, *, long: bool = False) -> Iterator[tuple[int, str]]:
    """What is wrong with a page: line numbers (0: the page as a whole) and words for it."""
    lengths = []
    for number, paragraph, heading in paragraphs(markdown):
        for phrase, better in INSTEAD.items():
            for found in phrase.finditer(paragraph):
                yield number, f'write {better} instead of "{found[0]}"'
        for sentence in [] if heading else sentences(paragraph):
            lengths.append(words(sentence))
            if lengths[-1] > SENTENCE:
                yield number, f'a sentence of {lengths[-1]} words, at most {SENTENCE}: "{sentence[:60]}…"'
            if PASSIVE.match(sentence):
                yield number, f'say who does it: "{sentence[:60]}"'
    if len(lengths) >= FEW and (median := statistics.median(lengths)) > MEDIAN:
        yield 0, f"half of the sentences have more than {median:g} words, at most {MEDIAN}"
    if not long and (lines := markdown.count("\n")) > PAGE:
        yield 0, f"{lines} lines, at most {PAGE}: cut the page in two"


def main() -> int:
    """Print the faults of the pages named, or of all but the pending ones; name pending ones that pass."""
    wrong = 0
    given = {Path(each).resolve() for each in sys.argv[1:]}
    for page in pages():
        name = page.relative_to(ROOT).as_posix()
        pending = name in SETTINGS["pending"]
        if given and page not in given:
            continue
        found = list(faults(text_of(page), long=name in SETTINGS["long"]))
        if pending and not found:
            print(f"advice: {name} passes: take it off the list of pending pages in tests/house/prose.toml")
        if pending and not given:
            continue
        wrong += len(found)
        for number, fault in found:
            print(f"{name}:{number or 1}: {fault}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
