"""The lease arithmetic: what a leader and a node may believe."""

from hypothesis import given
from hypothesis import strategies as st

from blixard.cluster.leases import LeaderLeases, LeaseConfig, NodeLease

CONFIG = LeaseConfig()


def test_a_new_leader_waits_the_whole_time_for_everybody():
    leases = LeaderLeases(CONFIG, elected_at_s=100.0)
    assert not leases.is_lost("a", 100.0 + CONFIG.lost_after_s - 0.001)
    assert leases.is_lost("a", 100.0 + CONFIG.lost_after_s)


def test_an_acknowledgement_starts_the_wait_anew():
    leases = LeaderLeases(CONFIG, elected_at_s=0.0)
    assert leases.acknowledge("a", 5.0)
    assert not leases.is_lost("a", CONFIG.lost_after_s + 1)
    assert leases.is_lost("a", 5.0 + CONFIG.lost_after_s)


def test_a_node_being_fenced_gets_no_lease():
    leases = LeaderLeases(CONFIG, elected_at_s=0.0)
    leases.begin_fencing("a")
    assert not leases.acknowledge("a", 1.0)
    leases.fencing_answered("a", "")
    assert leases.acknowledge("a", 1.0)


def test_a_leader_that_was_paused_waits_again():
    leases = LeaderLeases(CONFIG, elected_at_s=0.0)
    leases.acknowledge("a", 1.0)
    leases.look(1.0)
    leases.look(30.0)
    assert not leases.is_lost("a", 30.0)
    assert leases.is_lost("a", 30.0 + CONFIG.lost_after_s)


def test_a_late_answer_of_an_old_epoch_is_nothing():
    lease = NodeLease(CONFIG)
    lease.granted(2, 10)
    end = lease.expires_ns
    lease.granted(1, 10**12)
    assert (lease.epoch, lease.expires_ns) == (2, end)


def test_a_new_epoch_never_inherits_the_old_end():
    lease = NodeLease(CONFIG)
    lease.granted(1, 10**12)
    lease.granted(2, 0)
    assert lease.expires_ns == int(CONFIG.lease_s * 1e9)


@given(
    sent_s=st.floats(0, 1000),
    travel_s=st.floats(0, 10),
    node_rate=st.floats(1 - CONFIG.drift, 1 + CONFIG.drift),
    leader_rate=st.floats(1 - CONFIG.drift, 1 + CONFIG.drift),
)
def test_a_lost_node_has_stopped_whatever_the_clocks_do(sent_s, travel_s, node_rate, leader_rate):
    # True time runs at rate 1; each clock at its own rate. The acknowledgement leaves the leader
    # travel_s after the heartbeat was sent.
    acknowledged_s = sent_s + travel_s
    lease_ends_s = sent_s + CONFIG.lease_s / node_rate
    declared_s = acknowledged_s + CONFIG.lost_after_s / leader_rate
    assert declared_s >= lease_ends_s + CONFIG.kill_s
