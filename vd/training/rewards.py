"""A reward model that answers over HTTP, for trainers in another environment.

A request is JSON with `query`, texts of prompt and reply; the answer has a number for each, as
`rewards` and as `scores`. Only this machine can ask.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vd.study.runs import Run
from vd.training import rollouts, scorers


class Rewards(ThreadingHTTPServer):
    """The server; `given` holds what it gave, (reward, tokens of the text), in order."""

    daemon_threads = True

    def __init__(self, score):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.score, self.given, self.lock = score, [], threading.Lock()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_port}/rewards"


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:  # one model
            found = self.server.score(asked["query"])
            self.server.given += found
        scores = [score for score, _ in found]
        content = json.dumps({"rewards": scores, "scores": scores, "extra_logs": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@contextmanager
def serving(run: Run, tokenizer):
    """Serve the scorer that a run names, with its penalty for replies that do not end."""
    server = Rewards(scoring(run, tokenizer))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def scoring(run: Run, tokenizer):
    """A function from texts of prompt and reply to (reward, tokens) of each."""
    model = scorers.load(run.study, run.scorer, tokenizer)

    def score(texts: list[str]) -> list[tuple[float, int]]:
        # the template has written all special tokens
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        halves = [row[:1] for row in ids], [row[1:] for row in ids]  # a score reads both as one
        given = rollouts.rewards(run, model, tokenizer, *halves)
        return [(reward, len(row)) for reward, row in zip(given, ids, strict=True)]

    return score
