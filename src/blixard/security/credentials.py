"""A node's credentials on its disk: key, chain, trusted roots, and on voters the issuing authority.

Files of the data directory are 0600. Each set is one file, replaced atomically: a key and a
certificate that do not belong together are never seen.
"""

from __future__ import annotations

import msgspec

from blixard.base.errors import BlixardError
from blixard.ports.disk import Disk
from blixard.security.ca import Authority
from blixard.security.tls import TlsIdentity

DIRECTORY = "credentials"
NODE_FILE = "node.json"
ISSUER_FILE = "issuer.json"
ROOT_FILE = "root.json"
_BYTES_MAX = 65_536


class _NodeFile(msgspec.Struct, kw_only=True, rename="camel"):
    chain_pem: str
    key_pem: str
    roots_pem: str


class _AuthorityFile(msgspec.Struct, kw_only=True, rename="camel"):
    certificate_pem: str
    key_pem: str


async def save_identity(disk: Disk, identity: TlsIdentity) -> None:
    """Make the node's own key and certificates durable. Raises OSError."""
    content = _NodeFile(
        chain_pem=identity.chain_pem.decode(),
        key_pem=identity.key_pem.decode(),
        roots_pem=identity.roots_pem.decode(),
    )
    await _replace(disk, NODE_FILE, msgspec.json.encode(content))


def load_identity(disk: Disk) -> TlsIdentity | None:
    """Return the node's credentials, None if it has none. Raises BlixardError WRONG_CLUSTER."""
    data = _read(disk, NODE_FILE)
    if data is None:
        return None
    try:
        content = msgspec.json.decode(data, type=_NodeFile)
    except msgspec.MsgspecError as error:
        raise _damaged(NODE_FILE) from error
    return TlsIdentity(
        chain_pem=content.chain_pem.encode(),
        key_pem=content.key_pem.encode(),
        roots_pem=content.roots_pem.encode(),
    )


async def save_authority(disk: Disk, authority: Authority, *, name: str = ISSUER_FILE) -> None:
    """Make an authority durable: the issuer on voters, the root where ``init`` ran."""
    content = _AuthorityFile(
        certificate_pem=authority.certificate_pem.decode(), key_pem=authority.key_pem.decode()
    )
    await _replace(disk, name, msgspec.json.encode(content))


def load_authority(disk: Disk, *, name: str = ISSUER_FILE) -> Authority | None:
    """Return an authority, None if this node holds it not. Raises BlixardError WRONG_CLUSTER."""
    data = _read(disk, name)
    if data is None:
        return None
    try:
        content = msgspec.json.decode(data, type=_AuthorityFile)
    except msgspec.MsgspecError as error:
        raise _damaged(name) from error
    return Authority(
        certificate_pem=content.certificate_pem.encode(), key_pem=content.key_pem.encode()
    )


async def forget_authority(disk: Disk, *, name: str = ISSUER_FILE) -> None:
    """Remove an authority: of a voter that votes no more, or the root once it was exported."""
    disk.unlink(f"{DIRECTORY}/{name}")
    await disk.sync_dir(DIRECTORY)


async def _replace(disk: Disk, name: str, data: bytes) -> None:
    assert len(data) <= _BYTES_MAX
    disk.mkdir(DIRECTORY)
    await disk.sync_dir("")
    fresh = f"{DIRECTORY}/{name}.new"
    file = disk.open(fresh, create=True)
    try:
        file.truncate(0)
        file.pwrite(0, data)
        await file.sync()
    finally:
        file.close()
    disk.rename(fresh, f"{DIRECTORY}/{name}")
    await disk.sync_dir(DIRECTORY)


def _read(disk: Disk, name: str) -> bytes | None:
    path = f"{DIRECTORY}/{name}"
    if not disk.exists(path):
        return None
    file = disk.open(path)
    try:
        return file.pread(0, _BYTES_MAX)
    finally:
        file.close()


def _damaged(name: str) -> BlixardError:
    return BlixardError("WRONG_CLUSTER", f"{DIRECTORY}/{name} cannot be read", hint="join again")
