"""Every key of ``/etc/blixard/config.toml``: default, form, and whether its feature exists yet.

The Structs hold the values and the defaults; :data:`KEYS` says how each is written and checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from blixard.base import config_forms as forms


class ClusterSection(msgspec.Struct, frozen=True, kw_only=True):
    """This node and where it keeps its data. ``address``: how the other nodes reach it (host)."""

    node_id: str = ""
    address: str = ""
    data_dir: str = "/var/lib/blixard"
    log_level: str = "info"


class NodeSection(msgspec.Struct, frozen=True, kw_only=True):
    """What placement may know of this node; zero: detected."""

    labels: dict[str, str] = {}
    roles: tuple[str, ...] = ("hypervisor",)
    vcpus: int = 0
    memory_mb: int = 0
    function_memory_mb: int = 0


class ApiSection(msgspec.Struct, frozen=True, kw_only=True):
    """The REST API. ``socket`` empty: ``api.sock`` in the data directory."""

    port: int = 7443
    bind: str = ""
    socket: str = ""
    socket_group: str = "blixard"


class DiscoverySection(msgspec.Struct, frozen=True, kw_only=True):
    """How nodes find each other. ``port``: gRPC between nodes."""

    method: str = "static"
    port: int = 7946
    peers: tuple[str, ...] = ()


class ConsensusSection(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds; elections start after one to two times ``election_timeout``."""

    tick: float = 0.05
    heartbeat_interval: float = 0.1
    election_timeout: float = 0.5
    lease: float = 4.0
    snapshot_threshold: int = 10_000


