"""Bugs of moving instances that run, each one sentence of the order of a migration left out."""

from tests.simulation.mutants import patched
from tests.simulation.planted_raft import all_of

from blixard.base.errors import BlixardError
from blixard.cluster.store import Draft
from blixard.simulation import guest_state
from blixard.simulation.guest_world import GuestWorld
from blixard.simulation.volumes import SimVolumes
from blixard.vms import migrations, mover, rooms
from blixard.vms.held_disks import HeldDisks
from blixard.vms.mover import Mover


def goes_on_without_asking():
    """A source that does not know what came of the switch lets its guest go on."""
    transfer = Mover._transfer

    async def hasty(self, move):
        try:
            return await transfer(self, move)
        except BlixardError:
            await self._worker._tools.hypervisor.resume(self._worker.uid)
            raise

    return patched(Mover, "_transfer", hasty)


async def _nothing(*_args, **_named):
    return


def writes_while_it_stands_still():
    """The disks of a guest go on while its CPUs stand still, and nobody waits for what is written."""
    return all_of(
        patched(GuestWorld, "_runs", lambda _world, instance: instance.state != "exited"),
        patched(GuestWorld, "drain", _nothing),
    )


def leaves_with_a_write_under_way():
    """The switch is asked for before the storage has answered all that the guest wrote."""
    return patched(GuestWorld, "drain", _nothing)


def mover_keeps_the_volumes():
    """What has left, or did not come after all, is not given back."""
    return patched(HeldDisks, "leave", _nothing)


def gives_back_for_the_other_end():
    """Whoever gives a volume back takes it from the other end of the migration too."""
    take_back = SimVolumes._take_back

    def of_all(volumes, image, nodes):
        take_back(volumes, image, (*nodes, *image.holders))

    return patched(SimVolumes, "_take_back", of_all)


def switches_without_the_pause():
    """The source says that its guest stands still, and it does not."""
    return patched(GuestWorld, "stop", lambda _world, _uid: None)


def starts_before_the_switch():
    """All is sent before the switch is asked for, and the target goes on as soon as it has it."""
    send, receive = guest_state.send, Mover.receive

    async def all_at_once(stream, *, switch, **more):
        async def later():
            return None

        sent_bytes = await send(stream, switch=later, **more)
        await switch()
        return sent_bytes

    async def at_once(self, caller, opening, stream):
        await receive(self, caller, opening, stream)
        await self._worker._tools.hypervisor.resume(self._worker.uid)

    return all_of(patched(guest_state, "send", all_at_once), patched(Mover, "receive", at_once))


def target_does_not_reserve():
    """What is being moved to a node takes no room there until it is there."""

    def only_here(draft, instance, sign):
        if instance is not None and (node := instance.spec.get("node")):
            draft._reserve_on(node, instance.spec, sign)

    return all_of(
        patched(Draft, "_reserve", only_here),
        patched(rooms, "_nodes_of", lambda spec: (spec.get("node", ""),)),
    )


def sends_what_was_before_the_pause():
    """What is sent is what the guest had in mind before its CPUs were stopped."""
    send = guest_state.send

    async def stale(stream, *, look, **more):
        before = look()
        return await send(stream, look=lambda: before, **more)

    return patched(guest_state, "send", stale)


def roll_back_is_forgotten():
    """A migration that failed is called so, and still stands in the instance."""
    return patched(migrations, "roll_back", lambda _instance: ())


def memory_goes_where_nobody_takes_it():
    """The source asks for the switch without having heard that the target has what was sent."""

    async def welcome(_stream):
        return None

    said = guest_state._said

    async def heard(stream, word):
        if word == guest_state._HAVE_ALL:
            await said(stream, word)

    return all_of(patched(mover, "_welcomed", welcome), patched(guest_state, "_said", heard))
