"""Several Raft nodes in one loop: a network in memory, disks in memory that lose what was not synced."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
from collections.abc import Callable, Coroutine
from typing import Any, Self

from blixard.base.errors import BlixardError
from blixard.base.ids import ulid
from blixard.consensus.node import Member, RaftConfig, RaftNode
from blixard.simulation.loop import SimLoop

FAST = RaftConfig(
    tick_s=0.01,
    min_free_bytes=0,
    reserve_bytes=0,
    snapshot_entries=1_000_000,
)


class Inode:
    """One file: what the system holds, and what is durable."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""


class MemoryFile:
    def __init__(self, disk: MemoryDisk, inode: Inode) -> None:
        self.disk, self.inode = disk, inode

    def pwrite(self, offset: int, data: bytes) -> None:
        old = len(self.inode.data)
        growth = max(0, offset + len(data) - old)
        if self.disk.used() + growth > self.disk.capacity:
            half = max(0, self.disk.capacity - self.disk.used())
            self.inode.data[offset : offset + half] = data[:half]
            raise OSError(errno.ENOSPC, "no space")
        if self.disk.write_error:
            raise OSError(self.disk.write_error, "write")
        if offset > old:
            self.inode.data.extend(bytes(offset - old))
        self.inode.data[offset : offset + len(data)] = data

    def pread(self, offset: int, length: int) -> bytes:
        return bytes(self.inode.data[offset : offset + length])

    def truncate(self, size: int) -> None:
        del self.inode.data[size:]
        self.inode.data.extend(bytes(size - len(self.inode.data)))

    def size(self) -> int:
        return len(self.inode.data)

    async def sync(self) -> None:
        self.disk.syncs += 1
        content = bytes(self.inode.data)
        await asyncio.sleep(0)
        while self.disk.stalled:
            await asyncio.sleep(0.005)
        if self.disk.sync_error:
            raise OSError(errno.EIO, "sync")
        self.inode.durable = content

    def close(self) -> None:
        pass


