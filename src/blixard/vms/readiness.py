"""Whether a guest is ready: it is asked what its spec says, one question after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from blixard.base.errors import BlixardError
from blixard.ports.hypervisor import Hypervisor
from blixard.vms.spec import InstanceSpec
from blixard.vms.tools import Tools


async def is_ready(
    uid: str, spec: InstanceSpec, tools: Tools, *, booted: Callable[[], None]
) -> bool:
    """Tell whether a guest answers all that it is asked; *booted* is called once its agent does."""
    check = spec.readiness
    try:
        async with asyncio.timeout(check.timeout_s + 1):
            if check.agent and not await _agent_ready(uid, tools.hypervisor):
                return False
            booted()
            if check.tcp is not None and not await tools.network.probe(
                spec.ip, check.tcp.port, None, timeout_s=check.timeout_s
            ):
                return False
            return check.http is None or await tools.network.probe(
                spec.ip, check.http.port, check.http.path, timeout_s=check.timeout_s
            )
    except TimeoutError:
        return False


async def _agent_ready(uid: str, hypervisor: Hypervisor) -> bool:
    try:
        return (await hypervisor.guest_status(uid)).ready
    except BlixardError:
        return False
