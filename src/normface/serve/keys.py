"""API keys and their scopes. The file stores only hashes, so reading it does not grant access."""

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

from ..atomic import locked, replacing
from ..errors import ConfigError

Scope = Literal["read", "enrol", "admin"]
_KEY = re.compile(r"nf_([0-9a-f]{8})_[0-9a-f]{64}")
_NOBODY = "0" * 64
_log = logging.getLogger("normface.serve")


@dataclass(frozen=True)
class Key:
    """One line of the file: `sha256` of the key, its `scopes`, and the date on which it `expires`, or None.

    `read` permits comparing, embedding, searching and listing; `enrol` adding people; `admin` both and erasing people.
    """

    id: str
    scopes: tuple[str, ...]
    sha256: str
    made: str
    expires: str | None = None

    def allows(self, scope: Scope) -> bool:
        """Return True if the key has this scope."""
        return scope in self.scopes or "admin" in self.scopes


class KeyFile:
    """The keys in a file, one JSON object per line; reloaded when it changes, so a removed key is invalid at once.

    Raises ConfigError if it cannot be read. If it is damaged later, all keys are refused until it is repaired.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stamp = self._seen()
        self._keys = _read(self.path)

    def find(self, token: str) -> Key | None:
        """Return the key of `token`, or None, in constant time."""
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
            _log.exception("cannot read the file of keys: all keys are refused until it is repaired")

    def _seen(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino


def new_key(path: str | Path, scopes: tuple[str, ...], expires: str | None = None) -> str:
    """Create a key with these scopes and append its hash to a file, created if missing. Returns the key.

    expires: a date such as `2027-01-31`. Raises ConfigError for invalid scopes, dates and files.
    """
    path = Path(path)
    if not scopes or not set(scopes) <= set(get_args(Scope)):
        raise ConfigError(f"scopes among {', '.join(get_args(Scope))}", repr(",".join(scopes)), "correct the scopes")
    try:
        day = datetime.strptime(expires, "%Y-%m-%d").date().isoformat() if expires else None
    except ValueError as error:
        raise ConfigError("a date such as 2027-01-31", repr(expires), "correct --expires") from error
    id = secrets.token_hex(4)
    token = f"nf_{id}_{secrets.token_hex(32)}"
    with locked(path):
        known = list(_read(path).values()) if path.exists() else []
        known.append(Key(id, tuple(scopes), _hash(token), f"{datetime.now(UTC):%Y-%m-%d}", day))
        _write(path, known)
    return token


def read_keys(path: str | Path) -> list[Key]:
    """Read the keys in a file, in order. Raises ConfigError if it cannot be read."""
    return list(_read(Path(path)).values())


def revoke_key(path: str | Path, id: str) -> Key:
    """Remove a key from a file by its id, and return it; a running service rejects it from then on.

    Raises ConfigError if the file cannot be read or has no such key.
    """
    path = Path(path)
    with locked(path):
        known = _read(path)
        if id not in known:
            raise ConfigError(f"the id of a key in {path}", repr(id), f"list the ids: normface keys list --keys {path}")
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
            f"a file of API keys at {path}", f"'{error!r}'", "create one: normface keys add read --keys FILE"
        ) from error
    return {key.id: key for key in keys}


def _parse(line: str) -> Key:
    raw = json.loads(line)
    key = Key(**{**raw, "scopes": tuple(raw["scopes"])})
    if not re.fullmatch("[0-9a-f]{64}", key.sha256) or not set(key.scopes) <= set(get_args(Scope)):
        raise ValueError("a line that is no key")
    return key
