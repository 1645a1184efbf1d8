"""An exported cluster as operations on a founded one, in commands of a bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from blixard.cluster.resources import Operation, Put, Resource
from blixard.cluster.store import Store
from blixard.ports.guests import GuestRecipe
from blixard.simulation.exported import Exported, spec_of
from blixard.vms.spec import InstanceSpec, VMSpec

_OPS_MAX, _BYTES_MAX = 200, 256 * 1024


def load_ops(exported: Exported, store: Store) -> Iterator[tuple[Operation, ...]]:
    """Yield the commands that load *exported*; *store* knows its nodes by name."""
    pack: list[Operation] = []
    size = 0
    for group in _documents(exported, store):
        more = sum(len(msgspec.msgpack.encode(op)) for op in group)
        if pack and (len(pack) + len(group) > _OPS_MAX or size + more > _BYTES_MAX):
            yield tuple(pack)
            pack, size = [], 0
        pack += group
        size += more
    if pack:
        yield tuple(pack)


def _documents(exported: Exported, store: Store) -> Iterator[list[Operation]]:
    """Yield what makes the founded cluster the exported one, a VM with all its instances."""
    config = store.get("ClusterConfig", "", "cluster")
    assert config is not None
    overcommit = {
        "overcommitVcpus": exported.config.overcommit_vcpus,
        "overcommitMemory": exported.config.overcommit_memory,
    }
    yield [Put(kind="ClusterConfig", namespace="", name="cluster",
               spec={**config.spec, **overcommit})]  # fmt: skip
    for node in exported.nodes:
        known = store.by_uid(node.name)
        assert known is not None
        own = {key: known.spec[key] for key in ("address", "raftId")}
        spec = {**msgspec.to_builtins(node.spec), **own}
        yield [Put(kind="Node", namespace="", name=node.name, spec=spec, labels=node.labels)]
    namespaces = {r.metadata.namespace for r in (*exported.vms, *exported.images)} - {"default"}
    for name in sorted(namespaces):
        yield [Put(kind="Namespace", namespace="", name=name, spec={}, uid=f"namespace {name}")]
    for resource in (*exported.networks, *exported.images, *_missing_images(exported)):
        yield [_put(resource, resource.spec)]
    yield from _vms(
        exported, {n.metadata.uid: n.status.get("epoch", 1) for n in store.list("Node")}
    )


def _vms(exported: Exported, epochs: dict[str, int]) -> Iterator[list[Operation]]:
    names = {node.uid: node.name for node in exported.nodes}
    owned: dict[str, list[Resource]] = {}
    for instance in exported.instances:
        owned.setdefault(instance.metadata.owner, []).append(instance)
    for vm in exported.vms:
        group: list[Operation] = [_put(vm, msgspec.to_builtins(spec_of(vm, VMSpec)))]
        for instance in owned.get(vm.metadata.uid, []):
            was = spec_of(instance, InstanceSpec)
            name = names.get(was.node, "")
            placed = msgspec.structs.replace(
                was, node=name, node_name=name, node_epoch=epochs.get(name, 0),
                run=max(1, was.run) if name else was.run,
            )  # fmt: skip
            group.append(_put(instance, msgspec.to_builtins(placed)))
        yield group


def _put(resource: Resource, spec: dict[str, object]) -> Put:
    meta = resource.metadata
    return Put(
        kind=resource.kind, namespace=meta.namespace, name=meta.name, spec=spec,
        labels=meta.labels, uid=meta.uid, owner=meta.owner,
    )  # fmt: skip


def _missing_images(exported: Exported) -> Iterator[Resource]:
    """Yield the images that the file only names, as an instance of theirs has them."""
    there = {(i.metadata.namespace, i.metadata.name) for i in exported.images}
    recipes = {i.metadata.owner: i.spec.get("recipe", {}) for i in exported.instances}
    for vm in exported.vms:
        key = (vm.metadata.namespace, str(vm.spec.get("image") or ""))
        if key[1] and key not in there:
            there.add(key)
            recipe = recipes.get(vm.metadata.uid, msgspec.to_builtins(GuestRecipe()))
            meta = msgspec.structs.replace(
                vm.metadata, name=key[1], uid=f"image {key[0]}/{key[1]}", owner="", labels={}
            )
            yield Resource(kind="Image", metadata=meta, spec=recipe)
