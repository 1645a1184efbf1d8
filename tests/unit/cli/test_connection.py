"""The real client over a real socket, against the fake cluster."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest

from blixard.app.main import ROOT
from blixard.base.errors import BlixardError, to_body
from blixard.cli.connection import _with_port
from blixard.cli.tree import run

from .fakes import FakeApi, web_cluster


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    api: FakeApi


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            value = self.server.api.request(
                self.command,
                url.path,
                query=dict(parse_qsl(url.query)),
                body=json.loads(body) if body else None,
                headers={"If-Match": self.headers.get("if-match", "")},
            )
            status, data = 200, msgspec.json.encode(value)
        except BlixardError as error:
            status = error.info.http_status
            data = msgspec.json.encode(
                to_body(error, request_id=self.headers["blixard-request-id"], node="node1")
            )
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def __getattr__(self, name: str):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path):
    path = str(tmp_path / "api.sock")
    with Server(path, Handler) as server:
        server.api = web_cluster()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_list_over_a_socket(address, capsys):
    assert run(ROOT, ["vm", "list", "-o", "name", "--address", address], os.environ) == 0
    assert capsys.readouterr().out == "vm/db\nvm/web\n"


def test_error_carries_request_and_node(address, capsys):
    code = run(
        ROOT,
        ["get", "vm", "nope", "--address", address, "--request-id", "01ARZ3NDEKTSV4RRFFQ69G5FAV"],
        os.environ,
    )
    assert code == 3
    error = capsys.readouterr().err
    assert "node: node1" in error
    assert "docs: blixard explain error NOT_FOUND" in error


def test_scale_over_a_socket(address, capsys):
    assert (
        run(
            ROOT,
            ["vm", "scale", "web", "--replicas", "4", "--detach", "--address", address],
            os.environ,
        )
        == 0
    )
    assert capsys.readouterr().out == "vm/web scaled from 3 to 4\n"


def test_nobody_at_the_socket(tmp_path, capsys):
    assert run(ROOT, ["vm", "list", "--address", str(tmp_path / "none.sock")], os.environ) == 8
    assert "error[UNREACHABLE]" in capsys.readouterr().err


def test_listing_over_a_socket_imports_little(address, tmp_path):
    code = (
        "import sys; from blixard.app.main import ROOT; from blixard.cli.tree import run; import os\n"
        f"run(ROOT, ['vm', 'list', '--address', {address!r}], dict(os.environ)); print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert "web" in ran.stdout
    assert not {"asyncio", "grpc", "cryptography", "yaml", "tomllib", "ssl", "http.client"} & set(
        ran.stderr.split()
    )


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("10.0.0.1", "10.0.0.1:7443"),
        ("10.0.0.1:99", "10.0.0.1:99"),
        ("https://h", "h:7443"),
        ("/run/x.sock", "/run/x.sock"),
        ("unix:/x", "unix:/x"),
        ("[::1]", "[::1]:7443"),
    ],
)
def test_default_port(given, address):
    assert _with_port(given) == address
