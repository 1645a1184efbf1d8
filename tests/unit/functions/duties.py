"""Functions and pools for tests of decisions."""

import itertools

from blixard.functions.acts import Give, Start, Waiting
from blixard.functions.pool import NodePool
from blixard.functions.spec import FunctionDuties, FunctionDuty, FunctionSpec, duty_of

SOURCE = "def handler(event, context):\n    return event\n"


def duty(uid="f1", generation=1, *, source=SOURCE, **spec) -> FunctionDuty:
    """Return a duty; *spec* are fields of the spec."""
    return duty_of(uid, "default", uid, generation, spec=FunctionSpec(source=source, **spec))


class World:
    """A pool whose acts a test plays."""

    def __init__(self, *duties, memory_mib=1024):
        numbers = itertools.count(1)
        self.pool = NodePool(lambda: f"i{next(numbers)}")
        self.now_s = 100.0
        self._tickets = itertools.count(1)
        self.assign(*duties, memory_mib=memory_mib)
        for one in duties:
            self.pool.prepared(one)

    def assign(self, *duties, memory_mib=1024):
        self.pool.assign(FunctionDuties(memory_mib, duties))

    def acts(self):
        return self.pool.acts(self.now_s)

    def call(self, function="f1", *, patient=True, wait_s=10.0):
        """Let a call arrive; return its ticket and what is to be done."""
        ticket = next(self._tickets)
        waiting = Waiting(ticket, 1, self.now_s + wait_s, patient)
        self.pool.call(function, waiting, self.now_s)
        return ticket, self.acts()

    def start_all(self, acts):
        """Let every start succeed; return what is to be done then."""
        for act in acts:
            if isinstance(act, Start):
                self.pool.started(act.instance.uid, self.now_s)
        return self.acts()

    def busy(self, function="f1"):
        """Let a call run; return its instance's uid."""
        _, acts = self.call(function)
        given = [act for act in acts + self.start_all(acts) if isinstance(act, Give)]
        return given[0].instance.uid
