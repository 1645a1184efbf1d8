"""Files for ``apply``, ``diff`` and ``delete``, and their faults with the line they are in."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, NamedTuple

from blixard.base.errors import BlixardError, Problem
from blixard.base.yaml import MAX_BYTES, Document, read_documents
from blixard.cli.kinds import Kind, kind_named

API_VERSION = "blixard.dev/v1"
SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 1000
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class Source(NamedTuple):
    """A file (or standard input) and its text."""

    name: str
    text: str


class Manifest(NamedTuple):
    """One object of a file, with the place of everything in it."""

    source: Source
    document: Document
    kind: Kind
    name: str
    namespace: str

    @property
    def label(self) -> str:
        """How the object is called in messages."""
        return f"{self.kind.lower}/{self.name}"


class Finding(NamedTuple):
    """A fault and the file that it is in."""

    source: Source
    problem: Problem


def read_sources(paths: tuple[str, ...]) -> list[Source]:
    """Return the texts of files, directories (their documents, sorted) and ``-``.

    Raises:
        BlixardError: NOT_FOUND, TOO_LARGE, BAD_REQUEST.
    """
    files = [file for path in paths for file in _files(path)]
    if len(files) > MAX_FILES:
        raise BlixardError("TOO_LARGE", f"{len(files)} files are more than {MAX_FILES}")
    return [_read(file) for file in files]


def _files(path: str) -> list[str]:
    if path == "-" or not os.path.isdir(path):
        return [path]
    found = [os.path.join(path, n) for n in sorted(os.listdir(path)) if n.endswith(SUFFIXES)]
    if not found:
        raise BlixardError("NOT_FOUND", f"{path} holds no {', '.join(SUFFIXES)} file")
    return found


def _read(path: str) -> Source:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BlixardError(
            "NOT_FOUND" if isinstance(error, FileNotFoundError) else "BAD_REQUEST",
            f"{path} cannot be read: {error.strerror}",
            hint="check the path",
        ) from error
    name = "standard input" if path == "-" else path
    if len(data) > MAX_BYTES:
        raise BlixardError("TOO_LARGE", f"{name} is larger than {MAX_BYTES >> 20} MiB")
    return Source(name, data.decode("utf-8-sig", errors="surrogateescape"))


def read_manifests(sources: list[Source], namespace: str) -> tuple[list[Manifest], list[Finding]]:
    """Return all objects of *sources* that can be told apart, and what is wrong with the others.

    Raises:
        BlixardError: TOO_LARGE; BAD_REQUEST if there is no document at all.
    """
    manifests: list[Manifest] = []
    findings: list[Finding] = []
    for source in sources:
        try:
            documents = read_documents(
                source.text.encode("utf-8", "surrogateescape"), name=source.name
            )
        except BlixardError as error:
            if error.code != "INVALID":
                raise
            findings += [Finding(source, problem) for problem in error.problems]
            continue
        for document in documents:
            manifest, problems = _identify(source, document, namespace)
            findings += [Finding(source, document.locate(p)) for p in problems]
            if manifest is not None:
                manifests.append(manifest)
    findings += _duplicates(manifests)
    if not manifests and not findings:
        raise BlixardError(
            "BAD_REQUEST",
            "no document in the input",
            hint="each has apiVersion, kind, metadata.name, spec",
        )
    return manifests, findings


def _identify(
    source: Source, document: Document, namespace: str
) -> tuple[Manifest | None, list[Problem]]:
    """Return the object, under a name of ours if it has none, and what is wrong with its head."""
    value = document.value
    if not isinstance(value, dict):
        message = "a document must be a mapping with apiVersion, kind, metadata and spec"
        return None, [Problem("", message)]
    problems = []
    if value.get("apiVersion") != API_VERSION:
        problems.append(_wrong("apiVersion", value, (API_VERSION,)))
    metadata = value.get("metadata")
    head: dict[str, Any] = metadata if isinstance(metadata, dict) else {}
    name = head.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        said = "missing" if name is None else f"{name!r} is no name"
        accepted = ("lower-case letters, digits and - between them",)
        problems.append(Problem("/metadata/name", said, accepted))
        name = f"unnamed-{document.locate(Problem('', '')).line}"
    try:
        kind = kind_named(str(value.get("kind", "")))
    except BlixardError as error:
        missing = "kind" not in value
        names = tuple(part for part in error.hint.removeprefix("kinds: ").split(", "))
        return None, [*problems, Problem("/kind", "missing" if missing else error.message, names)]
    return Manifest(source, document, kind, name, str(head.get("namespace") or namespace)), problems


def _wrong(key: str, value: dict[str, Any], accepted: tuple[str, ...]) -> Problem:
    said = "missing" if key not in value else f"{value[key]!r} is not known"
    return Problem(f"/{key}", said, accepted)


def _duplicates(manifests: list[Manifest]) -> list[Finding]:
    seen: dict[tuple[str, str, str], Manifest] = {}
    findings = []
    for manifest in manifests:
        key = (
            manifest.kind.name,
            manifest.namespace if manifest.kind.namespaced else "",
            manifest.name,
        )
        if key in seen:
            first = seen[key].document.locate(Problem("/metadata/name", ""))
            place = f"{seen[key].source.name}:{first.line}"
            message = f"{manifest.label} is declared twice (first in {place})"
            problem = Problem("/metadata/name", message)
            findings.append(Finding(manifest.source, manifest.document.locate(problem)))
        seen.setdefault(key, manifest)
    return findings


def invalid(findings: list[Finding]) -> BlixardError:
    """Return the error that shows every finding with its line, in the order of the files."""
    files = {f.source.name for f in findings}
    count = f"{len(findings)} problem{'s' if len(findings) > 1 else ''}"
    return BlixardError(
        "INVALID",
        f"{count} in {', '.join(sorted(files))}",
        details={
            "causes": [line for finding in findings for line in describe(finding)],
            "findings": [
                {
                    "file": f.source.name,
                    "line": f.problem.line,
                    "column": f.problem.column,
                    "pointer": f.problem.pointer,
                    "message": f.problem.message,
                    "accepted": list(f.problem.accepted),
                }
                for f in findings
            ],
        },
    )


def describe(finding: Finding) -> list[str]:
    """Return ``file:line:column: what``, the offending line, and the accepted values."""
    problem = finding.problem
    where = f"{problem.pointer.strip('/').replace('/', '.')}: " if problem.pointer else ""
    lines = [f"{finding.source.name}:{problem.line}:{problem.column}: {where}{problem.message}"]
    text = finding.source.text.splitlines()
    if 0 < problem.line <= len(text):
        lines.append(f"    {text[problem.line - 1].strip()[:120]}")
    if problem.accepted:
        lines.append(f"    accepted: {', '.join(problem.accepted)}")
    return lines
