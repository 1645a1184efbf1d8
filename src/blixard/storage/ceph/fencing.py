"""Who has a volume, and how those who should not have it any more are shut out for good.

Order of a fence: mark the node's epochs, delete their users, blocklist their connections, wait
until every OSD knows, break the locks, forget who held what. Deleting a user ends no connection:
tickets live on for an hour (``auth_service_ticket_ttl``); so connections are blocklisted by
address, for longer than any ticket. Three places name them: the images' watchers, their locks, and
the monitors' sessions, where one stands that has signed in and opened nothing yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from blixard.base.errors import BlixardError
from blixard.storage.ceph import codecs
from blixard.storage.ceph.caps import node_user, older
from blixard.storage.ceph.codecs import Holder
from blixard.storage.ceph.commands import ENOENT, CephCommands
from blixard.storage.ceph.link import CephFailed

HOLDERS = "blixard.holders"  # an object in each pool
FENCES = "blixard/fence/"  # keys of the monitors
# Longer than tickets live and than an OSD keeps an idle connection.
BLOCKLIST_S = 86_400.0
ROUNDS_MAX = 5
BARRIER_S = 30.0
BARRIER_LOOK_S = 0.05

Image = tuple[str, str]  # pool, volume uid
Lock = tuple[Image, codecs.Lock]


def image_name(volume_uid: str) -> str:
    """Return the name of a volume's image."""
    return codecs.IMAGE_PREFIX + volume_uid


def spec(pool: str, volume_uid: str) -> str:
    """Return how Ceph's programs are told a volume's image."""
    return f"{pool}/{image_name(volume_uid)}"


