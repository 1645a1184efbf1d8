"""The client's half of HTTP/1.1 over one socket: small, so that a command starts fast."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

HEAD_MAX = 64 << 10
BODY_MAX = 64 << 20
_PIECE = 64 << 10


class Disconnected(ConnectionError):
    """The connection ended or made no sense; ``answered`` if a part of the answer had come."""

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class Answer:
    """Status and headers of an answer; the body is read from its connection."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow."""
        return self.headers.get("connection", "").lower() != "close"


def encode_head(method: str, target: str, host: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request. Line breaks inside a header are refused (ValueError)."""
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Connection:
    """One socket with what was read ahead."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        """Send all of *data*. Raises Disconnected, TimeoutError."""
        try:
            self.sock.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            raise Disconnected(f"sending failed: {error}") from error

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def read_answer(self) -> Answer:
        """Return the head of the next answer, skipping 1xx. Raises Disconnected, TimeoutError."""
        while True:
            status, headers = self._read_head()
            if status >= 200:
                return Answer(status, headers)

    def read_body(self, answer: Answer) -> bytes:
        """Return the whole body."""
        if answer.chunked:
            parts, size = [], 0
            for piece in self.chunks():
                parts.append(piece)
                size += len(piece)
                if size > BODY_MAX:
                    raise Disconnected("the answer is too large", answered=True)
            return b"".join(parts)
        text = answer.headers.get("content-length", "0")
        if not text.isdigit() or int(text) > BODY_MAX:
            raise Disconnected(f"the answer has the length {text!r}", answered=True)
        return self._exactly(int(text))

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks of a body until its end."""
        while True:
            line = self._line().split(b";")[0].strip()
            try:
                size = int(line, 16)
            except ValueError as error:
                raise Disconnected("a chunk without a size", answered=True) from error
            if not 0 <= size <= BODY_MAX:
                raise Disconnected("a chunk is too large", answered=True)
            data = self._exactly(size)
            self._exactly(2)
            if size == 0:
                return
            yield data

    def _read_head(self) -> tuple[int, dict[str, str]]:
        first = not self._buffer
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_MAX:
                raise Disconnected("the answer's head is too large", answered=True)
            self._more(answered=not first or bool(self._buffer))
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        parts = lines[0].split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
            raise Disconnected("the other side does not speak HTTP/1.1", answered=True)
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(parts[1]), headers

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > HEAD_MAX:
                raise Disconnected("a line is too long", answered=True)
            self._more(answered=True)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more(answered=True)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _more(self, *, answered: bool) -> None:
        try:
            data = self.sock.recv(_PIECE)
        except TimeoutError:
            raise
        except OSError as error:
            raise Disconnected(f"reading failed: {error}", answered=answered) from error
        if not data:
            raise Disconnected("the connection was closed", answered=answered)
        self._buffer += data
