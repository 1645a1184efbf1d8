"""The handler of bench/functions.py behind plain HTTP: ``plain`` in this process, ``cgi`` in a new
process for each call; ``once`` is that process.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent / "examples" / "hello.py"


class Context:
    """What the handler asks of its context."""

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every POST with the handler's result."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    way = "plain"
    call: Any = None

    def do_POST(self) -> None:
        event = self.rfile.read(int(self.headers["content-length"]))
        body = self.plain(event) if self.way == "plain" else self.cgi(event)
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    def plain(self, event: bytes) -> bytes:
        return json.dumps(Handler.call(json.loads(event), Context())).encode()

    def cgi(self, event: bytes) -> bytes:
        command = [sys.executable, "-I", __file__, "once"]
        return subprocess.run(command, input=event, stdout=subprocess.PIPE, check=True).stdout


def main() -> None:
    way = sys.argv[1]
    found = runpy.run_path(str(SOURCE))["handler"]
    if way == "once":
        with contextlib.redirect_stdout(sys.stderr):
            answer = found(json.load(sys.stdin), Context())
        print(json.dumps(answer))
        return
    Handler.way, Handler.call = way, staticmethod(found)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        server.serve_forever()


if __name__ == "__main__":
    main()
