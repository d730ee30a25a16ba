"""Sources of files: a folder, or a zip read in place. Both list names and return bytes."""

from __future__ import annotations

import mmap
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

from ..errors import DataError

SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and of extra field


class Source(Protocol):
    """Files by name, with `/` between the parts; safe to read from several threads and processes."""

    @property
    def path(self) -> Path:
        """Path of the folder or archive."""

    @property
    def names(self) -> list[str]:
        """Names of all files, relative to the folder or to the archive's root."""

    def read(self, name: str) -> bytes:
        """Read a file. Raises DataError if it cannot be read completely."""


def open_source(path: str | Path) -> Source:
    """Open the files at `path`. Raises DataError unless it is a readable folder or zip archive."""
    path = Path(path)
    if not os.path.exists(path):
        raise DataError(f"a folder or a zip at {path}", "nothing there", "correct the path")
    return Directory(path) if os.path.isdir(path) else Zip(path)


def read_file(path: Path) -> bytes:
    """Read a file of a folder or list. Raises DataError if it cannot be read, or is a FIFO, a socket or a device."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a FIFO would wait for a writer
            raise DataError(f"{path} to be a file", SPECIAL.get(stat.S_IFMT(mode), "a device"), "leave it out")
        return path.read_bytes()
    except OSError as error:
        got = error.strerror or repr(error)
        raise DataError(f"{path} to be readable", got, "restore the file or leave it out") from error


class Directory:
    """The files under a folder, links followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        for folder, _, files in os.walk(path, followlinks=True, onerror=self._refuse):
            if os.path.islink(folder):
                target, parent = os.path.realpath(folder), os.path.realpath(os.path.dirname(folder))
                if os.path.commonpath([target, parent]) == target:
                    raise self._refusal(f"{folder} leading back to a folder around it")
            inner = os.path.relpath(folder, path).replace(os.sep, "/")
            self.names += files if inner == "." else [f"{inner}/{file}" for file in files]

    def read(self, name: str) -> bytes:
        """Read a file. Raises DataError if it cannot be read completely."""
        return read_file(self.path / name)

    def _refuse(self, error: OSError) -> None:
        raise self._refusal(f"'{error}'") from error

    def _refusal(self, got: str) -> DataError:
        return DataError(f"readable folders in {self.path}", got, "correct the permissions or the link")


class Zip:
    """The files in a zip archive, memory-mapped: no locks, no shared file position, no unpacking."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, zipfile.ZipInfo] = {}
        try:
            with zipfile.ZipFile(path) as archive, path.open("rb") as file:
                entries = archive.infolist()
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except Exception as error:  # a damaged directory can raise almost any error in zipfile
            raise self._error("to be a folder or a zip archive", f"'{error}'", "copy or make it again") from error
        for entry in entries:
            name = entry.filename.replace("\\", "/")  # old Windows tools write backslashes
            if name.endswith("/"):
                continue
            name = "/".join(part for part in name.split("/") if part not in ("", "."))
            if entry.flag_bits & 1:
                raise self._error("to be a zip without password", f"{name} encrypted", "make it again without one")
            if name in self._entries:
                raise self._error("to hold each file once", f"{name} twice", "make it again without duplicates")
            self._entries[name] = entry
        self.names = list(self._entries)

    def __reduce__(self) -> tuple[type[Zip], tuple[Path]]:
        return Zip, (self.path,)  # a worker process maps the archive again

    def read(self, name: str) -> bytes:
        """Read a file. Raises DataError if it is damaged or compressed by another method than deflate."""
        entry = self._entries[name]
        try:
            signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(self._map, entry.header_offset)
            start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
            data = self._map[start : start + entry.compress_size]
            if entry.compress_type == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.file_size + 1)
            elif entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"compression method {entry.compress_type}, not stored or deflated")
            if signature != b"PK\3\4" or zlib.crc32(data) != entry.CRC:
                raise ValueError("a damaged zip entry")
        except (ValueError, struct.error, zlib.error) as error:
            raise self._error(f"to hold {name} whole", str(error), "make the archive again or leave it out") from error
        return data

    def _error(self, expected: str, got: str, do: str) -> DataError:
        return DataError(f"{self.path} {expected}", got, do)
