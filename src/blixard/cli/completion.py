"""``completion``: scripts for three shells, and the answers that they ask for.

An answer takes at most about 150 ms: names come from the cluster within 100 ms or not at all,
and are kept for five seconds.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click

from blixard.base.errors import CODES, BlixardError
from blixard.cli.kinds import KINDS, Kind, kind_named
from blixard.cli.output import name_of
from blixard.cli.session import Session
from blixard.cli.tree import BlixardCommand, LazyGroup, Row, command

LIVE_S = 0.1
KEPT_S = 5.0
MAX_NAMES = 500
Candidate = tuple[str, str]

_SCRIPTS = {
    "bash": """_blixard() {
  local IFS=$'\\n'
  COMPREPLY=($(blixard __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
}
complete -o default -F _blixard blixard
""",
    "zsh": """#compdef blixard
_blixard() {
  local -a found before
  before=("${words[@]:1:$((CURRENT-1))}")
  found=(${(f)"$(blixard __complete "${before[@]}" 2>/dev/null | sed 's/:/\\\\:/g; s/\\t/:/')"})
  _describe 'blixard' found || _files
}
compdef _blixard blixard
""",
    "fish": """function __blixard_complete
  set -l words (commandline -opc) (commandline -ct)
  blixard __complete $words[2..-1] 2>/dev/null
end
complete -c blixard -f -a '(__blixard_complete)'
""",
}

# Which names a verb's arguments are; top-level verbs take a kind first.
_KIND_OF = {
    "vm": "vm",
    "image": "image",
    "pool": "storagepool",
    "volume": "volume",
    "function": "function",
    "operation": "operation",
    "cluster": "node",
    "auth": "apikey",
}
_BY_KIND = ("get", "describe", "delete", "wait")
_NAMELESS = ("create", "deploy", "build", "list", "create-key", "list-keys", "add-node", "join")


@command(
    examples=(
        "blixard completion bash > /etc/bash_completion.d/blixard",
        "blixard completion zsh > ~/.zfunc/_blixard",
        "blixard completion fish > ~/.config/fish/completions/blixard.fish",
    )
)
@click.argument("shell", type=click.Choice(sorted(_SCRIPTS)), metavar="bash|zsh|fish")
def completion(session: Session, shell: str) -> None:
    """Print the completion script of a shell."""
    session.out.write(_SCRIPTS[shell])


class _Raw(BlixardCommand):
    """Takes every word as it is: flags too are words to complete."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params = {"words": tuple(args)}
        return []


def _answer(ctx: click.Context, /, words: tuple[str, ...]) -> None:
    root = ctx.find_root().command
    assert isinstance(root, LazyGroup)
    with Session(ctx.find_root().obj) as session:
        for name, text in candidates(session, root, words or ("",)):
            session.out.write(f"{name}\t{text}" if text else name)


answer = _Raw("__complete", callback=click.pass_context(_answer))


def candidates(session: Session, root: LazyGroup, words: tuple[str, ...]) -> list[Candidate]:
    """Return what the last of *words* can become, with a description each."""
    *before, last = words
    command_now, path, rest = _walk(root, before)
    if last.startswith("-"):
        found: Iterable[Candidate] = _flags(root, command_now)
    elif isinstance(command_now, LazyGroup):
        found = _verbs(command_now)
    elif before and before[-1] == "--target-node":
        found = [(name, "") for name in live_names(session, kind_named("node"))]
    else:
        found = _arguments(session, path, rest, last)
    return [c for c in found if c[0].startswith(last)][:MAX_NAMES]


def _walk(root: LazyGroup, before: list[str]) -> tuple[click.Command, list[str], list[str]]:
    """Return the command that the words lead to, its path, and the words left over."""
    here: click.Command = root
    path: list[str] = []
    words = [w for w in before if not w.startswith("-")]
    while words and isinstance(here, LazyGroup):
        name = here.aliases.get(words[0], words[0])
        row = here.rows.get(name)
        if row is None:
            break
        path.append(name)
        words = words[1:]
        loaded = here.get_command(click.Context(here), name) if isinstance(row, Row) else row
        assert loaded is not None
        here = loaded
    return here, path, words


def _verbs(group: LazyGroup) -> list[Candidate]:
    return [
        (name, row.text if isinstance(row, Row) else row.help or "")
        for name, row in group.rows.items()
        if not (isinstance(row, Row) and row.hidden)
    ]


def _flags(root: LazyGroup, now: click.Command) -> list[Candidate]:
    ctx = click.Context(now, parent=click.Context(root))
    return [
        (spelling, param.help or "")
        for param in now.get_params(ctx)
        if isinstance(param, click.Option) and not param.hidden
        for spelling in param.opts
        if spelling.startswith("--")
    ]


def _arguments(
    session: Session, path: list[str], rest: list[str], last: str
) -> Iterable[Candidate]:
    noun, verb = path[0], path[-1]
    if noun in _BY_KIND:
        return _kind_or_name(session, rest, last)
    if noun == "explain":
        return [(code, info.cause) for code, info in sorted(CODES.items())]
    if noun == "context" and verb == "use":
        from blixard.cli.contexts_file import read_contexts

        return [(name, "") for name in sorted(read_contexts(session.flags.environ).entries)]
    if noun == "completion":
        return [(shell, "") for shell in sorted(_SCRIPTS)]
    noun = next((word for word in reversed(path[:-1]) if word in _KIND_OF), "")
    if not noun or verb in _NAMELESS:
        return []
    if (noun, verb) == ("vm", "migrate"):
        return [(name, "") for name in live_names(session, kind_named("instance"))]
    names = live_names(session, kind_named(_KIND_OF[noun]))
    if noun == "vm" and verb in ("logs", "console", "exec"):
        names += live_names(session, kind_named("instance"))
    return [(name, "") for name in names]


def _kind_or_name(session: Session, rest: list[str], last: str) -> list[Candidate]:
    try:
        if rest:
            return [
                (name, "") for name in live_names(session, kind_named(rest[0].partition("/")[0]))
            ]
        if "/" in last:
            kind = last.partition("/")[0]
            return [(f"{kind}/{name}", "") for name in live_names(session, kind_named(kind))]
    except BlixardError:
        return []
    return [(kind.plural, "") for kind in KINDS]


def live_names(session: Session, kind: Kind) -> list[str]:
    """Return the names of a kind as the cluster has them; nothing if it does not answer in time."""
    path = _cache_path(session, kind)
    kept = _kept(path)
    if kept is not None:
        return kept
    session.flags.given["timeout"] = f"{int(LIVE_S * 1000)}ms"
    try:
        with _within(LIVE_S):
            names = [name_of(resource) for resource in session.list(kind)[0]]
    except (BlixardError, OSError):
        # A completion that cannot be answered is empty: the shell offers files instead.
        return []
    _keep(path, names)
    return names


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after *seconds*, also out of a connect that hangs."""

    def over(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _cache_path(session: Session, kind: Kind) -> str:
    environ = session.flags.environ
    base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", "/root"), ".cache")
    target = "|".join(session.flags.text(n) for n in ("address", "context", "namespace"))
    import zlib

    return os.path.join(
        base, "blixard", f"names-{zlib.crc32(target.encode()):08x}-{kind.plural}.json"
    )


def _kept(path: str) -> list[str] | None:
    try:
        if time.time() - os.stat(path).st_mtime > KEPT_S:
            return None
        with open(path, encoding="utf-8") as file:
            return [str(name) for name in json.load(file)]
    except (OSError, ValueError):
        return None


def _keep(path: str, names: list[str]) -> None:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
            json.dump(names, file)
        os.replace(f"{path}.{os.getpid()}", path)
    except OSError:
        return
