"""What papers report, one file each, tested on a study."""
