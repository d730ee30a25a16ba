"""Storage of templates: plain with a checksum, or AES-GCM with one key per person, wrapped by a master key."""

from __future__ import annotations

import hmac
import os
import zlib
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, require

KEY_VARIABLE = "NORMFACE_GALLERY_KEY"
NONCE = 12  # bytes, random: the field's advice for AES-GCM, and safe where a backup is restored and goes its own way
PROOF = b"normface gallery"


class Damaged(Exception):
    """Sealed bytes that were changed, cut, or belong elsewhere."""


class Seal(Protocol):
    """`place` says where the bytes belong; they open nowhere else. `key` is a person's, as `new_key` made it."""

    def new_key(self, place: bytes) -> bytes:
        """Return a new key for a person, sealed."""

    def unwrap(self, place: bytes, wrapped: bytes) -> Any:
        """Open a sealed key, for `close` and `open`. Raises Damaged."""

    def rewrap(self, place: bytes, new: bytes, wrapped: bytes) -> bytes:
        """Seal a key again for another place. Raises Damaged."""

    def close(self, key: Any, place: bytes, data: bytes) -> bytes:
        """Seal data with a key."""

    def open(self, key: Any, place: bytes, data: bytes) -> bytes | memoryview:
        """Open sealed data. Raises Damaged if it was changed or belongs elsewhere."""


class Locked:
    """Stands for the key of an encrypted gallery that was opened without: nothing opens, and nothing is added."""

    def __getattr__(self, name: str) -> Any:
        raise ConfigError(
            "the gallery's key, because this reads or writes templates", "none",
            f"set {KEY_VARIABLE}, or pass key; list, forget, log and backup work without",
        )  # fmt: skip


class Plain:
    """No encryption; a CRC-32 detects damage."""

    def new_key(self, place: bytes) -> bytes:
        """No key, but a checksum of the place."""
        return self.close(None, place, b"")

    def unwrap(self, place: bytes, wrapped: bytes) -> None:
        """No key; whether it is the same place."""
        self.open(None, place, wrapped)

    def rewrap(self, place: bytes, new: bytes, wrapped: bytes) -> bytes:
        """The checksum of another place."""
        self.unwrap(place, wrapped)
        return self.new_key(new)

    def close(self, key: None, place: bytes, data: bytes) -> bytes:
        """Data and its checksum."""
        return data + zlib.crc32(data, zlib.crc32(place)).to_bytes(4, "big")

    def open(self, key: None, place: bytes, data: bytes) -> memoryview:
        """The data, checked."""
        found = memoryview(data)[:-4]  # a copy would cost as much as the checksum
        if zlib.crc32(found, zlib.crc32(place)) != int.from_bytes(data[-4:], "big"):
            raise Damaged
        return found


class Sealed:
    """AES-256-GCM: the master key decrypts people's keys, and a person's key decrypts their templates."""

    def __init__(self, master: bytes) -> None:
        aead = require("cryptography.hazmat.primitives.ciphers.aead", "gallery")
        self._cipher, self._wrong = aead.AESGCM, require("cryptography.exceptions", "gallery").InvalidTag
        self._master = self._cipher(master)
        self._log_key = hmac.digest(master, b"normface gallery log", "sha256")

    def new_key(self, place: bytes) -> bytes:
        """A fresh key, wrapped."""
        return self.close(self._master, place, os.urandom(32))

    def unwrap(self, place: bytes, wrapped: bytes) -> Any:
        """The cipher of a person."""
        return self._cipher(self.open(self._master, place, wrapped))

    def rewrap(self, place: bytes, new: bytes, wrapped: bytes) -> bytes:
        """The same key, for another place."""
        return self.close(self._master, new, self.open(self._master, place, wrapped))

    def close(self, key: Any, place: bytes, data: bytes) -> bytes:
        """Nonce, ciphertext, tag."""
        nonce = os.urandom(NONCE)
        sealed: bytes = nonce + key.encrypt(nonce, data, place)
        return sealed

    def open(self, key: Any, place: bytes, data: bytes) -> bytes:
        """The data, authenticated."""
        try:
            found: bytes = key.decrypt(data[:NONCE], data[NONCE:], place)
        except (self._wrong, ValueError) as error:
            raise Damaged from error
        return found

    def mac(self, data: bytes) -> bytes:
        """HMAC of lines of the audit log, under a key derived from the master key."""
        return hmac.digest(self._log_key, data, "sha256")

    def proof(self) -> bytes:
        """What `proves` recognizes: kept in the store, so that a wrong key is known at once."""
        return self.close(self._master, b"proof", PROOF)

    def proves(self, proof: bytes) -> bool:
        """Whether the same master key made the proof."""
        try:
            return self.open(self._master, b"proof", proof) == PROOF
        except Damaged:
            return False


def master_key(key: bytes | str | None) -> bytes | None:
    """The 32 bytes that `key` (or NORMFACE_GALLERY_KEY) gives, names in hexadecimal, or holds in a file."""
    given = key if key is not None else os.environ.get(KEY_VARIABLE)
    if given is not None and not given.strip():  # a variable that a script failed to fill must not make a plain gallery
        source = KEY_VARIABLE if key is None else "key"
        raise ConfigError(f"a key in {source}", "nothing", f"set {source} to the key, or unset it for a plain gallery")
    if given is None or (isinstance(given, bytes) and len(given) == 32):
        return given
    text = given if isinstance(given, str) else ""
    source = "the key"
    if len(text) != 64 and text and Path(text).expanduser().is_file():
        source = f"the file {text}"
        text = Path(text).expanduser().read_bytes()[:200].decode("ascii", "replace").strip()
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise ConfigError(
            "a key of 64 hexadecimal digits, or the path of a file with them", f"{len(text)} characters in {source}",
            f"create one with: openssl rand -hex 32, and pass it in {KEY_VARIABLE} or as key",
        )  # fmt: skip
    return found
