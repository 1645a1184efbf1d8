"""The command line's own list of kinds, held against the table of the cluster.

It has its own, since loading the real specs would take longer than a command may.
"""

from __future__ import annotations

from blixard.cli.kinds import KINDS
from blixard.cluster.kind import KindTable
from blixard.node.kinds import all_kinds


def test_command_line_knows_the_kinds_of_the_cluster() -> None:
    table = KindTable(all_kinds())
    assert {kind.name for kind in KINDS} == set(table.by_name)
    for kind in KINDS:
        real = table.by_name[kind.name]
        assert (kind.plural, kind.namespaced) == (real.plural, real.namespaced), kind.name
        assert {kind.lower, *kind.short} == {real.name.lower(), *real.short}, kind.name
