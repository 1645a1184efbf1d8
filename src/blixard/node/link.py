"""A node's tie to the leader: heartbeats and the lease, its duties, and its reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from blixard.base.errors import BlixardError
from blixard.cluster.leases import LeaseConfig, NodeLease
from blixard.images.duties import ImageReport
from blixard.node import messages as m
from blixard.node.authority import NodeAuthority, ends_with_epoch
from blixard.node.kinds import Program
from blixard.node.leadership import Leadership
from blixard.ports.environment import Environment
from blixard.ports.hypervisor import Hypervisor
from blixard.vms.moves import MoveAnswer, MoveWord
from blixard.vms.reconcile import Assignment
from blixard.vms.reporter import PATH_MAX
from blixard.vms.spec import InstanceStatus, Phase

REQUEST_S = 1.5
PATIENCE_S = 0.4  # so that a lease outlives a leader that is cut off together with other voters
VIEW_WAIT_S = 5.0
RETRY_S = 0.2
REPORTS_MAX = 200
IMAGE_REPORTS_MAX = 8


class NodeLink:
    """Keeps the lease alive, the duties fresh and the leader informed."""

    def __init__(
        self,
        env: Environment,
        leadership: Leadership,
        config: LeaseConfig,
        hypervisor: Hypervisor,
        *,
        program: Program,
    ) -> None:
        self._env = env
        self._leadership = leadership
        self._program = program
        self._config = config
        self._hypervisor = hypervisor
        self.authority = NodeAuthority(config)
        self._view: m.FullView | None = None
        self.removed = False
        self._pending: dict[str, m.Report] = {}
        self._pending_images: dict[str, ImageReport] = {}
        self._disputed: set[str] = set()
        self._report_wake = asyncio.Event()
        self.on_view: Callable[[m.FullView], None] = lambda _view: None
        self.on_authority: Callable[[], None] = lambda: None
        self.on_new_epoch: Callable[[], None] = lambda: None

    # -- what workers ask (Authority) --

    def granted(self) -> bool:
        """Tell whether the lease is valid and the duties were read under its epoch."""
        return self.authority.granted(self._env.boottime_ns())

    @property
    def lease(self) -> NodeLease:
        """The lease itself."""
        return self.authority.lease

    @property
    def epoch(self) -> int:
        """The epoch this node lives in."""
        return self.lease.epoch

    @property
    def deadline_ns(self) -> int:
        """When the lease ends."""
        return self.lease.expires_ns

    async def confirm_start(self, uid: str, run: int, epoch: int) -> bool:
        """Ask the leader, linearizably; no answer means no."""
        question = m.encode(m.StartQuestion(uid, run, epoch))
        try:
            answer = await self._leadership.ask(m.CONFIRM_START, question, timeout_s=REQUEST_S)
        except BlixardError:
            return False
        allowed = msgspec.msgpack.decode(answer, type=m.StartAnswer).allowed
        now_ns = self._env.boottime_ns()
        return self.authority.may_resume(allowed=allowed, epoch=epoch, now_ns=now_ns)

    async def tell_move(self, word: MoveWord) -> MoveAnswer:
        """Tell the leader of a migration. Raises BlixardError: what came of it is unknown."""
        answer = await self._leadership.ask(m.MOVE, m.encode(word), timeout_s=REQUEST_S * 2)
        return msgspec.msgpack.decode(answer, type=MoveAnswer)

    # -- heartbeats --

    async def run_heartbeats(self) -> None:
        """Renew the lease for ever."""
        while True:
            try:
                renewed = await self._heartbeat()
            except BlixardError as error:
                # The guard cannot be asked. It goes by the deadlines that it has; a new epoch is
                # entered only once its old instances are seen to be gone.
                self._env.log("warning", "guard_silent", code=error.code, detail=error.message)
                renewed = False
            await asyncio.sleep(self._config.heartbeat_s if renewed else RETRY_S)

    async def _heartbeat(self) -> bool:
        epoch, sent_ns = self.lease.epoch, self._env.boottime_ns()
        try:
            heartbeat = m.encode(m.Heartbeat(epoch, self._program.version, self._program.level))
            answer = await self._leadership.ask(
                m.HEARTBEAT, heartbeat, timeout_s=REQUEST_S, patience_s=PATIENCE_S
            )
        except BlixardError as error:
            self._refused(error)
            return False
        reply = msgspec.msgpack.decode(answer, type=m.HeartbeatReply)
        heard = self.authority.heartbeat_answered(
            granted=reply.granted,
            epoch=reply.epoch,
            asked_epoch=epoch,
            sent_ns=sent_ns,
            now_ns=self._env.boottime_ns(),
        )
        if heard == "new epoch":
            await self._enter_epoch(reply.epoch)
        elif heard == "renewed":
            await self._hypervisor.extend(self.lease.expires_ns)
        return heard == "renewed"

    def _refused(self, error: BlixardError) -> None:
        """Say once, loudly, that the cluster does not know this node; the rest is for debugging."""
        removed = error.code == "NODE_REMOVED"
        if removed and not self.removed:
            hint = "this node was removed: stop it, empty its data directory, join it again"
            self._env.log("error", "node_removed", detail=error.message, hint=hint)
        elif not removed:
            self._env.log("debug", "heartbeat_failed", code=error.code, detail=error.message)
        self.removed = removed

    async def _enter_epoch(self, epoch: int) -> None:
        """Leave the old epoch: nothing fenced of it may run when the new one begins."""
        self.authority.leave_epoch()
        for process in await self._hypervisor.instances():
            if ends_with_epoch(process, epoch):
                await self._hypervisor.kill(process.instance_uid)
        self._env.log("info", "node_epoch_entered", epoch=epoch, was=self.lease.epoch)
        self.authority.enter_epoch(epoch)
        self.on_new_epoch()

    # -- duties --

    async def run_views(self) -> None:
        """Follow the node's duties for ever."""
        while True:
            if not await self._read_view():
                await asyncio.sleep(RETRY_S)

    async def _read_view(self) -> bool:
        fresh = self.authority.fresh and self.authority.view_epoch == self.lease.epoch
        have = self._view.digest if fresh and self._view is not None else ""
        began_ns = self._env.boottime_ns()
        self.authority.view_asked()
        request = m.encode(m.ViewRequest(have, VIEW_WAIT_S if have else 0.0))
        try:
            answer = await self._leadership.ask(m.VIEW, request, timeout_s=VIEW_WAIT_S + REQUEST_S)
        except BlixardError as error:
            self._env.log("debug", "view_failed", code=error.code, detail=error.message)
            return False
        view = msgspec.msgpack.decode(answer, type=m.FullView)
        if view.digest == have:
            return True
        self._view = view
        self._leadership.peers = view.peers
        fresh = self.authority.view_read(view.epoch, self._env.boottime_ns())
        self._env.log(
            "debug",
            "view_read",
            revision=view.revision,
            fresh=fresh,
            took_ms=(self._env.boottime_ns() - began_ns) // 1_000_000,
        )
        self.on_view(view)
        if fresh:
            self.on_authority()
        return fresh

    # -- reports --

    def report(
        self, assignment: Assignment, status: InstanceStatus, path: tuple[Phase, ...]
    ) -> None:
        """Queue a status; a newer one of the same instance replaces it and keeps its path."""
        uid, waiting = assignment.uid, self._pending.get(assignment.uid)
        if uid in self._disputed:
            self._disputed.discard(uid)
            path = ("Unknown", status.phase)
        document = msgspec.to_builtins(status)
        if status.phase in ("Building", "Starting"):
            document["phasesMs"] = document["phasesMs"] or None
        self._pending[uid] = m.Report(
            uid=uid,
            namespace=assignment.namespace,
            name=assignment.name,
            run=assignment.spec.run,
            status=document,
            path=_joined(waiting, assignment.spec.run, path),
        )
        self._report_wake.set()

    def report_image(self, report: ImageReport) -> None:
        """Queue what a build has come to; a newer report of the same image replaces it."""
        self._pending_images[report.uid] = report
        self._report_wake.set()

    async def run_reports(self) -> None:
        """Send queued reports in batches, again until they are taken or refused."""
        while True:
            await self._report_wake.wait()
            self._report_wake.clear()
            batch = tuple(self._pending[uid] for uid in sorted(self._pending)[:REPORTS_MAX])
            waiting = sorted(self._pending_images)[:IMAGE_REPORTS_MAX]
            images = tuple(self._pending_images[uid] for uid in waiting)
            if (batch or images) and not await self._send_reports(batch, images):
                await asyncio.sleep(RETRY_S)
            if self._pending or self._pending_images:
                self._report_wake.set()

    async def _send_reports(
        self, batch: tuple[m.Report, ...], images: tuple[ImageReport, ...]
    ) -> bool:
        """Return whether nothing of it is to be sent again at once."""
        reports = m.encode(m.Reports(self.lease.epoch, batch, images))
        try:
            answer = await self._leadership.ask(m.REPORT, reports, timeout_s=REQUEST_S * 2)
        except BlixardError as error:
            self._env.log("debug", "report_failed", code=error.code, detail=error.message)
            return False
        reply = msgspec.msgpack.decode(answer, type=m.ReportsReply)
        for sent, code in zip(batch, reply.codes, strict=True):
            if self._pending.get(sent.uid) is sent:
                del self._pending[sent.uid]
            if code and code != "NOT_FOUND":
                self._disputed.add(sent.uid)
                self._env.log("info", "report_refused", name=sent.name, run=sent.run, code=code)
        return self._images_answered(images, reply.image_codes)

    def _images_answered(self, images: tuple[ImageReport, ...], codes: tuple[str, ...]) -> bool:
        """Forget what was taken or is of no use; a status that changed meanwhile is told again."""
        codes = codes or ("",) * len(images)
        for sent, code in zip(images, codes, strict=True):
            if code != "CONFLICT" and self._pending_images.get(sent.uid) is sent:
                del self._pending_images[sent.uid]
        return "CONFLICT" not in codes


def _joined(waiting: m.Report | None, run: int, path: tuple[Phase, ...]) -> tuple[str, ...]:
    """Return the phases of both reports; too many are told as Unknown and the last."""
    if waiting is None or waiting.run != run:
        return path
    joined = (*waiting.path, *path)
    return joined if len(joined) <= PATH_MAX else ("Unknown", path[-1])
