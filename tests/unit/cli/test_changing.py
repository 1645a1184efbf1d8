from __future__ import annotations

import json

import pytest

from blixard.base.errors import BlixardError, Problem


def body_of(cli, method="PUT"):
    return next(body for m, _, _, body in cli.api.calls if m == method)


def test_create_sends_only_what_was_said(cli):
    ran = cli(
        "vm",
        "create",
        "new",
        "--packages",
        "nginx,curl",
        "--replicas",
        "2",
        "--ready-http",
        "80/health",
        "--detach",
    )
    assert ran.code == 0
    assert ran.out == "vm/new created\n"
    assert body_of(cli)["spec"] == {
        "recipe": {"packages": ["nginx", "curl"]},
        "replicas": 2,
        "readiness": {"http": {"port": 80, "path": "/health"}},
    }


def test_create_of_a_taken_name(cli):
    ran = cli("vm", "create", "web", "--image", "web", "--detach")
    assert ran.code == 5
    assert "ALREADY_EXISTS" in ran.err


def test_create_with_service_and_labels(cli):
    cli(
        "vm",
        "create",
        "job",
        "--service",
        "job=sh -c 'echo hi, there'",
        "--label",
        "a=b,c=d",
        "--detach",
    )
    body = body_of(cli)
    assert body["metadata"]["labels"] == {"a": "b", "c": "d"}
    assert body["spec"]["recipe"]["services"] == [
        {"name": "job", "command": ["sh", "-c", "echo hi, there"]}
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vm", "create", "x"), "a VM needs an image or packages"),
        (("vm", "create", "x", "--service", "a=echo 'b"), "--service a: No closing quotation"),
        (("get", "vms", "--timeout", "soon"), "--timeout: 'soon' is no duration"),
        (("events", "--since", "never"), "--since: 'never' is no duration"),
        (("auth", "create-key", "--name", "a", "--expires", "x"), "--expires: 'x' is no duration"),
        (("cluster", "add-node", "--expires", "x"), "--expires: 'x' is no duration"),
    ],
)
def test_wrong_flag_is_named_before_anything_is_asked_for(cli, words, said):
    ran = cli(*words)
    assert (ran.code, "error[USAGE]" in ran.err) == (2, True), ran.err
    assert said in ran.err
    assert "hint: " in ran.err
    assert not [method for method, *_ in cli.api.calls if method != "GET"]


@pytest.mark.parametrize("flag", ["--config", "--microvm-config"])
def test_nix_file_is_refused_by_name(cli, flag):
    ran = cli("vm", "create", "web", flag, "webapp.nix")
    assert ran.code == 6
    assert "Nix is not available here" in ran.err


def test_flag_of_a_missing_feature_is_named(cli):
    ran = cli("vm", "create", "web", "--image", "web", "--storage-class", "ssd")
    assert ran.code == 2
    assert "storage classes" in ran.err


def test_dry_run_changes_nothing(cli):
    ran = cli("vm", "create", "new", "--image", "web", "--dry-run")
    assert ran.out == "vm/new would be created\n"
    assert ("vms", "new") not in cli.api.objects


def test_request_id_travels(cli):
    cli.api.request = lambda *a, **k: (_ for _ in ()).throw(
        BlixardError("CONFLICT", str(k["headers"]))
    )
    assert "01J0" in cli("kv", "put", "a", "b", "--request-id", "01J0").err


def test_create_follows_until_ready(cli):
    vm = cli.api.add("vms", "new", {"replicas": 1}, {"phase": "Building", "readyReplicas": 0})
    del cli.api.objects["vms", "new"]
    ready = {**vm, "status": {"phase": "Running", "readyReplicas": 1, "replicas": 1}}
    cli.api.changes = [
        {"type": "modified", "object": vm, "revision": 1},
        {"type": "modified", "object": ready, "revision": 2},
    ]
    ran = cli("vm", "create", "new", "--image", "web", "--replicas", "1")
    assert ran.code == 0
    assert "vm/new: Building, 0 of 1 ready" in ran.err
    assert "vm/new: Running, 1 of 1 ready" in ran.err


def image_states(cli, *statuses):
    """Let the image of that name go through these statuses while it is watched."""
    made = cli.api.add("images", "tools", {"packages": ["jq"]})
    cli.api.changes = [
        {"type": "modified", "object": {**made, "status": status}, "revision": number}
        for number, status in enumerate(statuses)
    ]


def test_image_build_follows_the_builder(cli):
    image_states(
        cli,
        {"phase": "Ready", "observedGeneration": 0},
        {"phase": "Building", "observedGeneration": 1, "message": "unpacking 1 packages"},
        {"phase": "Ready", "observedGeneration": 1, "sizeBytes": 5 << 20},
    )
    ran = cli("image", "build", "tools", "--packages", "jq")
    assert ran.code == 0
    assert ran.err.splitlines() == [
        "image/tools: Pending: no node has begun to build it",
        "image/tools: Building: unpacking 1 packages",
        "image/tools: Ready",
    ]


