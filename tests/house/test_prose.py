"""What the check of the words finds, and what it leaves alone."""

import pytest
from tests.house.prose import FEW, INSTEAD, MEDIAN, PAGE, SENTENCE, faults, sentences

LONG = " ".join(["word"] * (SENTENCE + 1)) + "."


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("# A page\n\nAsk its keeper\nfor a key.", 3, 'instead of "keeper"'),
        ("# The keeper\n", 1, 'instead of "keeper"'),
        ("It is refused by the service.", 1, "who does it"),
        ("Good. Other sizes are refused, and named.", 1, "who does it"),
        (f"Short.\n\n- {LONG}", 3, f"{SENTENCE + 1} words"),
        ("line.\n\n" * (PAGE // 2 + 1), 0, f"{PAGE + 2} lines"),
        (("Word " * MEDIAN + "more. ") * FEW, 0, f"more than {MEDIAN + 1} words"),
    ],
)
def test_a_fault_is_found_where_it_is(text, line, words):
    ((found, fault),) = faults(text)
    assert found == line
    assert words in fault


@pytest.mark.parametrize(
    "text",
    [
        f"```sh\nkeeper {LONG}\n```\n",
        f"| keeper | {LONG} |\n| --- | --- |\n",
        "`keeper` is a name, and [here](keeper.md) a link.",
        f"<!-- keeper {LONG} -->",
        "The service refuses it. It is small.",
        ("Word " * MEDIAN + "more. ") * (FEW - 1),  # too few for a median
    ],
)
def test_code_tables_and_plain_words_pass(text):
    assert not list(faults(text))


def test_a_long_log_may_be_long():
    assert not list(faults("line.\n\n" * PAGE, long=True))


def test_sentences_end_at_full_stops_and_not_in_numbers_or_abbreviations():
    text = "It costs 1.5 s. Others, e.g. 2 s, cost more (see Fig. 3). Is it true? Yes."
    assert sentences(text) == ["It costs 1.5 s.", "Others, e.g. 2 s, cost more (see Fig. 3).", "Is it true?", "Yes."]


def test_every_private_word_has_a_plain_one():
    assert all(INSTEAD.values())
