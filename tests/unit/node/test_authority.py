"""What a node believes of its lease and its duties."""

from blixard.cluster.leases import LeaderLeases, LeaseConfig
from blixard.node.authority import NodeAuthority

SECOND_NS = 1_000_000_000


def renew(authority: NodeAuthority, at_s: int) -> str:
    return authority.heartbeat_answered(
        granted=True, epoch=1, asked_epoch=1, sent_ns=at_s * SECOND_NS, now_ns=at_s * SECOND_NS
    )


def believing() -> NodeAuthority:
    authority = NodeAuthority(LeaseConfig(lease_s=4.0))
    authority.enter_epoch(1)
    renew(authority, 10)
    authority.view_asked()
    authority.view_read(1, 10 * SECOND_NS)
    return authority


def test_a_lapse_that_nobody_saw_is_noted_with_the_next_grant():
    authority = believing()
    assert authority.granted(11 * SECOND_NS)
    assert renew(authority, 20) == "renewed"
    assert not authority.granted(20 * SECOND_NS)


def test_a_view_asked_for_before_the_lapse_is_not_believed():
    authority = believing()
    authority.view_asked()
    renew(authority, 20)
    assert not authority.view_read(1, 20 * SECOND_NS)
    authority.view_asked()
    assert authority.view_read(1, 20 * SECOND_NS)


def test_an_attempt_that_was_not_taken_leaves_the_doubt_of_an_earlier_one():
    leases = LeaderLeases(LeaseConfig(), 0.0)
    leases.begin_fencing("a")
    leases.fencing_answered("a", "OUTCOME_UNKNOWN")
    leases.begin_fencing("a")
    leases.fencing_answered("a", "OVERLOADED")
    assert not leases.acknowledge("a", 1.0)
    leases.fencing_answered("a", "CONFLICT")
    assert leases.acknowledge("a", 1.0)


def test_an_attempt_that_was_not_taken_ends_by_itself():
    leases = LeaderLeases(LeaseConfig(), 0.0)
    leases.begin_fencing("a")
    leases.fencing_answered("a", "NO_QUORUM")
    assert leases.acknowledge("a", 1.0)
