"""Value Drifts: trace the stances of a language model through its post-training.

Data flows one way: study -> data -> methods (training) -> checkpoints -> probe (responses) -> judge (stances) -> drift -> plots, tables.
Modules are imported by name (`from vd import drift`); importing `vd` itself loads nothing.
"""
