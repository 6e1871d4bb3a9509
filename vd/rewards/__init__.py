"""Rewards of replies that methods such as GRPO learn from, one file each (vd/study/rewards.py)."""
