"""The files of deploy/: proxies started in front of the service, the commands of the unit and the container run.

Where nginx, Caddy, systemd-analyze or Docker are not installed, their part is skipped and says so.
"""

import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPSConnection
from pathlib import Path

import pytest
import yaml
from tests.conftest import ROOT

from normface.serve import new_key

DEPLOY = ROOT / "deploy"
HOST = "faces.example"
PATIENCE = 600  # seconds until a process that does not come up is given up: no measure of speed
NORMFACE = [sys.executable, "-c", "from normface.cli import main; main()"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def exchanged(text: str, changes: dict[str, str]) -> str:
    """A text in which each key, which must be there, is replaced."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def until(true, process=None):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}")
        if true():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} s")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """For faces.example, signed by itself."""
    folder = tmp_path_factory.mktemp("certificate")
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={HOST}"
    more = ["-addext", f"subjectAltName=DNS:{HOST}", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run([*command.split(), *more], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


class Proxy:
    """A proxy that runs, and requests to it by the name that the files have."""

    def __init__(self, process, port: int, plain: int, cert: Path, log) -> None:
        self.process, self.port, self.plain, self.cert, self.log = process, port, plain, cert, log

    def connect(self, source: str = "127.0.0.1") -> HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.cert))
        connection = HTTPSConnection(HOST, self.port, context=context, timeout=PATIENCE)
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE, source_address=(source, 0))
        connection.sock = context.wrap_socket(plain, server_hostname=HOST)
        return connection

    def ask(self, method, path, body=None, headers=None, source="127.0.0.1"):
        connection = self.connect(source)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


def start_nginx(folder: Path, service: int, cert: Path, key: Path, quick: bool, prefix: str):
    port, plain = free_port(), free_port()
    log = folder / "normface.log"
    changes = {
        "listen 80;": f"listen 127.0.0.1:{plain};", "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "/etc/letsencrypt/live/faces.example/fullchain.pem": str(cert),
        "/etc/letsencrypt/live/faces.example/privkey.pem": str(key),
        "/var/log/nginx/normface.log": str(log), "http://127.0.0.1:8000": f"http://127.0.0.1:{service}",
    }  # fmt: skip
    if quick:
        changes |= {"client_header_timeout 10s": "client_header_timeout 1s",
                    "client_body_timeout 30s": "client_body_timeout 1s"}  # fmt: skip
    if prefix:
        changes["    location / {"] = f"    location {prefix}/ {{"
    (folder / "site.conf").write_text(exchanged((DEPLOY / "nginx.conf").read_text("utf-8"), changes), "utf-8")
    kinds = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in "client_body proxy fastcgi uwsgi scgi".split())
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; worker_processes 1; error_log {folder}/main.log warn;"
        f"events {{}} http {{ {kinds} access_log {folder}/access.log; include {folder}/site.conf; }}", "ascii",
    )  # fmt: skip
    process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    return process, port, plain, lambda: "".join(path.read_text("utf-8") for path in folder.glob("*.log"))


def start_caddy(folder: Path, service: int, cert: Path, key: Path, quick: bool, prefix: str):
    port, plain = free_port(), free_port()
    changes = {
        "127.0.0.1:8000 {\n\t\ttransport": f"127.0.0.1:{service} {{\n\t\ttransport",
        "\n{\n": f"\n{{\n\tadmin off\n\tskip_install_trust\n\thttp_port {plain}\n\thttps_port {port}\n",
        "faces.example {\n": f"https://{HOST}:{port} {{\n\tbind 127.0.0.1\n\ttls {cert} {key}\n",
    }
    if quick:
        changes |= {"read_header 10s": "read_header 1s", "read_body 60s": "read_body 4s", "idle 2m": "idle 2s"}
    if prefix:
        changes["\treverse_proxy 127.0.0.1"] = f"\treverse_proxy {prefix}/* 127.0.0.1"
    (folder / "Caddyfile").write_text(exchanged((DEPLOY / "Caddyfile").read_text("utf-8"), changes), "utf-8")
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("w") as log:
        command = ["caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    return process, port, plain, lambda: (folder / "log").read_text("utf-8")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) for name in ("nginx", "caddy")])
def proxy(request, tmp_path, certificate):
    """Start a proxy in front of a service's port."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    starters, running = {"nginx": start_nginx, "caddy": start_caddy}, []

    def start(service: int, quick: bool = False, prefix: str = "") -> Proxy:
        folder = tmp_path / f"proxy{len(running)}"
        folder.mkdir()
        process, port, plain, log = starters[request.param](folder, service, *certificate, quick, prefix)
        running.append(process)
        until(lambda: listens(port), process)
        return Proxy(process, port, plain, certificate[0], log)

    yield start
    for process in running:
        process.terminate()
        process.wait(PATIENCE)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def form(*photographs: bytes) -> tuple[bytes, dict[str, str]]:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="%s"; filename="p.jpg"\r\n\r\n%s\r\n' % (name, data)
        for name, data in zip((b"a", b"b"), photographs, strict=False)
    ]
    return b"".join(parts) + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def test_the_page_and_photographs_pass(proxy, listening, faces, tmp_path):
    behind = proxy(port_of(listening(proxy="127.0.0.1", hosts=(HOST,))))
    status, headers, page = behind.ask("GET", "/")
    headers = {name.lower(): value for name, value in headers.items()}
    assert (status, b"<html" in page) == (200, True)
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    # The page's own requests name their origin, which must be the host that the service sees.
    body, kind = form(*faces[0])
    status, _, told = behind.ask("POST", "/v1/verify", body, {**kind, "Origin": f"https://{HOST}:{behind.port}"})
    assert status == 200, told
    assert -1 <= json.loads(told)["score"] <= 1
    assert behind.ask("POST", "/v1/verify", body, {**kind, "Origin": "https://elsewhere.example"})[0] == 403
    assert "elsewhere" not in behind.log()