class MemoryDisk:
    """Names and contents, each with what a power cut would leave."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.capacity = 1 << 40
        self.write_error = 0
        self.sync_error = False
        self.stalled = False
        self.syncs = 0

    def used(self) -> int:
        return sum(len(inode.data) for inode in self.names.values())

    def open(self, path: str, *, create: bool = False) -> MemoryFile:
        if path not in self.names:
            if not create:
                raise FileNotFoundError(path)
            self.names[path] = Inode()
        return MemoryFile(self, self.names[path])

    def exists(self, path: str) -> bool:
        return path in self.names or any(n.startswith(path + "/") for n in self.names)

    def listdir(self, path: str) -> list[str]:
        prefix = path + "/"
        found = {n[len(prefix) :].split("/")[0] for n in self.names if n.startswith(prefix)}
        return sorted(found)

    def mkdir(self, path: str) -> None:
        pass

    def rename(self, source: str, target: str) -> None:
        if source in self.names:
            self.names[target] = self.names.pop(source)
            return
        for names in (self.names, self.durable_names):  # a directory, durable at once
            for name in [n for n in names if n.startswith(source + "/")]:
                names[target + name[len(source) :]] = names.pop(name)

    def unlink(self, path: str) -> None:
        self.names.pop(path, None)

    async def sync_dir(self, path: str) -> None:
        await asyncio.sleep(0)
        inside = [n for n in {**self.names, **self.durable_names} if os.path.dirname(n) == path]
        for name in sorted(inside):
            if name in self.names:
                self.durable_names[name] = self.names[name]
            else:
                self.durable_names.pop(name)

    def free_bytes(self) -> int:
        return self.capacity - self.used()

    def power_cut(self, *, torn: int | None = None) -> None:
        """Lose what was not synced; with *torn*, keep that many bytes of each unsynced tail."""
        self.names = dict(self.durable_names)
        for inode in self.names.values():
            keep = inode.durable
            if torn is not None and len(inode.data) > len(keep):
                keep += bytes(inode.data[len(keep) : len(keep) + torn])
            inode.data = bytearray(keep)
            inode.durable = bytes(keep)


class Network:
    """Delivers in order after a loop pass; can cut, drop, delay and repeat."""

    def __init__(self, seed: int = 0) -> None:
        self.ends: dict[str, MemoryTransport] = {}
        self.cut: set[tuple[str, str]] = set()
        self.random = random.Random(seed)
        self.loss = 0.0
        self.repeat = 0.0
        self.delay_s = 0.0

    def isolate(self, uid: str) -> None:
        for other in self.ends:
            self.cut |= {(uid, other), (other, uid)}

    def heal(self) -> None:
        self.cut.clear()

    def deliver(self, source: str, target: str, channel: str, payload: bytes) -> None:
        if (source, target) in self.cut or self.random.random() < self.loss:
            return
        loop = asyncio.get_running_loop()
        copies = 2 if self.random.random() < self.repeat else 1
        for _ in range(copies):
            delay = self.random.random() * self.delay_s
            loop.call_later(delay, self._hand_over, source, target, channel, payload)

    def _hand_over(self, source: str, target: str, channel: str, payload: bytes) -> None:
        end = self.ends.get(target)
        if end is not None and channel in end.messages:
            end.messages[channel](source, payload)


class MemoryTransport:
    def __init__(self, network: Network, uid: str) -> None:
        self.network, self.uid = network, uid
        self.peers: dict[str, str] = {}
        self.messages: dict[str, Any] = {}
        self.requests: dict[str, Any] = {}
        network.ends[uid] = self

    def set_peer(self, uid: str, address: str) -> None:
        self.peers[uid] = address

    def remove_peer(self, uid: str) -> None:
        self.peers.pop(uid, None)

    def send(self, uid: str, channel: str, payload: bytes) -> bool:
        if uid not in self.peers:
            return False
        self.network.deliver(self.uid, uid, channel, payload)
        return True

    async def request(self, uid: str, method: str, payload: bytes, *, timeout_s: float) -> bytes:
        await asyncio.sleep(0)
        end = self.network.ends.get(uid)
        if end is None or (self.uid, uid) in self.network.cut or method not in end.requests:
            raise BlixardError("UNREACHABLE", uid)
        return await end.requests[method](self.uid, payload)

    def on_message(self, channel: str, handler: Any) -> None:
        self.messages[channel] = handler

    def on_request(self, method: str, handler: Any) -> None:
        self.requests[method] = handler


class Fatal(Exception):
    pass


class MemoryEnvironment:
    def __init__(self, network: Network, uid: str, disk: MemoryDisk, seed: int) -> None:
        self.random = random.Random(seed)
        self.disk = disk
        self.transport = MemoryTransport(network, uid)
        self.fatal_reason = ""
        self.logs: list[tuple[str, str, dict[str, object]]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.boot_offset_ns = 0

    def wall_time_ms(self) -> int:
        return 0

    def boottime_ns(self) -> int:
        return int(asyncio.get_running_loop().time() * 1e9) + self.boot_offset_ns

    def new_id(self) -> str:
        return ulid(0, self.random.getrandbits(80))

    def spawn(self, coroutine: Any, *, name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        task.add_done_callback(self._ended)
        self.tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.fatal_reason = self.fatal_reason or repr(task.exception())

    def fatal(self, reason: str) -> Any:
        self.fatal_reason = reason
        for task in self.tasks:
            task.cancel()
        raise Fatal(reason)

    def log(self, level: str, event: str, **fields: object) -> None:
        self.logs.append((level, event, fields))

    def kill(self) -> None:
        """Stop as SIGKILL does, as far as a task can."""
        self.transport.messages.clear()
        self.transport.requests.clear()
        for task in self.tasks:
            task.cancel()


class ListMachine:
    """Appends commands; answers with (index, length)."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.hash = hashlib.sha256()

    def apply(self, index: int, term: int, data: bytes) -> tuple[int, int]:
        self.items.append(data)
        self.hash.update(data)
        return index, len(self.items)

    def freeze(self) -> tuple[bytes, ...]:
        return tuple(self.items)

    def encode(self, handle: tuple[bytes, ...]) -> bytes:
        return b"\n".join(handle)

    def restore(self, data: bytes) -> None:
        self.items = data.split(b"\n") if data else []
        self.hash = hashlib.sha256(b"".join(self.items))

    def state_hash(self) -> bytes:
        return self.hash.digest()


