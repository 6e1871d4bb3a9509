"""A server on this machine that speaks chat completions, files and batches, and fails as it is told.

Its stance on a reply is a function of the reply's text, so that a row that was mixed up shows. `python
tests/api_server.py PORT LATENCY` runs one by itself, for the benchmark.
"""

import asyncio
import hashlib
import json
import math
import re
import sys
from threading import Thread

LABELS = ("support", "neutral", "oppose")
REPLY = re.compile(r"<reply>\n(.*)\n</reply>", re.DOTALL)


def shares(reply):
    """What the server thinks of a reply: probabilities of the three labels, 0.03 left for other tokens."""
    weights = [1 + byte for byte in hashlib.sha256(reply.encode()).digest()[:3]]
    return [0.97 * w / sum(weights) for w in weights]


def label(reply):
    return LABELS[max(range(3), key=shares(reply).__getitem__)]


class ApiServer:
    """`fault(number, request)` names what goes wrong with the n-th request (from 1), or nothing; see `respond`."""

    def __init__(self, port=0, latency=0.0):
        self.latency, self.fault = latency, lambda number, request: None
        self.logprobs, self.structured, self.unknown = True, True, set()  # keys that it refuses
        self.requests, self.keys, self.files, self.batches, self.flying, self.most = [], [], {}, {}, 0, 0
        self.headers = {}
        self.polls_to_end, self.line_fault, self.batch_end = 1, lambda body, batch: None, lambda batch: "completed"
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", port, backlog=512))
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def start(self):
        Thread(target=self.loop.run_forever, daemon=True).start()
        return self

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                headers = [line.split(": ", 1) for line in head.split("\r\n")[1:] if line]
                headers = {name.lower(): value for name, value in headers}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.flying += 1
                self.most = max(self.most, self.flying)
                try:
                    answer = await self.route(method, path.partition("?")[0], headers, body)
                finally:
                    self.flying -= 1
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def route(self, method, path, headers, body):
        if path == "/v1/chat/completions":
            self.keys.append(headers["authorization"])
            await asyncio.sleep(self.latency)
            return await self.respond(json.loads(body))
        if path == "/v1/files":
            name = f"file-{len(self.files)}"
            self.files[name] = body[body.index(b'{"custom_id"') : body.rindex(b"\r\n--")].decode().split("\r\n--")[0]
            return http(200, {"id": name, "object": "file", "bytes": 1, "created_at": 0, "filename": "f",
                              "purpose": "batch", "status": "processed"})  # fmt: skip
        if path.startswith("/v1/files/"):
            return http(200, self.files[path.split("/")[3]])
        if path == "/v1/batches" and method == "POST":
            asked = json.loads(body)
            name = f"batch-{len(self.batches)}"
            new = {"id": name, "object": "batch", "created_at": 0, "status": "validating", "completion_window": "24h"}
            self.batches[name] = new | {"polls": 0, **{k: asked[k] for k in ("input_file_id", "metadata", "endpoint")}}
            return http(200, self.batches[name])
        if path == "/v1/batches":
            return http(200, {"object": "list", "data": list(self.batches.values()), "has_more": False})
        batch = self.batches[path.split("/")[3]]
        batch["polls"] += 1
        if batch["polls"] >= self.polls_to_end and "output_file_id" not in batch:
            self.run_batch(batch)
        return http(200, batch)

    def run_batch(self, batch):
        """Answer every line of a batch's file, but for those with a fault."""
        rows = {"output": [], "error": []}
        for line in self.files[batch["input_file_id"]].splitlines():
            asked = json.loads(line)
            row = {"id": "r", "custom_id": asked["custom_id"], "response": None, "error": None}
            fault = self.line_fault(asked["body"], batch)
            if isinstance(fault, int):
                row["response"] = {"status_code": fault, "body": {"error": {"message": "no"}}}
            elif fault:
                row["error"] = {"code": fault, "message": fault}
            else:
                row["response"] = {"status_code": 200, "body": self.completion(asked["body"])}
            rows["error" if fault else "output"].append(json.dumps(row))
        for kind, lines in rows.items():
            self.files[f"{batch['id']}-{kind}"] = "\n".join(lines)
            batch[f"{kind}_file_id"] = f"{batch['id']}-{kind}" if lines else None
        batch["status"] = self.batch_end(batch)

    async def respond(self, request):
        self.requests.append(request)
        for key in self.unknown & set(request):
            return http(400, {"error": {"message": f"Unsupported parameter: '{key}'", "param": key}})
        match self.fault(len(self.requests), request):
            case None:
                return http(200, self.completion(request), self.headers)
            case "drop":
                return None
            case "stall":
                await asyncio.sleep(60)
                return None
            case "truncated":
                return http(200, json.dumps(self.completion(request))[:100])
            case "html":
                return http(200, "<html>busy</html>")
            case "empty":
                return http(200, self.completion(request) | {"choices": []})
            case ("say", content):
                return http(200, self.completion({**request, "logprobs": False}, content))
            case "no logprobs":
                return http(200, self.completion({**request, "logprobs": False}))
            case (int(status), dict(headers)):
                return http(status, {"error": {"message": f"no, {self.keys[-1]}"}}, headers)
            case (int(status), str(code)):
                return http(status, {"error": {"message": code, "code": code}})
            case int(status):
                return http(status, {"error": {"message": f"no, {self.keys[-1]}"}})

    def completion(self, request, content=None):
        found = REPLY.search(request["messages"][0]["content"])
        reply = found[1] if found else ""
        refusal = None
        if content is None:
            content = label(reply)
            if "response_format" in request and self.structured:
                content = json.dumps({"label": content})
        elif content == "refusal":
            content, refusal = None, "I cannot judge this."
        choice = {"index": 0, "finish_reason": "stop",
                  "message": {"role": "assistant", "content": content, "refusal": refusal}}  # fmt: skip
        if request.get("logprobs") and self.logprobs:
            tokens = []
            for name, share in zip(LABELS, shares(reply), strict=True):
                # every label is spelled in two ways
                tokens += [(name[:3], share * 0.75), (f" {name.upper()}", share * 0.25)]
            top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in [*tokens, ("I", 0.02)]]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top[: request["top_logprobs"]]}]}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice],
                "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}}  # fmt: skip


def http(status, content, headers=()):
    text = content if isinstance(content, str) else json.dumps(content)
    kind = "text/html" if text.startswith("<") else "application/json"
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(text.encode())}"]
    lines += [f"{name}: {value}" for name, value in dict(headers).items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + text).encode()


if __name__ == "__main__":
    ApiServer(int(sys.argv[1]), float(sys.argv[2])).loop.run_forever()
