"""Training methods, one file each, found by the name that a study writes after `method:`."""
