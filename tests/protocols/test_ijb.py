"""IJB against its definition as loops over templates, media and probes."""

import numpy as np
import pytest

from normface.errors import DataError
from normface.protocols import ijb_identification, ijb_verification, read_media, verification
from normface.protocols.ijb import pool, read_matches
from normface.protocols.verification import cosines
from normface.types import Embeddings, Templates

RNG = np.random.default_rng(0)
PEOPLE = 30


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """30 people of 1 to 3 templates of 1 to 3 media of 1 to 4 images; numbers with gaps."""
    folder = tmp_path_factory.mktemp("ijb")
    rows, subject = [], {}
    for person in range(PEOPLE):
        for _ in range(RNG.integers(1, 4)):
            template = 7 + 3 * len(subject)
            subject[template] = person
            for medium in range(RNG.integers(1, 4)):
                rows += [(template, 1000 * person + medium)] * int(RNG.integers(1, 5))
    rows = [rows[k] for k in RNG.permutation(len(rows))]
    ids = [f"{k}.jpg" for k in range(len(rows))]
    centers = RNG.normal(size=(PEOPLE, 24))
    x = centers[[subject[t] for t, _ in rows]] + 2.5 * RNG.normal(size=(len(rows), 24))
    x *= RNG.uniform(0.2, 3, (len(rows), 1))
    (folder / "media.txt").write_text("".join(f"{i} {t} {m}\n" for i, (t, m) in zip(ids, rows, strict=True)))
    official = [f"{t},{subject[t]},{i},{m},1,2" for i, (t, m) in zip(ids, rows, strict=True)]
    (folder / "media.csv").write_text(
        "\n".join(["TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID,FACE_X,FACE_Y", *official])
    )
    return folder, Embeddings(x, ids), rows, subject, x


def literal(x, rows, norms=True):
    """Template → vector: each medium's mean, then their sum, then unit length."""
    found = {}
    for template in {t for t, _ in rows}:
        total = np.zeros(x.shape[1])
        for medium in {m for t, m in rows if t == template}:
            own = [x[k] for k, each in enumerate(rows) if each == (template, medium)]
            own = own if norms else [v / np.linalg.norm(v) for v in own]
            total += sum(own) / len(own)
        found[template] = total / np.linalg.norm(total)
    return found


@pytest.mark.parametrize("norms", [True, False])
def test_verification_equals_the_definition(setting, norms):
    folder, embeddings, rows, subject, x = setting
    vectors = literal(x, rows, norms)
    pairs = [(a, b) for a in subject for b in subject if a < b]
    (folder / "pairs.txt").write_text("".join(f"{a} {b} {int(subject[a] == subject[b])}\n" for a, b in pairs))
    scores = np.array([vectors[a] @ vectors[b] for a, b in pairs])
    same = np.array([subject[a] == subject[b] for a, b in pairs])
    result = ijb_verification(embeddings, folder / "media.txt", folder / "pairs.txt", norms=norms)
    for far in (0.01, 0.001):
        allowed = int(far * (~same).sum())
        threshold = np.sort(scores[~same])[::-1][allowed]
        assert result.metrics[f"tar@far={far:g}"].value == pytest.approx(np.mean(scores[same] > threshold))
    assert (result.facts["genuine_pairs"], result.facts["impostor_pairs"]) == (same.sum(), (~same).sum())
    assert any("FAR 1e-06 left out" in note for note in result.facts["notes"])


def test_the_official_lists_say_the_same(setting):
    folder, embeddings, _, subject, _ = setting
    pairs = [(a, b) for a in subject for b in subject if a < b]
    (folder / "labeled.txt").write_text("".join(f"{a} {b} {int(subject[a] == subject[b])}\n" for a, b in pairs))
    (folder / "matches.csv").write_text("".join(f"{a},{b}\n" for a, b in pairs))
    one = ijb_verification(embeddings, folder / "media.txt", folder / "labeled.txt")
    two = ijb_verification(embeddings, folder / "media.csv", folder / "matches.csv")
    assert {k: v.value for k, v in one.metrics.items()} == {k: v.value for k, v in two.metrics.items()}


