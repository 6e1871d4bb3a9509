"""Everything that a study takes from the network, fetched beforehand.

    python -m vd STUDY --fetch

On a cluster the login node has a network and the others have none: fetch there, and run jobs with
HF_HUB_OFFLINE=1.
"""

from collections.abc import Iterator

from vd.data import reading
from vd.models.weights import fetched
from vd.study import evaluations
from vd.study.catalogue import PUBLIC
from vd.study.load import Study
from vd.study.settings import ModelSettings


def fetch(study: Study) -> Iterator[str]:
    """Fetch models and data sets of a study; a line about each that is there then.

    Raises ValueError or ConnectionError, with the fix, for what cannot be had.
    """
    for model in models(study):
        folder, commit = fetched(model.source, model.revision)
        yield f"model {model.source}: {commit or folder}"
    for name, filters, examples, seed in data_sets(study):
        reading.keep(name, filters, examples, seed)
        yield f"data  {name}: {reading.fingerprint(name)}"


def models(study: Study) -> list[ModelSettings]:
    """All models that are loaded: the study's, those of series from elsewhere, encoders."""
    found = [run.model_settings for run in study.runs().values()]
    for run in study.runs().values():
        series = getattr(run.settings, "models", None)
        found += series(run.model_settings).values() if series else []
    for judge in (study.judge, *_judges(study)):
        found.append(ModelSettings(source=judge.source))
    own = study.evaluation_settings().values()
    found += [ModelSettings(source=s.encoder) for s in own if hasattr(s, "encoder")]
    found += [study.vprism.embedding] if study.asks_vprism else []
    return list({(model.source, model.revision): model for model in found}.values())


def _judges(study: Study) -> list:
    """Settings of the judges that evaluations have of their own."""
    own = (getattr(s, "judge", None) for s in study.evaluation_settings().values())
    return [judge for judge in own if judge]


def data_sets(study: Study) -> list[tuple[str, dict, int | None, int]]:
    """All draws from public data sets: name, filters, examples, seed."""
    found = []
    for run in study.runs().values():
        if run.training and run.training.data in PUBLIC:
            found.append((run.training.data, run.training.filters, run.training.examples, run.seed))
        others = run.training.data_sets[1:] if run.training else []
        found += [(name, {}, None, 0) for name in others if name in PUBLIC]
    for name, settings in study.evaluation_settings().items():
        found += [(n, {}, None, 0) for n in evaluations.reads(name, settings) if n in PUBLIC]
    if study.asks_vprism:
        sources = [name for name in study.vprism.source if name in PUBLIC]
        found += [(name, study.vprism.filters, None, 0) for name in sources]
    return list({repr(draw): draw for draw in found}.values())
