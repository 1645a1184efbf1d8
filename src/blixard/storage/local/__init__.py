"""Volumes as files of the node itself: the embedded default."""
