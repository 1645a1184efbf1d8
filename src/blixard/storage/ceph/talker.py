"""A process that talks to Ceph's monitors, manager and OSDs for the daemon, by librados.

Standard library only. A request is a line of JSON on standard input: ``id``, ``target`` (``mon``,
``mon.NAME``, ``mgr``, ``osd.N``) and ``command``; the answer is a line on standard output: ``id``,
``code`` (0 or an errno), ``out``, ``err``. Calls block for as long as Ceph likes: the daemon ends
the whole process when its patience does. It ends by itself with its standard input.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

AT_ONCE_MAX = 8
LIBRARY = "librados.so.2"
# Nothing of Ceph's own is written on the node; a connection is given up like any other call.
SETTINGS = {"log_file": "", "admin_socket": "", "client_mount_timeout": "10"}
ECONNREFUSED = 111


class Rados:
    """A connection, and the commands that go over it. Raises OSError where there is none."""

    def __init__(self, conf: str, user: str, keyring: str) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._cluster = ctypes.c_void_p()
        create = (b"ceph", f"client.{user}".encode(), ctypes.c_uint64(0))
        self._done(self._library.rados_create2(ctypes.byref(self._cluster), *create), "create")
        self._done(self._library.rados_conf_read_file(self._cluster, conf.encode()), conf)
        for name, value in {**SETTINGS, "keyring": keyring}.items():
            code = self._library.rados_conf_set(self._cluster, name.encode(), value.encode())
            self._done(code, name)
        self._done(self._library.rados_connect(self._cluster), "connect")

    @staticmethod
    def _done(code: int, what: str) -> None:
        if code < 0:
            raise OSError(-code, f"{what}: {os.strerror(-code)}")

    def command(self, target: str, command: dict[str, Any]) -> tuple[int, str, str]:
        """Return an errno (0: done), the output and the words about it."""
        kind, _, name = target.partition(".")
        text = json.dumps({**command, "format": "json"}).encode()
        words = (ctypes.c_char_p * 1)(text)
        out, err = ctypes.c_char_p(), ctypes.c_char_p()
        out_bytes, err_bytes = ctypes.c_size_t(), ctypes.c_size_t()
        function, to = self._route(kind, name)
        code = function(
            self._cluster,
            *to,
            *(words, ctypes.c_size_t(1), b"", ctypes.c_size_t(0)),
            *(ctypes.byref(out), ctypes.byref(out_bytes)),
            *(ctypes.byref(err), ctypes.byref(err_bytes)),
        )
        return -code, self._taken(out, out_bytes.value), self._taken(err, err_bytes.value)

    def _route(self, kind: str, name: str) -> tuple[Any, tuple[Any, ...]]:
        if kind == "osd":
            return self._library.rados_osd_command, (ctypes.c_int(int(name)),)
        if kind == "mgr":
            return self._library.rados_mgr_command, ()
        if name:
            return self._library.rados_mon_command_target, (name.encode(),)
        return self._library.rados_mon_command, ()

    def _taken(self, buffer: ctypes.c_char_p, count: int) -> str:
        """Return a buffer's text, and give the buffer back."""
        text = ctypes.string_at(buffer, count).decode(errors="replace") if count else ""
        self._library.rados_buffer_free(buffer)
        return text


def main(conf: str, user: str, keyring: str) -> None:
    """Answer until standard input ends."""
    telling = threading.Lock()

    def tell(answer: dict[str, Any]) -> None:
        with telling:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()

    try:
        rados = Rados(conf, user, keyring)
    except OSError as error:
        tell({"id": 0, "code": error.errno or ECONNREFUSED, "out": "", "err": str(error)})
        return

    def answer(request: dict[str, Any]) -> None:
        code, out, err = rados.command(request["target"], request["command"])
        tell({"id": request["id"], "code": code, "out": out, "err": err})

    pool = ThreadPoolExecutor(AT_ONCE_MAX)
    for line in sys.stdin:
        pool.submit(answer, json.loads(line))
    # A call that hangs must not keep the process.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:4])
