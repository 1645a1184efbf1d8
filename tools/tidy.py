"""The numbers of STYLE.md and the banned calls, checked over the tree; prints what to use instead.

Exit code 1 when a hard limit is broken; medians are printed for the reader.
"""

from __future__ import annotations

import ast
import pathlib
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "blixard"
FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
POSITIONAL_MAX = 5

# Code that the simulator runs: the outside comes through the ports.
SIMULATED = ("consensus", "cluster", "placement", "vms", "functions", "node")
# Files inside those packages that hold decisions only.
BANNED = {
    "time.time": "env.wall_time_ms()",
    "time.monotonic": "asyncio.get_running_loop().time()",
    "time.time_ns": "env.wall_time_ms()",
    "datetime.now": "env.wall_time_ms()",
    "random.random": "env.random",
    "random.randint": "env.random",
    "uuid.uuid4": "env.new_id()",
    "secrets.token_hex": "env.random or security/",
    "asyncio.create_task": "env.spawn(...)",
    "asyncio.ensure_future": "env.spawn(...)",
    "asyncio.wait": "a list of tasks awaited in order: its result is a set",
    "subprocess.run": "an adapter",
    "os.urandom": "env.random",
    "hash": "hashlib.blake2b: hash() of text differs between processes",
    "print": "env.log(...)",
    "open": "env.disk",
}
EVERYWHERE = {
    "ssl.create_default_context": "security/tls.py",
    "yaml.load": "base/yaml.py",
    "yaml.safe_load": "base/yaml.py",
    "os.system": "an argument list",
}
WORDS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return ""


def _calls(tree: ast.AST, banned: dict[str, str]) -> list[tuple[int, str, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _name(node.func)
            if name in banned:
                found.append((node.lineno, name, banned[name]))
    return found


def _broad(tree: ast.AST) -> list[int]:
    """Return lines of broad handlers that neither log, nor raise, nor hand the error on."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        names = ast.unparse(node.type) if node.type else ""
        if names in ("", "Exception", "BaseException") and all(
            isinstance(statement, ast.Pass | ast.Continue) for statement in node.body
        ):
            found.append(node.lineno)
    return found


def _functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def check_file(path: pathlib.Path, problems: list[str]) -> tuple[int, list[int], int, int]:
    """Return lines, function lengths, public names and how many of them have a docstring."""
    text = path.read_text()
    tree = ast.parse(text)
    shown = path.relative_to(ROOT)
    lines = text.count("\n")
    if lines > FILE_LINES_MAX:
        problems.append(f"{shown}: {lines} lines, at most {FILE_LINES_MAX}: split it by concern")
    for number, line in enumerate(text.splitlines(), 1):
        if WORDS.search(line):
            problems.append(f"{shown}:{number}: finish it, or say it in the docs")
    lengths = []
    for function in _functions(tree):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        lengths.append(length)
        if length > FUNCTION_LINES_MAX:
            problems.append(
                f"{shown}:{function.lineno}: {function.name} has {length} lines, "
                f"at most {FUNCTION_LINES_MAX}: name its parts"
            )
        positional = [a for a in function.args.args if a.arg not in ("self", "cls")]
        if len(positional) > POSITIONAL_MAX + 1:
            problems.append(
                f"{shown}:{function.lineno}: {function.name} takes {len(positional)} positional "
                "parameters: make them keyword-only"
            )
    package = path.relative_to(SOURCE).parts[0] if path.is_relative_to(SOURCE) else ""
    everywhere = EVERYWHERE if package else {}  # a bench speaks to others, with contexts of its own
    banned = {**everywhere, **(BANNED if package in SIMULATED else {})}
    if shown.name in ("yaml.py", "tls.py"):
        banned = {k: v for k, v in banned.items() if shown.name not in v}
    for line, name, instead in _calls(tree, banned):
        problems.append(f"{shown}:{line}: {name} is banned here; use {instead}")
    problems.extend(f"{shown}:{line}: a broad handler swallows the error" for line in _broad(tree))
    public = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not n.name.startswith("_")
    ]
    documented = sum(1 for n in public if ast.get_docstring(n))
    return lines, lengths, len(public), documented


def _tracked() -> list[pathlib.Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, text=True
    ).stdout.split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def check_repository(problems: list[str]) -> None:
    """Refuse large files, absolute paths of a machine and registry hosts."""
    hosts = re.compile(r"(pypi\.org|files\.pythonhosted|registry\.npmjs|deb\.debian\.org)")
    # /root/dev and the like stand inside a guest: the place where its real root is mounted.
    machine = re.compile(
        r"(?<![\w.])/(root(?!/(?:(?:dev|proc|sys|usr|run|tmp)\b|\{))|work|home/[a-z]+)/"
    )
    for path in _tracked():
        shown = path.relative_to(ROOT)
        if path.stat().st_size > 600_000:
            problems.append(f"{shown}: {path.stat().st_size} bytes: generated bulk stays out")
            continue
        text = path.read_text(errors="replace")
        if path.name not in ("Cargo.lock", "tidy.py"):
            if hosts.search(text):
                problems.append(f"{shown}: names a registry's host")
            if machine.search(text):
                problems.append(f"{shown}: holds an absolute path of a machine")


def main() -> int:
    """Check everything; print problems, then the shape of the source."""
    problems: list[str] = []
    sizes, lengths, public, documented = [], [], 0, 0
    for path in sorted([*SOURCE.rglob("*.py"), *(ROOT / "bench").rglob("*.py")]):
        lines, own, names, with_doc = check_file(path, problems)
        if path.is_relative_to(SOURCE) and lines > 2:
            sizes.append(lines)
            lengths += own
            public, documented = public + names, documented + with_doc
    check_repository(problems)
    for problem in problems:
        print(problem)
    if sizes:
        print(
            f"{len(sizes)} files, median {statistics.median(sizes):.0f} lines; {len(lengths)} "
            f"functions, median {statistics.median(lengths):.0f} lines; "
            f"{100 * documented / max(1, public):.0f} % of public names documented"
        )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