def test_failed_image_build_shows_the_builders_last_lines(cli):
    said = "IMAGE_BUILD_FAILED: mmdebstrap failed: E: one | E: two"
    image_states(cli, {"phase": "Failed", "observedGeneration": 1, "message": said})
    ran = cli("image", "build", "tools", "--packages", "jq")
    assert ran.code == 1
    assert f"error[IMAGE_BUILD_FAILED]: image/tools: Failed: {said}" in ran.err


def test_detached_image_build_does_not_wait(cli):
    assert cli("image", "build", "tools", "--packages", "jq", "--detach").code == 0


def test_vm_that_fits_nowhere_exits_with_six(cli):
    cli.api.watch = lambda *_, **__: iter(())
    ran = cli("vm", "start", "db", "--timeout", "50ms")
    assert ran.code == 6
    assert "3 nodes: 2 lack 512 MiB memory, 1 is lost" in ran.err


def test_interrupt_while_following_says_how_to_go_on(cli):
    ran = cli("vm", "create", "new", "--image", "web")
    assert ran.code == 130
    assert "blixard wait vm/new --for ready" in ran.err


def test_scale_repeats_after_a_conflict(cli):
    real, refused = cli.api.request, []

    def flaky(method, path, **options):
        if method == "PUT" and not refused:
            refused.append(1)
            raise BlixardError("CONFLICT", "changed meanwhile")
        return real(method, path, **options)

    cli.api.request = flaky
    assert (
        cli("vm", "scale", "web", "--replicas", "5", "--detach").out
        == "vm/web scaled from 3 to 5\n"
    )
    assert cli.api.objects["vms", "web"]["spec"]["replicas"] == 5


def test_scale_far_down_needs_a_yes(cli):
    ran = cli("vm", "scale", "web", "--replicas", "1", "--detach")
    assert ran.code == 2
    assert "--yes" in ran.err
    assert cli("vm", "scale", "web", "--replicas", "1", "--detach", "--yes").code == 0


def test_stop_and_start_set_the_wish(cli):
    cli("vm", "stop", "web", "--detach")
    assert cli.api.objects["vms", "web"]["spec"]["running"] is False
    assert "started" in cli("vm", "start", "web", "--detach").out
    assert cli("vm", "start", "web", "--detach").out == "vm/web was started already\n"


def test_restart_counts_generations(cli):
    cli("vm", "restart", "web", "--detach")
    cli("vm", "restart", "web", "--detach")
    assert cli.api.objects["vms", "web"]["spec"]["restartGeneration"] == 2


def test_delete_without_terminal_needs_yes(cli):
    assert cli("vm", "delete", "web").code == 2
    assert cli("vm", "destroy", "web", "--yes").out == "vm/web deleted\n"
    assert ("vms", "web") not in cli.api.objects


MANIFEST = """\
apiVersion: blixard.dev/v1
kind: VM
metadata: {name: web}
spec:
  replicas: 4
  image: web
---
apiVersion: blixard.dev/v1
kind: Image
metadata:
  name: tools
spec:
  packages: [curl]
"""


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(MANIFEST)
    return str(path)


def test_apply_creates_and_configures(cli, manifest):
    assert cli("apply", "-f", manifest).out == "vm/web configured\nimage/tools created\n"
    assert cli("apply", "-f", manifest).out == "vm/web unchanged\nimage/tools unchanged\n"


def test_apply_dry_run_changes_nothing(cli, manifest):
    assert (
        cli("apply", "-f", manifest, "--dry-run").out
        == "vm/web configured (dry run)\nimage/tools created (dry run)\n"
    )
    assert ("images", "tools") not in cli.api.objects


def test_apply_of_a_directory(cli, manifest, tmp_path):
    (tmp_path / "notes.txt").write_text("not a document")
    assert cli("apply", "-f", str(tmp_path)).code == 0


def test_diff_exits_with_ten_or_nothing(cli, manifest):
    ran = cli("diff", "-f", manifest)
    assert ran.code == 10
    assert "+  replicas: 4" in ran.out
    assert "-  replicas: 3" in ran.out
    cli("apply", "-f", manifest)
    assert cli("diff", "-f", manifest) == (0, "", "")


def test_all_problems_with_place_and_line(cli, manifest):
    cli.api.problems = {
        "web": (Problem("/spec/replicas", "must be at most 3"), Problem("/spec/vcpus", "missing")),
        "tools": (Problem("/spec/packages/0", "unknown package", ("curly", "curl8")),),
    }
    ran = cli("apply", "-f", manifest)
    assert ran.code == 2
    assert "3 problems" in ran.err
    assert f"{manifest}:5:13: spec.replicas: must be at most 3" in ran.err
    assert "replicas: 4" in ran.err
    assert f"{manifest}:13:14: spec.packages.0: unknown package" in ran.err
    assert "accepted: curly, curl8" in ran.err


def test_nothing_is_applied_if_one_document_is_wrong(cli, manifest):
    cli.api.problems = {"tools": (Problem("/spec", "wrong"),)}
    assert cli("apply", "-f", manifest).code == 2
    assert cli.api.objects["vms", "web"]["spec"]["replicas"] == 3


