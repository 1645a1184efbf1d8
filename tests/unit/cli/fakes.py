"""A cluster in memory that answers like the API, as far as the command line asks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from blixard.base.errors import BlixardError, Problem

NOW_MS = 1_700_000_000_000
KINDS = {
    "vms": "VM",
    "instances": "Instance",
    "nodes": "Node",
    "images": "Image",
    "functions": "Function",
    "events": "Event",
    "operations": "Operation",
    "migrations": "Migration",
    "apikeys": "ApiKey",
    "jointokens": "JoinToken",
    "networks": "Network",
    "clusterconfigs": "ClusterConfig",
    "storagepools": "StoragePool",
    "volumes": "Volume",
}


class FakeStream:
    def __init__(self, frames: list[bytes]) -> None:
        self.frames = frames
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def receive(self) -> bytes | None:
        return self.frames.pop(0) if self.frames else None

    def end(self) -> None:
        self.sent.append(b"END")

    def close(self) -> None:
        self.frames = []


class FakeApi:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.revision = 100
        self.calls: list[tuple[str, str, dict[str, str], Any]] = []
        self.problems: dict[str, tuple[Problem, ...]] = {}
        self.errors: dict[tuple[str, str], BlixardError] = {}
        self.changes: list[dict[str, Any]] = []
        self.streams: dict[str, FakeStream] = {}
        self.answers: dict[tuple[str, str], Any] = {}
        self.told: dict[str, str] = {}

    def add(
        self, plural: str, name: str, spec: Any = None, status: Any = None, **metadata: Any
    ) -> dict[str, Any]:
        self.revision += 1
        made = {
            "apiVersion": "blixard.dev/v1",
            "kind": KINDS[plural],
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"UID-{name}",
                "labels": {},
                "revision": self.revision,
                "generation": 1,
                "createdAtMs": NOW_MS - 3_600_000,
                "updatedAtMs": NOW_MS - 60_000,
                **metadata,
            },
            "spec": spec or {},
            "status": status or {},
        }
        self.objects[plural, name] = made
        return made

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        once: bool = False,
        told: dict[str, str] | None = None,
    ) -> Any:
        self.calls.append((method, path, dict(query or {}), body))
        if (method, path) in self.errors:
            raise self.errors[method, path]
        if told is not None:
            told.update(self.told)
        if (method, path) in self.answers:
            return self.answers[method, path]
        parts = path.removeprefix("/v1/").split("/")
        if parts[0] == "namespaces" and len(parts) > 2:
            parts = parts[2:]
        plural, name = parts[0], parts[1] if len(parts) > 1 else ""
        if path == "/v1/apply":
            return self._apply(query or {}, body)
        if plural not in KINDS:
            raise BlixardError("NOT_FOUND", f"no route {method} {path}")
        return getattr(self, f"_{method.lower()}")(plural, name, query or {}, body, headers or {})

    def _apply(self, query: Any, documents: Any) -> Any:
        plurals = {kind: plural for plural, kind in KINDS.items()}
        wrong = [
            Problem(f"/{n}{p.pointer}", p.message, p.accepted)
            for n, d in enumerate(documents)
            for p in self.problems.get(d["metadata"]["name"], ())
        ]
        if wrong:
            raise BlixardError("INVALID", "the documents are invalid", problems=tuple(wrong))
        before, items = dict(self.objects), []
        for document in documents:
            plural, name = plurals[document["kind"]], document["metadata"]["name"]
            old = self.objects.get((plural, name))
            had = old and {"labels": old["metadata"]["labels"], "spec": old["spec"]}
            labels = document["metadata"].get("labels", {})
            after = {"labels": labels, "spec": document.get("spec", {})}
            if had != after:
                self.add(plural, name, after["spec"], old["status"] if old else {}, labels=labels)
            word = "created" if not old else "unchanged" if had == after else "configured"
            items.append(
                {
                    "object": f"{document['kind'].lower()}/{name}",
                    "result": word,
                    "before": had,
                    "after": after,
                }
            )
        if query.get("dryRun"):
            self.objects = before
        return {"kind": "ApplyResult", "items": items}

    def _get(self, plural: str, name: str, query: Any, body: Any, headers: Any) -> Any:
        if not name:
            items = [o for (p, _), o in sorted(self.objects.items()) if p == plural]
            return {"items": copy.deepcopy(items), "revision": self.revision}
        if (plural, name) not in self.objects:
            raise BlixardError("NOT_FOUND", f"there is no {plural} {name}")
        return copy.deepcopy(self.objects[plural, name])

    def _put(self, plural: str, name: str, query: Any, body: Any, headers: Any) -> Any:
        if name in self.problems:
            raise BlixardError("INVALID", "the document is invalid", problems=self.problems[name])
        old = self.objects.get((plural, name))
        match = headers.get("If-Match", "").strip('"')
        if match and int(match) != (old["metadata"]["revision"] if old else 0):
            raise BlixardError(
                "CONFLICT" if old and match != "0" else "ALREADY_EXISTS",
                f"{name} is not as expected",
            )
        before = dict(self.objects)
        made = self.add(
            plural,
            name,
            body["spec"],
            old["status"] if old else {},
            labels=body["metadata"].get("labels", {}),
        )
        if query.get("dryRun"):
            self.objects = before
        return copy.deepcopy(made)

    def _delete(self, plural: str, name: str, query: Any, body: Any, headers: Any) -> Any:
        gone = self._get(plural, name, query, body, headers)
        if not query.get("dryRun"):
            del self.objects[plural, name]
        return gone

    def _post(self, plural: str, name: str, query: Any, body: Any, headers: Any) -> Any:
        return {"token": "blx-join-1", "secret": "blx_k1_secret", "metadata": {"name": "x"}}

    def watch(
        self, path: str, *, query: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> Iterator[dict[str, Any]]:
        while self.changes:
            yield self.changes.pop(0)
        raise KeyboardInterrupt

    def stream(self, path: str, *, query: Mapping[str, str] | None = None) -> FakeStream:
        self.calls.append(("STREAM", path, dict(query or {}), None))
        return self.streams[path]


def web_cluster() -> FakeApi:
    """Three nodes, one VM with two instances ready and one that failed."""
    api = FakeApi()
    for number in (1, 2, 3):
        api.add(
            "nodes",
            f"node{number}",
            {
                "address": f"10.0.0.{number}:7946",
                "roles": ["hypervisor"],
                "raftId": number,
                "capacity": {"vcpus": 4, "memoryMib": 8192},
            },
            {"state": "Ready" if number < 3 else "Lost", "epoch": number},
        )
    api.add(
        "vms",
        "web",
        {"replicas": 3, "image": "web", "memory": "512MiB", "vcpus": 1, "network": "default"},
        {
            "phase": "Starting",
            "readyReplicas": 2,
            "replicas": 3,
            "message": "web-3: exited with code 1",
        },
        labels={"app": "web"},
    )
    api.add(
        "vms",
        "db",
        {"replicas": 1, "recipe": {"packages": ["postgresql"]}, "memory": 1024, "vcpus": 2},
        {
            "phase": "Pending",
            "readyReplicas": 0,
            "message": "3 nodes: 2 lack 512 MiB memory, 1 is lost",
        },
    )
    for number, phase in ((1, "Running"), (2, "Running"), (3, "Failed")):
        api.add(
            "instances",
            f"web-{number}",
            {
                "vm": "web",
                "ordinal": number,
                "node": f"U{number}",
                "nodeName": f"node{number}",
                "ip": f"10.77.0.{number + 1}",
                "run": 1,
                "nodeEpoch": 1,
                "placement": f"node{number}: fits, fewest instances of web (0)",
            },
            {
                "phase": phase,
                "ready": phase == "Running",
                "restarts": number - 1,
                "phasesMs": {"build": 4, "prepare": 60, "start": 25, "boot": 2100, "ready": 80},
                "reason": "exited with code 1" if phase == "Failed" else "",
                "console": ["Kernel panic - not syncing"] if phase == "Failed" else [],
            },
            owner="UID-web",
        )
    api.add(
        "images",
        "web",
        {"packages": ["nginx", "curl"]},
        {"phase": "Ready", "sizeBytes": 130 << 20, "digest": "ab12"},
    )
    api.add(
        "functions",
        "hello",
        {
            "source": "def handler(event, context):\n    return event\n",
            "runtime": "python",
            "handler": "hello.handler",
            "memory": "128MiB",
            "timeout": "30s",
            "maxInstances": 100,
            "maxConcurrent": 0,
            "minWarm": 0,
            "idleTimeout": "60s",
        },
        {
            "phase": "Ready",
            "nodes": 3,
            "readyNodes": 2,
            "idle": 1,
            "busy": 2,
            "starting": 0,
            "waiting": 0,
            "calls": 12,
            "coldStarts": 3,
            "message": "",
        },
    )
    api.add(
        "events",
        "e1",
        {
            "type": "Warning",
            "reason": "GuestExited",
            "aboutKind": "Instance",
            "aboutName": "web-3",
            "atMs": NOW_MS - 60_000,
            "message": "exited with code 1",
        },
    )
    api.add(
        "events",
        "e2",
        {
            "type": "Normal",
            "reason": "Scaled",
            "aboutKind": "VM",
            "aboutName": "web",
            "atMs": NOW_MS - 90_000,
            "message": "from 2 to 3",
        },
    )
    api.answers["GET", "/v1/cluster"] = {
        "clusterId": "01JC",
        "leader": "node1",
        "voters": 3,
        "term": 4,
    }
    api.answers["GET", "/v1/version"] = {"version": "0.1.0"}
    return api
