"""Evaluations by name: what is measured beside stances, and the keys that a study may write for it.

A file of vd/evaluations/metrics holds

    Settings    its keys: EvaluationSettings and its own
    evaluate    (responder, replies, settings, study, run) -> rows of metric, value, lo, hi, n
"""

from collections.abc import Iterator

from pydantic import ValidationError

from vd import plugins
from vd.study.file import explain, shown, word
from vd.study.settings import EvaluationSettings

Mistakes = Iterator[tuple[str, str]]
ROOM = "evaluations.metrics"


def settings_of(name: str, entry: dict) -> EvaluationSettings:
    """The settings of an evaluation; LookupError and ValidationError say what is wrong."""
    known, stem = [n.replace("-", "_") for n in plugins.names(ROOM)], name.replace("-", "_")
    file = f"vd/evaluations/metrics/{stem}.py"
    if stem not in known:
        add = "add vd/evaluations/metrics/<name>.py with Settings and evaluate"
        raise LookupError(f"no evaluation {shown(name)}; write one of {', '.join(known)}, or {add}")
    # Loaded here and not above: only a study that evaluates pays for their imports.
    try:
        module = plugins.load(ROOM, name)
    except Exception as error:  # somebody's own evaluation
        said = word(" ".join(f"{type(error).__name__}: {error}".split()))
        raise LookupError(f"{file} cannot be imported ({said}); correct it") from None
    if not (hasattr(module, "evaluate") and hasattr(module, "Settings")):
        raise LookupError(f"{file} lacks Settings or evaluate; add them")
    if not (isinstance(module.Settings, type) and issubclass(module.Settings, EvaluationSettings)):
        raise LookupError(f"{file}: Settings must build on EvaluationSettings")
    return module.Settings(**entry)


def mistakes(study) -> Mistakes:
    """What is wrong with a study's evaluations: (key, mistake and fix)."""
    for name, entry in study.evaluations.items():
        key = f"evaluations.{word(name)}"
        try:
            settings_of(name, entry)
        except ValidationError as error:
            yield from explain(key, entry, error)
        except LookupError as error:
            yield key, error.args[0]
