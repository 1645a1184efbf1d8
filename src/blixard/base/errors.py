"""The closed list of error codes: one cause, one HTTP status, one exit code and one hint each.

The same codes stand in REST answers (``application/problem+json``), in events, between nodes and on
the command line. A code is never renamed; a new one is a row in :data:`CODES`.
"""

from __future__ import annotations

import msgspec


class CodeInfo(msgspec.Struct, frozen=True):
    """What a code means: HTTP status, process exit code, cause and what to do."""

    http_status: int
    exit_code: int
    cause: str
    hint: str


EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_DENIED = 1, 2, 3, 4
EXIT_CONFLICT, EXIT_UNPLACEABLE, EXIT_TIMEOUT, EXIT_UNREACHABLE = 5, 6, 7, 8
EXIT_DIFFERENT, EXIT_INTERRUPTED = 10, 130

CODES: dict[str, CodeInfo] = {
    # input
    "INVALID": CodeInfo(
        422, 2, "the document breaks one or more rules", "correct the places named"
    ),
    "BAD_REQUEST": CodeInfo(400, 2, "the request could not be parsed", "see the message"),
    "UNKNOWN_KIND": CodeInfo(404, 3, "there is no such kind", "blixard get --help lists the kinds"),
    "FEATURE_LEVEL": CodeInfo(
        409,
        2,
        "the versions of cluster and program do not go together",
        "blixard cluster status --verbose shows versions; then blixard cluster raise-level",
    ),
    "TOO_LARGE": CodeInfo(413, 2, "the document is larger than allowed", "split the document"),
    "NOT_FOUND": CodeInfo(404, 3, "there is no such object", "list the kind to see the names"),
    "USAGE": CodeInfo(400, 2, "the command line is not understood", "see --help"),
    "METHOD_NOT_ALLOWED": CodeInfo(405, 2, "the path has no such method", "see /openapi.json"),
    # who may
    "UNAUTHENTICATED": CodeInfo(
        401, 4, "no valid certificate or key", "give --key-file or a client certificate"
    ),
    "FORBIDDEN": CodeInfo(
        403, 4, "the caller lacks the permission", "ask for the permission named"
    ),
    # conflicts
    "ALREADY_EXISTS": CodeInfo(
        409, 5, "the name is taken", "choose another name or update the object"
    ),
    "CONFLICT": CodeInfo(409, 5, "the object was changed meanwhile", "read it again and repeat"),
    "INVARIANT": CodeInfo(
        409, 5, "the change would break a rule of the cluster", "see the message"
    ),
    "STALE_TERM": CodeInfo(409, 5, "the decision was made in an earlier term", "decide again"),
    "FENCED": CodeInfo(
        409, 5, "the effect belongs to an older epoch or run", "nothing: a newer one exists"
    ),
    "TRANSITION_REFUSED": CodeInfo(
        409, 5, "the reported phase cannot follow the one before", "report it: this is a bug"
    ),
    "REQUEST_ID_EXPIRED": CodeInfo(
        409, 7, "the outcome of that request id is no longer known", "read the object"
    ),
    "REQUEST_ID_INVALID": CodeInfo(
        400, 2, "the request id is no ULID of the last minutes", "let the client choose it"
    ),
    "REVISION_COMPACTED": CodeInfo(
        410, 1, "the watch revision is too old", "list again, then watch from that revision"
    ),
    # consensus and reachability
    "NOT_LEADER": CodeInfo(503, 8, "this node does not lead", "repeat: the request is forwarded"),
    "NO_QUORUM": CodeInfo(
        503,
        8,
        "no majority of the voters answered within the deadline",
        "blixard cluster status; start more voters",
    ),
    "OUTCOME_UNKNOWN": CodeInfo(
        504, 7, "the request may or may not have been applied", "repeat with the same request id"
    ),
    "TIMEOUT": CodeInfo(504, 7, "the deadline passed", "repeat, or give more --timeout"),
    "UNREACHABLE": CodeInfo(
        502, 8, "the node could not be reached", "check the address and the daemon"
    ),
    "OVERLOADED": CodeInfo(429, 1, "a queue is full", "repeat later"),
    "DISK_FULL": CodeInfo(
        507, 1, "the data directory has no room", "free space; the node serves reads meanwhile"
    ),
    "DISK_FAILED": CodeInfo(
        500, 1, "the disk refused a write or a sync", "replace the disk, rejoin the node"
    ),
    "LOG_CORRUPT": CodeInfo(
        500,
        1,
        "the log is damaged before its end",
        "remove the node from the cluster and join again with an empty data directory",
    ),
    "QUARANTINED": CodeInfo(
        503,
        8,
        "this node's copy of the state differs from that of a majority",
        "remove the node from the cluster and join again with an empty data directory",
    ),
    "WRONG_CLUSTER": CodeInfo(
        409, 5, "the data belongs to another cluster or node", "check the data directory"
    ),
    "DATA_DIR_IN_USE": CodeInfo(
        409,
        5,
        "another daemon uses the data directory",
        "stop it, or choose another data directory",
    ),
    "EXTENSION_STALE": CodeInfo(
        500,
        1,
        "the native extension was built from another version of the source than this program",
        "run make setup in the source tree, then start again",
    ),
    # joining
    "JOIN_TOKEN_DAMAGED": CodeInfo(
        400, 2, "the token has a wrong character", "copy the token again"
    ),
    "JOIN_TOKEN_UNKNOWN": CodeInfo(
        403, 4, "the cluster knows no such token", "make one with blixard cluster add-node"
    ),
    "JOIN_TOKEN_USED": CodeInfo(
        409, 5, "the token was used by another node", "make a new one with blixard cluster add-node"
    ),
    "JOIN_TOKEN_EXPIRED": CodeInfo(
        403, 4, "the token's time is over", "make a new one with blixard cluster add-node"
    ),
    "JOIN_NAME_MISMATCH": CodeInfo(
        403, 4, "the token is bound to another node name", "use that name"
    ),
    "JOIN_PROOF_INVALID": CodeInfo(
        403,
        4,
        "the proof does not fit the request or this channel",
        "check for a relay between the nodes",
    ),
    "NODE_NAME_TAKEN": CodeInfo(409, 5, "a node of that name exists", "choose another --node-id"),
    "NODE_REMOVED": CodeInfo(
        403, 4, "this node was removed from the cluster", "wipe its data directory and join again"
    ),
    "CA_MISMATCH": CodeInfo(
        502,
        8,
        "the server's certificate is not of the expected authority",
        "check the address, the clock and the token",
    ),
    # VMs
    "UNPLACEABLE": CodeInfo(
        409, 6, "no node can hold the instance", "blixard describe vm NAME lists the reasons"
    ),
    "NIX_UNAVAILABLE": CodeInfo(
        422,
        6,
        "the guest is made of a Nix file, and Nix is not available here",
        "name Debian packages with --packages, or an image with --image",
    ),
    "FEATURE_ABSENT": CodeInfo(
        501, 2, "this version has no such feature", "leave the flag or the key out"
    ),
    "IMAGE_BUILD_FAILED": CodeInfo(500, 1, "the image could not be built", "see the message"),
    "PACKAGE_UNKNOWN": CodeInfo(
        422, 2, "the distribution has no such package", "correct the package name"
    ),
    "GUEST_START_FAILED": CodeInfo(
        500, 1, "the guest did not come up", "see the last console lines"
    ),
    "GUEST_UNREACHABLE": CodeInfo(
        503, 1, "the guest's agent does not answer", "blixard vm console NAME"
    ),
    "HYPERVISOR_UNAVAILABLE": CodeInfo(
        503, 1, "the hypervisor cannot be used here", "blixard doctor"
    ),
    "MIGRATION_FAILED": CodeInfo(
        500,
        1,
        "the instance could not be moved while it runs",
        "blixard get migrations; its status says what became of the guest",
    ),
    "MIGRATION_REFUSED": CodeInfo(
        409, 5, "the instance cannot be moved while it runs", "see the message"
    ),
    "NETWORK_FAILED": CodeInfo(500, 1, "the node's network could not be set", "see the message"),
    "ADDRESSES_EXHAUSTED": CodeInfo(
        409, 6, "the network has no free address", "use a larger network"
    ),
    # storage
    "STORAGE_UNAVAILABLE": CodeInfo(
        503,
        1,
        "the storage is absent or does not answer",
        "blixard storage status; blixard doctor on the node",
    ),
    "POOL_NOT_FOUND": CodeInfo(
        404, 3, "the storage has no such pool", "blixard storage pool list shows them"
    ),
    "POOL_FULL": CodeInfo(
        507, 6, "the pool has no room left", "delete volumes, raise its quota or add disks"
    ),
    "POOL_IN_USE": CodeInfo(
        409, 5, "volumes are left in the pool", "delete the volumes that the message names"
    ),
    "VOLUME_NOT_FOUND": CodeInfo(
        404, 3, "the pool has no such volume", "blixard storage volume list shows them"
    ),
    "VOLUME_IN_USE": CodeInfo(
        409, 5, "the volume is open elsewhere", "stop the VM that has it, then repeat"
    ),
    # functions
    "FUNCTION_LOAD_FAILED": CodeInfo(
        500, 1, "the function's code could not be loaded", "correct the source, then apply it again"
    ),
    "FUNCTION_FAILED": CodeInfo(
        500, 1, "the function's handler raised an error", "see the details: type, payload, last log"
    ),
    "FUNCTION_TIMEOUT": CodeInfo(
        504,
        7,
        "the function's handler ran longer than its time limit and was ended",
        "raise spec.timeout, or let the handler do less",
    ),
    "FUNCTION_THROTTLED": CodeInfo(
        429,
        1,
        "no instance of the function could be had in time",
        "repeat later; raise spec.maxConcurrent or spec.maxInstances, or add nodes",
    ),
    "FUNCTION_NOT_READY": CodeInfo(
        503, 1, "no node has the function ready yet", "its status says how far the builds are"
    ),
    "INTERNAL": CodeInfo(500, 1, "an error nobody expected", "report it with the request id"),
}


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with a document.

    ``pointer`` is a JSON pointer (RFC 6901); ``accepted`` lists the values that would do; line and
    column (from 1) are filled where the text is known.
    """

    pointer: str
    message: str
    accepted: tuple[str, ...] = ()
    line: int = 0
    column: int = 0


class BlixardError(Exception):
    """An error of the closed list.

    ``details`` holds extra facts by name (JSON values); ``problems`` all faults of a document.
    """

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        hint: str = "",
        problems: tuple[Problem, ...] = (),
        details: dict[str, object] | None = None,
    ) -> None:
        assert code in CODES, code
        self.code = code
        self.message = message or CODES[code].cause
        self.hint = hint or CODES[code].hint
        self.problems = problems
        self.details = details or {}
        super().__init__(f"{code}: {self.message}")

    @property
    def info(self) -> CodeInfo:
        """The row of the closed list."""
        return CODES[self.code]


class ErrorBody(msgspec.Struct, rename="camel", omit_defaults=True):
    """RFC 9457 problem document, with our code, hint and request id; also used between nodes."""

    code: str
    title: str = ""
    status: int = 500
    detail: str = ""
    hint: str = ""
    type: str = ""
    request_id: str = ""
    node: str = ""
    problems: tuple[Problem, ...] = ()
    details: dict[str, object] = {}


def to_body(error: BlixardError, *, request_id: str = "", node: str = "") -> ErrorBody:
    """Return the document that carries *error* over a wire."""
    return ErrorBody(
        code=error.code,
        title=error.info.cause,
        status=error.info.http_status,
        detail=error.message,
        hint=error.hint,
        type=f"urn:blixard:error:{error.code}",
        request_id=request_id,
        node=node,
        problems=error.problems,
        details=error.details,
    )


def from_body(body: ErrorBody) -> BlixardError:
    """Return the error that *body* carries; an unknown code becomes INTERNAL and is named."""
    known = body.code in CODES
    origin = {"requestId": body.request_id, "node": body.node}
    return BlixardError(
        body.code if known else "INTERNAL",
        body.detail if known else f"{body.code}: {body.detail}",
        hint=body.hint,
        problems=body.problems,
        details={**{k: v for k, v in origin.items() if v}, **body.details},
    )
