"""What a Result says in words and in cells of tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import counted
from ..types import PER_PERSON, RULE_OF_30, WITHOUT, Calibration, Estimate, Match, OperatingPoint, Result

Rows = list[list[str]]

ACRONYMS = ("auc", "cmc", "dir", "eer", "far", "fnir", "fpir", "frr", "fta", "fte", "tar", "tpir", "vr")
FEW_HOLD = 1 / 3  # of the genuine comparisons, from which rates per person are told first
METRICS = {"d_prime": "d′", "cllr": "Cllr (bits)", "min_cllr": "least Cllr (bits)", "rank1": "rank 1"}
PLAIN = ("d_prime", "cllr", "min_cllr")  # metrics that are no shares of a whole
PROTOCOL_TITLES = {
    "all_pairs": "all pairs", "pairs_csv": "listed pairs", "scores": "its scores", "identification": "identification",
    "distractors": "distractors", "lfw_view1": "LFW View 1", "lfw_bin": "LFW (lfw.bin)", "bin": "listed pairs (.bin)",
}  # fmt: skip
DISCARD = "discard_"  # begins the names of curves of `protocols.with_discard`, and a quality ends them
DISCARDED = (0, 0.05, 0.1, 0.2, 0.5)  # shares of images told of such a curve
CROSS = " × "  # between the names of two groups
CROSSED = 3  # groups of a column of which every cross is a row; of more only the extremes are told
FACTS = {
    **METRICS, "pca": "PCA (share of variance)",
    "target_far": "FAR asked for", "discard_threshold": "threshold of error versus discard",
    "commonest_five": "the five commonest people's share of genuine comparisons",
    "model_sha256": "SHA-256 of the weights", "weights_sha256": "SHA-256 of the weights",
}  # fmt: skip
SHOWN = (
    "fold_accuracy", "fold_threshold", "notes", "confident", "slices", "hardest", "operating_point", "by_trial",
    "mean_minus_std", "partial", "failures",
)  # fmt: skip


def summary(results: Mapping[str, Result]) -> str:
    """What was found, in sentences: first what is missing, then each system, then how it was judged."""
    first = next(iter(results.values()))
    partial = [f"{result.facts['partial']}." for result in results.values() if "partial" in result.facts]
    partial += [_failed(result.facts["failures"]) for result in results.values() if "failures" in result.facts]
    found = "; ".join(f"{name} {_found(result)}" for name, result in results.items())
    brackets = ["Brackets hold 95 % intervals."] if " to " in found else []
    return " ".join([*dict.fromkeys(partial), f"{found}.", *brackets, *_how(first, len(results) == 1)])


def _found(result: Result) -> str:
    """The end of a sentence that starts with the system's name."""
    metrics, facts = result.metrics, result.facts
    if result.protocol == "calibrate":
        return _certified(metrics, facts)
    if accuracy := metrics.get("accuracy"):
        error = f" ± {100 * facts['standard_error']:.2f}" if "standard_error" in facts else ""
        return f"decides {100 * accuracy.value:.2f} %{error} of {accuracy.n:,} pairs correctly"
    told = [_sentence(name, found) for name, found in _leading(result)]
    return ", ".join(filter(None, told[:3])) or "was measured"


def _failed(failures: Mapping[str, Any]) -> str:
    """How many photographs gave no template, why, and what became of them."""
    why = ", ".join(f"{count:,} {reason}" for reason, count in failures["reasons"].items())
    become = "counted as false non-matches" if failures["counted"] else "left out of the rates"
    told = f"{failures['failed']:,} of {counted(failures['photographs'], 'photograph')} gave no template"
    return f"{told} ({why}), {become}." if failures["failed"] else f"{told}."


