"""Files, what is said while they are made, and what they were made from: every room writes through here."""