class MicrovmSection(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults and limits of VMs."""

    default_hypervisor: str = "qemu"
    default_memory_mb: int = 512
    default_vcpus: int = 1
    max_vms_per_node: int = 100
    nix_config_dir: str = "/etc/blixard/vm-configs"


class ImagesSection(msgspec.Struct, frozen=True, kw_only=True):
    """Guest images built here. ``mirror`` empty: the host's own package sources."""

    cache_dir: str = "/var/cache/blixard/images"
    mirror: str = ""
    cache_size_gb: int = 20


class CephSection(msgspec.Struct, frozen=True, kw_only=True):
    """The Ceph cluster behind volumes. ``keyring`` empty: /etc/ceph/ceph.client.USER.keyring."""

    config_file: str = "/etc/ceph/ceph.conf"
    user: str = "blixard"
    keyring: str = ""
    default_pool: str = ""
    replication_factor: int = 3
    pg_num: int = 32
    min_size: int = 2


class PoolSection(msgspec.Struct, frozen=True, kw_only=True):
    """A storage pool: ``replicated`` with ``size``, or ``erasure`` with ``k`` and ``m``."""

    type: str = "replicated"
    size: int = 3
    min_size: int = 2
    k: int = 0
    m: int = 0
    rule: str = ""


class StorageSection(msgspec.Struct, frozen=True, kw_only=True):
    """Pools by name."""

    ceph: CephSection = CephSection()
    pools: dict[str, PoolSection] = {}


class NetworkSection(msgspec.Struct, frozen=True, kw_only=True):
    """The default network. ``pool``: addresses of guests, for the whole cluster."""

    pool: str = "10.42.0.0/16"
    mtu: int = 1450
    vxlan_port: int = 4789
    bridge_name: str = "blixard0"
    vlan_range: str = ""
    default_gateway: str = ""
    dhcp_pool: str = ""


class MonitoringSection(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics, logs and boards."""

    metrics_enabled: bool = False
    metrics_port: int = 9090
    ceph_dashboard: bool = False
    log_aggregation: bool = False
    grafana_enabled: bool = False


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration of one node."""

    cluster: ClusterSection = ClusterSection()
    node: NodeSection = NodeSection()
    api: ApiSection = ApiSection()
    discovery: DiscoverySection = DiscoverySection()
    consensus: ConsensusSection = ConsensusSection()
    microvm: MicrovmSection = MicrovmSection()
    images: ImagesSection = ImagesSection()
    storage: StorageSection = StorageSection()
    network: NetworkSection = NetworkSection()
    monitoring: MonitoringSection = MonitoringSection()

    @property
    def api_socket(self) -> str:
        """The path of the API's Unix socket."""
        return self.api.socket or f"{self.cluster.data_dir.rstrip('/')}/api.sock"


class Key(NamedTuple):
    """One key. *missing* names the feature that it is for while that feature is not there.

    *missing_values* are accepted values whose feature is not there, with what happens instead.
    """

    path: str
    form: Callable[[Any], Any]
    text: str
    accepted: tuple[str, ...] = ()
    missing: str = ""
    missing_values: tuple[tuple[str, str], ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable that overrides the key."""
        return "BLIXARD_" + self.path.replace(".", "_").replace("-", "_").upper()


LOG_LEVELS = ("debug", "info", "warning", "error")
DISCOVERY = ("static", "dns", "tailscale")
HYPERVISORS = (
    "qemu",
    "cloud-hypervisor",
    "firecracker",
    "crosvm",
    "kvmtool",
    "stratovirt",
    "alioth",
    "vfkit",
)
_NO_DISCOVERY = "addresses come from join tokens and discovery.peers meanwhile"
_NO_HYPERVISOR = "qemu runs the VMs meanwhile"
_NO_POOL = "a default pool (volumes name theirs)"
_NO_COPIES = "a default of this node (pools say how many copies they keep: 3)"
_NO_POOLS = "pools of the configuration (storage pool create makes them)"
_NO_METRICS = "the metrics exporter"

KEYS: tuple[Key, ...] = (
    Key("cluster.node_id", forms.name, "name of this node"),
    Key("cluster.address", forms.host, "address that the other nodes use"),
    Key("cluster.data_dir", forms.absolute_path, "where the node keeps its state"),
    Key("cluster.log_level", forms.one_of(LOG_LEVELS), "least severe log line written", LOG_LEVELS),
    Key("node.labels", forms.labels, "labels for placement"),
    Key("node.roles", forms.names, "what the node does"),
    Key("node.vcpus", forms.integer(0, 100_000), "virtual CPUs to give out (0: detected)"),
    Key("node.memory_mb", forms.integer(0, 1 << 30), "memory to give out (0: detected)"),
    Key(
        "node.function_memory_mb",
        forms.integer(0, 1 << 30),
        "of that, for functions alone (0: an eighth)",
    ),
    Key("api.port", forms.port, "port of the REST API (TLS)"),
    Key("api.bind", forms.host, "address that the REST API listens on (empty: cluster.address)"),
    Key("api.socket", forms.absolute_path, "Unix socket of the API (empty: DATA_DIR/api.sock)"),
    Key("api.socket_group", forms.name, "group that may read over the socket"),
    Key(
        "discovery.method",
        forms.one_of(DISCOVERY),
        "how nodes find each other",
        DISCOVERY,
        missing_values=(("dns", _NO_DISCOVERY), ("tailscale", _NO_DISCOVERY)),
    ),
    Key("discovery.port", forms.port, "port between nodes (gRPC, mutual TLS)"),
    Key(
        "discovery.peers",
        forms.addresses,
        "addresses of other nodes: HOST or HOST:PORT",
        missing="fixed peers (join tokens carry the addresses)",
    ),
    Key("consensus.tick", forms.duration(0.005, 1), "unit of consensus timing"),
    Key(
        "consensus.heartbeat_interval", forms.duration(0.01, 10), "pause between leader heartbeats"
    ),
    Key(
        "consensus.election_timeout",
        forms.duration(0.05, 60),
        "silence after which followers elect",
    ),
    Key("consensus.lease", forms.duration(0.5, 600), "how long a cut-off node may run fenced VMs"),
    Key(
        "consensus.snapshot_threshold",
        forms.integer(100, 10_000_000),
        "log entries between snapshots",
    ),
    Key(
        "microvm.default_hypervisor",
        forms.one_of(HYPERVISORS),
        "hypervisor of VMs that name none",
        HYPERVISORS,
        missing_values=tuple((h, _NO_HYPERVISOR) for h in HYPERVISORS[1:]),
    ),
    Key(
        "microvm.default_memory_mb",
        forms.integer(32, 1 << 24),
        "memory of VMs that name none",
        missing="a default of this node (VMs that name none get 256MiB)",
    ),
    Key(
        "microvm.default_vcpus",
        forms.integer(1, 1024),
        "virtual CPUs of VMs that name none",
        missing="a default of this node (VMs that name none get 1)",
    ),
    Key(
        "microvm.max_vms_per_node",
        forms.integer(1, 100_000),
        "limit of long-lived VMs on this node",
    ),
    Key(
        "microvm.nix_config_dir",
        forms.absolute_path,
        "directory of Nix VM files",
        missing="VMs made by Nix",
    ),
    Key(
        "images.cache_dir", forms.absolute_path, "built images, shared by the nodes of one machine"
    ),
    Key("images.mirror", forms.text, "mirror of guests' packages (empty: the host's own sources)"),
    Key(
        "images.cache_size_gb",
        forms.integer(1, 1 << 20),
        "size above which images that nobody uses are removed",
    ),
    Key("storage.ceph.config_file", forms.absolute_path, "Ceph's configuration"),
    Key("storage.ceph.user", forms.name, "Ceph's user for the daemon, without client."),
    Key("storage.ceph.keyring", forms.absolute_path, "its keyring, readable by root alone"),
    Key("storage.ceph.default_pool", forms.name, "pool of volumes without one", missing=_NO_POOL),
    Key("storage.ceph.replication_factor", forms.integer(1, 10), "copies", missing=_NO_COPIES),
    Key("storage.ceph.pg_num", forms.integer(1, 1 << 16), "placement groups of a new pool"),
    Key("storage.ceph.min_size", forms.integer(1, 10), "copies to write", missing=_NO_COPIES),
    Key(
        "storage.pools.*.type",
        forms.one_of(("replicated", "erasure")),
        "kind of pool",
        ("replicated", "erasure"),
        missing=_NO_POOLS,
    ),
    Key("storage.pools.*.size", forms.integer(1, 10), "copies", missing=_NO_POOLS),
    Key("storage.pools.*.min_size", forms.integer(1, 10), "copies to write", missing=_NO_POOLS),
    Key("storage.pools.*.k", forms.integer(1, 64), "data parts", missing=_NO_POOLS),
    Key("storage.pools.*.m", forms.integer(1, 64), "parity parts", missing=_NO_POOLS),
    Key("storage.pools.*.rule", forms.name, "CRUSH rule", missing=_NO_POOLS),
    Key("network.pool", forms.cidr, "addresses of guests on the default network"),
    Key(
        "network.mtu",
        forms.integer(576, 9000),
        "largest packet of guests",
        missing="an MTU of the default network (1450)",
    ),
    Key(
        "network.vxlan_port",
        forms.port,
        "UDP port of the overlay between nodes",
        missing="another port of the overlay (4789)",
    ),
    Key(
        "network.bridge_name",
        forms.interface,
        "bridge of the default network",
        missing="names of bridges",
    ),
    Key("network.vlan_range", forms.number_range(1, 4094), "VLANs to use", missing="VLAN networks"),
    Key(
        "network.default_gateway",
        forms.ip,
        "gateway of guests",
        missing="gateways outside the pool",
    ),
    Key(
        "network.dhcp_pool",
        forms.cidr,
        "addresses given by DHCP",
        missing="DHCP (addresses come from network.pool)",
    ),
    Key("monitoring.metrics_enabled", forms.boolean, "export metrics", missing=_NO_METRICS),
    Key("monitoring.metrics_port", forms.port, "port of the exporter", missing=_NO_METRICS),
    Key("monitoring.ceph_dashboard", forms.boolean, "Ceph's page", missing="Ceph's page"),
    Key("monitoring.log_aggregation", forms.boolean, "collect logs", missing="log aggregation"),
    Key(
        "monitoring.grafana_enabled", forms.boolean, "make Grafana boards", missing="Grafana boards"
    ),
)