def _certified(metrics: Mapping[str, Estimate], facts: Mapping[str, Any]) -> str:
    held = "whole interval at most" if facts.get("confident") else "at most"
    ask = f" (asked for: {held} {short_percent(facts['target_far'])})" if facts.get("target_far") else ""
    far, tar = (
        f"{estimate(metrics[name])} of {metrics[name].n:,} {what}"
        for name, what in (("far", f"impostor comparisons{ask}"), ("tar", "genuine ones"))
    )
    told = f"{far} and {tar}"
    if "tar_per_person" in metrics:
        mean = f"mean over {metrics['tar_per_person'].n:,} people"
        each = f"{estimate(metrics['tar_per_person'])} of a person's genuine comparisons ({mean})"
        others = f"{estimate(metrics['far_per_person'])} of their impostor ones"
        told = f"{each} and {others}; {told}" if uneven(facts) else f"{told}; {each} and {others}"
    return f"accepts from {measure(facts['comparisons'])} {facts['threshold']:.4f} on: {told}"


def measure(comparisons: str) -> str:
    """What comparisons were measured in, by the protocol that made them: cosines, or another system's scores."""
    return "score" if comparisons.startswith("scores") else "cosine"


def uneven(facts: Mapping[str, Any]) -> bool:
    """Whether few people hold so many of the genuine comparisons that rates per person are told first."""
    return (facts.get("commonest_five") or 0) > FEW_HOLD


def _leading(result: Result) -> list[tuple[str, Estimate]]:
    """A result's metrics, those per person first where few people hold many of the comparisons."""
    return sorted(result.metrics.items(), key=lambda item: uneven(result.facts) and PER_PERSON not in item[0])


def label(name: str) -> str:
    """A metric's name for people: tar@far=0.001 is TAR at FAR 0.1 %."""
    kind, _, condition = name.partition("@")
    kind, without, _ = kind.partition(WITHOUT)
    kind, each, _ = kind.partition(PER_PERSON)
    words = kind.upper() if kind in ACRONYMS else METRICS.get(kind) or kind.replace("_", " ")
    words += (" per person" if each else "") + (" without failures" if without else "")
    return f"{words} at {_at(condition)}" if condition else words


def protocol_title(name: str) -> str:
    """A protocol's name in titles: LFW, all pairs."""
    return PROTOCOL_TITLES.get(name, name.upper().replace("_", " "))


def _sentence(name: str, found: Estimate) -> str:
    """What a system does, by one of its metrics."""
    kind, _, condition = name.partition("@")
    kind, without, _ = kind.partition(WITHOUT)
    what = {
        "vr": "accepts {} of genuine pairs", "tar": "accepts {} of genuine comparisons",
        "dir": "detects and identifies {} of enrolled probes", "tpir": "detects and identifies {} of enrolled probes",
        "vr_per_person": "accepts {} of a person's genuine pairs, in the mean",
        "tar_per_person": "accepts {} of a person's genuine comparisons, in the mean",
        "fpir": "accepts anybody in {} of searches for a stranger", "fnir": "misses the person in {} of searches",
        "cmc": "finds the right person of {} of probes", "eer": "has an equal error rate of {}",
        "fta": "gives no template from {} of photographs", "fte": "cannot enrol {} of people",
    }.get(kind, f"reaches {{}} in {label(kind)}")  # fmt: skip
    at = f" at {_at(condition)}" if condition else ""
    return what.format(show(name, found)) + at + (" (without failures)" if without else "")


def _at(condition: str) -> str:
    """The conditions of a metric: far=0.001,rank=1 is FAR 0.1 %, rank 1."""
    return ", ".join(map(_condition, condition.split(",")))


def _condition(text: str) -> str:
    name, _, value = text.partition("=")
    try:
        if name in ("far", "fpir", "fnir"):
            return f"{name.upper()} {short_percent(float(value))}"
        return f"{int(value):,} {name}" if name in ("distractors", "enrolled") else f"{name} {value}"
    except ValueError:
        return text


