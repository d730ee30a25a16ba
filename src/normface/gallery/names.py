"""Names of people as they are written and compared, and the ids that stand for them in addresses.

Two spellings are the same name if their NFC forms are equal after case folding (Unicode 15, 3.13.5). They are near if
only accents, punctuation, invisible characters or the order of words tell them apart: worth a question at enrolment.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from typing import Any

from ..errors import InputError

NAME_LIMIT = 200  # characters
# Embeddings, overrides and isolates: they let a name show as another one.
BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")
_ID = re.compile("[0-9a-f]{16}")


class PersonId(str):
    """A person's id: 16 hexadecimal digits, drawn at the first enrolment, which a new name does not change."""

    @classmethod
    def new(cls) -> PersonId:
        """Draw an id."""
        return cls(secrets.token_hex(8))

    @classmethod
    def parse(cls, text: str) -> PersonId:
        """Check an id's form. Raises InputError."""
        if not _ID.fullmatch(text):
            raise InputError("a person's id, 16 hexadecimal digits", ascii(text)[:80], "list the ids: normface people")
        return cls(text)


def checked_name(name: Any) -> str:
    """Validate a person's name; return it in NFC, trimmed, with single spaces. Raises InputError."""
    text = unicodedata.normalize("NFC", name) if isinstance(name, str) else ""
    if BIDI_CONTROLS.search(text) or any(unicodedata.category(each) in ("Cc", "Cs") for each in text):
        text = ""
    text = " ".join(text.split())
    if not _visible(text) or len(text) > NAME_LIMIT:
        raise InputError(
            f"a name of 1 to {NAME_LIMIT} printable characters", ascii(name)[:80],
            "remove line breaks, other control characters and directional overrides",
        )  # fmt: skip
    return text


def folded(name: str) -> str:
    """What equal names share: NFC, case folded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def near(name: str) -> str:
    """What near names share: letters and digits without accents, word by word in alphabetical order."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    kept = "".join(each if each.isalnum() else " " for each in plain if not _silent(each))
    return " ".join(sorted(kept.split())) or folded(name)


def _silent(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Me", "Cf") or character in "'’`´"


def _visible(text: str) -> bool:
    return any(not each.isspace() and unicodedata.category(each) != "Cf" for each in text)
