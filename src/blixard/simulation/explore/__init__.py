"""All interleavings of a small model of leases and fencing, over the real decision functions.

``rules.py`` names the decisions, ``state.py`` what the model remembers, ``model.py`` the moves,
``checks.py`` what must hold, ``search.py`` the walk.
"""
