"""Volumes as RBD images of an existing Ceph cluster, by Ceph's own programs."""
