"""Pools and volumes: what users declare, what is done about it, and who may write to it."""
