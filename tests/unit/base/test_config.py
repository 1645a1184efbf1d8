from __future__ import annotations

import msgspec
import pytest

from blixard.base.config import key_paths, parse_config, value_at
from blixard.base.config_keys import KEYS, Config
from blixard.base.errors import BlixardError

DOCUMENTED = """\
# /etc/blixard/config.toml
[cluster]
node_id = "node1"
data_dir = "/var/lib/blixard"
log_level = "info"

[discovery]
method = "tailscale"
port = 7946

[consensus]
election_timeout = "5s"
heartbeat_interval = "1s"
snapshot_threshold = 1000

[microvm]
default_hypervisor = "firecracker"
default_memory_mb = 512
default_vcpus = 1
max_vms_per_node = 100
nix_config_dir = "/etc/blixard/vm-configs"

[storage.ceph]
config_file = "/etc/ceph/ceph.conf"
default_pool = "ssd-pool"
replication_factor = 3
pg_num = 128
min_size = 2

[storage.pools.ssd-pool]
type = "replicated"
size = 3
min_size = 2
rule = "ssd_rule"

[storage.pools.hdd-pool]
type = "erasure"
k = 4
m = 2
rule = "hdd_rule"

[network]
vlan_range = "100-200"
bridge_name = "blixard0"
default_gateway = "10.0.0.1"
dhcp_pool = "10.0.1.0/24"

[monitoring]
metrics_enabled = true
metrics_port = 9090
ceph_dashboard = true
log_aggregation = true
grafana_enabled = true
"""


def problems(text, **options):
    with pytest.raises(BlixardError) as caught:
        parse_config(text, **options)
    return [(p.line, p.column, p.pointer, p.message) for p in caught.value.problems]


def test_documented_file_is_accepted_whole():
    loaded = parse_config(DOCUMENTED)
    config = loaded.config
    assert (config.cluster.node_id, config.discovery.method, config.network.dhcp_pool) == (
        "node1",
        "tailscale",
        "10.0.1.0/24",
    )
    assert (config.consensus.election_timeout, config.consensus.heartbeat_interval) == (5.0, 1.0)
    assert config.storage.pools["hdd-pool"].k == 4
    assert config.monitoring.grafana_enabled is True


def test_missing_features_are_warnings_with_names():
    warnings = "\n".join(parse_config(DOCUMENTED).warnings)
    for words in (
        "config.toml:8: discovery.method = 'tailscale'",
        "'firecracker' is not available yet",
        "storage.pools.hdd-pool.k",
        "monitoring.grafana_enabled is for Grafana boards",
    ):
        assert words in warnings
    assert "cluster.node_id" not in warnings


def test_no_warnings_for_what_nobody_wrote():
    assert parse_config("").warnings == ()


def test_defaults_of_consensus():
    consensus = parse_config("").config.consensus
    assert (
        consensus.tick,
        consensus.heartbeat_interval,
        consensus.election_timeout,
        consensus.lease,
    ) == (0.05, 0.1, 0.5, 4.0)


def test_lease_grows_with_long_elections():
    assert parse_config(DOCUMENTED).config.consensus.lease == 20.0
    assert "shorter than three" in parse_config('[consensus]\nlease = "1s"\n').warnings[0]


def test_all_problems_with_line_and_column():
    text = '[cluster]\nnode_idd = "x"\n  data_dir = "relative"\nlog_level = "loud"\n[discovery]\nport = 99999\n[nope]\n'
    assert problems(text) == [
        (2, 1, "/cluster/node_idd", "unknown key 'node_idd'; did you mean 'node_id'?"),
        (3, 3, "/cluster/data_dir", "must be an absolute path"),
        (4, 1, "/cluster/log_level", "'loud' is not accepted"),
        (6, 1, "/discovery/port", "must be between 1 and 65535, not 99999"),
        (7, 2, "/nope", "unknown key 'nope'; did you mean 'node'?"),
    ]


def test_key_of_another_section_is_named():
    assert (
        problems("[microvm]\ndata_dir = '/x'\n")[0][3]
        == "unknown key 'data_dir'; it belongs to [cluster]"
    )


