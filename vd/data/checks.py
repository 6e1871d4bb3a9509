"""Whether the data of a study can be had, before any work starts."""

from vd.data import reading
from vd.data.probes import load_probes
from vd.data.sets import COLUMNS, corpus, draw_rows
from vd.study.catalogue import PUBLIC
from vd.study.graph import made_by_recipes
from vd.study.load import Study


def check_data(study: Study) -> None:
    """Find out whether the data of a study can be had; raises ValueError or ConnectionError if not.

    Public sets are only looked for. All others are read as training and probing will read them,
    but for those that the study's recipes make later on.
    """
    made = made_by_recipes(study).values()
    runs = [run for run in study.runs().values() if run.training and run.training.data not in made]
    # models and seeds share their data, so one run of each reads it for all
    trained = {(run.training.data, run.reads, run.training.examples): run for run in runs}
    names = {name for run in runs for name in run.training.data_sets}
    for name in sorted(names.union(study.vprism.source)):
        reading.check_source(name) if name in PUBLIC else corpus(name)
    # once more as each run draws from it: its columns must be there, and rows enough
    for (name, reads, _), run in trained.items():
        if name not in PUBLIC:
            draw_rows(run.training, run.seed, *COLUMNS[reads])
    if not study.asks_vprism:  # which is built later on
        load_probes(study.probing)
