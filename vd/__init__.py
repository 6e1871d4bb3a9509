"""Value Drifts: trace the stances of a language model through its post-training.

Data flows one way: study -> data -> training -> checkpoints -> responses (probing) -> stances
(judging) -> drift -> findings and figures. There is a folder for each; modules are imported by name
(`from vd.drift import measures`), and `import vd` loads nothing heavy.
"""

import os
import warnings
from pathlib import Path

# Executed notebooks are evidence: progress bars and advice of libraries do not belong in them.
# A variable that is already set wins.
# Before any import of these libraries, which read the variables once, when they are imported.
for _name, _value in {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # with it the hub is asked even where all files are local
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",  # forked workers after threads warn otherwise
    # trl.experimental, where PPO and SimPO come from, warns on import
    "TRL_EXPERIMENTAL_SILENCE": "1",
}.items():
    os.environ.setdefault(_name, _value)
# The pinned TRL and peft still ask transformers 5.23 for a property under its old name.
warnings.filterwarnings(
    "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
)


def _find_home() -> None:
    """Where the home folder is missing or cannot be written to, as in containers, take another one.

    Snakemake, Jupyter, matplotlib and numba keep files there and would stop. What the hub's library
    has kept in the old one (models, a token) can still be read.
    """
    home = Path(os.path.expanduser("~"))
    if home.is_dir() and os.access(home, os.W_OK):
        return
    import tempfile

    folder = Path(tempfile.gettempdir(), f"value-drifts-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    # lstat: of a link it tells who made the link, and not whose folder it leads to
    if folder.lstat().st_uid != os.getuid():  # somebody else could lay files there
        folder = Path(tempfile.mkdtemp(prefix="value-drifts-"))
    # Named before HOME changes: the hub's library looks for both below the home folder.
    hub = home / ".cache" / "huggingface"
    if hub.is_dir():
        os.environ.setdefault("HF_HUB_CACHE", str(hub / "hub"))
        os.environ.setdefault("HF_TOKEN_PATH", str(hub / "token"))
    # in the environment, so that Snakemake, its jobs and their kernels inherit it
    os.environ["HOME"] = str(folder)
    os.environ.setdefault("USER", str(os.getuid()))  # a user without a name has no home either


# on import of any part of vd: the libraries take their folders from HOME when imported
_find_home()
