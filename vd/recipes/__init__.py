"""Data sets that are made during a study, one file each."""