def test_plain_http_is_sent_to_tls(proxy, listening):
    behind = proxy(port_of(listening(proxy="127.0.0.1", hosts=(HOST,))))
    with socket.create_connection(("127.0.0.1", behind.plain), PATIENCE) as plain:
        plain.sendall(f"GET /v1/about HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: plain.recv(4096), b"")).decode()
    assert re.match(r"HTTP/1.1 30[18]", answer)
    assert re.search(rf"(?im)^location: https://{HOST}", answer)


def test_the_service_answers_what_is_too_large_and_no_photograph_reaches_the_disk(proxy, listening):
    behind = proxy(port_of(listening(proxy="127.0.0.1", hosts=(HOST,))))
    body, kind = form(bytes(15 << 20), b"")
    status, _, told = behind.ask("POST", "/v1/verify", body, kind)
    assert (status, "expected" in json.loads(told)) == (422, True)  # accepted, and no photograph
    body, kind = form(bytes((16 << 20) + 1000), b"")
    with suppress(OSError):  # Caddy, which passes it on as it comes, hangs up before all of it was sent
        status, _, told = behind.ask("POST", "/v1/verify", body, kind)
        assert (status, json.loads(told)["expected"]) == (413, f"at most {16 << 20:,} bytes")
    with suppress(OSError):
        assert behind.ask("POST", "/v1/verify", bytes(40 << 20), kind)[0] == 413
    assert "temporary file" not in behind.log()  # as nginx warns where it writes a request to the disk


def test_rates_are_counted_by_the_callers_own_address(proxy, listening):
    behind = proxy(port_of(listening(proxy="127.0.0.1", hosts=(HOST,), rate=0.001)))  # one request, then none for long
    spoofed = [{"X-Forwarded-For": f"203.0.113.{number}"} for number in range(3)]
    assert behind.ask("GET", "/metrics", headers=spoofed[0])[0] == 200
    assert behind.ask("GET", "/metrics", headers=spoofed[1])[0] == 429
    assert behind.ask("GET", "/metrics", headers=spoofed[2], source="127.0.0.2")[0] == 200
    assert behind.ask("GET", "/metrics", source="127.0.0.2")[0] == 429


def test_below_a_path_of_the_host(proxy, listening, faces, tmp_path):
    """The page's parts, the description for clients, and nobody erased by a path that a proxy might rewrite."""
    service = listening(proxy="127.0.0.1", hosts=(HOST,), root_path="/faces", gallery=f"file:{tmp_path / 'people.db'}")
    behind = proxy(port_of(service), prefix="/faces")
    status, _, page = behind.ask("GET", "/faces/")
    assert (status, b"<html" in page) == (200, True)
    assert not re.search(rb'(?:href|src)="/', page)  # only relative addresses
    for name in re.findall(rb'(?:href|src)="([^"#]+)"', page):
        assert behind.ask("GET", f"/faces/{name.decode()}")[0] == 200, name
    assert json.loads(behind.ask("GET", "/faces/v1/openapi.json")[2])["servers"] == [{"url": "/faces"}]
    assert b"model" not in behind.ask("GET", "/v1/about")[2]
    body, kind = form(*faces[0])
    assert behind.ask("POST", "/faces/v1/verify", body, kind)[0] == 200
    image = {"Content-Type": "image/jpeg"}
    status, _, told = behind.ask("POST", "/faces/v1/people?person=B", faces[0][0], image)
    assert status == 201, told
    for path in ("B", "x%2F..%2FB", "x/../B", "%2E%2E%2FB"):
        assert behind.ask("DELETE", f"/faces/v1/people/{path}")[0] in (404, 405), path
    (person,) = json.loads(behind.ask("GET", "/faces/v1/people")[2])["people"]
    assert person["name"] == "B"
    assert behind.ask("DELETE", f"/faces/v1/people/{person['id']}")[0] == 200


HEAD, BODY = "GET / HTTP/1.1\r\nHost: faces", "POST /v1/verify HTTP/1.1\r\nHost: {}\r\nContent-Length: 9\r\n\r\nx"


@pytest.mark.parametrize("begun", [HEAD, BODY], ids=["head", "body"])
def test_slow_heads_and_slow_bodies_are_hung_up_on(proxy, listening, begun):
    behind = proxy(port_of(listening(proxy="127.0.0.1", hosts=(HOST,), timeout=1.0)), quick=True)
    sock = behind.connect().sock
    sock.sendall(begun.format(HOST).encode())
    rest = b"".join(iter(lambda: sock.recv(4096), b""))  # ends: it was hung up on
    assert not rest or rest.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400"))


def test_no_log_holds_a_name(proxy):
    behind = proxy(free_port())  # where no service listens
    assert behind.ask("DELETE", "/v1/people/Ann%20Example", headers={"Authorization": "Bearer nf_x"})[0] == 502
    assert "Ann" not in behind.log()
    assert "nf_x" not in behind.log()


def test_proxies_wait_longer_than_the_service_takes():
    from normface.serve import Settings

    settings = Settings()
    nginx, caddy = ((DEPLOY / name).read_text("utf-8") for name in ("nginx.conf", "Caddyfile"))
    waits = [
        *re.findall(r"proxy_(?:read|send)_timeout (\d+)s", nginx),
        *re.findall(r"response_header_timeout (\d+)s", caddy),
    ]
    assert len(waits) == 3
    assert int(re.search(r"read_body (\d+)s", caddy)[1]) > settings.timeout
    assert all(int(seconds) > 2 * settings.timeout for seconds in waits)
    sizes = [*re.findall(r"client_max_body_size (\d+)m", nginx), *re.findall(r"max_size (\d+)MiB", caddy)]
    assert len(sizes) == 2
    assert all(int(mib) << 20 > settings.max_upload for mib in sizes)
    assert "client_body_buffer_size 17m" in nginx  # as large as what is accepted


# systemd.

UNIT = (DEPLOY / "normface.service").read_text("utf-8")


def unit() -> dict[str, str]:
    lines = [line for line in UNIT.splitlines() if line and line[0] not in "#["]
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines)
    return found


