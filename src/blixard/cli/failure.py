"""How errors look (ux.md 4.5): code and sentence, causes, hint, request and node."""

from __future__ import annotations

import sys
from typing import Any

import click

from blixard.base.errors import EXIT_INTERRUPTED, BlixardError, Problem, to_body
from blixard.cli.flags import Flags
from blixard.cli.output import pretty_json
from blixard.cli.tables import clean

MAX_CAUSES = 50


def report(error: BaseException, flags: Flags) -> int:
    """Print *error* on standard error and return the exit code of the process."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.ClickException):
        return _report_usage(error, flags)
    if isinstance(error, ConnectionError):
        error = BlixardError("UNREACHABLE", f"the connection was lost: {error}")
    known = error if isinstance(error, BlixardError) else _unexpected(error, flags)
    sys.stderr.write(as_json(known) if _wants_json(flags) else as_text(known))
    return known.info.exit_code


def _wants_json(flags: Flags) -> bool:
    return flags.text("format") == "json"


def _report_usage(error: click.ClickException, flags: Flags) -> int:
    ctx = getattr(error, "ctx", None)
    hint = f"{ctx.command_path} --help" if ctx is not None else "blixard --help"
    message = error.format_message().replace("\n", " ").strip()
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        sys.stderr.write(error.format_message() + "\n")
        return 2
    usage = BlixardError("USAGE", message[:1].lower() + message[1:].rstrip("."), hint=hint)
    sys.stderr.write(as_json(usage) if _wants_json(flags) else as_text(usage))
    return usage.info.exit_code


def as_json(error: BlixardError) -> str:
    """Return the problem document of *error*."""
    details = error.details
    body = to_body(
        error, request_id=str(details.get("requestId", "")), node=str(details.get("node", ""))
    )
    return pretty_json(body) + "\n"


def as_text(error: BlixardError) -> str:
    """Return *error* for people."""
    lines = [f"error[{error.code}]: {_line(error.message)}"]
    lines += [f"  {_line(cause)}" for cause in _causes(error)]
    if error.hint:
        lines.append(f"hint: {_line(error.hint)}")
    lines.append(_origin(error))
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return clean(text.rstrip())


def _causes(error: BlixardError) -> list[str]:
    causes = [describe_problem(p) for p in error.problems]
    listed = error.details.get("causes", [])
    if isinstance(listed, list):
        causes += [str(c) for c in listed]
    console = error.details.get("console", [])
    if isinstance(console, list):
        causes += [f"console: {line}" for line in console]
    if len(causes) > MAX_CAUSES:
        causes = [*causes[:MAX_CAUSES], f"... and {len(causes) - MAX_CAUSES} more"]
    return causes


def describe_problem(problem: Problem) -> str:
    """Return a fault of a document in one line."""
    place = f"{problem.line}:{problem.column}: " if problem.line else ""
    where = f"{problem.pointer}: " if problem.pointer else ""
    accepted = f" (accepted: {', '.join(problem.accepted)})" if problem.accepted else ""
    return f"{place}{where}{problem.message}{accepted}"


def _origin(error: BlixardError) -> str:
    details = error.details
    parts = [
        f"{name}: {details[key]}"
        for key, name in (("requestId", "request"), ("node", "node"))
        if details.get(key)
    ]
    return " · ".join([*parts, f"docs: blixard explain error {error.code}"])


def _unexpected(error: BaseException, flags: Flags) -> BlixardError:
    """Return the error for people; the traceback goes to a file, or out with --verbose."""
    import traceback

    text = "".join(traceback.format_exception(error))
    if flags.on("verbose"):
        sys.stderr.write(text)
        where = "above"
    else:
        where = _write_log(text, flags)
    summary = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return BlixardError(
        "INTERNAL", f"{summary}; the traceback is in {where}", hint="report it with that file"
    )


def _write_log(text: str, flags: Flags) -> str:
    import os
    import tempfile

    state: Any = flags.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    for directory in (os.path.join(state, "blixard"), tempfile.gettempdir()):
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            handle, path = tempfile.mkstemp(prefix="blixard-error-", suffix=".log", dir=directory)
        except OSError:
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        return path
    return "no file (none could be written; use --verbose)"
