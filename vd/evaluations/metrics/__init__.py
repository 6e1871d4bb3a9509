"""Evaluations, one file each, found by the name that a study writes under `evaluations:`."""