class Fencing:
    """The table of holders, and the exclusion of clients."""

    def __init__(self, commands: CephCommands) -> None:
        self._commands = commands

    # -- who has what --

    async def holders(self, pool: str) -> list[Holder]:
        """Return who has which volume of a pool."""
        try:
            return codecs.holders(await self._commands.rados(pool, "listomapkeys", HOLDERS))
        except CephFailed as error:
            if error.code not in (1, ENOENT) or "No such file" not in str(error):
                raise
            return []

    async def take(
        self, pool: str, me: Holder, *, moves_from: str = "", left: tuple[str, ...] = ()
    ) -> None:
        """Become the only holder, or one beside *moves_from*; *left* have it no longer.

        The name is written before the others are read: of two at once, each sees the other. The
        user was made before the fences are read: a fence that is not seen here sees the user.

        Raises:
            BlixardError: VOLUME_IN_USE, FENCED.
        """
        await self._commands.rados(pool, "setomapval", HOLDERS, me.text, "")
        found, fences = await asyncio.gather(self.holders(pool), self._fences())
        others = [h for h in found if h.volume_uid == me.volume_uid and h != me]
        refusal = judge(me, [h for h in others if h.node_uid not in (moves_from, *left)], fences)
        if moves_from and refusal is None and moves_from not in [h.node_uid for h in others]:
            refusal = BlixardError("VOLUME_IN_USE", f"{moves_from} does not have it any more")
        if refusal is not None:
            await self._drop(pool, me)
            if refusal.code == "FENCED":
                await self._delete_users(me.node_uid, fences.get(me.node_uid, 0))
            raise refusal
        if moves_from:
            return  # the guest writes there; what was here before has given it back
        if not await self._evict([(pool, me.volume_uid)], spared=[]) and others:
            await self._barrier()
        await asyncio.gather(*(self._drop(pool, other) for other in others))

    async def give_back(self, pool: str, me: Holder, left: tuple[str, ...] = ()) -> None:
        """Hold it no longer, nor do *left*; nothing of ours arrives afterwards.

        Another holder, to whom our guest moved or with whom it stayed, keeps its connections.
        """
        found = [h for h in await self.holders(pool) if h.volume_uid == me.volume_uid]
        mine = [h for h in found if h.node_uid == me.node_uid and h.epoch <= me.epoch]
        if not mine:
            return
        mine += [h for h in found if h.node_uid in left and h.node_uid != me.node_uid]
        others = [h for h in found if h not in mine]
        if not await self._evict([(pool, me.volume_uid)], spared=others):
            await self._barrier()
        await asyncio.gather(*(self._drop(pool, holder) for holder in mine))

    async def _drop(self, pool: str, holder: Holder) -> None:
        await self._commands.rados(pool, "rmomapkey", HOLDERS, holder.text)

    # -- fences --

    async def fence(self, node_uid: str, before_epoch: int, pools: list[str]) -> None:
        """Shut out every epoch of a node before *before_epoch*."""
        if (await self._fences()).get(node_uid, 0) < before_epoch:
            fence = {"key": FENCES + node_uid, "val": str(before_epoch)}
            await self._commands.ask("config-key set", **fence)
        await self._delete_users(node_uid, before_epoch)
        tables = await asyncio.gather(*(self.holders(pool) for pool in pools))
        held = [
            (pool, holder)
            for pool, holders in zip(pools, tables, strict=True)
            for holder in holders
            if holder.node_uid == node_uid and holder.epoch < before_epoch
        ]
        images = [(pool, holder.volume_uid) for pool, holder in held]
        uids, gone = {uid for _, uid in images}, {holder for _, holder in held}
        others = [h for table in tables for h in table if h.volume_uid in uids and h not in gone]
        shut_out = await self._evict(
            images, lambda entity: older(entity, node_uid, before_epoch), spared=others
        )
        if not shut_out:
            # An earlier try may have been cut short between the blocklist and here.
            await self._barrier()
        await asyncio.gather(*(self._drop(*row) for row in held))

    async def _fences(self) -> dict[str, int]:
        return codecs.fences(await self._commands.ask("config-key dump", key=FENCES))

    async def _delete_users(self, node_uid: str, before_epoch: int) -> None:
        entities = codecs.entities(await self._commands.ask("auth ls"))
        gone = [entity for entity in entities if older(entity, node_uid, before_epoch)]
        await asyncio.gather(*(self._commands.ask("auth del", entity=entity) for entity in gone))

    # -- shutting out --

    async def _evict(
        self,
        images: list[Image],
        of_user: Callable[[str], bool] | None = None,
        *,
        spared: list[Holder],
    ) -> bool:
        """Blocklist whoever has the images open or locked, or is signed in as such a user.

        One who signed in before its user was deleted may open an image between two looks: looked
        at until there is nobody new. The locks go last: until then a repetition finds them. Return
        whether there was anybody; then every OSD knows.

        *spared* may have the images open as well: an address at which one of their users is signed
        in is left alone. Monitors are asked after the images: who has one open has signed in.
        """
        users = {f"client.{node_user(h.node_uid, h.epoch)}" for h in spared}
        monitors = await self._monitors() if of_user is not None or users else []
        done: set[str] = set()
        for _ in range(ROUNDS_MAX):
            (addresses, locks), signed_in = await asyncio.gather(
                self._look(images), self._signed_in(monitors, of_user)
            )
            safe = await self._signed_in(monitors, users.__contains__) if users else set()
            locks = [(image, lock) for image, lock in locks if lock.address not in safe]
            new = (addresses | signed_in) - done - safe
            if not new:
                break
            await asyncio.gather(*map(self._blocklist, sorted(new)))
            done |= new
        else:
            raise BlixardError("STORAGE_UNAVAILABLE", "clients open images faster than they end")
        if done:
            await self._barrier()
        await asyncio.gather(*(self._break(*row) for row in locks))
        return bool(done)

    async def _blocklist(self, address: str) -> None:
        await self._commands.ask(
            "osd blocklist", blocklistop="add", addr=address, expire=BLOCKLIST_S
        )

    async def _break(self, image: Image, lock: codecs.Lock) -> None:
        with _absent_is_fine():
            await self._commands.rbd("lock", "rm", spec(*image), lock.id, lock.locker)

    async def _look(self, images: list[Image]) -> tuple[set[str], list[Lock]]:
        addresses: set[str] = set()
        locks: list[Lock] = []
        looked = await asyncio.gather(*(self._look_at(image) for image in images))
        for image, (watching, locked) in zip(images, looked, strict=True):
            addresses |= watching | {lock.address for lock in locked}
            locks += [(image, lock) for lock in locked]
        return addresses, locks

    async def _look_at(self, image: Image) -> tuple[set[str], list[codecs.Lock]]:
        with _absent_is_fine():
            watching, locked = await asyncio.gather(
                self._commands.rbd("status", spec(*image), "--format", "json"),
                self._commands.rbd("lock", "ls", spec(*image), "--format", "json"),
            )
            return codecs.watchers(watching), codecs.locks(locked)
        return set(), []

    async def _monitors(self) -> list[str]:
        return codecs.status(await self._commands.ask("status")).quorum_names

    async def _signed_in(
        self, monitors: list[str], of_user: Callable[[str], bool] | None
    ) -> set[str]:
        if of_user is None:
            return set()
        asked = (self._commands.ask("sessions", target=f"mon.{name}") for name in monitors)
        return {
            address
            for answer in await asyncio.gather(*asked)
            for entity, address in codecs.sessions(answer)
            if of_user(entity)
        }

    async def _barrier(self) -> None:
        """Return once every OSD that is up has the map of now: what is blocklisted is refused."""
        osds = codecs.osds(await self._commands.ask("osd dump"))
        try:
            async with asyncio.timeout(BARRIER_S):
                await asyncio.gather(*(self._has_map(n, osds.epoch) for n in osds.up))
        except TimeoutError as error:
            raise BlixardError(
                "STORAGE_UNAVAILABLE",
                f"some OSD did not take map {osds.epoch} in {BARRIER_S:.0f} s",
            ) from error

    async def _has_map(self, osd: int, wanted: int) -> None:
        while await self._newest_map(osd) < wanted:
            await asyncio.sleep(BARRIER_LOOK_S)

    async def _newest_map(self, osd: int) -> int:
        return codecs.newest_map(await self._commands.ask("status", target=f"osd.{osd}"))


def judge(me: Holder, others: list[Holder], fences: dict[str, int]) -> BlixardError | None:
    """Return why *me* may not have the volume, or None. *fences*: see ``codecs.fences``."""
    if me.epoch < fences.get(me.node_uid, 0):
        return BlixardError("FENCED", f"epoch {me.epoch} of node {me.node_uid} was fenced")
    for other in others:
        if other.node_uid == me.node_uid:
            if other.epoch > me.epoch:
                return BlixardError("FENCED", f"epoch {other.epoch} of this node has the volume")
        elif other.epoch >= fences.get(other.node_uid, 0):
            return BlixardError(
                "VOLUME_IN_USE", f"node {other.node_uid} has {other.volume_uid}, and is not fenced"
            )
    return None


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    """An image or a lock that is gone has nobody to shut out."""
    try:
        yield
    except CephFailed as error:
        if error.code != ENOENT:
            raise
