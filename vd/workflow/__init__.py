"""Which jobs a study needs, what they are made from, and how they are run."""