def _how(result: Result, alone: bool) -> Iterable[str]:
    facts = result.facts
    if result.protocol == "calibrate":
        yield f"The comparisons are of {facts['people']:,} people on {facts['images']:,} images."
    elif "folds" in facts and "accuracy" in result.metrics:
        yield f"Mean ± standard error over {facts['folds']} folds; each fold's threshold was chosen on the other folds."
    elif "training_pairs" in facts:
        yield f"The threshold was chosen on {facts['training_pairs']:,} other pairs."
    elif "trials" in facts:
        yield f"Means over {facts['trials']} trials."
    if (share := facts.get("commonest_five")) and alone:
        first = "; rates per person count everybody once, and come first here" if uneven(facts) else ""
        yield f"The five commonest people are in {short_percent(share)} of the genuine comparisons{first}."
    if "cllr" in facts and alone:
        yield (
            f"As evidence its scores cost {facts['cllr']:.3f} bits a comparison (Cllr; 0 is perfect, 1 knows nothing), "
            f"{facts['min_cllr']:.3f} at the least."
        )


def llr(point: OperatingPoint | None, match: Match) -> float | None:
    """The log of the likelihood ratio of a match; None where it was not measured, or on other photographs."""
    if point is None or point.calibration is None or match.outside:
        return None
    return point.calibration.llr(match.score)


def evidence(calibration: Calibration, score: float) -> str:
    """Say how many times more likely a score is for the same person than for different people, or the reverse."""
    llr = calibration.llr(score)
    most = calibration.pav_llrs and llr in (calibration.pav_llrs[0], calibration.pav_llrs[-1])
    same, different = "the same person", "different people"
    likelier, other = (same, different) if llr >= 0 else (different, same)
    ratio = math.exp(abs(llr))
    digits = 2 - math.floor(math.log10(ratio))
    times = f"{'at least ' if most else ''}{round(ratio, digits):,.{max(digits, 0)}f}"
    return f"{times} times more likely for {likelier} than for {other}"


def certified_rates(point: OperatingPoint) -> list[str]:
    """What a threshold accepts, a line for all comparisons and one for the mean over people; the latter first where few
    people hold many of the genuine comparisons.
    """
    lines = [
        f"accepts {estimate(point.tar)} of {point.tar.n:,} genuine pairs and {estimate(point.far)} of "
        f"{point.far.n:,} impostor pairs"
    ]
    if point.tar_per_person and point.far_per_person:
        lines.append(
            f"accepts {estimate(point.tar_per_person)} of a person's genuine pairs, in the mean over "
            f"{point.tar_per_person.n:,} people, and {estimate(point.far_per_person)} of their impostor pairs"
        )
    return lines[::-1] if (point.commonest_five or 0) > FEW_HOLD else lines


def metrics(results: Mapping[str, Result]) -> Rows:
    """A row for each metric: value and interval of each system, and the comparisons behind them."""
    rows = [["", *(f"{name} (95 % interval)" for name in results), "comparisons, or people"]]
    for metric in dict.fromkeys(name for result in results.values() for name, _ in _leading(result)):
        found = [result.metrics.get(metric) for result in results.values()]
        counts = dict.fromkeys(f"{each.n:,}" for each in found if each)
        rows.append([label(metric), *(show(metric, each) for each in found), " / ".join(counts)])
    return rows


def folds(results: Mapping[str, Result]) -> Rows:
    """Accuracy and threshold of each fold of each system; only a head where no system has folds."""
    head, columns = ["fold"], []
    for name, result in results.items():
        if "fold_accuracy" in result.facts:
            head += [f"{name}: accuracy", "threshold"]
            columns.append([f"{100 * value:.2f} %" for value in result.facts["fold_accuracy"]])
            columns.append([f"{value:.4f}" for value in result.facts["fold_threshold"]])
    return [head, *([str(i + 1), *row] for i, row in enumerate(zip(*columns, strict=True)))]


def trials(results: Mapping[str, Result]) -> Rows:
    """Each metric in each trial of each system, as BLUFR has them; only a head where no system has trials."""
    head, columns = ["trial"], []
    for name, result in results.items():
        for metric, values in result.facts.get("by_trial", {}).items():
            head.append(f"{name}: {label(metric)}" if len(results) > 1 else label(metric))
            columns.append([f"{100 * value:.2f} %" for value in values])
    return [head, *([str(i + 1), *row] for i, row in enumerate(zip(*columns, strict=True)))]


