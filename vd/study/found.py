"""Files that a study names: somebody's own may be missing, broken or incomplete, said in words.

Names may be written with dashes or underscores, see vd/plugins.py.
"""

from collections.abc import Sequence
from types import ModuleType

from vd import plugins
from vd.study.file import word


def file_of(room: str, name: str) -> str:
    """The file behind a name, from the repository's root."""
    return f"{plugins.module(room, name).replace('.', '/')}.py"


def stems(room: str) -> list[str]:
    """Names of a folder's files, as Python writes them."""
    return [name.replace("-", "_") for name in plugins.names(room)]


def imported(room: str, name: str) -> ModuleType:
    """The module behind a name; LookupError if it cannot be imported."""
    try:
        return plugins.load(room, name)
    except Exception as error:  # somebody's own
        # on one line, whatever the error holds
        said = word(" ".join(f"{type(error).__name__}: {error}".split()))
        raise LookupError(
            f"{file_of(room, name)} cannot be imported ({said}); correct it"
        ) from None


def check_settings(module: ModuleType, file: str, base: type, others: Sequence[str] = ()) -> None:
    """LookupError unless a module's Settings build on `base`, which `others` do as well."""
    if not (isinstance(module.Settings, type) and issubclass(module.Settings, base)):
        named = [base.__name__, *others]
        bases = " or ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
        raise LookupError(f"{file}: Settings must build on {bases}")
