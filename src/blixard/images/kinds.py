"""The kind Image: a guest as a list of packages, files and services."""

from __future__ import annotations

import re

from blixard.base.errors import Problem
from blixard.cluster.kind import Kind
from blixard.ports.guests import GuestRecipe

PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian policy 5.6.1
_MODE = re.compile(r"0?[0-7]{3}")
CONTENT_BYTES_MAX = 256 * 1024


def validate_recipe(recipe: GuestRecipe, pointer: str = "/spec") -> list[Problem]:
    """Return what the types cannot say: package names, absolute paths, modes, sizes."""
    problems = []
    for number, package in enumerate(recipe.packages):
        if not PACKAGE.fullmatch(package):
            place = f"{pointer}/packages/{number}"
            problems.append(Problem(place, f"{package!r} is no Debian package name"))
    for number, file in enumerate(recipe.files):
        place = f"{pointer}/files/{number}"
        if not file.path.startswith("/") or ".." in file.path.split("/"):
            problems.append(Problem(f"{place}/path", "must be an absolute path without .."))
        if not _MODE.fullmatch(file.mode):
            problems.append(Problem(f"{place}/mode", "must be an octal mode", ("0644", "0755")))
        if len(file.content.encode()) > CONTENT_BYTES_MAX:
            problems.append(Problem(f"{place}/content", f"at most {CONTENT_BYTES_MAX} bytes"))
    names = [service.name for service in recipe.services]
    for number, service in enumerate(recipe.services):
        place = f"{pointer}/services/{number}"
        if not service.command:
            problems.append(Problem(f"{place}/command", "must not be empty"))
        if names.count(service.name) > 1:
            problems.append(Problem(f"{place}/name", f"{service.name!r} is used twice"))
    return problems


KINDS: tuple[Kind, ...] = (
    Kind(
        name="Image",
        plural="images",
        short=("img",),
        spec=GuestRecipe,
        validate=validate_recipe,
    ),
)