def slices(found: Mapping[str, Any]) -> Rows:
    """Error rates by group, the whole first, with what is too small to say.

    Comparisons of one group with another are rows of their own where a column has CROSSED groups or fewer; of more,
    see `crosses`.
    """
    many = _many_groups(found)
    per_person = any("frr_per_person" in row for row in found["rows"])  # not in older results
    names = ("far", "frr", *("far_per_person", "frr_per_person") * per_person)
    rows = [["", "group", *(cell for name in names for cell in (f"{label(name)} (95 % interval)", "of")), ""]]
    whole = {"column": "all", "group": "", "warning": None, **found["overall"]}
    for row in (whole, *found["rows"]):
        if row["column"] in many and CROSS in row["group"]:
            continue
        cells = [row["column"], row["group"]]
        for name in names:
            rate = row.get(name)
            cells += [estimate(Estimate(**rate)), f"{rate['n']:,}"] if rate else ["–", "0"]
        rows.append([*cells, row["warning"] or ""])
    return rows


def crosses(found: Mapping[str, Any]) -> list[str]:
    """What `slices` leaves out: of each column with many groups the lowest and the highest FAR across groups."""
    told = []
    for column, groups in _many_groups(found).items():
        rows = [row for row in found["rows"] if row["column"] == column and CROSS in row["group"] and row["far"]]
        if not rows:
            continue
        rows.sort(key=lambda row: float(row["far"]["value"]))
        ends = " to ".join(f"{estimate(Estimate(**row['far']))} ({row['group']})" for row in (rows[0], rows[-1]))
        told.append(f"{column}: FAR between groups ({len(rows)} pairs of {groups} groups): {ends}.")
    return told


def _many_groups(found: Mapping[str, Any]) -> dict[str, int]:
    """The columns with more than CROSSED groups, and how many they have."""
    own = Counter(row["column"] for row in found["rows"] if CROSS not in row["group"])
    return {column: count for column, count in own.items() if count > CROSSED}


def ratios(found: Mapping[str, Any]) -> list[str]:
    """Each group against the rest, a sentence for every column and rate."""
    told = []
    for column, rate in dict.fromkeys((each["column"], each["rate"]) for each in found["ratios"]):
        rows = [each for each in found["ratios"] if (each["column"], each["rate"]) == (column, rate)]
        apart = "; ".join(
            f"{each['group']} {each['ratio']['value']:.2f} times ({each['ratio']['low']:.2f} to "
            f"{each['ratio']['high']:.2f})"
            for each in rows if each["differs"]
        )  # fmt: skip
        few = [each["group"] for each in rows if not each["ratio"] and each["group"]]
        ending = f" (too few errors to say: {', '.join(few)})" if few else ""
        if apart:
            told.append(f"{column}: {rate.upper()} of a group over that of the rest: {apart}{ending}.")
        elif len(few) < len(rows) and rows[0]["group"]:
            told.append(f"{column}: no group's {rate.upper()} can be told from that of the rest{ending}.")
        else:
            told.append(f"{column}: {rate.upper()}s cannot be compared ({rows[0]['note']}).")
    unknown = [f"{count:,} images have no {column}" for column, count in found["unknown"].items() if count]
    return told + ([f"{'; '.join(unknown)}."] if unknown else [])


def discards(results: Mapping[str, Result]) -> Rows:
    """Error rates with the worst images left out, a row for each quality of each system; only a head without any."""
    rows = [["images left out by", *(f"the worst {short_percent(share)}" if share else "none" for share in DISCARDED)]]
    for name, result in results.items():
        ends = (PER_PERSON, " per person") if uneven(result.facts) else ("", "")
        for kind, curve in result.curves.items():
            if not kind.startswith(DISCARD):
                continue
            cells = []
            for share in DISCARDED:  # the last point that leaves out no more: images of one quality go together
                if share > curve["discarded"][-1] + 0.03:  # nothing of one kind was left
                    cells.append("–")
                    continue
                at = max((i for i, each in enumerate(curve["discarded"]) if each <= share + 1e-9), default=0)
                rates = (f"{rate.upper()} {short_percent(curve[f'{rate}{ends[0]}'][at])}" for rate in ("frr", "far"))
                cells.append(", ".join(rates))
            quality = kind.removeprefix(DISCARD) + ends[1]
            rows.append([quality if len(results) == 1 else f"{name}: {quality}", *cells])
    return rows


