"""All interleavings of a small model of leases and fencing, over the real decision functions.

``rules.py`` names the decisions, ``state.py`` what the model remembers, ``leases.py`` ties the two.
``model.py`` gathers the moves: of the leader, of a host and its guard, of a node's messages and of
its worker. ``search.py`` is the walk and what must hold, ``canonical.py`` shortens it.
"""
