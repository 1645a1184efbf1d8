"""What the documents say that can be checked: commands, manifests, links."""

from __future__ import annotations

import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(p for p in ROOT.glob("*.md") if p.name[0].isupper())]
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
_INLINE = re.compile(r"`(blixard [^`]+)`")
_MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line that it begins at."""

    language: str
    text: str
    line: int


def shown(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: pathlib.Path, *languages: str) -> list[Block]:
    text = path.read_text()
    found = [Block(m[1], m[2], text[: m.start()].count("\n") + 1) for m in _FENCE.finditer(text)]
    return [block for block in found if block.language in languages]


def transcript(path: pathlib.Path) -> list[str]:
    """Return the command lines of the ``console`` blocks: they are run in this order."""
    lines = [line for block in blocks(path, "console") for line in block.text.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def command_lines(path: pathlib.Path) -> list[str]:
    """Return every ``blixard`` command line, of blocks and of the text."""
    lines = transcript(path)
    for block in blocks(path, "sh", ""):
        lines += [line.strip() for line in block.text.splitlines()]
    text = path.read_text()
    lines += [line.strip() for line in text.splitlines() if line.startswith("    blixard ")]
    lines += [" ".join(found.split()) for found in _INLINE.findall(text)]
    return [words(line) for line in lines if line.startswith("blixard ")]


def words(line: str) -> str:
    """Return a line without the comment at its end, with a number where it says N."""
    return shlex.join("1" if w == "N" else w for w in shlex.split(line, comments=True))


def make_targets(path: pathlib.Path) -> list[str]:
    text = path.read_text()
    return _MAKE.findall("\n".join(re.findall(r"`[^`]*`|^(?: {4}).*$", text, re.MULTILINE)))


def links(path: pathlib.Path) -> list[str]:
    return [target for target in _LINK.findall(path.read_text()) if "://" not in target]
