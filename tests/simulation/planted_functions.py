"""Planted bugs of functions: each leaves out a step of the path of a call."""

import msgspec
from tests.simulation.mutants import patched
from tests.simulation.planted_raft import all_of

from blixard.functions import shares
from blixard.functions.acts import Instance
from blixard.functions.loops import FunctionNode
from blixard.functions.pool import NodePool
from blixard.node.functions import FunctionGateway


def answers_of_the_call_before():
    """A gateway mixes up two answers."""
    route = FunctionGateway.route
    before = []

    async def mixed_up(gateway, request):
        before.append(await route(gateway, request))
        return before[-2] if len(before) > 1 else before[-1]

    return patched(FunctionGateway, "route", mixed_up)


def busy_instances_are_given_out():
    """An instance that is given to a call stays among the idle ones."""
    serve = NodePool._serve

    def twice(pool, function, now_s, *, may_start):
        waiting, idle = len(function.waiting), list(function.idle)
        serve(pool, function, now_s, may_start=may_start)
        if waiting and idle:
            function.idle.append(idle[-1])

    return patched(NodePool, "_serve", twice)


def every_node_has_the_whole_limit():
    """The limit of a function counts per node."""
    return patched(shares, "share", lambda total, _nodes, _place: total)


def worn_instances_are_used_again():
    """A handler that ran out of time counts as one that answered."""
    return patched(FunctionNode, "reusable", lambda _node, _status: True)


def leftovers_are_taken_for_idle():
    """A restarted daemon takes the guests that it finds for its own."""
    begin, prepared = FunctionNode.begin, NodePool.prepared
    found = {}

    def keep(node, processes):
        mine = [p for p in processes if p.plan.purpose == "function" and p.state == "running"]
        found[id(node.pool)] = mine
        begin(node, [p for p in processes if p not in mine])

    def adopt(pool, duty):
        prepared(pool, duty)
        function = pool._functions[duty.uid]
        for process in found.pop(id(pool), ()):
            if process.plan.name.rpartition("-")[0] != duty.name:
                found.setdefault(id(pool), []).append(process)
                continue
            instance = Instance(process.instance_uid, duty, "idle", 1e9)
            function.alive[instance.uid] = instance
            function.idle.append(instance)
            pool._of[instance.uid] = function
            pool._used_mib += duty.memory_mib

    return all_of(patched(FunctionNode, "begin", keep), patched(NodePool, "prepared", adopt))


def memory_of_ending_guests_counts_as_free():
    """Memory is given out again as soon as its guest is told to end."""
    end = NodePool._end

    def at_once(pool, instance):
        end(pool, instance)
        pool._used_mib -= instance.duty.memory_mib
        instance.duty = msgspec.structs.replace(instance.duty, memory_mib=0)

    return patched(NodePool, "_end", at_once)


def lost_calls_are_repeated():
    """A call of which nobody knows whether it ran is sent to another node."""
    run_at = FunctionGateway._run_at

    async def again(gateway, node, request):
        try:
            return await run_at(gateway, node, request)
        except Exception as error:
            if getattr(error, "code", "") == "OUTCOME_UNKNOWN":
                error.details["refused"] = True
            raise

    return patched(FunctionGateway, "_run_at", again)


def calls_wait_for_ever():
    """A call that waits is not told that there is no room for it."""
    return patched(NodePool, "_expire", lambda _pool, _function, _now_s: None)
