"""Settings of the service."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from ..inference import Device
from ..system_facts import usable_cores


@dataclass(frozen=True)
class Settings:
    """Settings of one service.

    Attributes:
        model: FILE.onnx; None for the default model.
        gallery: URL as for `gallery.open_gallery`; None for no gallery.
        host, port: address to listen on; port 0 picks a free one.
        keys: file of hashed API keys; None permits everything to everyone who can reach the service.
        hosts: accepted host names besides loopback ones (protects from DNS rebinding).
        proxy: addresses or networks of the proxies, with commas, whose X-Forwarded-For and -Proto are trusted.
        root_path: prefix of the path at which a proxy shows the service, such as `/faces`.
        rate: requests per second for each key, or each address without keys; bursts of twice that.
        max_upload: largest request, in bytes.
        max_pixels: largest photograph; larger ones are refused before decoding.
        memory: bytes that requests may hold at once: a quarter uploads, the rest photographs that are decoded.
        timeout: seconds for receiving a request, and again for answering it.
        queue: concurrent requests; further ones get 503.
        workers: photographs processed in parallel.
        batch: largest batch of photographs per worker.
        device: what runs the networks, as for `Embedder.load`; `/v1/about` says what is really used.
        detector: name of what finds faces.
        ort_web: folder with the files of onnxruntime-web; lets the page embed in the browser.
    """

    model: Path | None = None
    gallery: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    hosts: tuple[str, ...] = ()
    proxy: str | None = None
    root_path: str = ""
    rate: float = 100.0
    max_upload: int = 16 << 20
    max_pixels: int = 50_000_000
    memory: int = 512 << 20
    timeout: float = 30.0
    queue: int = 128
    workers: int = field(default_factory=usable_cores)
    batch: int = 8
    device: Device = "auto"
    detector: str = "mtcnn"
    ort_web: Path | None = None

    def __post_init__(self) -> None:
        numbers = (self.rate, self.max_upload, self.max_pixels, self.timeout, self.queue, self.workers, self.batch)
        if not min(numbers) > 0 or not 0 <= self.port < 65536:
            raise ConfigError(
                "positive rate, limits, timeout, queue, workers and batch, and a port below 65536",
                f"{numbers} and port {self.port}", "correct the one out of range",
            )  # fmt: skip
        if self.memory < 12 * self.max_upload:
            raise ConfigError(
                f"memory of at least 12 times the largest request, {12 * self.max_upload:,} bytes",
                f"{self.memory:,}", "raise --memory or lower --max-upload",
            )  # fmt: skip
        for each in self.proxy.split(",") if self.proxy is not None else ():
            try:
                ipaddress.ip_network(each.strip(), strict=False)
            except ValueError as error:
                raise ConfigError(
                    "--behind-proxy with addresses or networks, such as 127.0.0.1,10.0.0.0/8", repr(each), "correct it"
                ) from error
        if self.root_path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", self.root_path):
            raise ConfigError(
                "--root-path with the path that the proxy shows, such as /faces", repr(self.root_path),
                "begin it with / and end it without",
            )  # fmt: skip
        if self.keys is None and not is_loopback(self.host):
            raise ConfigError(
                f"API keys for a service on {self.host}, which others can reach", "none",
                "create one: normface keys add read --keys FILE, or use --host 127.0.0.1",
            )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Return True for a loopback host name or address, judged by spelling, without DNS."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
