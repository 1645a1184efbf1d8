"""Which node serves which function, and how much of its limits; pure.

A call commits nothing and asks nobody, so the limits of a function are dealt out beforehand: the
shares of all nodes add up to the limit. Where a limit is smaller than the number of nodes, some
have none of it and are not told of the function at all.
"""

from __future__ import annotations

import hashlib

import msgspec

from blixard.cluster.resources import Resource
from blixard.cluster.store import Store
from blixard.functions.spec import FunctionDuties, FunctionDuty, FunctionSpec, duty_of
from blixard.placement.choice import VM_ROLE

Duties = dict[str, FunctionDuties]  # by node uid


def share(total: int, nodes: int, place: int) -> int:
    """Return the part of *total* of the node that is at *place* in the order of *nodes*."""
    return total // nodes + (place < total % nodes)


def serving(store: Store) -> list[Resource]:
    """Return the nodes that serve functions: ready, with the role, and with memory for it."""
    return [
        node
        for node in store.list("Node")
        if node.status.get("state") == "Ready"
        and node.spec.get("schedulable", True)
        and not node.status.get("removing")
        and (not node.spec.get("roles") or VM_ROLE in node.spec["roles"])
        and memory_of(node) > 0
    ]


def memory_of(node: Resource) -> int:
    """Return the MiB that a node has set apart for functions: VMs are never placed on them."""
    return int(node.spec.get("capacity", {}).get("functionMemoryMib", 0))


def in_order(function_uid: str, nodes: list[Resource]) -> list[Resource]:
    """Return the nodes in the function's own order, which differs from function to function."""

    def rank(node: Resource) -> bytes:
        both = f"{function_uid} {node.metadata.uid}".encode()
        return hashlib.blake2b(both, digest_size=16).digest()

    return sorted(nodes, key=rank)


def duties_of(store: Store) -> Duties:
    """Return the functions of every node that serves any, in order of uid."""
    functions = store.list("Function") if store.count("Function") else []
    nodes = serving(store) if functions else []
    given: dict[str, list[FunctionDuty]] = {node.metadata.uid: [] for node in nodes}
    for function in sorted(functions, key=lambda f: f.metadata.uid):
        for node_uid, duty in _dealt(function, nodes):
            given[node_uid].append(duty)
    memory = {node.metadata.uid: memory_of(node) for node in nodes}
    return {uid: FunctionDuties(memory[uid], tuple(found)) for uid, found in given.items() if found}


def _dealt(function: Resource, nodes: list[Resource]) -> list[tuple[str, FunctionDuty]]:
    meta = function.metadata
    spec = msgspec.convert(function.spec, FunctionSpec)
    whole = duty_of(meta.uid, meta.namespace, meta.name, meta.generation, spec=spec)
    able = [n for n in in_order(meta.uid, nodes) if memory_of(n) >= whole.memory_mib]
    found = []
    for place, node in enumerate(able):
        most = share(whole.instances_max, len(able), place)
        if most:
            warm = min(most, share(whole.min_warm, len(able), place))
            duty = msgspec.structs.replace(whole, instances_max=most, min_warm=warm)
            found.append((node.metadata.uid, duty))
    return found
