"""What the cache keeps: made once, readable by others, and anew when its origin changes."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from vd import paths
from vd.data.vprism import build
from vd.models import loading, locate
from vd.store import cache as cache_folders
from vd.study.settings import ModelSettings, VPrismSettings


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_cache_that_nobody_may_write_serves_what_it_has(cache, monkeypatch):
    locate.locate("random:llama")

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(cache_folders, "FileLock", refuse)
    settings = ModelSettings(source="random:llama", dtype="float32")
    assert loading.load_tokenizer(settings) and loading.load_base(settings)
    with pytest.raises(PermissionError, match=r"random/qwen3-.*cannot be written.*set VD_CACHE"):
        locate.locate("random:qwen3")


def test_a_cache_that_is_a_file_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VD_CACHE", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match="set VD_CACHE to a folder that can be written"):
        locate.locate("random:llama")


def test_others_may_read_what_one_user_made(cache):
    before = os.umask(0o022)
    try:
        folder = paths.Path(locate.locate("random:bert"))
    finally:
        os.umask(before)
    assert [oct(p.stat().st_mode & 0o777) for p in (folder, folder.parent)] == ["0o755", "0o755"]
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in folder.iterdir())


def test_what_a_killed_process_left_half_made_is_made_anew(cache):
    whole = paths.Path(locate.locate("random:llama"))
    names = {file.name for file in whole.iterdir()}
    part = whole.with_name(f"{whole.name}.part")
    whole.rename(part)
    (part / "model.safetensors").write_bytes(b"")
    (part / "more").write_bytes(b"")
    again = paths.Path(locate.locate("random:llama"))
    assert {file.name for file in again.iterdir()} == names and not part.exists()
    assert loading.load_base(ModelSettings(source="random:llama"))


def test_several_processes_on_an_empty_cache_make_one_model(cache):
    code = "from vd.models.locate import locate; print(locate('random:llama'))"
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate()[0] for process in running}
    assert len(said) == 1 and all(process.returncode == 0 for process in running)
    made = [path.name for path in (cache / "random").iterdir() if path.is_dir()]
    assert made == [os.path.basename(said.pop().strip())]


TEXTS = pd.Series([f"Should {word} be free?" for word in ("tea", "trade", "time", "speech")])


def kept(cache, step):
    return {file.name for file in (cache / "vprism").glob(f"{step}-*")}


SETTINGS = VPrismSettings(min_cluster_size=5, n_neighbors=5, n_components=2)
EDITS = [  # file of vd, what stands there, what is written in its place, tables kept of each step
    ("models/embeddings.py", "max_length=256", "max_length=8", {"embed": 2, "clusters": 1}),
    ("data/vprism/build.py", 'method="eom"', 'method="leaf"', {"embed": 1, "clusters": 2}),
    ("data/vprism/build.py", 'metric="cosine"', 'metric="euclidean"', {"embed": 1, "clusters": 2}),
    (
        "data/vprism/build.py",
        "# both libraries change",
        "# another comment",
        {"embed": 1, "clusters": 1},
    ),
]
STEPS = """
import numpy as np
from test_cache import SETTINGS, TEXTS
from vd.data.vprism import build
build.embed(SETTINGS, TEXTS)
build.clusters(SETTINGS, np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
"""


def take_steps(package, cache):
    environment = os.environ | {
        "PYTHONPATH": f"{package}{os.pathsep}{paths.ROOT / 'tests'}",
        "VD_CACHE": str(cache),
    }
    subprocess.run([sys.executable, "-c", STEPS], env=environment, cwd=package, check=True)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A copy of the package, and the cache that it filled and found full."""
    folder = tmp_path_factory.mktemp("filled")
    shutil.copytree(paths.ROOT / "vd", folder / "copy" / "vd")
    for _ in range(2):
        take_steps(folder / "copy", folder / "cache")
    assert {step: len(kept(folder / "cache", step)) for step in ("embed", "clusters")} == {
        "embed": 1,
        "clusters": 1,
    }
    return folder


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit[2])
def test_steps_are_taken_anew_when_their_code_changes(filled, cache, edit):
    """A copy of the package with one line edited, on the cache that the unedited one filled."""
    file, before, after, expected = edit
    shutil.copytree(filled / "cache", cache)
    file = filled / "copy" / "vd" / file
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1
    file.write_text(text.replace(before, after), encoding="utf-8")
    try:
        take_steps(filled / "copy", cache)
    finally:
        file.write_text(text, encoding="utf-8")
    assert {step: len(kept(cache, step)) for step in expected} == expected


def test_embeddings_are_made_anew_when_the_models_files_change(cache, tmp_path):
    """A local folder may hold another model tomorrow; equal files elsewhere are the same."""
    for name in ("one", "two"):
        shutil.copytree(locate.locate("random:bert"), tmp_path / name)
    settings = VPrismSettings()

    def embed(folder):
        source = ModelSettings(source=str(tmp_path / folder), dtype="float32")
        return build.embed(settings.model_copy(update={"embedding": source}), TEXTS)

    first = embed("one")
    embed("two")
    assert len(kept(cache, "embed")) == 1
    from safetensors.torch import load_file, save_file

    file = tmp_path / "one" / "model.safetensors"
    save_file({n: w * 1.5 for n, w in load_file(file).items()}, file, {"format": "pt"})
    assert not np.allclose(embed("one"), first) and len(kept(cache, "embed")) == 2
