"""What else is measured of a checkpoint, beside its stances."""
