"""The daemon: a node on the real ports, its API, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import grp
import os
import signal

from blixard.api.server import ApiServer, ServerConfig
from blixard.base.config_keys import Config
from blixard.base.errors import BlixardError
from blixard.base.priority import come_first, join_daemons, leave_daemons
from blixard.cluster.leases import LeaseConfig
from blixard.consensus.node import RaftConfig
from blixard.daemon.bootstrap import transport_address
from blixard.daemon.files import NodeFiles, Stored
from blixard.daemon.probes import probe_host
from blixard.daemon.recover import check_not_recovering
from blixard.daemon.storage import close_backends, make_backends
from blixard.hypervisors.guard.cgroups import remove_abandoned
from blixard.hypervisors.guard.client import GuardClient
from blixard.hypervisors.qemu.hypervisor import QemuHypervisor
from blixard.images.debian.builder import DebianGuestBuilder
from blixard.network.linux.backend import LinuxNetwork
from blixard.node.admission import Admission
from blixard.node.api import NodeApi
from blixard.node.entitled import refusal
from blixard.node.node import Node, NodeConfig, Secrets
from blixard.placement.choice import VM_ROLE
from blixard.runtime.disk import RealDisk
from blixard.runtime.environment import RealEnvironment, make_random, make_spawner
from blixard.runtime.logs import JsonLog
from blixard.runtime.transport import GrpcTransport
from blixard.security import ca
from blixard.security.identity import PeerCertificate, verify_der
from blixard.security.principals import ROLE_VIEWER
from blixard.security.tls import TlsIdentity, TlsMaterial

STOP_S = 8.0
NICE = -5  # before image builds and whatever else runs here; guests run at 0, the guard at -10
RENEW_RETRY_S = 60.0


class VoterSecrets(Secrets):
    """The issuing authority: voters hold it, an invitation to vote carries it."""

    def __init__(self, files: NodeFiles) -> None:
        self._files = files

    async def give(self) -> dict[str, bytes]:
        """Return the authority for a new voter."""
        issuer = self._files.load_issuer()
        if issuer is None:
            return {}
        return {"certificate": issuer.certificate_pem, "key": issuer.key_pem}

    async def take(self, secrets: dict[str, bytes]) -> None:
        """Store the authority."""
        if secrets:
            self._files.store_issuer(
                ca.Authority(certificate_pem=secrets["certificate"], key_pem=secrets["key"])
            )


class Daemon:
    """One running node."""

    def __init__(self, config: Config, files: NodeFiles, stored: Stored) -> None:
        self._config = config
        self._files = files
        self.log = JsonLog(level=config.cluster.log_level, node=stored.node.name)
        self._spawner = make_spawner(self.log)
        self._tls = TlsMaterial(files.load_tls())
        self._transport = GrpcTransport(
            self._tls,
            trust_domain=stored.trust_domain,
            authorize=self._authorize,
            log=self.log,
            spawner=self._spawner,
            generator=make_random(),
        )
        self._disk = RealDisk(config.cluster.data_dir)
        self.env = RealEnvironment(
            disk=self._disk, transport=self._transport, log=self.log, spawner=self._spawner
        )
        vms = os.path.join(config.cluster.data_dir, "vms")
        os.makedirs(vms, mode=0o711, exist_ok=True)
        guard = GuardClient(vms, stored.node.uid[-10:].lower())
        self._hypervisor = QemuHypervisor(vms, guard, probe_dir=config.images.cache_dir)
        self._backends = make_backends(config)
        self.node = Node(
            self.env,
            stored.node,
            node_config(config),
            hypervisor=self._hypervisor,
            network=LinuxNetwork(stored.node.uid, config.cluster.address),
            builder=DebianGuestBuilder(
                config.images.cache_dir,
                mirror=config.images.mirror,
                limit_bytes=config.images.cache_size_gb << 30,
            ),
            backends=self._backends,
            secrets=VoterSecrets(files),
        )
        roots = self._tls.identity.roots_pem
        self._admission = Admission(
            self.node,
            trust_domain=stored.trust_domain,
            issuer=files.load_issuer,
            roots_pem=roots,
            own_certificate_der=lambda: ca.certificate_der(self._tls.identity.chain_pem),
        )
        self.api = NodeApi(
            self.node,
            admission=self._admission,
            ca_certificate_der=ca.certificate_der(roots),
            check_certificate=self._check_certificate,
        )
        group = _group(config.api.socket_group)
        self._server = ApiServer(
            self.api.service,
            ServerConfig(
                socket_path=config.api_socket,
                socket_group=group,
                group_roles={group: ROLE_VIEWER} if group >= 0 else {},
                tls_host=config.api.bind or config.cluster.address,
                tls_port=config.api.port,
            ),
            tls=self._tls.server_context(client_certificate=False),
            log=self.log,
        )

    def _authorize(self, uid: str, _epoch: int, method: str) -> BlixardError | None:
        """Judge a peer's call by the state: who it is comes from its certificate."""
        voter = self.node.voter
        return refusal(
            uid,
            method,
            peers=self.node.leadership.peers,
            store=voter.cluster.store if voter is not None else None,
            membership=voter.raft.membership if voter is not None else None,
        )

    def _check_certificate(self, der: bytes) -> PeerCertificate:
        own = self._tls.identity
        now_ms = self.env.wall_time_ms()
        return verify_der(der, chain_pem=own.chain_pem, roots_pem=own.roots_pem, now_ms=now_ms)

    async def serve(self) -> None:
        """Run until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self._admission.register()
        self.api.register()
        if abandoned := await asyncio.to_thread(remove_abandoned):
            self.log("info", "cgroups_removed", guards=abandoned)
        try:
            await self._transport.start(transport_address(self._config))
            await self.node.start()
            await self._server.start()
        except (BlixardError, OSError):
            await self._stop()
            raise
        self._spawner.spawn(self._renew(), name="certificate renewal")
        if VM_ROLE in self._config.node.roles:
            self._spawner.spawn(self._look_at_host(), name="host probe")
        self.log("info", "node_started", uid=self.node.identity.uid)
        # What start-up made stays for ever: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        await stop.wait()
        self.log("info", "node_stopping")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._stop()

    async def _stop(self) -> None:
        await self._server.stop()
        await self.node.stop()
        await self._hypervisor.close()
        await close_backends(self._backends)
        await self._transport.stop()
        await self._spawner.cancel_all()
        self._disk.close()

    async def _look_at_host(self) -> None:
        """Say once what this machine does not let the node do, and what helps."""
        for row in await asyncio.to_thread(probe_host, self._config.images.cache_dir):
            if not row.ok:
                self.log("warning", "host_lacks", what=row.name, found=row.found, hint=row.hint)

    async def _renew(self) -> None:
        """Renew the certificate at half of its life, over the connection that it protects."""
        while True:
            identity = self._tls.identity
            wait_s = (ca.renew_at_ms(identity.chain_pem) - self.env.wall_time_ms()) / 1000
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, 3600.0))
                continue
            try:
                chain = await self._admission.renew(ca.make_request(identity.key_pem))
            except BlixardError as error:
                self.log("warning", "renewal_failed", code=error.code, detail=error.message)
                await asyncio.sleep(RENEW_RETRY_S)
                continue
            renewed = TlsIdentity(
                chain_pem=chain, key_pem=identity.key_pem, roots_pem=identity.roots_pem
            )
            self._files.store_tls(renewed)
            self._tls.reload(renewed)
            self.log("info", "certificate_renewed")


def node_config(config: Config) -> NodeConfig:
    """Return the node's timing from the configuration."""
    consensus = config.consensus
    raft = RaftConfig(
        tick_s=consensus.tick,
        heartbeat_ticks=max(1, round(consensus.heartbeat_interval / consensus.tick)),
        election_ticks=max(2, round(consensus.election_timeout / consensus.tick)),
        snapshot_entries=consensus.snapshot_threshold,
    )
    lease = LeaseConfig(lease_s=consensus.lease, heartbeat_s=min(1.0, consensus.lease / 4))
    return NodeConfig(raft=raft, lease=lease)


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return -1


def run_node(config: Config) -> int:
    """Run the daemon in the foreground; return its exit code."""
    # A lease that is not renewed ends guests. Refused without the right: then as all others.
    come_first(NICE)
    join_daemons()
    try:
        return _run_node(config)
    finally:
        leave_daemons()


def _run_node(config: Config) -> int:
    files = NodeFiles(config.cluster.data_dir)
    check_not_recovering(config.cluster.data_dir)
    stored = files.load()

    async def main() -> None:
        await Daemon(config, files, stored).serve()

    try:
        asyncio.run(main())
    except BlixardError as error:
        if error.code != "LOG_CORRUPT":
            raise
        raise _corrupt(error, config.cluster.data_dir, stored.node.name) from error
    return 0


def _corrupt(error: BlixardError, data_dir: str, name: str) -> BlixardError:
    """Return the error with the whole path, and with the way back for this node."""
    return BlixardError(
        error.code,
        f"{data_dir.rstrip('/')}/{error.message}",
        hint=f"on another node: blixard cluster force-remove-node {name}, then blixard cluster "
        f"add-node; here: empty {data_dir}, then blixard cluster join with the new token",
        details=error.details,
    )
