"""docs/benchmarks.md and the page of one machine: text from a template, figures from the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from normface.atomic import replacing
from normface.cpu import PROCESSOR_KINDS
from normface.machine import speed
from normface.report.render import markdown_table

from . import scale
from .sheet import RESULTS, ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
TEMPLATE = Path(__file__).with_name("page.md")
FIGURES = ROOT / "src" / "normface" / "machine" / "figures.json"
NONE = "–"
Record = Mapping[str, Any]


class Row(NamedTuple):
    """A line of the table: what, the benchmark it comes from, and how its record tells it."""

    what: str
    name: str
    tell: Callable[[Record], str]


def _at(record: Record, place: str) -> Any:
    for name in place.split("/"):
        record = record[name]
    return record


def _each(*places: str, form: str = "{:,g}") -> Callable[[Record], str]:
    """The figures at some places, with a dash for one that is missing; none at all is a KeyError."""

    def tell(record: Record) -> str:
        found = []
        for place in places:
            try:
                found.append(form.format(_at(record, place)))
            except KeyError:
                found.append(NONE)
        if set(found) == {NONE}:
            raise KeyError(places[0])
        return " / ".join(found)

    return tell


def _fastest_peer(record: Record, classes: str) -> str:
    found = record["seconds"][classes]
    peers = {k: v for k, v in found.items() if not k.startswith(("by blocks", "three products")) and "bf16" not in k}
    name = min(peers, key=lambda each: peers[each])
    own = [found.get("by blocks"), found.get("by blocks, bf16")]
    cells = [NONE if each is None else f"{1000 * each:.0f}" for each in own]
    return f"{' / '.join(cells)} / {1000 * peers[name]:.0f} ({name})"


DEFAULT = "the default model"
ROWS = (
    Row("Embedding by the default model, one orientation, images/s: ONNX Runtime alone / ours float32 / ours bfloat16",
        "embed", _each(*(f"networks/{DEFAULT}/images_per_second/{way}" for way in
                         ("plain", "ours, float32", "ours, bfloat16")))),
    Row("Two 250×250 photographs verified, ms / finding the face in one of them, ms", "embed",
        _each(*(f"milliseconds/{DEFAULT}/{stage}" for stage in ("verify two photographs", "detect")))),
    Row("Photographs to crops, images/s: ours / facenet-pytorch as it comes / with a process a core",
        "align", _each(*(f"images_per_second/{way}" for way in
                         ("ours", "facenet-pytorch", "facenet-pytorch, processes")))),
    Row("Batches of 112×112 faces, one core, images/s: JPEG pack / pixel pack / bare simplejpeg / Pillow Dataset",
        "loader", _each(*(f"images_per_second_and_core/{way}" for way in
                          ("ours, pack", "ours, pack of pixels", "simplejpeg alone", "PIL to float")))),
    Row("Search of 20,000 × 512 templates, ms: ours / faiss flat / LanceDB / Milvus Lite", "gallery",
        _each(*(f"beside/{each}/median_ms" for each in ("normface", "faiss_flat", "lancedb", "milvus_lite")))),
    Row("Search of 1,000,000 × 512 templates, ms: ours exact / approximate / faiss flat / LanceDB", "gallery",
        lambda r: _each("exact/median_ms", "approximate/median_ms", "beside/with_all/faiss_flat/median_ms",
                        "beside/with_all/lancedb/median_ms")(r if r["templates"] == 1_000_000 else {})),
    Row("Opening that gallery, s / enrolling in bulk, templates/s", "gallery",
        lambda r: _each("open_s", "enrol_bulk_per_s")(r if r["templates"] == 1_000_000 else {})),
    Row("LFW's 6,000 pairs judged, ms / times insightface's speed", "protocols",
        lambda r: f"{1000 * r['lfw']['seconds']:.1f} / {r['lfw'].get('times_insightface', NONE)}"),
    Row("IJB-B-size 1:1, s / times CVLface's speed", "protocols",
        _each(*(f"ijb_verification/gallery against probes/{each}" for each in ("seconds", "times_cvlface")))),
    Row("BLUFR, s / times its bare products / peak MiB", "protocols",
        _each("blufr/seconds", "blufr/times_products", "blufr/peak_mib_with_products")),
    Row("10⁹ comparisons of 256 numbers, s / peak MiB", "protocols", _each("all_pairs/seconds", "all_pairs/peak_mib")),
    Row("Softmax head, 10,000 classes, B 256, D 512, ms: ours / ours in bfloat16 / fastest peer in float32", "head",
        lambda r: _fastest_peer(r, "10000")),
    Row("The same with 100,000 classes, ms", "head", lambda r: _fastest_peer(r, "100000")),
    Row("Memory of the head beyond its gradients, 100,000 classes, MB: ours / plain torch", "head",
        _each("extra_memory_mb/100000/by blocks", "extra_memory_mb/100000/plain")),
    Row("Training smallresnet at 112×96, batch 64, bare steps, images/s: float32 / bfloat16", "training",
        _each("images_per_second/smallresnet fp32", "images_per_second/smallresnet bf16")),
    Row("Training mobilefacenet at 112×96, batch 64, bare steps, images/s: float32 / bfloat16", "training",
        _each("images_per_second/mobilefacenet fp32", "images_per_second/mobilefacenet bf16")),
    Row("Product of two 2048×2048 matrices by torch, GFLOP/s: float32 / bfloat16", "training",
        _each("matmul_gflops_torch.float32", "matmul_gflops_torch.bfloat16")),
    Row("Training IResNet-18, 10,000 classes, images/s (batch): ours / arcface_torch's loop", "throughput",
        lambda r: f"{_each('images_per_second/ours', 'images_per_second/arcface_torch')(r)} (batch {r['batch']}, "
                  f"{r['precision']['ours']})"),
    Row("The training loop over its bare steps, time added (network)", "overhead",
        lambda r: f"{100 * r['overhead']:.1f} % ({r['model']})".replace("-", "−")),
    Row("torch.compile over plain steps of smallresnet", "compile",
        lambda r: "{}× ({} to {})".format(r["smallresnet"]["compiled_over_plain"], *r["smallresnet"]["range"])),
    Row("Bulk embedding: local over the bare Embedder / Ray over local", "bulk",
        _each("local_of_bare", "ray_of_local", form="{:.0%}")),
    Row("Pairs verified a second: by the service, 8 clients / by the Embedder, a thread a core", "service",
        _each("pairs_per_second/service", "pairs_per_second/embedder, a thread a core")),
    Row("The service's memory after all requests, MiB", "service",
        lambda r: f"{list(r['memory']['resident_mib'].values())[-1]:g} ({r['memory']['requests']:,} requests)"),
    *(
        Row(f"Pairs verified a second, {n} client{'s' * (n > 1)}: ours / deepface's API as it comes / with YuNet",
            "service_beside", _each(*(f"clients/{n}/{way}/pairs_per_second" for way in
                                      ("normface", "deepface, 1 process, opencv", "deepface, 1 process, yunet"))))
        for n in (1, 8)
    ),
    Row("Records read at random from a pack, µs each / as a share of decoding", "pack",
        _each("training faces/random_access_us", "training faces/share_of_decoding")),
)  # fmt: skip


def records(kind: Path) -> dict[str, Record]:
    """The records of one kind of processor by benchmark: the whole ones, where one is missing the quick ones."""
    quick = kind / "quick.json"
    found: dict[str, Record] = {}
    if quick.exists():
        found |= json.loads(quick.read_text(encoding="utf-8"))["benchmarks"]
    for path in sorted(kind.glob("*.json")):
        if path.name not in ("quick.json",) and not path.name.endswith(".partial.json"):
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return found


def kinds(results: Path = RESULTS) -> list[Path]:
    """The folders of all kinds of processor with results, the least able first; not those of GPUs."""
    found = [path for path in results.iterdir() if path.is_dir() and path.name != "gpu"]
    return sorted(
        found,
        key=lambda path: (
            PROCESSOR_KINDS.index(path.name) if path.name in PROCESSOR_KINDS else len(PROCESSOR_KINDS),
            path.name,
        ),
    )


def cell(row: Row, held: Mapping[str, Record]) -> str:
    """What a row says of one machine; a dash where it was not measured."""
    record = held.get(row.name)
    if record is None:
        return NONE
    try:
        return row.tell(record) + (" *" if record.get("quick") else "")
    except (KeyError, ValueError):
        return NONE


def write() -> list[Path]:
    """Write docs/benchmarks.md, docs/scale.md and the figures of `normface doctor --machine`; returns their paths."""
    pages = {PAGE: render(), scale.PAGE: scale.render(), FIGURES: figures()}
    for path, text in pages.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(pages)


def figures(results: Path = RESULTS) -> str:
    """The figures of the speed test by kind, as JSON: its own, where there are none those of embed and training."""
    found: dict[str, Any] = {}
    for kind in kinds(results):
        held = records(kind)
        own = held.get("machine", {})
        told = {name: own[name] for name in speed.UNITS if isinstance(own.get(name), int | float)}
        if not told:
            told = dict(_from_others(held))
            own = held.get("embed", {})
        if told:
            where = {"on": f"{own.get('cores', '?')} cores of {own.get('processor', '?')}", "date": own.get("date")}
            found[kind.name] = where | told
    return json.dumps(found, indent=2) + "\n"


def _from_others(held: Mapping[str, Record]) -> Iterator[tuple[str, float]]:
    places = {
        "detect_ms": ("embed", f"milliseconds/{DEFAULT}/detect"),
        "embed_per_second": ("embed", f"networks/{DEFAULT}/images_per_second/ours, float32"),
        "verify_ms": ("embed", f"milliseconds/{DEFAULT}/verify two photographs"),
        "train_per_second": ("training", "images_per_second/smallresnet fp32"),
        "train_bf16_per_second": ("training", "images_per_second/smallresnet bf16"),
    }
    for name, (benchmark, place) in places.items():
        try:
            yield name, _at(held[benchmark], place)
        except KeyError:
            continue


def render(results: Path = RESULTS) -> str:
    """The page of the docs."""
    from .command import benchmarks

    columns = [(kind.name, held) for kind in kinds(results) if (held := records(kind))]
    machines = [f"- `{name}`: {_machine(held)}" for name, held in columns]
    head = ["what", *(f"`{name}`" for name, _ in columns), "command"]
    lines = [[row.what, *(cell(row, held) for _, held in columns), f"`make bench NAME={row.name}`"] for row in ROWS]
    names = [["name", "what it measures", "quick"]]
    for name, known in benchmarks().items():
        names.append([f"`{name}`", known.about, "no" if known.quick is None else f"≤ {2 * known.quick} s"])
    test = [["what", *(f"`{name}`" for name, _ in columns)]]
    published = json.loads(figures(results))
    for name, what in speed.UNITS.items():
        test.append([what, *(f"{published.get(kind, {}).get(name, NONE)}" for kind, _ in columns)])
    return TEMPLATE.read_text(encoding="utf-8").format(
        speed=markdown_table([head, *lines]), machines="\n".join(machines), names=markdown_table(names),
        test=markdown_table(test),
    )  # fmt: skip


def _machine(held: Mapping[str, Record]) -> str:
    """What the figures of one kind were measured on, and when."""
    told = [each for each in held.values() if "processor" in each]
    some = told[0]
    dates = sorted({each["date"] for each in told})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    text = f"{some['cores']} cores of {some['processor']}, {when}"
    limits = {f"{name}={value}" for each in told for name, value in each.get("restrictions", {}).items()}
    loads = [each["load"] for each in told if _busy(each)]
    busy = f". **Provisional**: other work ran on the machine (load {max(loads):g} before it began)" if loads else ""
    return text + (f", under {' '.join(sorted(limits))}" if limits else "") + busy


def _busy(record: Record) -> bool:
    """Whether other work wanted more than half of a core when a measurement began."""
    load = record.get("load")
    return isinstance(load, int | float) and load > 0.5


def of_one(whole: Record) -> str:
    """One machine's page: what it is, its figures beside those of the docs, what is missing and why."""
    lines = [["what", "here"]]
    for row in ROWS:
        told = cell(row, whole["benchmarks"])
        if told != NONE:
            lines.append([row.what, told.removesuffix(" *")])
    own = whole["benchmarks"].get("machine", {})
    test = [["what", "here", f"docs, {whole['kind']}", "times the docs"]]
    test += [
        [each["what"], *(NONE if each[k] is None else str(each[k]) for k in ("here", "docs", "times_docs"))]
        for each in speed.beside(dict(own), whole["kind"])
    ]
    missing = [
        f"- {name if part == name else f'{name}, {part}'}: {word}{reason}"
        for kind, word in (("failed", "**failed**: "), ("left_out", ""))
        for name, each in whole["benchmarks"].items()
        for part, reason in each[kind].items()
    ]
    facts = {
        "processor": f"{whole['processor']} ({whole['kind']}: {', '.join(whole['abilities']) or 'no extensions'})",
        "cores, memory": f"{whole['cores']}, {whole['memory_mib']} MiB", "GPU": whole["gpu"] or "none",
        "other work": f"load {whole['load']} before it began" + (": measure again when idle" if _busy(whole) else ""),
        "restrictions": ", ".join(f"{k}={v}" for k, v in whole["restrictions"].items()) or "none",
        "libraries": ", ".join(f"{k}: {v}" for k, v in whole.get("libraries", {}).items()),
        "versions": ", ".join(f"{k} {v}" for k, v in whole["versions"].items()),
        "date, commit": f"{whole['date']}, {whole['commit']}", "faces": whole["faces"],
        "took": f"{whole['seconds']:.0f} s of at most {whole['minutes']:g} minutes",
    }  # fmt: skip
    parts = [
        "# Benchmarks of one machine, in small",
        "`python -m benchmarks all --quick` wrote this page. Sizes are small and rounds are few: expect errors of some "
        "percent, and larger ones where other work ran.",
        markdown_table([["machine", ""], *([name, value] for name, value in facts.items())]),
        "## The speed test", markdown_table(test), "## Figures", markdown_table(lines),
        "## Left out, or failed", "\n".join(missing) or "Nothing.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"
