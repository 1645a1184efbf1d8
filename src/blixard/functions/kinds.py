"""The kind Function."""

from __future__ import annotations

from blixard.cluster.kind import Kind
from blixard.functions.spec import FunctionSpec, validate_function

KINDS: tuple[Kind, ...] = (
    Kind(
        name="Function",
        plural="functions",
        short=("fn",),
        spec=FunctionSpec,
        validate=validate_function,
    ),
)
