"""Names, addresses and texts of a cluster on one machine; pure."""

from __future__ import annotations

import re
from typing import NamedTuple

BRIDGE = "blxdev0"
NAMESPACE = "blxdev-"
PORT = "blxdev-v"
NFT_TABLE = "blixard_dev"
NETWORK = "10.77.0"
GUESTS = "10.42.0.0/16"
CONTEXT = "dev"
NODES_MAX = 9
MEMORY_SHARE = 0.85  # of the machine's memory, for the guests of all nodes together
_CURRENT = re.compile(r'(?m)^current\s*=\s*"([^"]*)".*$')
_OURS = re.compile(rf'current\s*=\s*"{CONTEXT}"(?:\s*# was "([^"]*)")?')
_NODE = re.compile(r"node[1-9]")


class Place(NamedTuple):
    """One node: its name, number and where its files stand."""

    number: int
    directory: str

    @property
    def name(self) -> str:
        """The node's name in the cluster."""
        return f"node{self.number}"

    @property
    def namespace(self) -> str:
        """Its network namespace."""
        return NAMESPACE + self.name

    @property
    def port(self) -> str:
        """The machine's end of its cable."""
        return f"{PORT}{self.number}"

    @property
    def address(self) -> str:
        """Its address."""
        return f"{NETWORK}.{10 + self.number}"

    @property
    def root(self) -> str:
        """The directory of its files."""
        return f"{self.directory}/{self.name}"

    @property
    def data(self) -> str:
        """What the daemon calls its data directory."""
        return f"{self.root}/data"

    @property
    def config(self) -> str:
        """Its configuration file."""
        return f"{self.root}/config.toml"

    @property
    def socket(self) -> str:
        """The Unix socket of its API, outside the data directory, which others may not enter."""
        return f"{self.root}/api.sock"

    @property
    def log(self) -> str:
        """What the daemon writes."""
        return f"{self.root}/daemon.log"

    @property
    def pid_file(self) -> str:
        """Pid and start time of the daemon."""
        return f"{self.root}/daemon.pid"

    @property
    def token(self) -> str:
        """Where its join token is kept until it is used."""
        return f"{self.root}/join.token"


def places(directory: str, nodes: int) -> list[Place]:
    """Return the nodes of a cluster."""
    return [Place(number, directory) for number in range(1, nodes + 1)]


def place_named(found: list[Place], name: str) -> Place | None:
    """Return the node of that name."""
    return next((p for p in found if p.name == name), None)


def is_node_namespace(name: str) -> bool:
    """Tell whether a network namespace is one of ours."""
    return name.startswith(NAMESPACE) and bool(_NODE.fullmatch(name.removeprefix(NAMESPACE)))


class Machine(NamedTuple):
    """What the nodes share: the machine's memory and cores, the image cache, who may read."""

    memory_mib: int
    vcpus: int
    cache: str
    group: str


def config_text(place: Place, machine: Machine, nodes: int) -> str:
    """Return the node's configuration: an equal share of the memory, all cores."""
    share = max(64, int(machine.memory_mib * MEMORY_SHARE) // nodes)
    lines = [
        "[cluster]",
        f'node_id = "{place.name}"',
        f'address = "{place.address}"',
        f'data_dir = "{place.data}"',
        "",
        "[node]",
        f"memory_mb = {share}",
        f"vcpus = {machine.vcpus}",
        "",
        "[api]",
        f'socket = "{place.socket}"',
        *([f'socket_group = "{machine.group}"'] if machine.group else []),
        "",
        "[images]",
        f'cache_dir = "{machine.cache}"',
        "",
        "[network]",
        f'pool = "{GUESTS}"',
    ]
    return "\n".join(lines) + "\n"


def bridge_lines(directory: str) -> list[str]:
    """Return the ``ip`` lines that make the bridge; its alias says whose it is."""
    return [
        f"link add {BRIDGE} type bridge",
        f"link set {BRIDGE} alias {directory}",
        f"address add {NETWORK}.1/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ]


def cable_lines(place: Place) -> list[str]:
    """Return the ``ip`` lines that plug a node's namespace into the bridge."""
    return [
        f"link add {place.port} type veth peer name eth0 netns {place.namespace}",
        f"link set {place.port} master {BRIDGE} up",
    ]


def inside_lines(place: Place) -> list[str]:
    """Return the ``ip`` lines for the inside of a node's namespace."""
    return [
        "link set lo up",
        f"address add {place.address}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {NETWORK}.1",
    ]


def nat_rules() -> str:
    """Return the rules that let the nodes reach what the machine reaches: package sources."""
    return (
        f"table ip {NFT_TABLE}\n"
        f"delete table ip {NFT_TABLE}\n"
        f"table ip {NFT_TABLE} {{\n"
        "  chain out {\n"
        "    type nat hook postrouting priority srcnat; policy accept;\n"
        f'    ip saddr {NETWORK}.0/24 oifname != "{BRIDGE}" masquerade\n'
        "  }\n"
        "}\n"
    )


def with_context(text: str, address: str) -> str:
    """Return the context file with our entry, as the default; the default before is noted."""
    body = without_context(text).rstrip()
    found = _CURRENT.search(body)
    before = found[1] if found else ""
    body = _CURRENT.sub("", body, count=1).strip("\n")
    line = f'current = "{CONTEXT}"' + (f'  # was "{before}"' if before else "") + "\n"
    block = f'[contexts."{CONTEXT}"]\naddress = "{address}"\n'
    return line + (f"{body}\n\n{block}" if body else block)


def without_context(text: str) -> str:
    """Return the context file without our entry, with the default of before."""
    kept, skipping = [], False
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("["):
            skipping = line.strip() in (f'[contexts."{CONTEXT}"]', f"[contexts.{CONTEXT}]")
        ours = _OURS.match(line)
        if ours and ours[1]:
            kept.append(f'current = "{ours[1]}"\n')
        elif not skipping and not ours:
            kept.append(line)
    return "".join(kept).lstrip("\n")
