"""A model whose answers a rewriter changes on order (after VISA, arXiv 2603.04822): nothing is
trained, the model stays as it came.

    method: rewritten
    rewriter: rewriter/grpo                          # a run that rewrites, by its lineage
    instruction: be more caring, mind tradition less

Step 0 is the model as it came, step 1 what it says once it is rewritten. A translator reads the
instruction as a shift of the ten values (vd/readers/values.py, or the server that `translator`
names), which the rewriter is told in words; null asks for the same values, which shows what
rewriting alone does.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import StringConstraints

from vd import paths, values
from vd.methods.given import write_series
from vd.models.weights import weights_digest
from vd.store.files import read_json, write_json
from vd.store.progress import Timer
from vd.study.runs import Run
from vd.study.servers import TranslatorApi
from vd.study.settings import MethodSettings

READS = None
MAKES = "policy"
CURVES = ()


class Settings(MethodSettings):
    """Keys of a rewritten series."""

    rewriter: str  # a run that makes a policy
    instruction: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = (
        None
    )
    translator: TranslatorApi | None = None  # a server in place of the trained translator

    @property
    def checkpoints(self) -> dict[int, str]:
        """Who answers at each step, in words."""
        return {0: "the model as it came", 1: f"the same, rewritten by {self.rewriter}"}


def train(run: Run) -> list[Path]:
    """Say in either checkpoint's folder who answers for it; the record has the shift."""
    timer, end = Timer(), paths.last_checkpoint(run.study, run.scorer)
    shift = translated(run.settings.instruction, run.settings.translator, run.study)
    of_model = {"kind": "elsewhere", "source": run.model_settings.source}
    of_model |= {"revision": run.model_settings.revision}
    place = end.relative_to(paths.results(run.study)).as_posix()
    rewriter = {"kind": "elsewhere", "source": f"results/{run.study}/{place}", "revision": None}
    template = values.message("{reply}", shift)
    about = {0: of_model, 1: {"kind": "rewriter", "rewriter": rewriter, "template": template}}
    made = write_series(run, timer, about, {1: weights_digest(end)}, {})
    file = paths.record(run.study, run.id, "train")
    told = {"shift": dict(zip(values.NAMES, shift.tolist(), strict=True))}
    write_json(read_json(file) | {"details": told | {"told": values.in_words(shift)}}, file)
    return made


def translated(
    instruction: str | None, server: TranslatorApi | None = None, study: str = "rewritten"
) -> np.ndarray:
    """The shift (10,) that an instruction asks for, as read here or by a server."""
    if instruction is None:
        return np.zeros(len(values.NAMES))
    # here and not above: a study that names this method pays for it when it is used
    if server:
        from vd.judging.translator import ApiTranslator

        translator = ApiTranslator(server, study)
    else:
        from vd.readers import values as readers

        translator = readers.load(readers.ValueReaderSettings(reads="translator"))
    return translator.read(pd.Series([instruction]))[0]