def test_problems_of_identity_in_all_documents(cli, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "kind: Vmm\nmetadata: {name: UPPER}\n---\napiVersion: blixard.dev/v1\nkind: VM\n---\n[1]\n"
    )
    ran = cli("apply", "-f", str(path))
    assert ran.code == 2
    for text in (
        "bad.yaml:1:1: apiVersion: missing",
        "did you mean 'vm'?",
        ":2:18: metadata.name: 'UPPER' is no name",
        "metadata.name: missing",
        "must be a mapping",
    ):
        assert text in ran.err


def test_one_object_declared_twice(cli, tmp_path):
    path = tmp_path / "twice.yaml"
    one = "apiVersion: blixard.dev/v1\nkind: VM\nmetadata: {name: a}\nspec: {}\n"
    path.write_text(f"{one}---\n{one}")
    assert "declared twice" in cli("apply", "-f", str(path)).err


def test_problems_as_json_findings(cli, manifest):
    cli.api.problems = {"web": (Problem("/spec/replicas", "too many"),)}
    findings = json.loads(cli("apply", "-f", manifest, "-o", "json").err)["details"]["findings"]
    assert findings[0]["line"] == 5


def test_file_that_is_not_there(cli):
    assert cli("apply", "-f", "/nonexistent.yaml").code == 3


def test_delete_by_file_is_repeatable(cli, manifest):
    cli("apply", "-f", manifest)
    assert cli("delete", "-f", manifest, "--yes").out == "image/tools deleted\nvm/web deleted\n"
    assert cli("delete", "-f", manifest, "--yes").out == "image/tools not there\nvm/web not there\n"


def test_written_yaml_applies_again(cli, tmp_path):
    path = tmp_path / "again.yaml"
    path.write_text(cli("get", "vm", "web", "-o", "yaml").out)
    assert cli("apply", "-f", str(path)).out == "vm/web unchanged\n"


def test_token_file_is_private(cli, tmp_path):
    path = tmp_path / "t"
    assert cli("cluster", "add-node", "--output-file", str(path)).code == 0
    assert path.read_text() == "blx-join-1\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert cli("cluster", "add-node", "--output-file", str(path)).code == 5


def test_force_removal_asks_for_the_name(cli):
    assert cli("cluster", "force-remove-node", "node3").code == 2
    made = cli("cluster", "force-remove-node", "node3", "--yes", "--detach")
    assert made.out == "node/node3 is being removed\n"
    spec = body_of(cli, "POST")["spec"]
    assert spec == {"type": "force-remove-node", "target": "node3", "targetUid": "UID-node3"}


def test_removal_is_followed_to_its_end(cli):
    cli.api.answers["POST", "/v1/operations"] = operation = cli.api.add(
        "operations", "op1", {"type": "remove-node"}
    )
    cli.api.changes = [
        {
            "type": "modified",
            "object": {**operation, "status": {"phase": phase, "message": message}},
            "revision": 1,
        }
        for phase, message in (
            ("Running", "2 instances have to move"),
            ("Succeeded", "the node is removed"),
        )
    ]
    ran = cli("cluster", "remove-node", "node3", "--yes")
    assert ran.code == 0
    assert "Running: 2 instances have to move\nSucceeded: the node is removed" in ran.err


def test_wait_ends_with_seven_when_time_is_over(cli):
    cli.api.watch = lambda *_, **__: iter(())
    ran = cli("wait", "vm/web", "--for", "ready", "--timeout", "50ms")
    assert ran.code == 7
    assert "2 of 3 ready" in ran.err


def test_wait_returns_at_once_when_reached(cli):
    assert (
        cli("wait", "instance/web-1", "--for", "phase=Running").out
        == "instance/web-1: status.phase is Running\n"
    )
    assert cli("wait", "vm/gone", "--for", "deleted").code == 0
    assert cli("wait", "node/node1").code == 0


def test_wait_fails_at_once_without_a_cluster(cli):
    cli.api.errors["GET", "/v1/namespaces/default/vms"] = BlixardError(
        "UNREACHABLE", "nobody there"
    )
    assert cli("wait", "vm/web", "--timeout", "60s").code == 8


def _levels(cli, *known):
    cli.api.answers["GET", "/v1/cluster"] = {
        "featureLevel": 1,
        "nodes": [{"name": f"node{n}", "featureLevel": k} for n, k in enumerate(known, 1)],
    }
    cli.api.add("clusterconfigs", "cluster", {"clusterId": "c", "votersMax": 3})


def test_level_rises_to_what_all_nodes_know(cli):
    _levels(cli, 3, 2)
    ran = cli("cluster", "raise-level", "--yes")
    assert ran.code == 0, ran.err
    assert ran.out == "the feature level is 2\n"
    spec = cli.api.calls[-1][3]["spec"]
    assert spec == {"clusterId": "c", "votersMax": 3, "featureLevel": 2}


@pytest.mark.parametrize(
    ("known", "why"), [((2, 1), "node2 can no more"), ((1, 1), "no node knows a higher one")]
)
def test_level_stays_and_says_why(cli, known, why):
    _levels(cli, *known)
    ran = cli("cluster", "raise-level")
    assert (ran.code, ran.out) == (0, f"the feature level stays at 1: {why}\n")
