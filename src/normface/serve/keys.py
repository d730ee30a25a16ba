"""API keys: who may do what. The file holds their hashes, so that reading it lets nobody in."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from ..atomic import replacing
from ..errors import ConfigError

Scope = Literal["read", "enrol", "admin"]
_KEY = re.compile(r"nf_([0-9a-f]{8})_[0-9a-f]{64}")
_NOBODY = "0" * 64
_log = logging.getLogger("normface.serve")


@dataclass(frozen=True)
class Key:
    """One line of the file: `sha256` of the whole key, its `scopes`, and the date from which it `expires`, or None.

    `read` compares, embeds, searches and lists; `enrol` adds people; `admin` does both and forgets people.
    """

    id: str
    scopes: tuple[str, ...]
    sha256: str
    made: str
    expires: str | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether it may do this."""
        return scope in self.scopes or "admin" in self.scopes


class KeyFile:
    """The keys in a file, one JSON object a line; read again when it changes, so that a removed line counts at once.

    Raises ConfigError where it cannot be read. Damaged later, it lets nobody in until it is mended.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stamp = self._seen()
        self._keys = _read(self.path)

    def find(self, token: str) -> Key | None:
        """The key that `token` is, in a time that does not depend on how much of it is right; None for others."""
        self._refresh()
        shaped = _KEY.fullmatch(token)
        key = self._keys.get(shaped[1]) if shaped else None
        same = hmac.compare_digest(_hash(token), key.sha256 if key else _NOBODY)
        expired = key is not None and key.expires is not None and key.expires <= f"{datetime.now(UTC):%Y-%m-%d}"
        return key if same and not expired else None

    def _refresh(self) -> None:
        stamp = self._seen()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _read(self.path)
        except ConfigError:
            self._keys = {}
            _log.exception("the file of keys cannot be read: nobody is let in")

    def _seen(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino


def new_key(path: str | Path, scopes: tuple[str, ...], expires: str | None = None) -> str:
    """Append a key with these scopes to a file, which is made where there is none; the key itself, kept nowhere.

    expires: a date, `2027-01-31`. Raises ConfigError for other scopes, dates and files.
    """
    path = Path(path)
    if not scopes or not set(scopes) <= set(get_args(Scope)):
        raise ConfigError(f"scopes among {', '.join(get_args(Scope))}", repr(",".join(scopes)), "choose among them")
    try:
        day = datetime.strptime(expires, "%Y-%m-%d").date().isoformat() if expires else None
    except ValueError as error:
        raise ConfigError("a date such as 2027-01-31", repr(expires), "correct it") from error
    known = list(_read(path).values()) if path.exists() else []
    id = secrets.token_hex(4)
    token = f"nf_{id}_{secrets.token_hex(32)}"
    known.append(Key(id, tuple(scopes), _hash(token), f"{datetime.now(UTC):%Y-%m-%d}", day))
    _write(path, known)
    return token


def read_keys(path: str | Path) -> list[Key]:
    """The keys in a file, in its order. Raises ConfigError where it cannot be read."""
    return list(_read(Path(path)).values())


def revoke_key(path: str | Path, id: str) -> Key:
    """Remove a key from a file by its id, and return it; a service that runs refuses it from then on.

    Raises ConfigError where the file cannot be read or has no such key.
    """
    path, known = Path(path), _read(Path(path))
    if id not in known:
        raise ConfigError(f"the id of a key in {path}", repr(id), f"see them: normface keys list --keys {path}")
    revoked = known.pop(id)
    _write(path, known.values())
    return revoked


def _write(path: Path, keys: Iterable[Key]) -> None:
    with replacing(path) as temporary:
        temporary.touch(0o600)
        temporary.write_text("".join(json.dumps(asdict(key)) + "\n" for key in keys), "utf-8")


def _hash(token: str) -> str:
    # Plain SHA-256 will do: the key is 256 random bits, nothing that a slow hash would have to protect.
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _read(path: Path) -> dict[str, Key]:
    try:
        keys = [_parse(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"a file of API keys at {path}", f"'{error!r}'", "make one: normface keys add read --keys FILE"
        ) from error
    return {key.id: key for key in keys}


def _parse(line: str) -> Key:
    raw = json.loads(line)
    key = Key(**{**raw, "scopes": tuple(raw["scopes"])})
    if not re.fullmatch("[0-9a-f]{64}", key.sha256) or not set(key.scopes) <= set(get_args(Scope)):
        raise ValueError("a line that is no key")
    return key
