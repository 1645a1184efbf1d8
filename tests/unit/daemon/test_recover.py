"""When a node must not go on alone."""

import pytest
from msgspec.structs import replace

from blixard.base.config import parse_config
from blixard.base.errors import BlixardError
from blixard.daemon.bootstrap import init_cluster
from blixard.daemon.files import NodeFiles
from blixard.daemon.recover import (
    MemberFound,
    Position,
    carry_out,
    check_not_recovering,
    plan_recovery,
    refusals,
)


def member(name, *, voter=True, own=False, answers=False, last_index=0):
    return MemberFound(
        uid=name, name=name, address="h:1", voter=voter, own=own, answers=answers,
        last_index=last_index,
    )  # fmt: skip


OWN = member("a", own=True)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ([member("b"), member("c")], ""),
        ([member("b", answers=True), member("c")], "a majority of the 3 voters is there (b"),
        ([member("b", answers=True, voter=False), member("c"), member("d")], ""),
        ([], "a majority of the 1 voters is there (no other"),
        ([member("b")], ""),  # one of two is no majority
        (
            [member(n) for n in "bcd"] + [member("e", answers=True, last_index=90)],
            "e answers and has a longer log",
        ),
        ([member(n) for n in "bcd"] + [member("e", answers=True, last_index=80)], ""),
    ],
)
def test_recovery_is_refused_while_a_majority_can_be_had(others, says) -> None:
    found = " ".join(refusals((7, 80), (OWN, *others), ()))
    assert (says in found) if says else not found


@pytest.mark.parametrize(
    ("term", "index", "longer"), [(7, 80, False), (7, 81, True), (8, 3, True), (6, 200, False)]
)
def test_recovery_is_refused_where_another_log_is_longer(term, index, longer) -> None:
    other = Position(where="/mnt/b", last_term=term, last_index=index)
    assert bool(refusals((7, 80), (OWN, member("b"), member("c")), (other,))) is longer


def made(tmp_path) -> str:
    """Make a cluster of one node on real files; return its data directory."""
    config = parse_config("", name="defaults.toml", environ={}).config
    cluster = replace(
        config.cluster, data_dir=str(tmp_path / "n1"), node_id="n1", address="127.0.0.1"
    )
    init_cluster(replace(config, cluster=cluster))
    return cluster.data_dir


def test_interrupted_recovery_is_repeated_and_nothing_starts_before(tmp_path, monkeypatch) -> None:
    data_dir = made(tmp_path)
    files = NodeFiles(data_dir)
    old = files.load().node.cluster_id

    def power_cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("blixard.daemon.recover._new_authority", power_cut)
        with pytest.raises(KeyboardInterrupt):
            carry_out(data_dir)
    with pytest.raises(BlixardError) as caught:
        check_not_recovering(data_dir)
    assert "cluster recover" in caught.value.hint

    new = carry_out(data_dir)
    check_not_recovering(data_dir)
    plan = plan_recovery(data_dir, ())
    assert files.load().node.cluster_id == plan.cluster_id == new != old
    assert (tmp_path / "n1" / f"raft.of-{old.lower()}" / "identity").exists()
    assert "start the daemon here" in plan.refusals[0]
