"""Going on as root: what an ordinary user started keeps its signals, its files and its caches.

Nobody may signal what runs as root for him. The process that the user started therefore stays, and
passes signals on as bytes on the standard input of the one that runs as root.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import blixard
from blixard.base.errors import BlixardError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RELAYED = "BLIXARD_DEV_SIGNALS"
KEPT = ("HOME", "XDG_CONFIG_HOME", "BLIXARD_CONTEXTS", "BLIXARD_DEV_DIR", "NO_COLOR", RELAYED)


class Interrupted(KeyboardInterrupt):
    """A signal came that asks for an end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def as_root() -> None:
    """Go on as root, through sudo if need be; then this process ends with the other's code.

    Raises:
        BlixardError: FORBIDDEN, without sudo.
    """
    if os.geteuid() == 0:
        if os.environ.pop(RELAYED, ""):
            threading.Thread(target=_take_signals, name="signals", daemon=True).start()
        return
    sudo = shutil.which("sudo")
    if sudo is None:
        raise BlixardError(
            "FORBIDDEN", "network namespaces need root, and there is no sudo", hint="run it as root"
        )
    # Root leaves no compiled modules in the user's tree, and should not wait for them each time.
    with contextlib.suppress(OSError):
        for folder in blixard.__path__:
            compileall.compile_dir(folder, quiet=2)
    os.environ[RELAYED] = "1"
    keep = f"--preserve-env={','.join(name for name in KEPT if name in os.environ)}"
    sys.stdout.flush()
    argv = [sudo, keep, sys.executable, "-B", "-m", "blixard.app.main", *sys.argv[1:]]
    sys.exit(_relay(argv))


def _relay(argv: list[str]) -> int:
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        pipe = process.stdin.fileno()

        def pass_on(number: int, _frame: FrameType | None) -> None:
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe, bytes((number,)))

        for number in SIGNALS:
            signal.signal(number, pass_on)
        code = process.wait()
    return code if code >= 0 else 128 - code


def _take_signals() -> None:
    """Send ourselves what comes on standard input; its end is the end of who started us."""
    while data := os.read(0, 1):
        os.kill(os.getpid(), data[0])
    os.kill(os.getpid(), signal.SIGHUP)


def raise_signals() -> None:
    """Let the first signal raise Interrupted, and no other disturb what is done about it."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        ignore_signals()
        raise Interrupted(number)

    for number in SIGNALS:
        signal.signal(number, interrupt)


def ignore_signals() -> None:
    """Let nothing disturb the end; programs that are started from here on inherit it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def user() -> pwd.struct_passwd | None:
    """Return who called sudo; None if nobody did."""
    number = os.environ.get("SUDO_UID", "")
    with contextlib.suppress(KeyError):
        if number.isdigit() and int(number) and os.geteuid() == 0:
            return pwd.getpwuid(int(number))
    return None


@contextlib.contextmanager
def as_user() -> Iterator[None]:
    """Act on files as who called sudo: what is made is his, and no link of his leads further."""
    caller = user()
    if caller is None:
        yield
        return
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(caller.pw_name, caller.pw_gid))
    os.setegid(caller.pw_gid)
    os.seteuid(caller.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def without_traces(environ: dict[str, str]) -> dict[str, str]:
    """Return an environment in which Python writes nothing into a user's tree."""
    owner = pathlib.Path(blixard.__path__[0]).stat().st_uid
    return environ if owner == os.geteuid() else {**environ, "PYTHONDONTWRITEBYTECODE": "1"}
