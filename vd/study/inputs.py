"""What a study names that has to be there: models, data sets, filters, probes, prompts.

Checks yield (key, mistake and fix). A file in results/ may be made later, all else is looked for.
"""

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from vd import paths
from vd.stances import STANCES
from vd.store.formats import ENDINGS, is_file
from vd.study import sources
from vd.study.catalogue import PUBLIC, filters_of, own_filters
from vd.study.file import fix, shown, word
from vd.study.graph import made_by_recipes

Mistakes = Iterator[tuple[str, str]]
NEEDS = {  # columns of a data set, by what a method READS or another use
    "texts": {"prompt", "completion"},
    "pairs": {"prompt", "chosen", "rejected"},
    "steps": {"prompt", "completions", "labels"},
    "probes": {"topic", "prompt", "polarity"},
    "prompts": {"prompt"},
}
ALSO = {"texts": "pairs"}  # what was chosen in pairs may be learnt as a text
POSITIONS = 512  # that the encoders in vd/study/sources.py can read


def to_be_made(study) -> dict[str, Path]:
    """Data files that a study reads and that are not there yet: name in the study, file."""
    names = {run.training.data for run in study.runs().values() if run.training}
    # the workflow makes those itself
    names -= set(made_by_recipes(study).values())
    names |= {name for name in study.vprism.source if is_file(name)}
    files = {name: paths.data_file(name) for name in sorted(names) if is_file(name)}
    return {name: file for name, file in files.items() if not os.path.isfile(file)}


def models(study) -> Mistakes:
    """Sources of the models, of the judge and of V-PRISM's embedding."""
    for name, model in study.models.items():
        yield from _model(f"models.{word(name)}", model, writes=True)
    yield from _source("judge.source", study.judge.source)
    # beyond these positions the encoder has no embeddings
    if _encoder(study.judge.source) and study.judge.max_length > POSITIONS:
        why = f"{study.judge.source} reads {POSITIONS} tokens"
        yield "judge.max_length", f"{why}; write at most that"
    embedding = study.vprism.embedding
    yield from _model("vprism.embedding", embedding)
    if "prompt_format" in embedding.model_fields_set:
        yield "vprism.embedding.prompt_format", "texts are embedded as they are; remove it"
    if "dtype" in embedding.model_fields_set and embedding.dtype != "float32":
        yield "vprism.embedding.dtype", "texts are embedded in float32; write that, or remove it"


def vprism(study) -> Mistakes:
    """What V-PRISM is built from: prompts, read by somebody, and as many as its numbers need."""
    settings, own = study.vprism, paths.vprism(study.name)
    mistakes = []
    for name in settings.source:
        if paths.data_file(name) == own:
            why = f"'{name}' is what is built from it"
            mistakes.append(("vprism.source", f"{why}; write other prompts"))
        else:
            mistakes += data("vprism.source", name, "prompts")
            mistakes += filters("vprism.filters", name, settings.filters)
    yield from mistakes
    # A file may be made later, so neither its rows nor who has read them is known.
    if mistakes or any(is_file(name) for name in settings.source):
        return
    ours = [row for name in settings.source for row in embedded(name)]
    # Labels of PRISM's prompts are kept in vd/corpora; rows with a polarity are probes.
    read = "prism" in settings.source or any("polarity" in row for row in ours)
    if not read and not settings.writer:
        fix = "add prism or probes, or name a vprism.writer"
        yield "vprism.source", f"nobody has read these prompts; {fix}"
    if not all(map(embedded, settings.source)):
        return
    n = len(ours)
    # UMAP cuts n_neighbors to n - 1 with a warning; its spectral start needs n_components + 1 < n.
    for key, most in (("n_neighbors", n - 1), ("n_components", n - 2), ("min_cluster_size", n)):
        if getattr(settings, key) > most:
            yield f"vprism.{key}", f"its sources hold {n} prompts; write at most {most}"


def probes(study) -> Mistakes:
    """The probe set is there, is one, and holds as many probes as are asked for."""
    name, wanted = study.probing.probes, study.probing.per_topic
    if study.asks_vprism:
        held = study.vprism.per_topic
    else:
        yield from data("probing.probes", name, "probes")
        counts = Counter(row.get("topic") for row in embedded(name))
        # as many as the smallest topic has, for that many are drawn from each
        held = min(counts.values(), default=None)
    if held and wanted and wanted > held:
        yield "probing.per_topic", f"there are {held} probes a topic; write at most that"


def prompt(study) -> Mistakes:
    """The file of vd/prompts that an API judge asks by asks for stances."""
    if not study.judge.api:
        return
    file, key = paths.prompt(study.judge.api.prompt), "judge.api.prompt"
    # not `exists`: ../prompts/stance-v1 leads to a file too, and is no name
    if file not in paths.PROMPTS.glob("*.yaml"):
        yield key, f"no file {word(str(file))}; write stance-v1 or add it"
        return
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        # filled in as the judge does it, so that a misspelt field shows before anything is trained
        content["template"].format(definitions="", labels="", question="", reply="")
        right = set(content["labels"]) == set(STANCES)
    # what parsing, a missing key or field, and values of other kinds raise
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError):
        right = False
    if not right:
        fix = "write stance-v1, or give it labels and template as that has them"
        yield key, f"{file} does not ask for stances; {fix}"