def test_syntax_error_has_its_place():
    assert problems("[cluster]\nnode_id = \n")[0][:2] == (2, 11)


def test_rules_over_several_keys():
    assert (
        "three times the heartbeat" in problems('[consensus]\nelection_timeout = "200ms"\n')[0][3]
    )
    assert "must differ from api.port" in problems("[api]\nport = 7946\n")[0][3]


@pytest.mark.parametrize(
    "text",
    [
        'cluster.data_dir = "x"',
        'cluster = {data_dir = "x"}',
        '"cluster".\'data_dir\' = "x"',
        'a = 1\n# cluster = [\ncluster.data_dir = "x"',
        't = """\n[x]\n"""\ncluster.data_dir = "x"',
    ],
)
def test_every_way_to_write_a_key_is_found(text):
    line = text.count("\n", 0, text.rindex("cluster")) + 1
    assert (line, "/cluster/data_dir") in [(p[0], p[2]) for p in problems(text)]


def test_yaml_is_read_too():
    loaded = parse_config(
        "cluster:\n  node_id: n1\nnode:\n  labels: {disk: ssd}\n", name="config.yaml"
    )
    assert (loaded.config.cluster.node_id, loaded.config.node.labels) == ("n1", {"disk": "ssd"})
    assert str(loaded.origins["cluster.node_id"]) == "config.yaml:2"
    assert problems("cluster:\n  log_level: no\n", name="c.yaml")[0][:3] == (
        2,
        3,
        "/cluster/log_level",
    )


def test_environment_overrides_and_is_named():
    environ = {
        "BLIXARD_CLUSTER_DATA_DIR": "/data",
        "BLIXARD_API_PORT": "8443",
        "BLIXARD_NODE_LABELS": "disk=ssd,zone=a",
    }
    loaded = parse_config(DOCUMENTED, environ=environ)
    assert loaded.config.cluster.data_dir == "/data"
    assert loaded.config.api.port == 8443
    assert loaded.config.node.labels == {"disk": "ssd", "zone": "a"}
    assert str(loaded.origins["api.port"]) == "BLIXARD_API_PORT"


def test_bad_environment_is_a_problem_with_its_name():
    message = problems("", environ={"BLIXARD_API_PORT": "many"})[0][3]
    assert message == "must be a whole number, not text (from BLIXARD_API_PORT)"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("network.pool", '"10.0.0.1/24"'),
        ("network.default_gateway", '"gate"'),
        ("network.vlan_range", '"200-100"'),
        ("network.bridge_name", '"a-name-that-is-too-long"'),
        ("consensus.tick", '"soon"'),
        ("consensus.tick", "true"),
        ("monitoring.metrics_enabled", '"maybe"'),
        ("node.roles", "1"),
        ("node.labels", "[1]"),
        ("cluster.address", '"a:b:c:1x"'),
        ("storage.pools.p.type", '"raid"'),
        ("api.port", "1.5"),
        ("discovery.peers", '["h:99999"]'),
        ("cluster.node_id", '"a b"'),
    ],
)
def test_wrong_values_are_refused(path, value):
    assert [p[2] for p in problems(f"{path} = {value}\n")] == ["/" + path.replace(".", "/")]


def test_every_field_has_a_key_and_every_key_a_field():
    def fields(struct, prefix=""):
        for field in msgspec.structs.fields(struct):
            path = f"{prefix}{field.encode_name}"
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                yield from fields(field.type, f"{path}.")
            elif path == "storage.pools":
                yield from fields(
                    msgspec.structs.fields(struct)[1].type.__args__[1], "storage.pools.*."
                )
            else:
                yield path

    assert sorted(fields(Config)) == sorted(key.path for key in KEYS)


def test_defaults_pass_their_own_checks():
    config = parse_config("").config
    for path in key_paths(config):
        key = next(k for k in KEYS if k.path == path)
        value = value_at(config, path)
        assert key.form(list(value) if isinstance(value, tuple) else value) == value