def conditions(results: Mapping[str, Result]) -> Rows:
    """The facts that are shown nowhere else, a row each."""
    keys = dict.fromkeys(key for result in results.values() for key in result.facts if key not in SHOWN)
    return [[_fact(key), *(_cell(result.facts.get(key)) for result in results.values())] for key in keys]


def _fact(key: str) -> str:
    """A fact's name for people: pairs_sha256 is `SHA-256 of pairs`, and far=0.001 is `at FAR 0.1 %`."""
    if key in FACTS:
        return FACTS[key]
    if key.endswith("_sha256"):
        return f"SHA-256 of {key.removesuffix('_sha256').replace('_', ' ')}"
    if "=" in key:
        return label(key) if "@" in key else label(f"@{key}").strip()
    return " ".join(word.upper() if word in ACRONYMS else word for word in key.split("_"))


def notes(results: Mapping[str, Result]) -> list[str]:
    """Remarks of all results, each once; of BLUFR mean − std, which others report."""
    told = [note for result in results.values() for note in result.facts.get("notes", ())]
    for name, result in results.items():
        if each := result.facts.get("mean_minus_std"):
            shares = "; ".join(f"{label(metric)}: {100 * value:.2f} %" for metric, value in each.items())
            told.append(f"mean − std over the trials{f' of {name}' if len(results) > 1 else ''}: {shares}")
    few = {
        name: "; ".join(f"{label(metric)}: {count}" for metric, count in result.few_errors.items())
        for name, result in results.items()
        if result.few_errors
    }
    for shares in dict.fromkeys(few.values()):
        of = [name for name, found in few.items() if found == shares]
        whose = f" of {', '.join(of)}" if len(of) < len(results) else ""
        told.append(f"Fewer than {RULE_OF_30} errors{whose}, so poorly known (Rule of 30, ISO/IEC 19795-1): {shares}")
    return list(dict.fromkeys(told))


def show(name: str, found: Estimate | None) -> str:
    """A metric with its interval, as a percentage where it is a share."""
    return estimate(found, lambda value: f"{value:.4g}") if name in PLAIN else estimate(found)


def estimate(found: Estimate | None, number: Callable[[float], str] | None = None) -> str:
    """Value and interval; percentages have as many digits as their size needs."""
    if found is None:
        return "–"
    if number:
        return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"
    digits = _digits(found.value, found.high)
    value, low, high = (f"{100 * each:.{digits}f}" for each in (found.value, found.low, found.high))
    return f"{value} % ({low} to {high})"


def short_percent(share: float) -> str:
    """Three digits, such as 0.1 % or 0.00123 %."""
    digits = max(0, 2 - math.floor(math.log10(100 * share))) if share > 0 else 0
    text = f"{100 * share:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + " %"


def _digits(value: float, high: float) -> int:
    """Two, or more where a rate would be read as nought: 0.0012 % has four."""
    size = 100 * (value or high)
    return max(2, 1 - math.floor(math.log10(size))) if size > 0 else 2


def _span(values: Sequence[float]) -> str:
    """The least and the greatest of many numbers, or the one that they all are."""
    low, high = min(values), max(values)
    return _cell(low) if low == high else f"{_cell(low)} to {_cell(high)}"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return "; ".join(f"{_fact(key)}: {_cell(each)}" for key, each in value.items())
    if isinstance(value, list | tuple) and len(value) > 1 and all(isinstance(each, Mapping) for each in value):
        return "; ".join(f"{_fact(key)}: {_span([each[key] for each in value])}" for key in value[0])
    if isinstance(value, list | tuple) and len(value) > 3 and all(type(each) in (int, float) for each in value):
        return _span(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value[:12])) + (", …" if len(value) > 12 else "")
    return str(value)
