"""Whether the data of a study can be had, before any work starts."""

from vd import paths
from vd.data import reading
from vd.data.probes import load_probes
from vd.data.sets import COLUMNS, corpus, draw_rows
from vd.study.catalogue import PUBLIC
from vd.study.load import Study

READS = {"sft": "texts", "preference": "pairs"}


def check_data(study: Study) -> None:
    """Find out whether the data of a study can be had; raises ValueError or ConnectionError if not.

    Public sets are only looked for. All others are read as training and probing will read them,
    but for those that the study's recipes make later on.
    """
    runs = [run for run in study.runs().values() if run.settings]
    runs = [run for run in runs if not _is_made_later(study, run.settings.data)]
    # models and seeds share their data: once is enough
    trained = {(run.settings.data, READS[run.phase], run.settings.examples): run for run in runs}
    for name in sorted({name for name, *_ in trained}.union(study.vprism.source)):
        reading.check_source(name) if name in PUBLIC else corpus(name)
    for (name, reads, _), run in trained.items():
        if name not in PUBLIC:
            draw_rows(run.settings, run.seed, *COLUMNS[reads])
    if not study.asks_vprism:  # which is built later on
        load_probes(study.probing)


def _is_made_later(study: Study, name: str) -> bool:
    file = paths.data_file(name)
    return file.is_relative_to(paths.results(study.name) / "recipes") and not file.exists()
