"""What a service is told when it starts."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """One service.

    Attributes:
        model: FILE.onnx; None for the default model.
        gallery: URL as `gallery.open_gallery` takes it; None: no people are kept.
        host, port: where it listens; port 0 takes a free one.
        keys: file of hashed API keys; None: whoever reaches it may do everything.
        hosts: names by which it may be called, besides loopback ones; a check against DNS rebinding.
        proxy: the address whose X-Forwarded-For is believed.
        rate: requests a second for one key, or one address where no key is given; twice as many at once.
        max_upload: bytes of one request.
        max_pixels: of one photograph, refused before it is decoded.
        timeout: seconds for a request to arrive whole, and again for its answer.
        queue: requests that are read, wait or are worked on at once; more are told to come back.
        workers: photographs looked at in parallel.
        batch: photographs that a worker takes together when more wait.
        ort_web: folder with onnxruntime-web's files; the page then offers to embed in the browser.
    """

    model: Path | None = None
    gallery: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    hosts: tuple[str, ...] = ()
    proxy: str | None = None
    rate: float = 100.0
    max_upload: int = 16 << 20
    max_pixels: int = 50_000_000
    timeout: float = 30.0
    queue: int = 128
    workers: int = os.cpu_count() or 1
    batch: int = 8
    ort_web: Path | None = None

    def __post_init__(self) -> None:
        numbers = (self.rate, self.max_upload, self.max_pixels, self.timeout, self.queue, self.workers, self.batch)
        if not min(numbers) > 0 or not 0 <= self.port < 65536:
            raise ConfigError(
                "positive rate, limits, timeout, queue, workers and batch, and a port below 65536",
                f"{numbers} and port {self.port}", "correct them",
            )  # fmt: skip
        if self.keys is None and not is_loopback(self.host):
            raise ConfigError(
                f"API keys for a service on {self.host}, which others can reach", "none",
                "make one: normface keys add read --keys FILE, or stay on 127.0.0.1",
            )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, by its spelling alone: no name is looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
