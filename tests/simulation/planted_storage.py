"""Planted bugs of storage: each leaves out a step on which the writer of a volume depends."""

from contextlib import ExitStack, contextmanager

from tests.simulation.mutants import patched

from blixard.cluster import kinds as cluster_kinds
from blixard.simulation.volumes import SimVolumes
from blixard.storage import planner
from blixard.vms import members
from blixard.vms.claims import Claims
from blixard.vms.disks import Disks


async def _nothing(*_args, **_named):
    return


@contextmanager
def starts_before_the_storage_fence():
    """A lost node's instance starts elsewhere at once, on a storage that asks nobody."""
    attach = SimVolumes.attach

    async def at_once(volumes, pool, volume_uid, **named):
        volumes._ceph.images[volume_uid].holders.clear()
        return await attach(volumes, pool, volume_uid, **named)

    with ExitStack() as stack:
        for module in (members, cluster_kinds, planner):
            stack.enter_context(patched(module, "may_still_write", lambda *_: False))
        stack.enter_context(patched(SimVolumes, "attach", at_once))
        yield


def fences_locks_only():
    """A fence breaks the locks, and leaves keys and connections as they are."""

    async def fence(volumes, node_uid, *, before_epoch):
        await volumes._ask()
        for image in volumes._ceph.images.values():
            if image.holders.get(node_uid, before_epoch) < before_epoch:
                del image.holders[node_uid]
        volumes._ceph.stored.happened("node fenced")

    return patched(SimVolumes, "fence", fence)


def attaches_with_an_older_key():
    """A node takes the key of its first epoch for ever."""
    attach = Disks.attach

    async def older(disks, spec, _epoch, **named):
        return await attach(disks, spec, 1, **named)

    return patched(Disks, "attach", older)


def forgets_to_detach():
    """A node that has stopped an instance keeps its volumes."""
    return patched(Disks, "detach", _nothing)


def any_node_will_do():
    """An instance with local volumes is placed like any other."""
    return patched(Claims, "home", lambda _claims, _spec: "")


def known_once_it_is_ready():
    """Where local volumes lie is written down when their guest is ready, not when it is placed."""
    return patched(Claims, "stay", lambda _claims, _vm, _spec: [])


def deletes_what_is_bound():
    """A volume is deleted though an instance is bound to it."""
    return patched(planner, "in_use", lambda _store, _volume: False)
