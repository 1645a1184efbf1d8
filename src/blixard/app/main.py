"""The entry point ``blixard``: the table of all commands, each imported when it runs."""

from __future__ import annotations

import os
import sys

from blixard.cli.tree import LazyGroup, Row, run

_LOCAL = "blixard.app.local"
_CLI = "blixard.cli"


def _verbs(
    noun: str, text: str, examples: tuple[str, ...], /, **rows: tuple[str, str]
) -> LazyGroup:
    """Return a noun; keyword names are verbs with ``_`` for ``-``."""
    return LazyGroup(
        noun,
        {name.replace("_", "-"): Row(*row) for name, row in rows.items()},
        text=text,
        examples=examples,
        aliases=VERB_ALIASES.get(noun, {}),
    )


# Both spellings that the documents contain are accepted; the canonical one stands in the help.
NOUN_ALIASES = {
    "vms": "vm",
    "virtualmachine": "vm",
    "images": "image",
    "img": "image",
    "functions": "function",
    "fn": "function",
    "operations": "operation",
    "op": "operation",
    "contexts": "context",
    "ctx": "context",
    "show": "get",
    "key-value": "kv",
    "volumes": "volume",
}
VERB_ALIASES: dict[str, dict[str, str]] = {
    "vm": {
        "ls": "list",
        "get": "list",
        "destroy": "delete",
        "rm": "delete",
        "show": "status",
        "shell": "exec",
    },
    "cluster": {"add": "add-node", "remove": "remove-node", "node-add": "add-node"},
    "function": {
        "create": "deploy",
        "ls": "list",
        "call": "invoke",
        "get": "status",
        "show": "status",
        "describe": "status",
        "rm": "delete",
    },
    "image": {"ls": "list", "create": "build"},
    "kv": {"ls": "list", "set": "put", "rm": "delete"},
    "auth": {"keys": "list-keys", "delete-key": "revoke-key"},
    "context": {"ls": "list"},
    "operation": {"ls": "list", "get": "show"},
    "volume": {"ls": "list", "rm": "delete"},
    "storage": {"pools": "pool", "volumes": "volume"},
}

_VM = _verbs(
    "vm",
    "Virtual machines: sets of like instances.",
    (
        "blixard vm create web --packages nginx --replicas 3",
        "blixard vm list",
        "blixard vm status web",
    ),
    create=(f"{_CLI}.vm_write:create", "Create a VM from an image or a package list."),
    list=(f"{_CLI}.vm_read:list_vms", "List VMs."),
    status=(f"{_CLI}.vm_read:status", "Show a VM, its instances, where they run and why."),
    start=(f"{_CLI}.vm_write:start", "Start stopped VMs."),
    stop=(f"{_CLI}.vm_write:stop", "Stop VMs and keep them."),
    restart=(f"{_CLI}.vm_write:restart", "Restart the instances of VMs."),
    scale=(f"{_CLI}.vm_write:scale", "Change the number of replicas."),
    migrate=(f"{_CLI}.vm_migrate:migrate", "Move a running instance to another node."),
    delete=(f"{_CLI}.vm_write:delete", "Delete VMs and their instances."),
    logs=(f"{_CLI}.vm_streams:logs", "Print or follow the logs of a VM's instances."),
    console=(f"{_CLI}.vm_streams:console", "Join the serial console of an instance."),
    exec=(f"{_CLI}.vm_streams:exec_", "Run a command inside an instance."),
)
_CLUSTER = _verbs(
    "cluster",
    "The cluster and its nodes.",
    ("blixard cluster status", "blixard cluster add-node --node-id node2"),
    status=(f"{_CLI}.cluster:status", "Show leader, voters, nodes and their health."),
    raise_level=(f"{_CLI}.cluster:raise_level", "Switch on what came with a new version."),
    add_node=(f"{_CLI}.cluster:add_node", "Make a one-time token with which a node joins."),
    join=(f"{_LOCAL}:join", "Join this machine to a cluster with a token."),
    remove_node=(f"{_CLI}.cluster:remove_node", "Move the work away from a node, then remove it."),
    recover=("blixard.app.recover:recover", "Go on with one node after a majority was lost."),
    force_remove_node=(f"{_CLI}.cluster:force_remove_node", "Remove a node that is lost for good."),
)

_VOLUME = _verbs(
    "volume",
    "Disks with a life of their own.",
    ("blixard storage volume create app-data --pool ssd-pool --size 50GB",),
    create=(f"{_CLI}.volume:create", "Make a volume in a pool."),
    list=(f"{_CLI}.volume:list_volumes", "List volumes."),
    delete=(f"{_CLI}.volume:delete", "Delete volumes with all that is on them."),
)
_POOL_CREATE = Row(f"{_CLI}.pool:create", "Make a pool in Ceph or on the nodes.")
_STORAGE = LazyGroup(
    "storage",
    {
        "status": Row(f"{_CLI}.storage:status", "Show the pools: how they are, what is used."),
        "pool": LazyGroup(
            "pool",
            {
                "create": _POOL_CREATE,
                "list": Row(f"{_CLI}.pool:list_pools", "List pools."),
                "delete": Row(f"{_CLI}.pool:delete", "Delete empty pools."),
            },
            text="Pools that volumes lie in.",
            examples=("blixard storage pool create fast --backend local",),
            aliases={"ls": "list", "rm": "delete"},
        ),
        "volume": _VOLUME,
        "wait-for-rebalance": Row(
            f"{_CLI}.storage:wait_for_rebalance", "Wait until all copies are where they belong."
        ),
        "create-pool": Row(_POOL_CREATE.target, _POOL_CREATE.text, hidden=True),
    },
    text="Pools and volumes.",
    examples=("blixard storage status", "blixard storage pool create fast --backend local"),
    aliases=VERB_ALIASES["storage"],
)

