"""The kind Network."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec
from msgspec import Meta

from blixard.base.errors import Problem
from blixard.cluster.kind import Kind


class NetworkSpec(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """A pool of addresses on an overlay; the first address is every node's gateway."""

    cidr: str = "10.42.0.0/16"
    vni: Annotated[int, Meta(ge=1, le=16_777_215)] = 42
    mtu: Annotated[int, Meta(ge=576, le=9000)] = 1450


def validate_network(spec: NetworkSpec) -> list[Problem]:
    """Return what the types cannot say: a private IPv4 pool with room."""
    try:
        network = ipaddress.IPv4Network(spec.cidr)
    except ValueError as error:
        return [Problem(pointer="/spec/cidr", message=str(error), accepted=("10.42.0.0/16",))]
    problems = []
    if not network.is_private:
        problems.append(Problem(pointer="/spec/cidr", message="must be a private range"))
    if network.prefixlen > 29:
        problems.append(Problem(pointer="/spec/cidr", message="has no room; at most /29"))
    return problems


KINDS: tuple[Kind, ...] = (
    Kind(
        name="Network",
        plural="networks",
        short=("net",),
        namespaced=False,
        spec=NetworkSpec,
        validate=validate_network,
    ),
)
