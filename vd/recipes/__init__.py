"""Data sets that are made during a study: who writes them, who checks them, what they become."""
