"""Planted bugs that an oracle finds in a few seeds; `make mutants` looks for all of them."""

import re
import runpy
from pathlib import Path

import pytest
from tests.simulation.biases import BIASES
from tests.simulation.hunting import hunt
from tests.simulation.planted import MUTANTS

from blixard.simulation.scenarios.table import BY_NAME

pytestmark = pytest.mark.simulation

SEEDS = 5
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "developer-guide" / "mutants.md"
QUICK = [mutant for mutant in MUTANTS if mutant.quick]
RULES = {f"b1.{n}" for n in range(1, 16)} | {f"a6.{n}" for n in (1, 2, 3, 4, 5, 7, 8)}


@pytest.mark.parametrize("mutant", QUICK, ids=lambda mutant: mutant.name)
def test_an_oracle_objects(mutant):
    assert not mutant.engine
    found = hunt(mutant.name, mutant.bias, mutant.plant, seeds=SEEDS)
    assert found.oracle
    assert mutant.says in found.text


# That a scenario of the table is clean without a bug is in test_scenarios.py.
@pytest.mark.parametrize("bias", sorted({mutant.bias for mutant in QUICK} - BY_NAME.keys()))
def test_without_a_bug_no_oracle_objects(bias):
    assert BIASES[bias](1).violations == ()


def test_every_rule_and_every_sentence_has_a_bug_or_a_reason():
    sentences = dict(
        re.findall(r"^\| ([LSMF]\d+) \| .* \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    )
    planted = {rule for mutant in MUTANTS for rule in mutant.rules}
    assert planted >= RULES
    assert planted - RULES <= set(sentences)
    assert not [name for name, said in sentences.items() if not said.strip("- ")]
    assert {name for name, said in sentences.items() if said == "planted"} <= planted


def test_names_are_unique():
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))


def test_a_page_keeps_the_rows_of_a_run_that_was_interrupted(tmp_path, monkeypatch):
    tool = runpy.run_path(str(ROOT / "tools" / "mutants.py"))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tool['BEGIN']}\n\n{tool['END']}\nafter\n")
    write = tool["write_page"]
    monkeypatch.setitem(write.__globals__, "PAGE", page)
    order = [{**tool["NOTHING"], "name": name, "bias": "small"} for name in ("one", "two", "three")]
    write({**order[1], "oracle": "votes", "seeds": 3, "seconds": 1.25}, order)
    write({**order[2], "seeds": 9}, order)
    rows = tool["table_of"](page.read_text())
    assert [rows[name].split("|")[5].strip() for name in rows] == ["not run", "votes", "**none**"]
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")
