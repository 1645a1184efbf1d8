"""What a node keeps in its data directory outside the log: identity and keys, with tight modes."""

from __future__ import annotations

import os
import pathlib

import msgspec

from blixard.base.errors import BlixardError
from blixard.base.whole import write_whole
from blixard.node.node import NodeIdentity
from blixard.security.ca import Authority
from blixard.security.tls import TlsIdentity

IDENTITY = "identity.json"
API_SOCKET = "api.sock"


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The identity file: who the node is and the trust domain of its cluster."""

    node: NodeIdentity
    trust_domain: str
    api_port: int


class NodeFiles:
    """The data directory of one node; all writes are temp, fsync, rename, fsync of the folder."""

    def __init__(self, data_dir: str) -> None:
        self.root = pathlib.Path(data_dir)
        self.pki = self.root / "pki"

    def exists(self) -> bool:
        """Tell whether a node was made here."""
        return (self.root / IDENTITY).exists()

    def make(self) -> None:
        """Make the directories; refuse a directory that holds a node already.

        Raises:
            BlixardError: WRONG_CLUSTER.
        """
        if self.exists():
            raise BlixardError(
                "WRONG_CLUSTER",
                f"{self.root} holds a node already",
                hint="use another --data-dir, or remove the directory to start anew",
            )
        self.root.mkdir(parents=True, exist_ok=True, mode=0o750)
        self.pki.mkdir(exist_ok=True, mode=0o700)

    def store(self, stored: Stored) -> None:
        """Write the identity; from here on the directory holds a node."""
        self._write(self.root / IDENTITY, msgspec.json.encode(stored), 0o640)

    def load(self) -> Stored:
        """Return the identity. Raises BlixardError NOT_FOUND."""
        path = self.root / IDENTITY
        if not path.exists():
            raise BlixardError(
                "NOT_FOUND",
                f"{self.root} holds no node",
                hint="blixard init makes a cluster, blixard cluster join joins one",
            )
        return msgspec.json.decode(path.read_bytes(), type=Stored)

    def store_tls(self, identity: TlsIdentity) -> None:
        """Write key, chain and roots."""
        self._write(self.pki / "node.key", identity.key_pem, 0o600)
        self._write(self.pki / "node.crt", identity.chain_pem, 0o644)
        self._write(self.pki / "ca.crt", identity.roots_pem, 0o644)

    def load_tls(self) -> TlsIdentity:
        """Return key, chain and roots."""
        return TlsIdentity(
            chain_pem=(self.pki / "node.crt").read_bytes(),
            key_pem=(self.pki / "node.key").read_bytes(),
            roots_pem=(self.pki / "ca.crt").read_bytes(),
        )

    def pending_key(self) -> bytes | None:
        """Return the key of a join whose answer was not stored yet."""
        path = self.pki / "joining.key"
        return path.read_bytes() if path.exists() else None

    def store_pending_key(self, key_pem: bytes) -> None:
        """Keep the key before the first question."""
        self._write(self.pki / "joining.key", key_pem, 0o600)

    def drop_pending_key(self) -> None:
        """The join is complete."""
        (self.pki / "joining.key").unlink(missing_ok=True)

    def store_issuer(self, issuer: Authority) -> None:
        """Write the issuing authority, one file so that key and certificate stay a pair."""
        self._write(self.pki / "issuer.pem", issuer.certificate_pem + issuer.key_pem, 0o600)

    def load_issuer(self) -> Authority | None:
        """Return the issuing authority; None on a worker."""
        path = self.pki / "issuer.pem"
        if not path.exists():
            return None
        certificate, mark, key = path.read_bytes().partition(b"-----BEGIN PRIVATE KEY-----")
        return Authority(certificate_pem=certificate, key_pem=mark + key)

    def store_root_key(self, root: Authority) -> None:
        """Write the root's key, for the administrator to put away; nothing reads it."""
        self._write(self.pki / "root.key", root.key_pem, 0o600)

    def mark(self, name: str, text: str) -> None:
        """Write a small durable file that says what is under way."""
        self._write(self.root / name, text.encode(), 0o600)

    def _write(self, path: pathlib.Path, data: bytes, mode: int) -> None:
        temporary = path.with_name(path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            os.fchmod(descriptor, mode)
            write_whole(lambda left, _at: os.write(descriptor, left), data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
