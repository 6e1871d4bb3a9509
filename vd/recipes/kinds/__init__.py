"""Recipes, one file each: KIND, COLUMNS, Settings and make, see vd/study/recipes.py."""
