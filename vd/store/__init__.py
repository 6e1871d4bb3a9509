"""Files, what is said while they are made, and what they were made from.

Every room writes through here.
"""
