"""Who tells support from neutral from oppose, and how far to trust it: stances."""
