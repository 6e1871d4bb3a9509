"""Tests and notebooks write to a folder of their own, so that no result of a study is ever touched
by a test.
"""

import atexit
import os
import shutil
import signal
import tempfile

import pytest

# set before anything else is imported: notebooks run in processes that inherit the environment
FOLDER = tempfile.mkdtemp(prefix="value-drifts-test-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
os.environ["VD_RESULTS"] = f"{FOLDER}/results"
os.environ["VD_FIGURES"] = f"{FOLDER}/figures"
os.environ.pop("VD_PROGRESS", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test files run side by side


# a shell in the background lets its commands ignore interrupts, and tests send some
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty results, figures and studies folder for one test."""
    for name in ("results", "figures", "configs"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"VD_{name.upper()}", str(tmp_path / name))
    return tmp_path


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server that answers as an API does, its key, and a cache of its own."""
    from api_server import KEY, ApiServer

    from vd.servers import client

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("VD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)
    server = ApiServer().start()
    yield server
    server.stop()