def data(key: str, name: str, use: str) -> Mistakes:
    """A data set is known and fits its use, a key of `NEEDS`."""
    fit = _fitting(use)
    if name in PUBLIC:
        kind = PUBLIC[name].kind
        # rows of every kind have prompts
        if use != "prompts" and kind not in (use, ALSO.get(use)):
            others = [other for other, entry in PUBLIC.items() if entry.kind == use]
            where = "of public sets write" if others else "write"
            yield key, f"'{name}' holds {kind}; {where} {', '.join(others or fit)}"
    elif name in _corpora():
        if name not in fit + (_fitting(ALSO[use]) if use in ALSO else []):
            lacks = " and ".join(sorted(NEEDS[use] - _columns(_corpora()[name]))) or use
            yield key, f"'{name}' holds no {lacks}; of embedded sets write {', '.join(fit)}"
    elif is_file(name):
        yield from _own(key, name, use)
    else:
        known = ", ".join(fit if use == "probes" else [*_corpora(), *PUBLIC])
        own = f"the path of a file ending in {', '.join(ENDINGS)}"
        yield key, f"no data set '{word(name)}'; write one of {known} or {own}"


def filters(key: str, name: str, chosen: dict) -> Mistakes:
    """A data set has these filters, and values of the types that its function asks for."""
    known = filters_of(name)
    if unknown := set(chosen) - set(known):
        said = ", ".join(map(word, sorted(unknown)))
        there = ", ".join(known) or "none: remove the key"
        yield key, f"'{name}' has no {said}; its filters are {there}"
    for own, value in chosen.items():
        if own in known and (wrong := _misfit(name, own, value)):
            yield f"{key}.{own}", wrong


@functools.cache
def embedded(name: str) -> list[dict]:
    """Rows of an embedded corpus; none for another data set."""
    if name not in _corpora():
        return []
    with open(_corpora()[name], encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def rows_of(name: str) -> int | None:
    """How many rows a data set has at most; None where that takes more than counting lines."""
    # A record of a CSV may go over several lines, and a packed file would have to be unpacked.
    if name.endswith(".jsonl") and os.path.isfile(file := paths.data_file(name)):
        # with the time of the last change, so that a file that was written anew is counted anew
        return _lines(file, os.stat(file).st_mtime_ns)
    return len(embedded(name)) or None


def _own(key: str, name: str, use: str) -> Mistakes:
    """A file is there, or can be made later; one of probes begins as such. vd.data reads it all."""
    file = paths.data_file(name)
    # os.path, since Path.is_file raises for a name that is too long
    if not os.path.isfile(file):
        # `any` stands for any study: the folder of all results is asked for
        if use == "probes" or not file.is_relative_to(paths.results("any").parent):
            yield key, f"no file {word(str(file))}; make it first, or correct its name"
    elif use == "probes" and name.endswith(".jsonl") and (lacks := NEEDS[use] - _columns(file)):
        said = " and ".join(sorted(lacks))
        yield key, f"{word(name)} is no probe set, its first row has no {said}; add it"


def _model(key: str, model, writes: bool = False) -> Mistakes:
    """A model's source can be one, and has revisions if one is named."""
    yield from _source(f"{key}.source", model.source, writes)
    # embedded:minilm, random:bert and the like, or a folder
    ours = ":" in model.source or os.path.exists(paths.data_file(model.source))
    if model.revision is not None and ours:
        yield f"{key}.revision", "only models of the hub have revisions; remove it"


def _source(key: str, name: str, writes: bool = False) -> Mistakes:
    """A source is known, a folder with a model, or could be a name of the hub."""
    known = [f"embedded:{n}" for n in sources.EMBEDDED] + [f"random:{n}" for n in sources.TINY]
    fit = ", ".join(other for other in known if not (writes and _encoder(other)))
    folder = paths.data_file(name)
    if name in known:
        if writes and _encoder(name):
            yield key, f"{name} is an encoder and writes no text; write {fit}, or another model"
    elif ":" in name:
        yield key, f"no model {shown(name)}; write {fit}, a name of the hub or a folder"
    elif os.path.exists(folder):
        if not os.path.isfile(folder / "config.json"):
            yield key, f"{folder} holds no config.json; name the folder of a whole model"
    elif not re.fullmatch(r"(?!.*\.\.)\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII):
        yield key, f"no folder {shown(name)}, and no name of the hub, owner/name; correct it"


def _encoder(source: str) -> bool:
    kind, _, name = source.partition(":")
    return kind in ("embedded", "random") and name in sources.ENCODERS


def _misfit(name: str, own: str, value: object) -> str | None:
    """What is wrong with the value of a filter; None if nothing is."""
    kind = Annotated[int, Field(gt=0)]
    if own != "max_words":
        kind = next(f.annotation for f in own_filters(name) if f.name == own)
    try:
        # strict, as all settings are: otherwise '200' would pass for a number
        strict = ConfigDict(strict=True, allow_inf_nan=False)
        TypeAdapter(kind, config=strict).validate_python(value)
    except ValidationError as error:
        return fix(error.errors()[0])
    return None


@functools.cache
def _corpora() -> dict[str, Path]:
    return {file.stem: file for file in sorted(paths.CORPORA.glob("*.jsonl"))}


@functools.cache
def _fitting(use: str) -> list[str]:
    """Embedded corpora for a use."""
    if use == "probes":  # others hold topics and polarities as well
        return ["probes"]
    return [name for name, file in _corpora().items() if NEEDS[use] <= _columns(file)]


def _columns(file: Path) -> set[str]:
    """Keys of the first row of a .jsonl file; none if that cannot be read."""
    try:
        # utf-8-sig drops a byte-order mark, which json refuses
        with open(file, encoding="utf-8-sig") as lines:
            row = json.loads(next(line for line in lines if line.strip()))
    except (OSError, ValueError, RecursionError, StopIteration):
        return set()
    return set(row) if isinstance(row, dict) else set()


@functools.cache
def _lines(file: Path, changed: int) -> int:
    with open(file, "rb") as lines:
        return sum(1 for line in lines if line.strip())
