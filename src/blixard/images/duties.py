"""Who builds which image, what a node says of it, and what stands in the image's status; pure.

An image that is not built as it is now is the duty of one node: the one that began, while it is
there, else the first of an order that the uids give. So a build needs no commit to begin, a new
leader names the same node, and a lost node's builds go to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from blixard.cluster.resources import PatchStatus, Resource
from blixard.ports.guests import GuestRecipe

BUILDS_MAX = 4  # duties of one node at a time; recipes may be large
NODES_MAX = 16
MESSAGE_MAX = 800
RETRY_FIRST_S, RETRY_MAX_S = 10.0, 300.0

Phase = Literal["Building", "Ready", "Failed"]


class ImageDuty(msgspec.Struct, frozen=True, array_like=True):
    """An image that a node is to build; ``generation`` is that of the recipe."""

    uid: str
    generation: int
    recipe: GuestRecipe


class ImageReport(msgspec.Struct, frozen=True, array_like=True):
    """How far a build is. ``message``: the step now, or why it failed, at most MESSAGE_MAX."""

    uid: str
    generation: int
    phase: Phase
    message: str = ""
    digest: str = ""
    size_bytes: int = 0


def is_told(image: Resource) -> bool:
    """Tell whether the status is about the recipe as it is now."""
    return image.status.get("observedGeneration") == image.metadata.generation


def is_ready(image: Resource) -> bool:
    """Tell whether a node built the recipe as it is now."""
    return is_told(image) and image.status.get("phase") == "Ready"


def builder_of(image: Resource, nodes: list[Resource]) -> Resource | None:
    """Return the node of *nodes* that builds it: the one that began, else the first in its order.

    The order differs from image to image and does not depend on which other nodes there are.
    """
    began = image.status.get("builder") if is_told(image) else None
    for node in nodes:
        if node.metadata.name == began:
            return node
    return min(nodes, key=lambda node: _rank(image, node), default=None)


def _rank(image: Resource, node: Resource) -> bytes:
    both = f"{image.metadata.uid} {node.metadata.uid}".encode()
    return hashlib.blake2b(both, digest_size=16).digest()


Builds = dict[str, tuple[ImageDuty, ...]]


def builds(images: Iterable[Resource], nodes: list[Resource]) -> Builds:
    """Return each node's duties by its uid, at most BUILDS_MAX; failed ones give way to others."""
    wanting = [image for image in images if not is_ready(image)]
    found: Builds = {}
    for image in sorted(wanting, key=_urgency) if wanting and nodes else ():
        builder = builder_of(image, nodes)
        assert builder is not None
        given = found.get(builder.metadata.uid, ())
        if len(given) < BUILDS_MAX:
            recipe = msgspec.convert(image.spec, GuestRecipe)
            duty = ImageDuty(image.metadata.uid, image.metadata.generation, recipe)
            found[builder.metadata.uid] = (*given, duty)
    return found


def _urgency(image: Resource) -> tuple[bool, int, str]:
    failed = is_told(image) and image.status.get("phase") == "Failed"
    return (failed, image.metadata.created_at_ms, image.metadata.uid)


def reported(
    image: Resource | None, report: ImageReport, node_name: str, known: set[str]
) -> PatchStatus | None:
    """Return what a report changes, None if it tells nothing of what the image is now.

    *known* are the names of all nodes: others leave the list of those that have it.
    """
    if image is None or image.kind != "Image" or image.metadata.generation != report.generation:
        return None
    if report.phase != "Ready" and is_ready(image):
        return None
    status: dict[str, object] = {
        "phase": report.phase,
        "observedGeneration": report.generation,
        "builder": node_name,
        "message": report.message[:MESSAGE_MAX] or None,
        "digest": report.digest[:MESSAGE_MAX] or None,
        "sizeBytes": report.size_bytes or None,
        "nodes": None,
    }
    if report.phase == "Ready":
        status["nodes"] = _with_node(image, node_name, known)
    return PatchStatus.of(image, status, unchanged=True)


def found_on(
    image: Resource | None, recipe: object, node_name: str, known: set[str]
) -> PatchStatus | None:
    """Return what it changes that *node_name* starts an instance of *recipe*, None if nothing."""
    if image is None or not is_ready(image):
        return None
    names = _with_node(image, node_name, known)
    if names == image.status.get("nodes"):
        return None
    if msgspec.convert(recipe, GuestRecipe) != msgspec.convert(image.spec, GuestRecipe):
        return None
    return PatchStatus.of(image, {"nodes": names}, unchanged=True)


def _with_node(image: Resource, name: str, known: set[str]) -> list[str]:
    """Return the names of those that have it, in order, with *name* if there is room."""
    now = [str(n) for n in image.status.get("nodes", ())] if is_ready(image) else []
    there = [n for n in now if n in known and n != name]
    return sorted([*there, name] if len(there) < NODES_MAX else there)


def shortened(text: str) -> str:
    """Return *text* in one line of at most MESSAGE_MAX; its end says most, so the middle goes."""
    line = " ".join(text.split())
    head = MESSAGE_MAX // 4
    return (
        line if len(line) <= MESSAGE_MAX else f"{line[:head]} ... {line[head + 5 - MESSAGE_MAX :]}"
    )


class BuildQueue:
    """A node's builds: one at a time, each until it succeeds, with growing pauses."""

    def __init__(self) -> None:
        self._duties: dict[tuple[str, int], ImageDuty] = {}
        self._failures: dict[tuple[str, int], int] = {}
        self._not_before_s: dict[tuple[str, int], float] = {}
        self._done: set[tuple[str, int]] = set()
        self._epoch = 0

    def take(self, duties: tuple[ImageDuty, ...], epoch: int) -> None:
        """Take the node's duties as they are now; of an older epoch nothing may be known."""
        if epoch != self._epoch:
            self._epoch, self._done = epoch, set()
        self._duties = {(duty.uid, duty.generation): duty for duty in duties}
        self._done &= self._duties.keys()
        for kept in (self._failures, self._not_before_s):
            for key in kept.keys() - self._duties.keys():
                del kept[key]

    def next(self, now_s: float) -> tuple[ImageDuty | None, float]:
        """Return what to build now, or None and how long nothing is to be done (0: for ever)."""
        open_ = [key for key in self._duties if key not in self._done]
        for key in open_:
            if self._not_before_s.get(key, 0.0) <= now_s:
                return self._duties[key], 0.0
        return None, min((self._not_before_s[key] - now_s for key in open_), default=0.0)

    def ended(self, duty: ImageDuty, *, built: bool, now_s: float) -> None:
        """Note how a build ended; one that failed is tried again later."""
        key = (duty.uid, duty.generation)
        if key not in self._duties:
            return
        if built:
            self._done.add(key)
            return
        self._failures[key] = failures = self._failures.get(key, 0) + 1
        pause_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(failures - 1, 10))
        self._not_before_s[key] = now_s + pause_s