def test_memory_is_limited_to_what_the_worst_requests_take():
    """1,200 MiB: docs/service.md has the table; tests/serve/test_memory.py measures them."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]["normface"]
    assert unit()["MemoryMax"] == "1200M"
    assert compose["mem_limit"] == compose["memswap_limit"] == "1200m"


def test_systemd_knows_every_line_of_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = exchanged(UNIT, {"/opt/normface/bin/normface serve": "/bin/true serve", "User=normface": "User=root"})
    (tmp_path / "normface.service").write_text(text, "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "normface.service"], capture_output=True, text=True)
    assert not [line for line in done.stderr.splitlines() if "normface.service" in line], done.stderr
    assert done.returncode == 0, done.stderr


def test_the_unit_stops_and_confines():
    told = unit()
    from normface.serve import Settings

    assert int(told["TimeoutStopSec"]) > 2 * Settings().timeout
    assert told["CapabilityBoundingSet"] == ""
    assert set(told["RestrictAddressFamilies"].split()) == {"AF_INET", "AF_INET6"}
    assert (told["MemorySwapMax"], told["LimitCORE"], told["UMask"]) == ("0", "0", "0077")
    for name, value in told.items():
        if name.startswith(("Protect", "Private", "NoNew", "Lock")) or name in (
            "RestrictNamespaces",
            "RestrictRealtime",
        ):
            assert value in ("yes", "strict"), name


def served(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen:
    """A service that was started by its command line, and listens."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log, cwd=folder)
    until(lambda: '"url"' in (folder / "log").read_text("utf-8"), process)
    process.url = re.search(r'"url": "([^"]+)"', (folder / "log").read_text("utf-8"))[1]
    return process