ROWS: dict[str, Row | LazyGroup] = {
    "vm": _VM,
    "image": _verbs(
        "image",
        "Guest images made of distribution packages.",
        ("blixard image build web --packages nginx", "blixard image list"),
        build=(f"{_CLI}.image:build", "Declare an image; nodes build it once and keep it."),
        list=(f"{_CLI}.image:list_images", "List images."),
    ),
    "storage": _STORAGE,
    "volume": _VOLUME,
    "function": _verbs(
        "function",
        "Functions: code that runs in microVMs when it is called.",
        (
            "blixard function deploy hello hello.py",
            """blixard function invoke hello --data '{"name": "Ada"}'""",
            "blixard function list",
        ),
        deploy=(f"{_CLI}.function:deploy", "Create a function, or give it new code."),
        invoke=(f"{_CLI}.function:invoke", "Call a function and print its result."),
        list=(f"{_CLI}.function:list_functions", "List functions with their instances."),
        status=(f"{_CLI}.function:status", "Show a function, its limits and its instances."),
        delete=(f"{_CLI}.function:delete", "Delete functions and end their instances."),
    ),
    "get": Row(f"{_CLI}.objects:get", "List objects of any kind, or show one."),
    "describe": Row(f"{_CLI}.objects:describe", "Show an object with what it owns and its events."),
    "apply": Row(f"{_CLI}.manifests:apply", "Create or change what a file declares."),
    "diff": Row(
        f"{_CLI}.manifests:diff", "Show what apply would change (exit code 10 if anything)."
    ),
    "delete": Row(f"{_CLI}.manifests:delete", "Delete objects by name or by file."),
    "events": Row(f"{_CLI}.events:events", "Show what happened."),
    "wait": Row(f"{_CLI}.waiting:wait", "Wait for a condition."),
    "logs": Row(f"{_CLI}.vm_streams:logs_of_vm", "The same as vm logs.", hidden=True),
    "cluster": _CLUSTER,
    "node": _verbs(
        "node",
        "This node's daemon.",
        ("blixard node run",),
        run=(f"{_LOCAL}:run_node", "Run the daemon in the foreground."),
    ),
    "doctor": Row(
        "blixard.app.doctor:doctor", "Check this node and its cluster, and say what to do."
    ),
    "init": Row(f"{_LOCAL}:init", "Make a new cluster of this machine, or join one."),
    "dev": Row(
        "blixard.app.dev:dev", "A whole cluster on this machine: up, down, kill, start, status."
    ),
    "sim": Row("blixard.app.sim:sim", "Run the cluster inside a deterministic simulator."),
    "kv": _verbs(
        "kv",
        "A small key-value store in the cluster.",
        ("blixard kv put app/color blue", "blixard kv get app/color"),
        get=(f"{_CLI}.kv:get", "Print a value."),
        put=(f"{_CLI}.kv:put", "Set a value."),
        delete=(f"{_CLI}.kv:delete", "Delete a key."),
        list=(f"{_CLI}.kv:list_keys", "List keys below a prefix."),
    ),
    "auth": _verbs(
        "auth",
        "API keys.",
        ("blixard auth create-key --name ci --role admin", "blixard auth list-keys"),
        create_key=(f"{_CLI}.auth:create_key", "Make an API key; its secret is shown once."),
        list_keys=(f"{_CLI}.auth:list_keys", "List API keys."),
        revoke_key=(f"{_CLI}.auth:revoke_key", "Revoke an API key."),
    ),
    "operation": _verbs(
        "operation",
        "Long-running work.",
        ("blixard operation list",),
        list=(f"{_CLI}.operation:list_operations", "List operations."),
        show=(f"{_CLI}.operation:show", "Show an operation and its steps."),
    ),
    "context": _verbs(
        "context",
        "Named clusters.",
        ("blixard context list", "blixard context use prod"),
        list=(f"{_CLI}.contexts:list_contexts", "List the clusters of the context file."),
        use=(f"{_CLI}.contexts:use", "Make a context the default."),
        add=(f"{_CLI}.contexts:add", "Add a cluster to the context file."),
    ),
    "config": _verbs(
        "config",
        "This node's configuration.",
        ("blixard config explain", "blixard config explain consensus.election_timeout"),
        explain=(f"{_CLI}.configuration:explain", "Show every setting and where it comes from."),
    ),
    "explain": _verbs(
        "explain",
        "What a code means.",
        ("blixard explain error NO_QUORUM",),
        error=(f"{_CLI}.explain:error", "Explain an error code."),
    ),
    "version": Row(
        f"{_CLI}.version:version", "Print the version of this program and of the cluster."
    ),
    "completion": Row(f"{_CLI}.completion:completion", "Print the completion script of a shell."),
    "__complete": Row(f"{_CLI}.completion:answer", "Answer the completion script.", hidden=True),
}

SECTIONS = {
    "Everyday": (
        "vm",
        "function",
        "image",
        "get",
        "describe",
        "apply",
        "diff",
        "delete",
        "events",
        "wait",
    ),
    "Cluster": (
        "cluster",
        "node",
        "storage",
        "volume",
        "init",
        "doctor",
        "kv",
        "auth",
        "operation",
    ),
    "On this machine": ("dev", "sim", "context", "config", "explain", "version", "completion"),
}

ROOT = LazyGroup(
    "blixard",
    ROWS,
    aliases=NOUN_ALIASES,
    text="Blixard runs microVMs on a cluster of Linux machines.",
    examples=(
        "blixard dev up --nodes 3",
        "blixard apply -f web.yaml",
        "blixard vm list --watch",
    ),
    sections=SECTIONS,
)


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(ROOT, sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()
