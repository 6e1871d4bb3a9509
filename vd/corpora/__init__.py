"""Embedded corpora as JSONL; what they are and who wrote them stands in README.md beside this file."""
