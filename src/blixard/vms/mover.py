"""A worker's part in migrations of its instance: sends its memory, or waits for it and goes on.

What is done is decided in moving.py, and whether it may be done by the leader: the source lets the
guest go on only after a question that is answered with no while the switch can still be committed,
the target only after a question that is answered with yes once it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import HypervisorInstance, MigrationFigures
from blixard.ports.transport import Stream
from blixard.vms import arming
from blixard.vms.moves import Move, MoveAnswer, MoveOpening, MoveWord, Said
from blixard.vms.moving import RETRY_S, Moving
from blixard.vms.reconcile import Step

if TYPE_CHECKING:
    from blixard.vms.worker import Worker

MOVE_STREAM = "instance.memory"
SWITCH_S = 5.0  # an answer about the switch is waited for so long, with the CPUs stopped
SWITCH_RETRY_S = 0.2
SENT_TRIES = 5
WELCOME, WELCOME_S = b"welcome", 5.0  # the first frame, from a target that waits for the memory


class Mover:
    """Both halves, for one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.moving = Moving()
        self._stream: Stream | None = None

    async def do(self, step: Step, process: HypervisorInstance | None) -> None:
        """Do one step of a migration."""
        match step.kind:
            case "build" | "await":
                await self._prepare(step)
            case "tell":
                await self._tell(process)
            case "send":
                self._begin_sending()
            case "abandon":
                await self._abandon()
            case "arrive":
                await self._arrive()
            case "go on":
                await self._go_on()
            case "doubt":
                self._doubt(step.why)
            case "drop" | "forget" | "stop":
                await self._end(step, process)

    # -- at the target --

    async def _prepare(self, step: Step) -> None:
        """Build, or have a process wait; what fails is told, and the migration rolled back."""
        move = self._move()
        try:
            if step.kind == "build":
                await self._worker.launcher.build()
            else:
                self.moving = Moving(tried=move.uid)
                await self._wait_for_memory(move)
        except (BlixardError, OSError) as error:
            self.moving = Moving(tried=move.uid, failure=str(error))

    async def _wait_for_memory(self, move: Move) -> None:
        """Spawn, then arm: from the first moment it ends with this node's lease, if it is to."""
        worker, assignment = self._worker, self._worker.assignment
        assert assignment is not None
        epoch = worker._tools.authority.epoch
        if epoch != move.target_epoch:
            raise BlixardError("MIGRATION_FAILED", "the target has entered another epoch")
        plan = msgspec.structs.replace(
            await worker.launcher.plan(assignment, epoch),
            run=move.run,
            node=move.target_name,
            incoming=True,
        )
        await worker.launcher.spawn(plan)
        await arming.tell_guard(worker.uid, assignment.spec, worker._tools, epoch)

    async def receive(self, caller: str, opening: MoveOpening, stream: Stream) -> None:
        """Take the memory from the source of a migration to here, once.

        Raises:
            BlixardError: MIGRATION_REFUSED, if nothing waits for it or another node sends it;
                what receiving raises.
        """
        moving, assignment = self.moving, self._worker.assignment
        move = assignment.spec.migration if assignment is not None else None
        waits = moving.tried == opening.migration and not moving.failure
        taken = moving.receiving or moving.received
        if assignment is None or not assignment.incoming or not move or not waits or taken:
            raise BlixardError("MIGRATION_REFUSED", f"{opening.instance} is not waited for")
        if (assignment.spec.node, move.uid, move.run) != (caller, opening.migration, opening.run):
            raise BlixardError("MIGRATION_REFUSED", f"{caller} does not move {opening.instance}")
        moving.receiving = move.uid
        try:
            await stream.send(WELCOME)
            await self._worker._tools.hypervisor.receive_state(self._worker.uid, stream)
            moving.received, moving.received_s, moving.next_s = move.uid, _now(), 0.0
        except BlixardError as error:
            moving.failure = error.message
            raise
        finally:
            moving.receiving = ""
            moving.failure = moving.failure or ("" if moving.received else "the stream ended")
            self._worker.wake()

    async def _arrive(self) -> None:
        """All is here: arm as the spec now says, ask, go on; ask again until there is an answer."""
        worker, moving = self._worker, self.moving
        assert worker.assignment is not None
        spec, authority = worker.assignment.spec, worker._tools.authority
        moving.next_s = _now() + RETRY_S
        if not await self._resumed(spec.run):
            return
        worker.reporter.arrived = (moving.received, round((_now() - moving.received_s) * 1000))
        worker._tools.env.log("info", "instance_arrived", uid=worker.uid, epoch=authority.epoch)
        self.moving = Moving(tried=moving.received)
        worker._adopt(spec.restart_generation)
        worker.history.ready = await worker._answers(spec)
        worker.reporter.say(ready=worker.history.ready)

    async def _resumed(self, run: int) -> bool:
        """Let the CPUs go on if the leader, asked now, says that this run may."""
        worker = self._worker
        assert worker.assignment is not None
        spec, tools, epoch = worker.assignment.spec, worker._tools, worker._tools.authority.epoch
        try:
            await arming.tell_guard(worker.uid, spec, tools, epoch)
            if not await tools.authority.confirm_start(worker.uid, run, epoch):
                return False
            await tools.hypervisor.resume(worker.uid)
        except BlixardError as error:
            # Whether the process is still there shows in the next look.
            detail = error.message
            tools.env.log("warning", "instance_not_resumed", uid=worker.uid, detail=detail)
            return False
        return True

    # -- at the source --

    def _begin_sending(self) -> None:
        worker, move = self._worker, self._move()
        self.moving = Moving(tried=move.uid, sending=move.uid)
        if worker.reporter.phase == "Running":
            worker.reporter.go("migrate")
            worker.reporter.say(ready=worker.history.ready)
        worker._tools.env.spawn(self._send(move), name=f"migration {move.name}")

    async def _send(self, move: Move) -> None:
        """Send the memory; the worker looks on meanwhile, and goes by what came of it."""
        moving, worker = self.moving, self._worker
        figures = None
        try:
            figures = await self._transfer(move)
        except (BlixardError, OSError) as error:
            text = error.message if isinstance(error, BlixardError) else str(error)
            moving.failure = moving.failure or text
            worker._tools.env.log("info", "migration_ended", uid=worker.uid, detail=text)
        finally:
            moving.sending = ""
            worker.history.next_check_s = 0.0
            worker.wake()
        if figures is not None:
            await self._tell_sent(move, figures)

    async def _transfer(self, move: Move) -> MigrationFigures:
        tools, uid = self._worker._tools, self._worker.uid
        opening = msgspec.msgpack.encode(MoveOpening(uid, move.uid, move.run))
        live = tools.hypervisor.copies_live() if move.live is None else move.live
        stream = await tools.env.transport.open_stream(move.target, MOVE_STREAM, opening)
        self._stream = stream
        try:
            await _welcomed(stream)
            return await tools.hypervisor.send_state(
                uid, stream, live=live, switch=lambda: self._switch(move)
            )
        finally:
            self._stream = None
            await stream.close()

    async def _switch(self, move: Move) -> None:
        """Ask for the change of owner; until it is answered nobody knows, and nothing runs.

        Raises:
            BlixardError: MIGRATION_REFUSED: it never will be; whatever asking raises: unknown.
        """
        self.moving.asking, until_s = True, _now() + SWITCH_S
        try:
            while True:
                try:
                    answer = await self._word(move, "paused")
                    break
                except BlixardError:
                    if _now() >= until_s:
                        raise
                    await asyncio.sleep(SWITCH_RETRY_S)
            if not answer.done:
                raise BlixardError("MIGRATION_REFUSED", answer.reason)
            self.moving.switched = True
        finally:
            self.moving.asking = False

    async def _tell_sent(self, move: Move, figures: MigrationFigures) -> None:
        """Only for people to read: after some tries the figures are left out."""
        for _ in range(SENT_TRIES):
            try:
                await self._word(move, "sent", figures=figures)
            except BlixardError:
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _abandon(self) -> None:
        """Nobody wants it moved any more: sending fails, and what follows is as for any failure."""
        self.moving.abandoned = True
        if self._stream is not None:
            await self._stream.close()

    async def _go_on(self) -> None:
        """The migration is taken back: the guest goes on where it was, as it was."""
        worker = self._worker
        assert worker.assignment is not None
        self.moving.next_s = _now() + RETRY_S
        if await self._resumed(worker.assignment.spec.run):
            worker._tools.env.log("info", "instance_goes_on", uid=worker.uid)
            self.moving = Moving(tried=self.moving.tried)
            worker.history.next_check_s = 0.0
            self.back()

    def back(self) -> None:
        """It runs, and if nothing of it is under way, it runs here as before."""
        worker = self._worker
        if worker.reporter.phase == "Migrating" and not self.moving.sending:
            worker.reporter.go("arrive")
            worker.reporter.say(ready=worker.history.ready)

    # -- both --

    async def _tell(self, process: HypervisorInstance | None) -> None:
        """Tell the leader how it stands; what it does about it shows in the duties."""
        self._show_pause(process)
        moving, move, assignment = self.moving, self._move(), self._worker.assignment
        assert assignment is not None
        moving.next_s = _now() + RETRY_S
        prepared = assignment.incoming and not moving.failure
        try:
            answer = await self._word(move, "prepared" if prepared else "failed")
        except BlixardError:
            return
        if prepared and answer.done:
            moving.prepared = move.uid
        elif prepared:
            moving.failure = answer.reason

    def _show_pause(self, process: HypervisorInstance | None) -> None:
        """A guest that stands still after a migration failed is not ready, until it goes on."""
        worker = self._worker
        if process is not None and process.ran and process.state == "paused":
            worker.history.ready = False
            worker.reporter.say(reason=f"stands still: {self.moving.failure}", pid=process.pid)

    async def _word(
        self, move: Move, said: Said, *, figures: MigrationFigures | None = None
    ) -> MoveAnswer:
        authority = self._worker._tools.authority
        return await authority.tell_move(
            MoveWord(
                instance=self._worker.uid,
                migration=move.uid,
                epoch=authority.epoch,
                said=said,
                reason=self.moving.failure,
                total_ms=figures.total_ms if figures is not None else 0,
                downtime_ms=figures.downtime_ms if figures is not None else 0,
                bytes_sent=figures.bytes_sent if figures is not None else 0,
            )
        )

    def _doubt(self, why: str) -> None:
        move = self._move()
        self.moving = Moving(tried=move.uid, failure=why)

    async def _end(self, step: Step, process: HypervisorInstance | None) -> None:
        """Kill what stands still: nobody in it can be asked to end."""
        worker, hypervisor = self._worker, self._worker._tools.hypervisor
        if process is None or process.ran:
            await worker._stop(Step(kind="stop" if step.kind == "stop" else "kill", why=step.why))
            return
        worker._tools.env.log("info", "incoming_dropped", uid=worker.uid, why=step.why)
        await hypervisor.kill(worker.uid)
        tried = self.moving.tried
        self.moving = Moving(tried=tried, failure=self.moving.failure or step.why)
        await worker.disks.leave()
        await hypervisor.forget(worker.uid)

    def _move(self) -> Move:
        assignment = self._worker.assignment
        assert assignment is not None
        assert assignment.spec.migration
        return assignment.spec.migration


async def _welcomed(stream: Stream) -> None:
    """Wait until the target says that it takes the memory: one that does not may say it too late.

    Raises:
        BlixardError: why it does not.
    """
    try:
        async with asyncio.timeout(WELCOME_S):
            answer = await stream.receive()
    except TimeoutError:
        answer = None
    if answer != WELCOME:
        raise BlixardError("MIGRATION_FAILED", "the target does not take the memory")


def _now() -> float:
    return asyncio.get_running_loop().time()
