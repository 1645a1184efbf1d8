"""Blixard: a cluster of Linux machines that runs microVMs."""

__version__ = "0.1.0"