def test_identification_equals_the_definition(setting):
    folder, embeddings, rows, subject, x = setting
    vectors, seen = literal(x, rows), {}
    for template, person in subject.items():
        seen.setdefault(person, []).append(template)
    enrolled = [[own[0] for p, own in seen.items() if p % 2 == side] for side in (0, 1)]
    probes = [t for own in seen.values() for t in own[1:]]
    for name, templates in (("probe", probes), ("G1", enrolled[0]), ("G2", enrolled[1])):
        lines = [f"{t},{subject[t]},x" for t in templates for _ in range(2)]  # a line for each image
        (folder / f"{name}.csv").write_text("\n".join(["TEMPLATE_ID,SUBJECT_ID,FILENAME", *lines]))
    result = ijb_identification(embeddings, folder / "media.txt", *(folder / f"{n}.csv" for n in ("probe", "G1", "G2")))
    rates = {"cmc@rank=1": [], "cmc@rank=5": [], "dir@fpir=0.1,rank=1": []}
    for gallery in enrolled:
        others, found = [], []
        for probe in probes:
            scores = {subject[g]: vectors[probe] @ vectors[g] for g in gallery}
            if subject[probe] in scores:
                own = scores[subject[probe]]
                found.append((own, sum(score >= own for score in scores.values())))
            else:
                others.append(max(scores.values()))
        threshold = sorted(others, reverse=True)[int(0.1 * len(others))]
        rates["cmc@rank=1"].append(np.mean([at <= 1 for _, at in found]))
        rates["cmc@rank=5"].append(np.mean([at <= 5 for _, at in found]))
        rates["dir@fpir=0.1,rank=1"].append(np.mean([at <= 1 and own > threshold for own, at in found]))
    for name, wanted in rates.items():
        assert result.metrics[name].value == pytest.approx(np.mean(wanted)), name
    with pytest.raises(DataError, match="at least one gallery"):
        ijb_identification(embeddings, folder / "media.txt", folder / "probe.csv")


def test_many_pairs_are_read_off_a_matrix():
    """The quick way for lists that fill much of a matrix gives the cosines of the plain one."""
    x = RNG.normal(size=(500, 16)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    left, right = RNG.integers(0, 500, (2, 120_000))
    plain = np.einsum("md,md->m", x[left].astype(float), x[right])
    np.testing.assert_allclose(cosines(x, left, right), plain, atol=1e-6)
    np.testing.assert_array_equal(cosines(x, left, right), verification._one_by_one(x, left, right))
    np.testing.assert_allclose(cosines(x, left[:500], right[:500]), plain[:500], atol=1e-7)


@pytest.mark.parametrize(
    ("media", "matches", "message"),
    [
        ("1.jpg 1\n", "1 1 1\n", "image template medium"),
        ("a b c\n", "1 1 1\n", "image template medium"),
        ("TEMPLATE_ID,SUBJECT_ID\n1,2\n", "1 1 1\n", "SIGHTING_ID"),
        ("1.jpg 1 1\n2.jpg 2 2\n", "1 2\n", "label for each pair"),
        ("1.jpg 1 1\n2.jpg 2 2\n", "1 2 0\n1 9 1\n", r"1 others \(first: 9\)"),
        ("1.jpg 1 1\n", "x y 1\n", "template numbers"),
        ("1.jpg 1 1\n", "", "template numbers"),
        (
            "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID\n1,5,1.jpg,1\n2,5,2.jpg,1\n",
            "1 2 0\n",
            "agree with the subjects",
        ),
    ],
)
def test_other_lists(tmp_path, media, matches, message):
    (tmp_path / "media.txt").write_text(media)
    (tmp_path / "matches.txt").write_text(matches)
    with pytest.raises(DataError, match=message):
        read_matches(tmp_path / "matches.txt", read_media(tmp_path / "media.txt"))


def test_absent_list(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        read_media(tmp_path / "nowhere.txt")


def test_images_that_cancel_out():
    opposite = Embeddings(np.array([[1.0, 0], [-1, 0]]), ["a", "b"])
    with pytest.raises(DataError, match="cancel out"):
        pool(opposite, Templates(np.arange(2), np.zeros(2, int), np.arange(2)))
