"""Looks for one planted bug: seed after seed, until an oracle objects."""

import time
from contextlib import nullcontext

import msgspec
from tests.simulation.biases import BIASES, SCOPES, explore

ACCIDENTS = ("crash", "error", "fatal")  # exceptions and assertions: not the word of an oracle


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: ``oracle`` is empty if the bug survived."""

    name: str
    oracle: str = ""
    text: str = ""
    seeds: int = 0
    accidents: int = 0
    seconds: float = 0.0


def oracle_of(violations):
    """Return (oracle, what it said) of the first word of an oracle; two empty texts without."""
    for text in violations:
        name = text.split(" at ", 1)[0]
        if name.split(":", 1)[0] not in ACCIDENTS:
            return name, text
    return "", ""


def hunt(name, bias, plant=nullcontext, *, seeds, told=lambda _seed, _said: None):
    """Run seeds 1, 2, 3 ... of a bias with a bug planted."""
    began, accidents = time.process_time(), 0
    for seed in range(1, seeds + 1):
        with plant():
            report = BIASES[bias](seed)
        oracle, text = oracle_of(report.violations)
        accidents += bool(report.violations) and not oracle
        told(seed, report.violations)
        if oracle:
            break
    return Found(
        name=name, oracle=oracle, text=text, seeds=seed, accidents=accidents,
        seconds=round(time.process_time() - began, 2),
    )  # fmt: skip


def explored(mutant):
    """Walk through all orders of events of a small model until one breaks a promise."""
    began = time.process_time()
    scope = mutant.bias.removeprefix("model: ")
    result = explore(SCOPES[scope], mutant.explored)
    oracle = "explored model" if result.wrong else ""
    return Found(
        name=mutant.name, oracle=oracle, text=result.wrong, seeds=1,
        seconds=round(time.process_time() - began, 2),
    )  # fmt: skip
