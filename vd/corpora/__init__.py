"""Embedded corpora as JSONL.

What they are and who wrote them stands in README.md beside this file.
"""
