"""Figures and tables, each with its data beside it."""