def ready(url: str) -> dict:
    with urllib.request.urlopen(f"{url}/readyz", timeout=PATIENCE) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_the_units_command_serves_with_the_key_that_it_is_given(tmp_path):
    told = unit()
    source = re.match(r"gallery.key:(.*)", told["LoadCredential"])[1]
    assert source == "/etc/normface/gallery.key"
    (tmp_path / "gallery.key").write_text("ab" * 32 + "\n", "ascii")  # as `openssl rand -hex 32` writes it
    new_key(tmp_path / "keys.jsonl", ("read",))
    assert f"/var/lib/{told['StateDirectory']}" == "/var/lib/normface"
    command = shlex.split(exchanged(told["ExecStart"], {"/var/lib/normface": str(tmp_path)}))
    assert command[0] == "/opt/normface/bin/normface"
    name, value = told["Environment"].replace("%d", str(tmp_path)).split("=", 1)
    process = served([*NORMFACE, *command[1:], "--port", "0"], {**os.environ, name: value}, tmp_path)
    try:
        assert ready(process.url)["ready"]
        assert b"SQLite" in (tmp_path / "people.db").read_bytes()[:16]
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
    wrong = {**os.environ, name: "cd" * 32}  # encrypted: another key does not open it
    done = subprocess.run(
        [*NORMFACE, *command[1:], "--port", "0"],
        env=wrong,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=PATIENCE,
    )
    assert done.returncode == 2, done.stderr


# The container.


def dockerfile() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def test_the_dockerfile_says_how_the_container_is_confined_and_looked_after():
    found = dockerfile()
    words = [word for word, _ in found]
    assert words.count("FROM") == 2
    final = dict(found[len(words) - 1 - words[::-1].index("FROM") :])
    assert final["USER"] == "10001:10001"
    assert final["STOPSIGNAL"] == "SIGTERM"
    assert final["COPY"].startswith("--from=build ")
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
    assert set(words) <= known
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    service = compose["services"]["normface"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert (service["build"]["context"], service["build"]["dockerfile"]) == ("..", "deploy/Dockerfile")
    assert set(service["secrets"]) == set(compose["secrets"]) == {"gallery_key"}
    assert service["environment"]["NORMFACE_GALLERY_KEY"] == "/run/secrets/gallery_key"
    entry = " ".join(json.loads(final["ENTRYPOINT"]))
    for volume in service["volumes"]:
        assert f"{volume.split(':')[1]}/" in entry
    assert service["ports"] == [f"127.0.0.1:{final['EXPOSE']}:{final['EXPOSE']}"]
    assert int(service["stop_grace_period"].rstrip("s")) > 60


def test_docker_reads_the_compose_file():
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "-f", DEPLOY / "compose.yaml", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.nightly  # a minute of installing
def test_the_dockerfiles_commands_make_a_service(tmp_path):
    """RUN, COPY, ENV, HEALTHCHECK and ENTRYPOINT in folders of their own instead of an image's."""
    if os.name == "nt":
        pytest.skip("the container's commands are a Unix shell's")
    place = {
        path: str(tmp_path / path.strip("/").replace("/", "-")) for path in ("/opt/normface", "/src", "/data", "/keys")
    }
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    here, last = tmp_path, {}

    def placed(text: str) -> str:
        return re.sub("|".join(rf"(?<!\w){path}\b" for path in place), lambda found: place[found[0]], text)

    for word, rest in dockerfile():
        last[word] = rest
        if word == "WORKDIR":
            here = Path(placed(rest))
            here.mkdir()
        elif word == "COPY" and not rest.startswith("--from"):
            *sources, to = rest.split()
            for source in map(ROOT.joinpath, sources):
                if source.is_dir():
                    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
                    shutil.copytree(source, here / to, ignore=skip, dirs_exist_ok=True)
                else:
                    shutil.copy(source, here / to)
        elif word == "RUN":
            command = placed(rest)
            if os.geteuid():  # only root gives folders away
                command = re.sub(r"-o \d+ -g \d+ ", "", command)
            for _ in range(3):  # registries fail now and then
                done = subprocess.run(["sh", "-c", command], cwd=here, env=environment, capture_output=True, text=True)
                if done.returncode == 0:
                    break
            assert done.returncode == 0, done.stderr
    assert Path(place["/data"]).stat().st_mode & 0o777 == 0o700
    Path(place["/keys"]).mkdir()
    new_key(f"{place['/keys']}/keys.jsonl", ("read",))
    # With the user, and without a right to write elsewhere, that the container has.
    entry = [placed(word).replace("0.0.0.0", "127.0.0.1") for word in json.loads(last["ENTRYPOINT"])]
    user = last["USER"].split(":")[0]
    if os.geteuid() == 0:
        os.chmod(place["/keys"] + "/keys.jsonl", 0o644)
        for folder in (tmp_path, *tmp_path.parents):
            if folder.owner() == "root" and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        entry = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs", *entry]
    given = dict(word.split("=", 1) for word in last["ENV"].split())
    process = served([*entry, "--port", "0"], {**environment, **given, "NORMFACE_GALLERY_KEY": "ab" * 32}, tmp_path)
    try:
        assert ready(process.url)["ready"]
        check = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
        check = [placed(word).replace("http://127.0.0.1:8000", process.url) for word in check]
        assert subprocess.run(check).returncode == 0
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert subprocess.run(check, capture_output=True).returncode == 1  # nothing answers: not healthy