def member(number: int, *, learner: bool = False) -> Member:
    return Member(number, f"node{number}", f"host{number}:1", learner)


class Cluster:
    """Nodes by number; ``async with`` stops them all."""

    def __init__(self, config: RaftConfig = FAST, seed: int = 1) -> None:
        self.config, self.seed = config, seed
        self.network = Network(seed)
        self.disks: dict[int, MemoryDisk] = {}
        self.envs: dict[int, MemoryEnvironment] = {}
        self.nodes: dict[int, RaftNode] = {}
        self.machines: dict[int, ListMachine] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for number in sorted(self.nodes):
            await self.nodes[number].stop()
        for env in self.envs.values():
            env.kill()
            await asyncio.gather(*env.tasks, return_exceptions=True)

    def env(self, number: int) -> MemoryEnvironment:
        disk = self.disks.setdefault(number, MemoryDisk())
        self.seed += 1
        env = MemoryEnvironment(self.network, f"node{number}", disk, self.seed)
        self.envs[number] = env
        return env

    async def run(self, number: int, config: RaftConfig | None = None) -> RaftNode:
        """Start, or start again, from what the disk holds."""
        machine = self.machines[number] = ListMachine()
        node = RaftNode(self.env(number), config or self.config, machine)
        await node.start()
        self.nodes[number] = node
        return node

    async def bootstrap(self) -> RaftNode:
        env = self.env(1)
        await RaftNode.bootstrap(env, cluster_id="c", member=member(1))
        return await self.run(1)

    async def join(self, number: int, *, voter: bool = True) -> RaftNode:
        """Add a node through the leader, as a voter unless told otherwise."""
        await RaftNode.create_empty(self.env(number), cluster_id="c", member=member(number))
        node = await self.run(number)
        leader = await self.leader()
        await leader.add_learner(member(number), timeout_s=5)
        if voter:
            await leader.promote(number, timeout_s=5)
        return node

    async def start(self, count: int) -> None:
        await self.bootstrap()
        await self.leader()
        for number in range(2, count + 1):
            await self.join(number)

    def kill(self, number: int, *, torn: int | None = None, power: bool = True) -> None:
        self.envs[number].kill()
        node = self.nodes.pop(number)
        node._running = False
        if power:
            self.disks[number].power_cut(torn=torn)

    async def leader(self, *, among: list[int] | None = None) -> RaftNode:
        def found() -> RaftNode | None:
            for number, node in self.nodes.items():
                if node.is_leader and (among is None or number in among):
                    return node
            return None

        await until(lambda: found() is not None)
        node = found()
        assert node is not None
        return node

    def number(self, node: RaftNode) -> int:
        return next(n for n, other in self.nodes.items() if other is node)

    def followers(self) -> list[int]:
        return [n for n, node in self.nodes.items() if node.role != "leader"]

    async def settled(self) -> None:
        """Wait until all nodes have applied the same."""

        def same() -> bool:
            first = next(iter(self.nodes.values())).applied_index
            return all(
                n.applied_index == first and n.commit_index == first for n in self.nodes.values()
            )

        await until(same)
        assert len({self.machines[n].state_hash() for n in self.nodes}) == 1


async def until(condition: Any, *, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run in virtual time, so that a busy machine makes no test late."""
    loop = SimLoop(order=random.Random(0))
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()
