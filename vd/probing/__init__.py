"""Checkpoints answer probes: responses."""
