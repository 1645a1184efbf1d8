from math import inf

from blixard.functions.acts import End, Give, Refuse, Start
from blixard.functions.pool import WAITING_MAX
from blixard.functions.served import BACKOFF_FIRST_S
from blixard.functions.spec import FunctionDuties
from tests.unit.functions.duties import World, duty


def test_first_call_starts_an_instance():
    world = World(duty())
    ticket, acts = world.call()
    assert [type(act) for act in acts] == [Start]
    (given,) = world.start_all(acts)
    assert isinstance(given, Give)
    assert given.ticket == ticket


def test_next_call_gets_the_idle_instance():
    world = World(duty())
    uid = world.busy()
    world.pool.freed(uid, world.now_s)
    ticket, acts = world.call()
    assert [(act.ticket, act.instance.uid) for act in acts] == [(ticket, uid)]


def test_busy_instance_is_not_given_out():
    world = World(duty())
    first = world.busy()
    assert world.busy() != first


def test_worn_instance_is_ended_and_not_used():
    world = World(duty())
    uid = world.busy()
    world.pool.broken(uid)
    assert world.acts() == [End(uid)]
    world.pool.freed(uid, world.now_s)  # an answer that comes too late changes nothing
    _, acts = world.call()
    assert [type(act) for act in acts] == [Start]


def test_memory_counts_until_the_process_is_gone():
    world = World(duty(memory="512MiB"))
    one, other = world.busy(), world.busy()
    assert world.call()[1] == []
    world.pool.broken(one)
    assert world.acts() == [End(one)]
    assert world.pool.used_mib == 1024
    world.pool.gone(one)
    assert [type(act) for act in world.acts()] == [Start]
    assert world.pool.has(other)


def test_leftovers_hold_memory_and_are_ended():
    world = World(duty(memory="512MiB"))
    world.pool.leftover("old", 1024)
    assert world.acts() == [End("old")]
    assert world.call()[1] == []
    world.pool.gone("old")
    assert [type(act) for act in world.acts()] == [Start]


def test_share_of_instances_is_not_exceeded():
    world = World(duty(max_instances=2))
    world.busy()
    world.busy()
    ticket, acts = world.call()
    assert acts == []
    world.now_s += 11
    (refused,) = world.acts()
    assert isinstance(refused, Refuse)
    assert (refused.ticket, refused.code) == (ticket, "FUNCTION_THROTTLED")


def test_impatient_call_is_refused_at_once():
    world = World(duty(max_instances=1))
    world.busy()
    ticket, (refused,) = world.call(patient=False)
    assert (refused.ticket, refused.code) == (ticket, "FUNCTION_THROTTLED")


def test_too_many_waiting_calls_are_refused():
    world = World(duty(max_instances=1))
    world.busy()
    for _ in range(WAITING_MAX):
        assert world.call()[1] == []
    assert [act.code for act in world.call()[1]] == ["FUNCTION_THROTTLED"]


def test_idle_instance_ends_after_its_time():
    world = World(duty(idle_timeout="30s"))
    uid = world.busy()
    world.pool.freed(uid, world.now_s)
    assert world.acts() == []
    assert world.pool.next_s(world.now_s) == world.now_s + 30
    world.now_s += 30
    assert world.acts() == [End(uid)]


def test_warm_instances_are_started_and_kept():
    world = World(duty(min_warm=2, idle_timeout="1s"))
    acts = world.acts()
    assert [type(act) for act in acts] == [Start, Start]
    assert world.start_all(acts) == []
    world.now_s += 100
    assert world.acts() == []


def test_idle_instances_of_others_make_room():
    world = World(duty("f1", memory="1GiB"), duty("f2", memory="1GiB"))
    uid = world.busy("f1")
    world.pool.freed(uid, world.now_s)
    assert world.acts() == []
    assert world.call("f2")[1] == [End(uid)]
    world.pool.gone(uid)
    assert [type(act) for act in world.acts()] == [Start]


def test_new_code_replaces_idle_instances():
    world = World(duty())
    uid = world.busy()
    world.pool.freed(uid, world.now_s)
    newer = duty(generation=2, source="def handler(event, context):\n    return 2\n")
    world.assign(newer)
    assert world.acts() == []  # until the new one can be started, the old one serves
    assert not world.pool.is_ready_for("f1", 2)
    world.pool.prepared(newer)
    assert world.acts() == [End(uid)]
    assert world.pool.is_ready_for("f1", 2)


def test_new_limits_keep_instances():
    world = World(duty())
    uid = world.busy()
    world.pool.freed(uid, world.now_s)
    world.assign(duty(generation=2, timeout="5s", max_instances=3))
    assert world.acts() == []
    assert world.pool.is_ready_for("f1", 2)


def test_dropped_function_refuses_and_ends():
    world = World(duty(max_instances=1))
    uid = world.busy()
    ticket, _ = world.call()
    world.pool.assign(FunctionDuties(0, ()))
    (refused,) = world.acts()
    assert (refused.ticket, refused.code) == (ticket, "NOT_FOUND")
    world.pool.freed(uid, world.now_s)
    assert world.acts() == [End(uid)]
    world.pool.gone(uid)
    assert world.pool.figures(world.now_s) == []
    assert world.pool.used_mib == 0


def test_code_that_cannot_be_loaded_fails_waiting_calls():
    world = World(duty())
    ticket, (start,) = world.call()
    uid = start.instance.uid
    world.pool.start_failed(uid, "FUNCTION_LOAD_FAILED", "SyntaxError", world.now_s)
    acts = world.acts()
    assert Refuse(ticket, "FUNCTION_LOAD_FAILED", "SyntaxError") in acts
    assert End(uid) in acts


def test_start_that_fails_is_tried_again_later():
    world = World(duty())
    _, (start,) = world.call()
    world.pool.start_failed(start.instance.uid, "GUEST_START_FAILED", "no", world.now_s)
    assert world.acts() == [End(start.instance.uid)]
    again_s = world.pool.next_s(world.now_s)
    assert again_s is not None
    assert world.now_s < again_s < inf
    world.now_s = again_s
    assert [type(act) for act in world.acts()] == [Start]


def test_starts_that_fail_together_are_one_failure():
    world = World(duty(), memory_mib=4096)
    starts = [act for _ in range(8) for act in world.call()[1] if isinstance(act, Start)]
    for start in starts:
        world.pool.start_failed(start.instance.uid, "GUEST_START_FAILED", "no", world.now_s)
    world.acts()
    assert len(starts) == 8
    assert world.pool.next_s(world.now_s) == world.now_s + BACKOFF_FIRST_S


def test_nothing_starts_without_a_lease():
    world = World(duty(min_warm=1))
    assert world.pool.acts(world.now_s, may_start=False) == []
    assert [type(act) for act in world.acts()] == [Start]


def test_cancelled_call_gets_no_instance():
    world = World(duty())
    ticket, acts = world.call()
    world.pool.cancel("f1", ticket)
    assert world.start_all(acts) == []
    assert world.pool.figures(world.now_s)[0].idle == 1
