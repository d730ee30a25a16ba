"""Draw the diagrams of the documentation: `python docs/figures/diagrams.py` writes them as SVG beside this file.

Boxes bring their own light ground and dark words, and lines are of a middle gray: readable on light and dark pages.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path

BLUE, GREEN, ORANGE, GRAY = "#cfe3f5", "#d3ecd9", "#fbe3c6", "#e6e6e6"  # data, computation, decision, files
INK, LINE = "#1d2733", "#7f8790"
WIDTH = 760
TEXT = 'font-family="system-ui, sans-serif" text-anchor="middle"'


def box(x: float, y: float, width: float, height: float, title: str, *notes: str, fill: str = BLUE) -> str:
    """Draw a box with its upper left corner at x, y, and a title over smaller notes, in the middle."""
    lines = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}" stroke="{LINE}"/>']
    top = y + height / 2 - 8 * len(notes) + 5
    lines.append(words(x + width / 2, top, title, size=14, bold=True, color=INK))
    lines += [words(x + width / 2, top + 17 * (row + 1), note, color=INK) for row, note in enumerate(notes)]
    return "\n".join(lines)


def words(x: float, y: float, text: str, *, size: int = 12, bold: bool = False, color: str = LINE) -> str:
    """Write a line of text around x, on the base line y."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight} fill="{color}" {TEXT}>{escape(text)}</text>'


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """Draw an arrow along points."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.6" marker-end="url(#tip)"{dash}/>'


def frame(x: float, y: float, width: float, height: float, title: str) -> str:
    """Draw a dashed frame with a title over its upper left corner."""
    text = f'<text x="{x + 4}" y="{y - 7}" font-size="12" font-weight="600" fill="{LINE}" {TEXT}>{escape(title)}</text>'
    outline = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="none" stroke="{LINE}"'
    return f'{outline} stroke-dasharray="3 3"/>\n{text.replace("middle", "start")}'


def svg(title: str, height: int, *parts: str) -> str:
    """Put parts into a drawing that is WIDTH wide; the title is for people who do not see it."""
    tip = f'<path d="M0,0 L9,4.5 L0,9 z" fill="{LINE}"/>'
    marker = f'<marker id="tip" markerWidth="9" markerHeight="9" refX="8" refY="4.5" orient="auto">{tip}</marker>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<defs>{marker}</defs>", *parts, "</svg>", ""])


def photograph() -> str:
    """From two photographs to a decision, with what each step yields."""
    steps = [
        ("Photograph", "JPEG, PNG, …"), ("Detect", "box and", "five landmarks"),
        ("Align", "crop of 112×96", "or 112×112"), ("Embed", "unit vector of", "crop and mirror"),
    ]  # fmt: skip
    parts, width, gap = [], 132, 22
    for row, y in enumerate((16, 116)):
        for column, (title, *notes) in enumerate(steps):
            x = 8 + column * (width + gap)
            name = f"{title} {'AB'[row]}" if column == 0 else title
            parts.append(box(x, y, width, 72, name, *notes, fill=GREEN if column else BLUE))
            if column:
                parts.append(arrow((x - gap, y + 36), (x - 2, y + 36)))
    end = 8 + 3 * (width + gap) + width
    parts.append(box(630, 62, 122, 80, "Compare", "cosine of the", "two vectors", fill=GREEN))
    parts += [arrow((end, y), (606, y), (606, 102), (628, 102)) for y in (52, 152)]
    parts.append(box(284, 230, 254, 72, "Decide", "cosine ≥ threshold?", "conditions met?", fill=ORANGE))
    parts.append(
        box(8, 230, 214, 72, "Certificate of the model", "threshold, its error rates,", "conditions", fill=BLUE)
    )
    parts.append(arrow((691, 142), (691, 266), (540, 266)))
    parts.append(arrow((222, 266), (282, 266)))
    for number, answer in enumerate(("same person", "different people", "undecided")):
        x = 179 + 162 * number
        parts.append(box(x, 334, 140, 34, answer, fill=ORANGE))
        parts.append(arrow((411, 302), (411, 318), (x + 70, 318), (x + 70, 332)))
    return svg("The path of two photographs to a decision: detect, align, embed, compare, decide", 380, *parts)


def head() -> str:
    """The head by blocks: tiles of classes, reduced to one number for each image."""
    parts = [
        box(8, 20, 150, 72, "Features x", "B images × D", "as the network gives", fill=BLUE),
        box(8, 150, 150, 110, "Class weights w", "C classes × D", "read tile by tile", fill=BLUE),
        box(196, 20, 110, 72, "Normalize", "x / ‖x‖", fill=GREEN),
        box(196, 169, 110, 72, "Normalize", "w / ‖w‖", fill=GREEN),
        arrow((158, 56), (194, 56)), arrow((158, 205), (194, 205)),
    ]  # fmt: skip
    tile = ("Tile of cosines", "B × 2,048", "then overwritten")
    parts += [box(350 + 14 * place, 94 + 14 * place, 150, 84, *tile, fill=GREEN) for place in range(3)]
    parts += [
        arrow((306, 56), (548, 56)), arrow((425, 56), (425, 92)),
        arrow((306, 205), (328, 205), (328, 164), (348, 164)),
        box(550, 20, 180, 72, "Own class", "cosine with its weight,", "margin, scale", fill=GREEN),
        box(550, 128, 160, 72, "Running sum", "Σ exp(scale · cosine)", "one number an image", fill=GREEN),
        arrow((528, 164), (548, 164)),
        box(550, 236, 180, 60, "Loss", "mean over the batch", fill=ORANGE),
        arrow((630, 200), (630, 234)), arrow((720, 92), (720, 234)),
        words(439, 240, "the next tile replaces it:"), words(439, 256, "B × C is never in memory"),
    ]  # fmt: skip
    return svg("The head: features and class weights become cosines tile by tile, and one number an image", 308, *parts)


def sharding() -> str:
    """Ranks that share a batch and the classes."""
    parts: list[str] = []
    for rank in range(2):
        x = 8 + 384 * rank
        features, weights = (x + 194, x + 16) if rank == 0 else (x + 16, x + 194)
        parts += [
            frame(x, 26, 360, 302, f"Rank {rank}"),
            box(x + 16, 40, 328, 44, f"Images of half {rank + 1} of the batch", fill=BLUE),
            box(x + 16, 106, 328, 44, "Network, the same on both", fill=GREEN),
            box(features, 172, 150, 66, "Features", "of the whole batch,", "gathered", fill=BLUE),
            box(weights, 172, 150, 66, "Class weights", f"half {rank + 1} of the classes,", "never sent", fill=BLUE),
            box(x + 16, 264, 328, 48, "Sums over its own classes", fill=GREEN),
            arrow((x + 180, 84), (x + 180, 104)), arrow((features + 75, 150), (features + 75, 170)),
            arrow((x + 91, 238), (x + 91, 262)), arrow((x + 269, 238), (x + 269, 262)),
        ]  # fmt: skip
    parts += [
        arrow((352, 194), (406, 194), dashed=True), arrow((408, 216), (354, 216), dashed=True),
        box(240, 356, 280, 56, "Loss, the same on both", "sums added: a few numbers an image", fill=ORANGE),
        arrow((188, 312), (188, 384), (238, 384)), arrow((572, 312), (572, 384), (522, 384)),
    ]  # fmt: skip
    return svg("Sharding: each rank embeds a part of the batch and holds a part of the classes", 424, *parts)


def gallery() -> str:
    """The files of a gallery, and what each holds."""
    return svg(
        "The files of a gallery: database, write-ahead log, reserve, key, counters, backups", 372,
        frame(8, 26, 356, 250, "Folder of the gallery"),
        box(24, 44, 324, 124, "people.db", "people, tags, consent", "templates, encrypted if there is a key",
            "a wrapped key for each person", "audit log, each line with a hash", fill=GRAY),
        box(24, 186, 156, 76, "people.db-wal", "and -shm: the last", "writes, for a second", fill=GRAY),
        box(192, 186, 156, 76, "people.db-reserve", "4 MB, so that a full", "disk still can forget", fill=GRAY),
        frame(404, 26, 348, 250, "Elsewhere: another disk or machine"),
        box(420, 44, 316, 60, "gallery.key", "master key: wraps each person's key", fill=ORANGE),
        box(420, 118, 316, 60, "Counters", "number and hash of the last log line", fill=GRAY),
        box(420, 192, 316, 68, "Backups and exports", "forget people there too", fill=GRAY),
        box(24, 306, 324, 56, "Memory of a process that searches", "8-bit codes of all templates, and the key"),
        arrow((186, 276), (186, 304)), arrow((420, 74), (350, 74)), arrow((364, 226), (402, 226)),
        arrow((348, 148), (418, 148)),
    )  # fmt: skip


def drawings() -> Iterator[tuple[Path, str]]:
    """Each diagram's file and its SVG."""
    for name, draw in (("photograph", photograph), ("tiles", head), ("sharding", sharding), ("files", gallery)):
        yield Path(__file__).parent / f"{name}.svg", draw()


if __name__ == "__main__":
    for path, text in drawings():
        path.write_text(text, encoding="utf-8")
