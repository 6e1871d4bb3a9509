"""What is found by its name: methods, public data sets, recipes, evaluations and papers, a file
each.

Adding one is adding a file to its folder; no list names them. A dash in a study's name is an
underscore in the file's: `hh-rlhf` is vd/data/public/hh_rlhf.py.
"""

import importlib
from types import ModuleType

from vd import paths


def names(room: str) -> list[str]:
    """Names of what a folder of vd holds, such as those in `methods` or `data.public`."""
    # listed, not imported: a file that is broken matters only to what loads it
    files = (paths.ROOT / "vd").joinpath(*room.split(".")).glob("*.py")
    return sorted(file.stem.replace("_", "-") for file in files if file.stem != "__init__")


def module(room: str, name: str) -> str:
    """Dotted name of the module behind a name."""
    return f"vd.{room}.{name.replace('-', '_')}"


def load(room: str, name: str) -> ModuleType:
    """The module behind a name."""
    return importlib.import_module(module(room, name))
