"""A hypervisor in memory."""
