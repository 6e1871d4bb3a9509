"""How fast the API judge is: `python tests/benchmark_judge.py` writes results/benchmark_judge.json.

Against a server of its own that answers after 200 ms, with 64 requests in flight, the bound is 64 /
0.2 = 320 judgements a second; and 100,000 judgements that are kept already are read back. Run it on
an idle machine.
"""

import os
import subprocess
import sys
import tempfile
import time

import pandas as pd

from vd import paths
from vd.judging import api
from vd.servers.database import Cache
from vd.servers.ports import free_port
from vd.store import files
from vd.store.provenance import provenance
from vd.study.servers import ApiJudgeSettings

LATENCY, IN_FLIGHT, SENT, KEPT = 0.2, 64, 9600, 100_000


def replies(n):
    return pd.DataFrame(
        {
            "prompt": "Should this be so?",
            "response": [f"Reply {i}, " + "word " * 40 for i in range(n)],
        }
    )


def throughput(judge):
    """Judgements a second, abilities found out beforehand."""
    judge.judge(replies(1))
    start = time.perf_counter()
    assert judge.judge(replies(SENT + 1))["status"].eq("ok").all()
    return SENT / (time.perf_counter() - start)


def reading(judge):
    """Seconds for judgements that are all kept."""
    rows = replies(KEPT)
    with Cache(judge.file) as cache:
        can = cache.capabilities(judge.settings.base_url, judge.settings.model)
        answer = next(
            iter(
                cache.answers(
                    name for *_, name, _ in judge._requests(api._pairs(replies(1)), can, False)
                ).values()
            )
        )
        cache.rows.execute("begin")
        for _, name, _ in judge._requests(api._pairs(rows), can, False):
            cache.keep(name, judge.settings.base_url, judge.settings.model, judge.version, answer)
        cache.rows.execute("commit")
    start = time.perf_counter()
    assert judge.judge(rows)["status"].eq("ok").all()
    return time.perf_counter() - start


def main():
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, paths.ROOT / "tests" / "api_server.py", str(port), str(LATENCY)]
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"VD_CACHE": folder, "OPENAI_API_KEY": "none"}
        url = f"http://127.0.0.1:{port}/v1"
        judge = api.ApiJudge(
            ApiJudgeSettings(model="m", base_url=url, max_in_flight=IN_FLIGHT), "benchmark"
        )
        found = {"judgements_per_second": round(throughput(judge), 1), "bound": IN_FLIGHT / LATENCY}
        found |= {"seconds_for_100000_kept": round(reading(judge), 2), **provenance()}
    server.kill()
    files.write_json(found, paths.ROOT / "results" / "benchmark_judge.json")
    print({name: found[name] for name in list(found)[:3]})


main()
