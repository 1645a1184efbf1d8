"""What a node's reports mean for the status of images; pure functions of the store."""

from __future__ import annotations

from typing import NamedTuple

from blixard.cluster.resources import OpResult, PatchStatus, Resource
from blixard.cluster.store import Store
from blixard.images.duties import found_on, reported
from blixard.node.messages import Report, Reports

_BUILT = ("Starting", "Running")  # phases of an instance whose image is there


class ImageChanges(NamedTuple):
    """Operations, those of the node's image reports first; ``refused`` has a code per report."""

    ops: tuple[PatchStatus, ...]
    refused: tuple[str, ...]

    def codes(self, results: tuple[OpResult, ...]) -> tuple[str, ...]:
        """Return a code per image report from the results of ``ops``; empty: it was taken."""
        taken = iter(results)
        return tuple(code or next(taken).code for code in self.refused)


def image_changes(store: Store, node: Resource, reports: Reports) -> ImageChanges:
    """Return what the reports of *node* change in images; those of another epoch change nothing."""
    if reports.epoch != node.status.get("epoch"):
        return ImageChanges((), ("FENCED",) * len(reports.images))
    name = node.metadata.name
    known = {n.metadata.name for n in store.list("Node")} if store.count("Image") else set()
    changes = [reported(store.by_uid(r.uid), r, name, known) for r in reports.images]
    refused = tuple("" if change is not None else "NOT_FOUND" for change in changes)
    found = {change.uid: change for change in changes if change is not None}
    for item in reports.items if known else ():
        if item.status.get("phase") not in _BUILT:
            continue
        image, recipe = _image_of(store, item)
        if image is None or image.metadata.uid in found:
            continue
        change = found_on(image, recipe, name, known)
        if change is not None:
            found[change.uid] = change
    return ImageChanges(tuple(found.values()), refused)


def _image_of(store: Store, report: Report) -> tuple[Resource | None, object]:
    """Return the image that an instance's VM names, and the recipe that the instance has."""
    instance = store.by_uid(report.uid)
    vm = store.by_uid(instance.metadata.owner) if instance is not None else None
    if instance is None or vm is None or not vm.spec.get("image") or vm.spec.get("recipe"):
        return None, None
    image = store.get("Image", vm.metadata.namespace, str(vm.spec["image"]))
    return image, instance.spec.get("recipe")
