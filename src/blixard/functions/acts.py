"""What goes in and out of a node's pool of instances: calls that wait, and acts for them."""

from __future__ import annotations

from typing import Literal

import msgspec

from blixard.functions.spec import FunctionDuty

WAIT_MAX_S = 30.0  # an emulated guest on a busy machine needs most of it to boot

State = Literal["starting", "idle", "busy", "ending"]


class Instance(msgspec.Struct):
    """One microVM of a function; ``since_s``: in its state."""

    uid: str
    duty: FunctionDuty
    state: State
    since_s: float
    served: int = 0


class Waiting(msgspec.Struct, frozen=True):
    """A call that has no instance yet; ``patient``: it waits for capacity until ``until_s``."""

    ticket: int
    generation: int
    until_s: float
    patient: bool = True


class Give(msgspec.Struct, frozen=True):
    """The call of *ticket* runs on that instance, alone."""

    ticket: int
    instance: Instance


class Refuse(msgspec.Struct, frozen=True):
    """The call of *ticket* does not run here."""

    ticket: int
    code: str
    reason: str


class Start(msgspec.Struct, frozen=True):
    """Start this instance."""

    instance: Instance


class End(msgspec.Struct, frozen=True):
    """End the process of that instance, until it is gone."""

    instance_uid: str


Act = Give | Refuse | Start | End
