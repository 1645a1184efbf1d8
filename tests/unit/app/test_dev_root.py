"""Signals reach what runs as another user, and what root makes for a user is the user's."""

import os
import pwd
import signal
import subprocess
import sys

import pytest

from blixard.app import dev_root

_ROOT = """
import signal, threading
from blixard.app import dev_root
dev_root.raise_signals()
threading.Thread(target=dev_root._take_signals, daemon=True).start()
try:
    print("ready", flush=True)
    signal.pause()
except dev_root.Interrupted as error:
    signal.raise_signal(signal.SIGTERM)
    print("removed", flush=True)
    raise SystemExit(error.exit_code)
"""
_USER = """
import sys
from blixard.app import dev_root
sys.exit(dev_root._relay([sys.executable, "-c", sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_signals_of_the_user_end_what_runs_as_root(number, code):
    argv = [sys.executable, "-c", _USER, _ROOT]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        # Also when nobody is left to pass a signal on, the cluster is removed, and undisturbed.
        assert process.stdout.read() == "removed\n"
    assert process.returncode == code


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_makes_for_a_user_is_the_users(tmp_path, monkeypatch):
    nobody = pwd.getpwnam("nobody")
    os.chown(tmp_path, nobody.pw_uid, nobody.pw_gid)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUDO_UID", str(nobody.pw_uid))
    with dev_root.as_user():
        os.makedirs("a/b")
    made = os.stat("a/b")
    assert (made.st_uid, made.st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert os.geteuid() == 0
