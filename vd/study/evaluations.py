"""Evaluations by name: what is measured beside stances, and the keys that a study may write for it.

A file of vd/evaluations/metrics holds

    Settings    its keys: EvaluationSettings and its own
    evaluate    (responder, replies, settings, study, run) -> rows of metric, value, lo, hi, n
    reads       (settings) -> names of the data sets that it reads by itself; left out for none
"""

from collections.abc import Iterator

from pydantic import ValidationError

from vd import paths
from vd.study.catalogue import EMBEDDED, PUBLIC
from vd.study.file import explain, shown, word
from vd.study.found import check_settings, file_of, imported, stems
from vd.study.settings import EvaluationSettings

Mistakes = Iterator[tuple[str, str]]
ROOM = "evaluations.metrics"


def settings_of(name: str, entry: dict) -> EvaluationSettings:
    """The settings of an evaluation; LookupError and ValidationError say what is wrong."""
    known, file = stems(ROOM), file_of(ROOM, name)
    if name.replace("-", "_") not in known:
        add = "add vd/evaluations/metrics/<name>.py with Settings and evaluate"
        raise LookupError(f"no evaluation {shown(name)}; write one of {', '.join(known)}, or {add}")
    # Loaded here and not above: only a study that evaluates pays for their imports.
    module = imported(ROOM, name)
    if not (hasattr(module, "evaluate") and hasattr(module, "Settings")):
        raise LookupError(f"{file} lacks Settings or evaluate; add them")
    check_settings(module, file, EvaluationSettings)
    return module.Settings(**entry)


def reads(name: str, settings: EvaluationSettings) -> list[str]:
    """Data sets that an evaluation reads beside replies and what runs train on."""
    return getattr(imported(ROOM, name), "reads", lambda settings: [])(settings)


def ask_servers(study) -> bool:
    """Whether a judge of some evaluation is a server."""
    judges = [getattr(own, "judge", None) for own in study.evaluation_settings().values()]
    return any(getattr(judge, "api", None) for judge in judges)


def of_runs(study, runs: dict) -> Mistakes:
    """Runs that an evaluation names are there and write replies."""
    there = dict.fromkeys(run.lineage for run in runs.values() if run.makes == "policy")
    for name, own in study.evaluation_settings().items():
        for lineage in own.runs or ():
            if lineage not in there:
                known = ", ".join(there)
                yield f"evaluations.{name}.runs", f"no run {shown(lineage)}; there are {known}"


def mistakes(study) -> Mistakes:
    """What is wrong with a study's evaluations: (key, mistake and fix)."""
    for name, entry in study.evaluations.items():
        key = f"evaluations.{word(name)}"
        try:
            settings = settings_of(name, entry)
        except ValidationError as error:
            yield from explain(key, entry, error)
        except LookupError as error:
            yield key, error.args[0]
        else:
            yield from _there(key, reads(name, settings))


def _there(key: str, names: list[str]) -> Mistakes:
    """Data sets and files of prompts that an evaluation reads are known, or there."""
    for name in names:
        if not (name in EMBEDDED or name in PUBLIC or paths.data_file(name).is_file()):
            what = "file of prompts" if name.endswith(".yaml") else "data set"
            yield key, f"no {what} '{word(name)}'; correct its name"
