"""How far and how fast stances move."""
