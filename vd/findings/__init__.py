"""What papers report, tested on a study: here how it is tested, the papers in papers/."""
