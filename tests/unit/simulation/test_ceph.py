"""The simulated Ceph by itself: where copies lie, who may write, what is lost; and its oracles."""

import types

import pytest

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import LaunchPlan
from blixard.ports.volumes import DiskAttachment, PoolPlan
from blixard.simulation.ceph import SECOND, Write
from blixard.simulation.guest_processes import Observer
from blixard.simulation.volumes import SimVolumes
from blixard.simulation.world import World

VOLUME = "v"


class Lab:
    """A world of hosts without daemons, with one volume in one pool."""

    def __init__(self, nodes=3, replicas=3):
        self.world = World(1, nodes, mode="fifo", observer=Observer())
        for host in self.world.hosts:
            host.boot()
        self.ceph, self.said = self.world.ceph, []
        self.ceph.stored.fail = lambda name, _text: self.said.append(name)
        self.ask(1, "ensure_pool", PoolPlan(name="p", backend="ceph", replicas=replicas))
        self.ask(1, "ensure_volume", "p", VOLUME, 1 << 30)
        self.answers = []

    def ask(self, number, verb, *words, **named):
        host = self.world.hosts[number - 1]
        volumes = SimVolumes(self.ceph, host, host.machine, self.world.streams.get("asked"))
        found = []

        async def run():
            try:
                found.append(await getattr(volumes, verb)(*words, **named))
            except BlixardError as error:
                found.append(error.code)

        host.machine.spawn(run(), name="asks")
        self.run(5)
        return found[0]

    def attach(self, number, epoch=1):
        uid = self.world.hosts[number - 1].uid
        return self.ask(number, "attach", "p", VOLUME, name="d", node_uid=uid, epoch=epoch)

    def opened(self, number, epoch=1):
        """Return a client of the volume on a host, with its user."""
        disk, image = self.attach(number, epoch), self.ceph.images[VOLUME]
        client = self.ceph.open(image, self.world.hosts[number - 1].uid)
        self.ceph.stored.opened(VOLUME, client, plan(number, disk))
        return types.SimpleNamespace(number=number, client=client, user=disk.user)

    def write(self, by, value, *, alive=True):
        self.ceph.submit(
            Write(
                host=self.world.hosts[by.number - 1], user=by.user, client=by.client,
                image=self.ceph.images[VOLUME], number=value % 4, value=value,
                alive=lambda: alive, done=lambda taken: self.answers.append((value, taken)),
            )
        )  # fmt: skip

    def run(self, seconds):
        self.world.loop.run_until(self.world.loop.now_ns + int(seconds * SECOND))


def plan(number, *disks):
    return LaunchPlan(
        instance_uid=f"i{number}", name="db-1", namespace="default", node_epoch=1, run=1,
        runner="", memory_mib=1, vcpus=1, disks=disks,
    )  # fmt: skip


def test_acknowledged_write_is_on_all_copies():
    lab = Lab()
    lab.write(lab.opened(1), 5)
    lab.run(1)
    assert lab.answers == [(5, True)]
    assert lab.ceph.images[VOLUME].pieces[1].copies == dict.fromkeys((1, 2, 3), (1, 5))


def test_write_waits_for_the_quorum_and_then_arrives():
    lab = Lab()
    guest = lab.opened(1)
    lab.ceph.stopped |= {2, 3}
    lab.write(guest, 5)
    lab.run(60)
    assert lab.answers == []
    assert lab.ask(1, "ensure_volume", "p", "w", 1) == "STORAGE_UNAVAILABLE"
    assert lab.ask(1, "pool_health", "p").state == "unknown"
    lab.ceph.stopped.clear()
    lab.run(5)
    assert lab.answers == [(5, True)]


def test_lost_copies_are_made_anew():
    lab = Lab(nodes=5)
    guest = lab.opened(1)
    for value in range(1, 9):
        lab.write(guest, value)
    lab.run(1)
    lab.world.hosts[4].crash()
    lab.run(10)
    assert lab.ceph.osds[4].up is False
    assert lab.ceph.health("p").state == "degraded"
    lab.run(60)
    assert not lab.ceph.lacking_any()
    lab.world.hosts[4].boot()
    lab.run(30)
    assert lab.ceph.unbalanced() == []
    assert lab.ceph.health("p").state == "healthy"


def test_fenced_client_is_refused_and_another_node_attaches():
    lab = Lab()
    guest = lab.opened(1)
    assert lab.attach(2) == "VOLUME_IN_USE"
    lab.ask(3, "fence", "node-1", before_epoch=2)
    lab.write(guest, 5)
    lab.run(1)
    assert lab.answers == [(5, False)]
    assert lab.attach(1, epoch=1) == "FENCED"
    assert isinstance(lab.attach(2), DiskAttachment)


def test_detached_volume_may_go_elsewhere():
    lab = Lab()
    guest = lab.opened(1)
    lab.ask(1, "detach", "p", VOLUME, node_uid="node-1", epoch=1)
    lab.write(guest, 5)
    lab.run(1)
    assert lab.answers == [(5, False)]
    assert isinstance(lab.attach(2), DiskAttachment)
    assert lab.ask(2, "delete_volume", "p", VOLUME) == "VOLUME_IN_USE"


@pytest.mark.parametrize("alive", [True, False])
def test_waiting_write_of_a_dead_guest_is_dropped(alive):
    lab = Lab()
    guest = lab.opened(1)
    lab.ceph.stopped |= {2, 3}
    lab.write(guest, 5, alive=alive)
    lab.run(3)
    lab.ceph.stopped.clear()
    lab.run(5)
    assert lab.answers == ([(5, True)] if alive else [])


def test_write_of_an_older_client_is_noticed():
    lab = Lab()
    old = lab.opened(1)
    lab.ceph.images[VOLUME].holders.clear()
    lab.opened(2)
    lab.write(old, 5)
    lab.run(1)
    assert lab.said == ["stale write"]


def test_lost_write_is_noticed():
    lab = Lab()
    stored = lab.ceph.stored
    stored.acknowledged(VOLUME, 0, 4)
    stored.read(VOLUME, 0, 8)
    assert lab.said == []
    stored.read(VOLUME, 0, 0)
    assert lab.said == ["lost write"]


def test_second_writer_is_noticed():
    lab = Lab()
    disk = lab.attach(1)
    stored = lab.ceph.stored
    stored.started(1, plan(1, disk))
    stored.ended(1, plan(1, disk))
    stored.started(2, plan(2, disk))
    assert lab.said == []
    stored.started(1, plan(1, disk))
    assert lab.said == ["two writers"]
