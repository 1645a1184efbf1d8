"""Small logs for the tests of the state machine."""

from blixard.base.ids import ulid
from blixard.cluster.commands import encode_command
from blixard.cluster.kind import Kind
from blixard.cluster.kinds import KINDS, instance_rule
from blixard.cluster.machine import ClusterMachine
from blixard.cluster.resources import Operation, Outcome, Put, Transaction

T = 1_700_000_000_000
TABLE = (
    *KINDS,
    Kind(name="Box", plural="boxes"),
    Kind(name="Instance", plural="instances", rule=instance_rule),
)


def command(
    number: int, *ops: Operation, time_ms: int = T, term: int = 0, partial: bool = False
) -> bytes:
    """Return a transaction whose request id comes from *number*."""
    return encode_command(
        Transaction(
            request_id=ulid(time_ms, number),
            time_ms=time_ms,
            actor="test",
            ops=ops,
            term=term,
            partial=partial,
        )
    )


def box(name: str, uid: str, **rest: object) -> Put:
    """Return the creation of an object of the free-form kind."""
    return Put(
        **{"kind": "Box", "namespace": "default", "name": name, "uid": uid, "spec": {}} | rest
    )


def instance(run: int, node: str = "node-1", vcpus: int = 1, epoch: int = 1) -> Put:
    """Return an assignment of the instance ``a``."""
    spec = {"node": node, "nodeEpoch": epoch, "run": run, "vcpus": vcpus, "memoryMib": 64}
    return Put(kind="Instance", namespace="default", name="a", uid="inst-a", spec=spec)


class Log:
    """A machine with the default namespace and one node, fed with entries."""

    def __init__(self) -> None:
        self.machine = ClusterMachine(TABLE)
        self.entries: list[bytes] = []
        self.do(Put(kind="Namespace", namespace="", name="default", uid="ns", spec={}))
        self.do(self.node("n1", "node-1", 1))

    @staticmethod
    def node(name: str, uid: str, raft_id: int) -> Put:
        """Return a node of 4 CPUs."""
        spec = {"address": "a:1", "raftId": raft_id, "capacity": {"vcpus": 1, "memoryMib": 1024}}
        return Put(kind="Node", namespace="", name=name, uid=uid, spec=spec, status={"epoch": 1})

    def do(self, *ops: Operation, term: int = 0, partial: bool = False) -> Outcome:
        """Apply one new transaction in term 1."""
        return self.feed(command(len(self.entries), *ops, term=term, partial=partial))

    def feed(self, data: bytes) -> Outcome:
        """Apply one entry in term 1."""
        self.entries.append(data)
        return self.machine.apply(len(self.entries), 1, data)
