"""Consensus alone: three processes, TCP on loopback, real fdatasync, 64 proposals in flight."""

# ruff: noqa: D101, ARG002 (the ports are described where they are declared)

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from blixard.base.errors import BlixardError
from blixard.consensus.node import Member, RaftConfig, RaftNode

BAR_PER_S = 20_000
VALUE = os.urandom(256)
_HEAD = struct.Struct("<IBQ")
MESSAGE, REQUEST, ANSWER = 0, 1, 2


class RealFile:
    def __init__(self, path: str, create: bool) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self.fd = os.open(path, flags, 0o600)

    def pwrite(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self.fd, view, offset)
            view, offset = view[written:], offset + written

    def pread(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    async def sync(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, os.fdatasync, self.fd)

    def close(self) -> None:
        os.close(self.fd)


class RealDisk:
    def __init__(self, root: str) -> None:
        self.root = root

    def _path(self, path: str) -> str:
        return os.path.join(self.root, path)

    def open(self, path: str, *, create: bool = False) -> RealFile:
        return RealFile(self._path(path), create)

    def exists(self, path: str) -> bool:
        return os.path.exists(self._path(path))

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self._path(path))) if self.exists(path) else []

    def mkdir(self, path: str) -> None:
        os.makedirs(self._path(path), exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        os.replace(self._path(source), self._path(target))

    def unlink(self, path: str) -> None:
        if self.exists(path):
            os.unlink(self._path(path))

    async def sync_dir(self, path: str) -> None:
        fd = os.open(self._path(path), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def free_bytes(self) -> int:
        stat = os.statvfs(self.root)
        return stat.f_bavail * stat.f_frsize


class Link(asyncio.Protocol):
    """One direction-less TCP connection: framed messages, requests and answers."""

    def __init__(self, owner: TcpTransport, uid: str = "") -> None:
        self.owner, self.uid = owner, uid
        self.buffer = bytearray()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.uid:
            self.write(MESSAGE, 0, b"\0" + self.owner.uid.encode())

    def write(self, kind: int, number: int, payload: bytes) -> None:
        self.transport.write(_HEAD.pack(len(payload), kind, number) + payload)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        place = 0
        while len(self.buffer) - place >= _HEAD.size:
            length, kind, number = _HEAD.unpack_from(self.buffer, place)
            end = place + _HEAD.size + length
            if len(self.buffer) < end:
                break
            self._take(kind, number, bytes(self.buffer[place + _HEAD.size : end]))
            place = end
        del self.buffer[:place]

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        if kind == MESSAGE and payload[:1] == b"\0":
            self.uid = payload[1:].decode()
        elif kind == MESSAGE:
            self.owner.messages["raft"](self.uid, payload[1:])
        elif kind == REQUEST:
            self.owner.serve(self, number, payload)
        else:
            future = self.owner.answers.pop(number, None)
            if future is not None and not future.done():
                future.set_result(payload)


class TcpTransport:
    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.messages: dict[str, Callable[[str, bytes], None]] = {}
        self.requests: dict[str, Any] = {}
        self.links: dict[str, Link] = {}
        self.dialling: set[str] = set()
        self.answers: dict[int, asyncio.Future[bytes]] = {}
        self.number = 0
        self.tasks: list[asyncio.Task[Any]] = []

    async def listen(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(lambda: Link(self), "127.0.0.1", port)

    def set_peer(self, uid: str, address: str) -> None:
        if uid not in self.links and uid not in self.dialling:
            self.dialling.add(uid)
            self.tasks.append(asyncio.get_running_loop().create_task(self._dial(uid, address)))

    async def _dial(self, uid: str, address: str) -> None:
        host, port = address.rsplit(":", 1)
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, link = await loop.create_connection(lambda: Link(self, uid), host, int(port))
            except OSError:
                await asyncio.sleep(0.02)
                continue
            self.links[uid] = link
            return

    def remove_peer(self, uid: str) -> None:
        self.links.pop(uid, None)

    def send(self, uid: str, channel: str, payload: bytes) -> bool:
        link = self.links.get(uid)
        if link is None:
            return False
        link.write(MESSAGE, 0, b"\1" + payload)
        return True

    async def request(self, uid: str, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        if uid not in self.links:
            raise BlixardError("UNREACHABLE", uid)
        self.number += 1
        number = self.number
        future = self.answers[number] = asyncio.get_running_loop().create_future()
        self.links[uid].write(REQUEST, number, method.encode() + b"\0" + payload)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise BlixardError("UNREACHABLE", f"{uid} did not answer {method}") from error
        finally:
            self.answers.pop(number, None)

    def serve(self, link: Link, number: int, request: bytes) -> None:
        async def answer() -> None:
            method, _, payload = request.partition(b"\0")
            link.write(ANSWER, number, await self.requests[method.decode()](link.uid, payload))

        self.tasks.append(asyncio.get_running_loop().create_task(answer()))

    def on_message(self, channel: str, handler: Callable[[str, bytes], None]) -> None:
        self.messages[channel] = handler

    def on_request(self, method: str, handler: Any) -> None:
        self.requests[method] = handler

    async def open_stream(self, uid: str, method: str, payload: bytes) -> Any:
        raise BlixardError("UNREACHABLE", uid)

    def on_stream(self, method: str, handler: Any) -> None:
        self.requests[method] = handler


class BenchEnvironment:
    def __init__(self, uid: str, root: str) -> None:
        self.random = random.SystemRandom()
        self.disk = RealDisk(root)
        self.transport = TcpTransport(uid)

    def wall_time_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def new_id(self) -> str:
        return f"{self.random.getrandbits(80):x}"

    def spawn(self, coroutine: Any, *, name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        task.add_done_callback(lambda t: None if t.cancelled() else t.result())
        return task

    def fatal(self, reason: str) -> Any:
        print(f"fatal: {reason}", file=sys.stderr, flush=True)
        os._exit(1)

    def log(self, level: str, event: str, **fields: object) -> None:
        if level in {"error", "warning"}:
            print(level, event, fields, file=sys.stderr, flush=True)


class Counter:
    """A state machine that only counts."""

    count = 0

    def apply(self, index: int, term: int, data: bytes) -> int:
        self.count += 1
        return self.count

    def freeze(self) -> int:
        return self.count

    def encode(self, handle: int) -> bytes:
        return str(handle).encode()

    def restore(self, data: bytes) -> None:
        self.count = int(data)

    def state_hash(self) -> bytes:
        return str(self.count).encode()


def member(number: int, base: int) -> Member:
    return Member(number, f"node{number}", f"127.0.0.1:{base + number}")


async def run_node(number: int, base: int, root: str) -> RaftNode:
    env = BenchEnvironment(f"node{number}", root)
    me = member(number, base)
    if number == 1:
        await RaftNode.bootstrap(env, cluster_id="bench", member=me)
    else:
        await RaftNode.create_empty(env, cluster_id="bench", member=me)
    node = RaftNode(env, RaftConfig(), Counter())
    await node.start()
    # Not before: a message that nobody takes yet would break its link for good.
    await env.transport.listen(base + number)
    return node


def follower(number: int, base: int, root: str) -> None:
    async def serve() -> None:
        await run_node(number, base, root)
        await asyncio.Event().wait()

    asyncio.run(serve())


async def load(node: RaftNode, in_flight: int, seconds: float) -> dict[str, float]:
    """Keep *in_flight* proposals open; returns the rate and latencies in ms."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        while (start := time.perf_counter()) < end:
            await node.propose(VALUE, timeout_s=10)
            latencies.append(time.perf_counter() - start)

    started = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(in_flight)])
    elapsed = time.perf_counter() - started
    latencies.sort()
    return {
        "rate": len(latencies) / elapsed,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
    }


async def lead(base: int, root: str, rounds: int, seconds: float) -> list[dict[str, float]]:
    node = await run_node(1, base, root)
    while not node.is_leader:
        await asyncio.sleep(0.01)
    for number in (2, 3):
        await node.add_learner(member(number, base), timeout_s=10)
        await node.promote(number, timeout_s=20)
    await load(node, 64, 0.5)
    rows = []
    for _ in range(rounds):
        for in_flight in (1, 64, 256):
            row = await load(node, in_flight, seconds)
            rows.append({"in_flight": in_flight, **row})
            print(
                f"{in_flight:>9} {row['rate']:>10.0f} {row['p50_ms']:>8.2f} {row['p99_ms']:>8.2f}",
                flush=True,
            )
    await node.stop()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--directory", help="where the logs go (default: the temporary directory)")
    options = parser.parse_args()
    root = tempfile.mkdtemp(prefix="blixard-bench-", dir=options.directory)
    base = 20_000 + os.getpid() % 20_000
    context = multiprocessing.get_context("spawn")
    others = []
    try:
        for number in (1, 2, 3):
            os.mkdir(os.path.join(root, str(number)))
        for number in (2, 3):
            place = os.path.join(root, str(number))
            process = context.Process(target=follower, args=(number, base, place), daemon=True)
            process.start()
            others.append(process)
        print(f"{'in flight':>9} {'writes/s':>10} {'p50 ms':>8} {'p99 ms':>8}")
        place = os.path.join(root, "1")
        rows = asyncio.run(lead(base, place, options.rounds, options.seconds))
    finally:
        for process in others:
            process.kill()
            process.join()
        shutil.rmtree(root)
    figures = {}
    for in_flight in (1, 64, 256):
        mine = [row for row in rows if row["in_flight"] == in_flight]
        for name in ("rate", "p50_ms", "p99_ms"):
            figures[f"{name}_{in_flight}"] = round(statistics.median(r[name] for r in mine), 2)
    ok = figures["rate_64"] >= BAR_PER_S
    bars = {"rate_64": BAR_PER_S}
    print(
        f"64 in flight, median of {options.rounds}: {figures['rate_64']:.0f}/s, bar {BAR_PER_S}/s"
    )
    print(json.dumps({"bench": "consensus", "ok": ok, "figures": figures, "bars": bars}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
