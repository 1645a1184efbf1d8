"""One run of a command: its flags, its output and its connection, made when first needed."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Self, TextIO
from urllib.parse import quote

from blixard.base.errors import BlixardError
from blixard.base.units import parse_duration_s
from blixard.cli.flags import Flags
from blixard.cli.kinds import Kind
from blixard.cli.output import Object, Output
from blixard.cli.wire import Api, Outside

DEFAULT_TIMEOUT_S = 30.0
CONFLICT_RETRIES = 5


class Machine:
    """The machine's clock and entropy."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def entropy(self) -> int:
        """Return 80 random bits."""
        return int.from_bytes(os.urandom(10))


class Session:
    """What every verb gets first."""

    def __init__(self, flags: Flags) -> None:
        self.flags = flags
        self.stdin: TextIO = sys.stdin
        self.outside: Outside = flags.outside or Machine()
        self._api: Api | None = flags.api
        self._namespace = ""
        self._close: Callable[[], None] | None = None
        self.out = Output(flags, sys.stdout, sys.stderr, flags.now_ms or int(time.time() * 1000))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection, if one was made here."""
        if self._close is not None:
            self._close()

    @property
    def api(self) -> Api:
        """The connection; made at first use."""
        if self._api is None:
            from blixard.cli.connection import connect

            client, self._namespace = connect(self.flags)
            self._api, self._close = client, client.close
        return self._api

    @property
    def namespace(self) -> str:
        """The namespace to work in: flag, environment, context, ``default``."""
        return self.flags.text("namespace") or (self.api and self._namespace) or "default"

    @property
    def dry_run(self) -> bool:
        """Whether nothing may change."""
        return self.flags.on("dry_run")

    def suffix(self, digits: int) -> str:
        """Return hex digits that make a name new; of a repeated request they are the same again."""
        repeated = self.flags.text("request_id")
        if repeated:
            return hashlib.blake2b(repeated.encode(), digest_size=10).hexdigest()[:digits]
        return f"{self.outside.entropy():020x}"[-digits:]

    def timeout_s(self, default: float = DEFAULT_TIMEOUT_S) -> float:
        """Return --timeout in seconds, or *default*."""
        text = self.flags.text("timeout")
        seconds = duration_flag_s("--timeout", text) if text else default
        if seconds <= 0:
            raise BlixardError("USAGE", "--timeout must be longer than nothing")
        return seconds

    # -- reading ------------------------------------------------------------------------------

    def path(self, kind: Kind, name: str = "", *parts: str, namespace: str = "") -> str:
        """Return the API path of a kind, an object or a sub-resource."""
        everywhere = not name and self.flags.on("all_namespaces")
        named = "" if everywhere or not kind.namespaced else namespace or self.namespace
        scope = quote(named, safe="")
        head = f"/v1/namespaces/{scope}" if scope else "/v1"
        return "/".join([head, kind.plural, *(quote(p, safe="") for p in (name, *parts) if p)])

    def get(self, kind: Kind, name: str) -> Object:
        """Return one object. Raises BlixardError NOT_FOUND."""
        found: Object = self.read(self.path(kind, name))
        return found

    def read(self, path: str, query: dict[str, str] | None = None) -> Any:
        """Return what a path holds: as of now, or with --stale as the asked node knows it."""
        asked = {**(query or {}), **({"stale": "true"} if self.flags.on("stale") else {})}
        return self.api.request("GET", path, query=asked, timeout_s=self.timeout_s())

    def find(self, kind: Kind, name: str) -> Object | None:
        """Return one object, or None."""
        try:
            return self.get(kind, name)
        except BlixardError as error:
            if error.code == "NOT_FOUND":
                return None
            raise

    def list(self, kind: Kind) -> tuple[list[Object], int]:
        """Return all objects of a kind, page by page, and the revision of the first page."""
        query: dict[str, str] = {}
        items: list[Object] = []
        revision = 0
        while True:
            answer = self.read(self.path(kind), query)
            items += answer.get("items", [])
            revision = revision or int(answer.get("revision", 0))
            if not answer.get("continue"):
                return items, revision
            query = {"continue": answer["continue"]}

    def changes(
        self, kind: Kind, *, revision: int, name: str = "", timeout_s: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield what changes after *revision*: of a kind, or of one object."""
        query = {"watch": "true", "revision": str(revision)}
        for change in self.api.watch(self.path(kind), query=query, timeout_s=timeout_s):
            if not name or change["object"]["metadata"]["name"] == name:
                yield change

    # -- writing ------------------------------------------------------------------------------

    def write(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        expect: int | None = None,
        timeout_s: float | None = None,
        query: dict[str, str] | None = None,
    ) -> Any:
        """Send a change with the global flags; *expect*: the revision the object must have."""
        headers = {}
        if self.flags.text("request_id"):
            headers["Idempotency-Key"] = self.flags.text("request_id")
        if expect is not None:
            headers["If-Match"] = f'"{expect}"'
        asked = {**(query or {}), **({"dryRun": "true"} if self.dry_run else {})}
        return self.api.request(
            method,
            path,
            query=asked,
            body=body,
            headers=headers,
            timeout_s=timeout_s or self.timeout_s(),
        )

    def edit(
        self, kind: Kind, name: str, change: Callable[[Object], Object]
    ) -> tuple[Object, Object]:
        """Change the spec of an object, again if somebody else changed it meanwhile.

        Returns the object before and after.
        """
        for attempt in range(CONFLICT_RETRIES):
            old = self.get(kind, name)
            spec = change(dict(old["spec"]))
            if spec == old["spec"]:
                return old, old
            body = {**without_status(old), "spec": spec}
            try:
                new = self.write(
                    "PUT", self.path(kind, name), body, expect=old["metadata"]["revision"]
                )
            except BlixardError as error:
                if error.code != "CONFLICT" or attempt == CONFLICT_RETRIES - 1:
                    raise
                continue
            return old, new
        raise AssertionError("the loop returns or raises")

    def delete(self, kind: Kind, name: str) -> Any:
        """Delete an object."""
        return self.write("DELETE", self.path(kind, name))

    # -- asking -------------------------------------------------------------------------------

    def confirm(self, question: str, *, name: str = "") -> None:
        """Ask before something dangerous: y/N, or the *name* to type where data is lost.

        Raises:
            BlixardError: USAGE without a terminal or after a no.
        """
        if self.flags.on("yes") or self.dry_run:
            return
        if self.flags.on("no_input") or not self.stdin.isatty():
            raise BlixardError("USAGE", f"{question} needs an answer", hint="repeat with --yes")
        self.out.stderr.write(f"{question} {f'Type {name} to go on: ' if name else '[y/N] '}")
        self.out.stderr.flush()
        answer = self.stdin.readline().strip()
        if answer != name if name else answer.lower() not in ("y", "yes"):
            raise BlixardError(
                "USAGE", "not confirmed: nothing was changed", hint="repeat with --yes"
            )


def without_status(resource: Object) -> Object:
    """Return what a user may write of an object: identity, labels and spec."""
    metadata = resource.get("metadata", {})
    kept = {key: metadata[key] for key in ("name", "namespace", "labels") if metadata.get(key)}
    return {
        "apiVersion": resource.get("apiVersion", "blixard.dev/v1"),
        "kind": resource.get("kind", ""),
        "metadata": kept,
        "spec": resource.get("spec", {}),
    }


def read_text(place: str) -> str:
    """Return what a file holds, or standard input for ``-``. Raises BlixardError USAGE."""
    try:
        if place == "-":
            return sys.stdin.read()
        with open(place, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise BlixardError(
            "USAGE", f"{place} cannot be read: {error}", hint="check the path"
        ) from error


def duration_flag_s(flag: str, text: str) -> float:
    """Return the seconds that a flag says. Raises BlixardError USAGE, which names the flag."""
    try:
        return parse_duration_s(text)
    except BlixardError as error:
        raise BlixardError("USAGE", f"{flag}: {error.message}", hint="for example 30s") from error
