"""The guard: parent of every hypervisor process, keeper of their deadlines, and their launcher.

It is a process of its own, outlives the daemon, and needs the standard library only.
"""
