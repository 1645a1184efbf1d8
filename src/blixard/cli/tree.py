"""The lazy command tree: a noun's verbs are a table, and a verb's module is imported when it runs.

``--help`` of the program and of a noun imports no command. Global flags are accepted anywhere.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import click

from blixard.cli import flags as global_flags

F = TypeVar("F", bound=Callable[..., Any])
EXIT_CODES = (
    "0 done, 1 failed, 2 usage, 3 not found, 4 not permitted, 5 conflict, 6 not placeable, "
    "7 timed out, 8 unreachable, 10 differences found, 130 interrupted"
)
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class Row(NamedTuple):
    """A command of the table: ``module:attribute``, its line in the help, its noun's section."""

    target: str
    text: str
    hidden: bool = False


def _help_width() -> int:
    import shutil

    return min(shutil.get_terminal_size((100, 24)).columns, 120)


def _broken(example: str, width: int) -> list[str]:
    """Return a command line in pieces that a shell reads as one, broken before flags."""
    lines = []
    while len(example) > width:
        breaks = [
            at
            for at in range(5, width)
            if example.startswith(" -", at) and not example[:at].count("'") % 2
        ]
        if not breaks:
            break
        lines.append(example[: breaks[-1]] + " \\")
        example = "    " + example[breaks[-1] + 1 :]
    return [*lines, example]


class _Context(click.Context):
    """A context whose help is as wide as the terminal (at most 120)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_content_width = self.terminal_width = _help_width()


class _Shared(click.Command):
    """What commands and groups share: global flags, and a help that starts with examples."""

    context_class = _Context
    examples: tuple[str, ...] = ()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = super().get_params(ctx)
        taken = {spelling for param in own for spelling in param.opts}
        return [*own, *(o for o in global_flags.options() if not taken & set(o.opts))]

    def own_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters that are not global."""
        return super().get_params(ctx)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        pieces = [piece for param in self.own_params(ctx) for piece in param.get_usage_pieces(ctx)]
        formatter.write_usage(ctx.command_path, " ".join([*pieces, "[FLAGS]"]))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self._write_examples(formatter)
        options = [p for p in self.own_params(ctx) if isinstance(p, click.Option)]
        records = [r for p in options if (r := p.get_help_record(ctx)) is not None]
        if records:
            with formatter.section("Flags"):
                formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        self._write_global(ctx, formatter)

    def _write_examples(self, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                indent = " " * formatter.current_indent
                for example in self.examples:
                    for line in _broken(example, formatter.width - len(indent) - 2):
                        formatter.write(f"{indent}{line}\n")

    def _write_global(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if ctx.parent is None:
            records = [r for o in global_flags.options() if (r := o.get_help_record(ctx))]
            with formatter.section("Global flags (each also as BLIXARD_NAME in the environment)"):
                formatter.write_dl(records)
        else:
            formatter.write_paragraph()
            formatter.write_text("Global flags such as --format and --namespace: blixard --help")
        formatter.write_paragraph()
        formatter.write_text(f"Exit codes: {EXIT_CODES}")


class BlixardCommand(_Shared):
    """A verb."""


class LazyGroup(_Shared, click.Group):
    """A noun whose verbs are rows of a table."""

    def __init__(
        self,
        name: str,
        rows: Mapping[str, Row | LazyGroup],
        *,
        aliases: Mapping[str, str] | None = None,
        text: str = "",
        examples: tuple[str, ...] = (),
        sections: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(
            name,
            help=text,
            context_settings=dict(HELP_NAMES),
            no_args_is_help=True,
            subcommand_metavar="COMMAND",
        )
        self.rows = rows
        self.aliases = aliases or {}
        self.examples = examples
        self.sections = sections or {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it
        """Return the verbs that the help shows."""
        return [n for n, r in self.rows.items() if not (isinstance(r, Row) and r.hidden)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the verb of any spelling, imported now; None if there is none."""
        row = self.rows.get(self.aliases.get(cmd_name, cmd_name))
        if row is None or isinstance(row, LazyGroup):
            return row
        return _load(row.target)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb that the words begin with. Raises UsageError with the nearest one."""
        name = str(args[0])
        command = self.get_command(ctx, name)
        if command is None:
            raise click.UsageError(
                f"{ctx.command_path} has no command {name!r}{suggestion(name, self.rows)}", ctx
            )
        return self.aliases.get(name, name), command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs from the table: none is imported for it."""
        listed = self.list_commands(ctx)
        sections = self.sections or {"Commands": tuple(listed)}
        for title, names in sections.items():
            with formatter.section(title):
                formatter.write_dl([(n, self._line(n)) for n in names if n in listed])

    def _line(self, name: str) -> str:
        row = self.rows[name]
        return row.text if isinstance(row, Row) else (row.help or "")


def _load(target: str) -> click.Command:
    import importlib

    module, _, attribute = target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, click.Command), target
    return found


def suggestion(name: str, names: Mapping[str, Any] | list[str]) -> str:
    """Return ``; did you mean 'x'?`` or nothing."""
    import difflib

    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def command(
    *, examples: tuple[str, ...], passthrough: bool = False
) -> Callable[[Callable[..., Any]], BlixardCommand]:
    """Make a verb of a function whose first parameter is the session.

    *passthrough*: everything after the first argument belongs to the last one, flags included.
    """

    def decorate(function: Callable[..., Any]) -> BlixardCommand:
        settings: dict[str, Any] = dict(HELP_NAMES)
        if passthrough:
            settings["allow_interspersed_args"] = False
        made = click.command(cls=BlixardCommand, context_settings=settings)(_with_session(function))
        made.examples = examples
        return made

    return decorate


def lacking(**features: str) -> Callable[[F], F]:
    """Accept flags of features that this version lacks, unseen in the help, and refuse their use.

    *features*: what the user wants with a flag, by the flag's name. The command raises
    BlixardError FEATURE_ABSENT.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def checked(session: Any, /, **options: Any) -> Any:
            for name, feature in features.items():
                if options.pop(name) is not None:
                    from blixard.base.errors import BlixardError

                    raise BlixardError(
                        "FEATURE_ABSENT",
                        f"--{name.replace('_', '-')} needs {feature}, which this version lacks",
                    )
            return function(session, **options)

        for name in features:
            click.option(f"--{name.replace('_', '-')}", name, hidden=True)(checked)
        return cast("F", checked)

    return decorate


def _with_session(function: Callable[..., Any]) -> Callable[..., Any]:
    @click.pass_context
    def call(ctx: click.Context, /, **arguments: Any) -> Any:
        from blixard.cli.session import Session

        with Session(ctx.find_root().obj) as session:
            return function(session, **arguments)

    call.__doc__ = function.__doc__
    call.__name__ = function.__name__
    # click keeps the options of decorators that ran before in this attribute.
    call.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    return call


def run(
    root: LazyGroup,
    arguments: list[str],
    environ: Mapping[str, str],
    *,
    api: Any = None,
    now_ms: int = 0,
    outside: Any = None,
) -> int:
    """Run one command line and return the exit code; every error is printed here."""
    flags = global_flags.Flags(environ, api=api, now_ms=now_ms, outside=outside)
    try:
        with root.make_context(root.name, list(arguments), obj=flags) as ctx:
            code = root.invoke(ctx)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except BaseException as error:
        from blixard.cli.failure import report

        return report(error, flags)


def _silence_stdout() -> None:
    import os

    # The interpreter flushes at exit and would complain about the closed pipe once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
