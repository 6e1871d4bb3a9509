"""What several tests make: studies cut down from smoke, and a server's answer in JSON."""

import json
from http.server import BaseHTTPRequestHandler

import yaml

from vd import paths

ROLLOUTS = ("parent", "data", "examples", "scorer", "max_length", "response_length")
ROLLOUTS += ("learning_rate",)  # keys of a run whose policy writes while it trains


def smoke_with(name, method, **keys):
    """smoke with one preference run, on the pairs and the scorer of its PPO run, and nothing that
    names others; its content, to be changed further.
    """
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    plain = content["preference"]["ppo-support"]
    run = {key: plain[key] for key in ROLLOUTS if key in plain} | {"method": method} | keys
    empty = {section: {} for section in ("recipes", "ablations", "findings", "evaluations")}
    return content | empty | {"preference": {name: run}}


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON, and says nothing of it."""

    protocol_version = "HTTP/1.1"

    def answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass
