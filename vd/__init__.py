"""Value Drifts: trace the stances of a language model through its post-training.

Data flows one way: study -> data -> methods (training) -> checkpoints -> probe (responses) -> judge (stances)
-> drift -> plots, tables. Modules are imported by name (`from vd import drift`); `import vd` loads nothing heavy.
"""

import os
import warnings

# Executed notebooks are evidence: progress bars and advice of libraries do not belong in them.
# A variable that is already set wins.
for _name, _value in {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",  # forked workers after threads warn otherwise
    "TRL_EXPERIMENTAL_SILENCE": "1",
}.items():
    os.environ.setdefault(_name, _value)
# The pinned TRL and peft still ask transformers 5.23 for a property under its old name.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
