"""The API judge against `transformers serve` with the embedded model: real HTTP, and a server that
gives no
log-probabilities. How good its judgements are is not tested: a model this small judges at random.
"""

import subprocess
import sys
import time
import urllib.request

import pandas as pd
import pytest

from vd import paths
from vd.judging import api
from vd.models import locate
from vd.servers.database import Cache
from vd.servers.ports import free_port
from vd.study.servers import ApiJudgeSettings


@pytest.fixture(scope="module")
def model():
    return locate.locate("embedded:smollm2-135m-instruct")


@pytest.fixture(scope="module")
def url(model):
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        model,
        "--port",
        str(port),
    ]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--device", "cpu"], stdout=subprocess.PIPE
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, "the server did not start"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def test_votes_of_a_real_server(model, url, tmp_path, monkeypatch):
    monkeypatch.setenv("VD_CACHE", str(tmp_path))
    rows = pd.DataFrame(
        {
            "prompt": ["Should museums be free?"] * 2,
            "response": [
                "Yes, they should be free for everyone.",
                "No. Somebody has to pay for them.",
            ],
        }
    )
    settings = ApiJudgeSettings(model=model, base_url=url, votes=3, max_in_flight=2)
    judge = api.ApiJudge(settings, "study")
    judged = judge.judge(rows)
    print(judged[["label", "status", "left", "answer"]])
    assert judged["path"].eq("votes").all() and judged["answer"].str.count(r"\|").eq(2).all()
    assert judged["status"].isin(["ok", "unclear"]).all()
    seen = judged.dropna(subset=["label"])
    assert (seen[["p_support", "p_neutral", "p_oppose"]].sum(axis=1) - 1).abs().lt(1e-9).all()
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        can = cache.capabilities(url, model)
        calls, _ = cache.spent("study")
    assert can["logprobs"] == 0 and not can["structured"]
    assert judge.cost(rows)["calls"] == 0 and calls == 6 + 2
