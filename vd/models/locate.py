"""Where a model lies and what it is, by its source."""

import hashlib
from contextlib import contextmanager
from pathlib import Path

from vd import paths
from vd.models.embedded import unpack
from vd.models.tiny import make
from vd.store.cache import kept
from vd.study.settings import ModelSettings
from vd.study.sources import EMBEDDED, TINY


def locate(source: str) -> str:
    """A name that transformers can load.

    A folder (from the repository's root; `results/` follows VD_RESULTS), the cached folder of an
    embedded or random model, or else the source itself.
    """
    kind, _, name = source.partition(":")
    if kind not in ("embedded", "random"):
        folder = paths.data_file(source)
        return str(folder) if folder.is_dir() else source
    makers = {"embedded": unpack, "random": make}
    known = {"embedded": EMBEDDED, "random": TINY}[kind]
    if name not in known:
        raise ValueError(
            f"model source '{source}': no such {kind} model; there are {', '.join(known)}"
        )
    # the folder's name ends in a hash of what it is made from: a change of that makes it anew
    content = EMBEDDED[name].sha256 if kind == "embedded" else str(TINY[name])
    if kind == "random":  # its tokenizer is trained on the probes
        content += (paths.CORPORA / "probes.jsonl").read_text(encoding="utf-8")
    folder = paths.cache() / kind / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    return str(kept(folder, lambda part: makers[kind](name, part)))


def revision(model: ModelSettings) -> str | None:
    """What was loaded: a hub commit, or the cached folder's name, which ends in a hash.

    None for a local folder.
    """
    if ":" in model.source:
        return Path(locate(model.source)).name
    return getattr(config(model), "_commit_hash", None)


def identity(model: ModelSettings) -> str:
    """What a model is, wherever it lies: a hub commit, or a hash of the files in a local folder."""
    folder = Path(locate(model.source))
    if ":" in model.source or not folder.is_dir():
        return revision(model) or model.source
    digest = hashlib.sha256()
    # by name, since file systems list files in any order
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        digest.update(file.name.encode())
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def config(model: ModelSettings):
    """The configuration of a model, as transformers reads it."""
    from transformers import AutoConfig

    with loading(model.source, "config.json"):
        return AutoConfig.from_pretrained(locate(model.source), revision=model.revision)


@contextmanager
def loading(name: str | Path, what: str):
    """One line for whatever libraries say of files that are missing, broken or of another kind."""
    try:
        yield
    # libraries raise errors of their own, and tokenizers a bare Exception
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        fix = "remove the folder and train the run again"
        if not isinstance(name, Path):
            fix = "correct its source or revision in the study, or the files there"
        raise ValueError(f"'{name}': {what} cannot be loaded: {said}; {fix}") from None
