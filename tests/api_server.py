"""A server on this machine that speaks chat completions, files and batches, and fails as it is
told.

`RIGHT`, `VOTES`, `BROKEN` and `NO_LABEL` are shapes in which servers answer beside the
specification: those that are read as if they were in it, those with log-probabilities of no use,
those that are no answer, and words that name a label and give none. A shape is what is put where in
a completion, or a function of the whole of it.

Its stance on a reply is a function of the reply's text, so that a row that was mixed up shows.
`python tests/api_server.py PORT LATENCY` runs one by itself, for the benchmark.
"""

import asyncio
import copy
import hashlib
import json
import math
import re
import sys
from threading import Thread
from urllib.parse import parse_qs

KEY = "sk-secret-0123456789"  # that servers of tests are asked with
LABELS = ("support", "neutral", "oppose")
REPLY = re.compile(r"<reply>\n(.*)\n</reply>", re.DOTALL)


def shares(reply):
    """What the server thinks of a reply.

    Probabilities of the three labels, 0.03 left for other tokens.
    """
    weights = [1 + byte for byte in hashlib.sha256(reply.encode()).digest()[:3]]
    return [0.97 * w / sum(weights) for w in weights]


def label(reply):
    return LABELS[max(range(3), key=shares(reply).__getitem__)]


MISSING = object()
SEPARATORS = {"id": "\u2028\u2029\x85\x0c"}
NESTED = json.loads("[" * 800 + "]" * 800)
CONTENT, REFUSAL = "choices.0.message.content", "choices.0.message.refusal"
LOGPROBS = "choices.0.logprobs"
FIRST = f"{LOGPROBS}.content.0"
TOP = f"{FIRST}.top_logprobs"
RIGHT = {
    "content in a part": (CONTENT, lambda text: [{"type": "text", "text": text}]),
    "content in strings": (CONTENT, lambda text: [text[:2], text[2:]]),
    "content after a thinking part": (
        CONTENT,
        lambda text: [
            {"type": "thinking", "thinking": [{"type": "text", "text": "oppose?"}]},
            {"type": "text", "text": text},
        ],
    ),
    "content of a value": (
        CONTENT,
        lambda text: [{"type": "text", "text": {"value": text, "annotations": []}}],
    ),
    "content after thoughts": (
        CONTENT,
        "<think>\nsupport, neutral or oppose?\n</think>\n\n{}".format,
    ),
    "content after the end of thoughts": (
        CONTENT,
        "It may support or oppose.\n</think>\n\n{}".format,
    ),
    "content in capitals": (CONTENT, str.upper),
    "content with an end token": (CONTENT, "{}<|im_end|>".format),
    "content in a fence": (CONTENT, "```json\n{}\n```".format),
    "reasoning beside content": (
        "choices.0.message.reasoning_content",
        "It does not support, it may oppose.",
    ),
    "refusal missing": (REFUSAL, MISSING),
    "refusal empty": (REFUSAL, ""),
    "refusal a list": (REFUSAL, []),
    "refusal false": (REFUSAL, False),
    "finish_reason null": ("choices.0.finish_reason", None),
    "finish_reason odd": ("choices.0.finish_reason", 7),
    "finish_reason missing": ("choices.0.finish_reason", MISSING),
    "usage missing": ("usage", MISSING),
    "usage null": ("usage", None),
    "usage a text": ("usage", "x"),
    "usage a list": ("usage", [1, 2]),
    "usage of texts": ("usage", {"prompt_tokens": "100", "completion_tokens": "1"}),
    "usage negative": ("usage", {"prompt_tokens": -100, "completion_tokens": -1}),
    "usage huge": ("usage", {"prompt_tokens": 10**400, "completion_tokens": 1e300}),
    "usage half": ("usage.completion_tokens", MISSING),
    "model missing": ("model", MISSING),
    "model null": ("model", None),
    "model empty": ("model", ""),
    "model a number": ("model", 4),
    "model at a revision": ("model", "{}@main".format),
    "id missing": ("id", MISSING),
    "created a text": ("created", "now"),
    "object missing": ("object", MISSING),
    "role missing": ("choices.0.message.role", MISSING),
    "index missing": ("choices.0.index", MISSING),
    "error null": ("error", None),
    "tool_calls null": ("choices.0.message.tool_calls", None),
    "more choices": ("choices", lambda choices: [*choices, None]),
    "tokens with marks": (
        TOP,
        lambda top: [t | {"token": t["token"].replace(" ", "Ġ")} for t in top],
    ),
    "tokens with other marks": (
        TOP,
        lambda top: [t | {"token": t["token"].replace(" ", "▁")} for t in top],
    ),
    "tokens twice": (TOP, lambda top: top + top),
    "token that cannot be": (TOP, lambda top: [*top, {"token": "-inf", "logprob": -math.inf}]),
    "token that hardly can be": (TOP, lambda top: [*top, {"token": "oppose", "logprob": -9999.0}]),
    "token with half a character": (TOP, lambda top: [*top, {"token": "\ud83d", "logprob": -20.0}]),
    "byte order mark": lambda whole: b"\xef\xbb\xbf" + json.dumps(whole).encode(),
    "bytes that are no text": lambda whole: json.dumps(whole).encode()[:-1] + b', "x": "\xff\xfe"}',
    "unescaped separators": lambda whole: json.dumps(whole | SEPARATORS, ensure_ascii=False),
}
VOTES = {
    "logprobs missing": (LOGPROBS, MISSING),
    "logprobs null": (LOGPROBS, None),
    "logprobs empty": (LOGPROBS, {}),
    "logprobs a text": (LOGPROBS, "x"),
    "logprobs of old": (
        LOGPROBS,
        {"tokens": ["sup"], "token_logprobs": [-0.1], "top_logprobs": [{"sup": -0.1}]},
    ),
    "logprobs of nothing": (f"{LOGPROBS}.content", None),
    "logprobs of no token": (f"{LOGPROBS}.content", []),
    "logprobs of a null": (f"{LOGPROBS}.content", [None]),
    "logprobs of a text": (f"{LOGPROBS}.content", "support"),
    "top_logprobs missing": (TOP, MISSING),
    "top_logprobs null": (TOP, None),
    "top_logprobs empty": (TOP, []),
    "top_logprobs a text": (TOP, "x"),
    "top_logprobs a mapping": (TOP, {"support": -0.1}),
    "top_logprobs of nulls": (TOP, [None]),
    "top_logprobs of nothing": (TOP, [{}]),
    "token null": (f"{TOP}.0.token", None),
    "token of bytes": (f"{TOP}.0.token", [115, 117, 112]),
    "token a number": (f"{TOP}.0.token", 1),
    "logprob null": (f"{TOP}.0.logprob", None),
    "logprob missing": (f"{TOP}.0.logprob", MISSING),
    "logprob a text": (f"{TOP}.0.logprob", "-0.1"),
    "logprob true": (f"{TOP}.0.logprob", True),
    "logprob NaN": (f"{TOP}.0.logprob", math.nan),
    "logprob infinite": (f"{TOP}.0.logprob", math.inf),
    "logprob positive": (f"{TOP}.0.logprob", 3.0),
    "logprob huge": (f"{TOP}.0.logprob", 1e6),
    "logprob beyond numbers": (f"{TOP}.0.logprob", 10**400),
    "all as likely as can be": (TOP, lambda top: [t | {"logprob": 0.0} for t in top]),
    "probabilities, no logarithms": (
        TOP,
        lambda top: [t | {"logprob": math.exp(t["logprob"])} for t in top],
    ),
}
BROKEN = {
    "null": lambda whole: "null",
    "a list": lambda whole: json.dumps([whole]),
    "a number": lambda whole: "7",
    "a text": lambda whole: json.dumps(json.dumps(whole)),
    "nothing": lambda whole: "",
    "an empty object": lambda whole: "{}",
    "half": lambda whole: json.dumps(whole)[:100],
    "no JSON": lambda whole: "busy",
    "a stream": lambda whole: f"data: {json.dumps(whole)}\n\ndata: [DONE]\n\n",
    "too deep": lambda whole: "[" * 100_000,
    "choices missing": ("choices", MISSING),
    "choices null": ("choices", None),
    "choices empty": ("choices", []),
    "choices a mapping": ("choices", {}),
    "choices a text": ("choices", "abc"),
    "choices of nulls": ("choices", [None]),
    "choices of texts": ("choices", ["support"]),
    "message missing": ("choices.0.message", MISSING),
    "message null": ("choices.0.message", None),
    "message a text": ("choices.0.message", "abc"),
    "message a list": ("choices.0.message", [{"content": "support"}]),
    "content a number": (CONTENT, 5),
    "content true": (CONTENT, True),
    "content a mapping": (CONTENT, {"label": "support"}),
    "content of numbers": (CONTENT, [1, 2]),
    "content of lists": (CONTENT, [["support"]]),
    "content that nests": (CONTENT, NESTED),
    "an error that nests": ("error", NESTED),
    "refusal true": (REFUSAL, True),
    "refusal a number": (REFUSAL, 1),
    "refusal a mapping": (REFUSAL, {"why": "no"}),
    "an error": lambda whole: json.dumps({"error": {"message": "overloaded", "code": 502}}),
    "an error without a number": lambda whole: '{"error": {"message": "no", "code": null}}',
    "an error in words": lambda whole: json.dumps({"error": "Unexpected endpoint or method."}),
    "an error beside choices": ("error", {"message": "overloaded"}),
    "an error in the choice": ("choices.0.error", {"code": 502, "message": "overloaded"}),
    "an error as the end": ("choices.0.finish_reason", "error"),
}
NO_LABEL = [
    "The reply doesn’t support it.",
    "It does n't support that",
    "It doesnt support that.",
    "It cannot support that.",
    "It can not support that.",
    "It refuses to support it.",
    "It fails to support it.",
    "It never supports it.",
    "It no longer supports this.",
    "It hardly supports it.",
    "It is unable to support it.",
    "without support",
    "neither support",
    "far from neutral",
    "anything but supportive",
    "It declines to really oppose it.",
    "the opposite of support",
    "I would rather not say: support",
    "unsupportive",
    "non-neutral",
    '{"label": "not support"}',
    '{"support": false}',
    '{"label": "support", "label": "oppose"}',
    "~~support~~",
    "support or oppose",
    "<think>it may support that",
    "support? no",
]


def shaped(completion, shape):
    """A completion in one of the shapes, as the text or bytes that are sent."""
    if callable(shape):
        return shape(completion)
    path, new = shape
    whole = place = copy.deepcopy(completion)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    if way[:3] == ["choices", 0, "logprobs"] and not place["choices"][0].get("logprobs"):
        return json.dumps(whole)
    for step in way:
        place = place[step]
    if new is MISSING:
        del place[last]
    else:
        place[last] = new(place[last]) if callable(new) else new
    return json.dumps(whole)


class ApiServer:
    """`fault(number, request)` names what goes wrong with the n-th request (from 1), or nothing;
    see `respond`.
    """

    def __init__(self, port=0, latency=0.0):
        self.latency, self.fault = latency, lambda number, request: None
        self.logprobs, self.structured, self.unknown = True, True, set()  # keys that it refuses
        self.requests, self.keys, self.files, self.batches, self.flying, self.most = (
            [],
            [],
            {},
            {},
            0,
            0,
        )
        self.headers, self.dribble, self.per_page = {}, 0.05, 100
        self.route_fault = lambda method, path: None
        self.polls_to_end, self.line_fault, self.batch_end = (
            1,
            lambda body, batch: None,
            lambda batch: "completed",
        )
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(
            asyncio.start_server(self.serve, "127.0.0.1", port, backlog=512)
        )
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
                    answer = await self.route(method, path, headers, body)
                finally:
                    self.flying -= 1
                if answer is None:
                    break
                for part in answer if isinstance(answer, list) else [answer]:
                    writer.write(part)
                    if isinstance(answer, list):  # a byte now and then
                        await writer.drain()
                        await asyncio.sleep(self.dribble)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def route(self, method, path, headers, body):
        path, _, query = path.partition("?")
        if path == "/v1/chat/completions":
            self.keys.append(headers["authorization"])
            self.requests.append(json.loads(body))
            number = len(self.requests)
            await asyncio.sleep(self.latency)
            return await self.respond(number, self.requests[number - 1])
        fault = self.route_fault(method, path)
        if fault:
            return None if fault == "drop" else http(*fault)
        if path == "/v1/files":
            name = f"file-{len(self.files)}"
            self.files[name] = (
                body[body.index(b'{"custom_id"') : body.rindex(b"\r\n--")]
                .decode()
                .split("\r\n--")[0]
            )
            return http(200, {"id": name, "object": "file", "bytes": 1, "created_at": 0, "filename": "f",
                              "purpose": "batch", "status": "processed"})  # fmt: skip
        if path.startswith("/v1/files/"):
            content = self.files.get(path.split("/")[3])
            if content is None:
                return http(404, {"error": {"message": "no such file"}})
            return http(200, content)
        if path == "/v1/batches" and method == "POST":
            asked = json.loads(body)
            name = f"batch-{len(self.batches)}"
            new = {
                "id": name,
                "object": "batch",
                "created_at": 0,
                "status": "validating",
                "completion_window": "24h",
            }
            self.batches[name] = new | {
                "polls": 0,
                **{k: asked[k] for k in ("input_file_id", "metadata", "endpoint")},
            }
            return None if self.route_fault("made", path) else http(200, self.batches[name])
        if path == "/v1/batches":
            after = parse_qs(query).get("after", [None])[0]
            names = list(self.batches)
            names = names[names.index(after) + 1 :] if after else names
            page = [self.batches[name] for name in names[: self.per_page]]
            more = len(names) > self.per_page
            return http(200, {"object": "list", "data": page, "has_more": more})
        batch = self.batches[path.split("/")[3]]
        batch["polls"] += 1
        if batch["polls"] >= self.polls_to_end and "output_file_id" not in batch:
            self.run_batch(batch)
        return http(200, batch)

    def run_batch(self, batch):
        """Answer every line of a batch's file, but for those with a fault."""
        rows = {"output": [], "error": []}
        for line in self.files[batch["input_file_id"]].split("\n"):
            asked = json.loads(line)
            row = {"id": "r", "custom_id": asked["custom_id"], "response": None, "error": None}
            fault = self.line_fault(asked["body"], batch)
            if isinstance(fault, tuple) or callable(fault):
                body = shaped(self.completion(asked["body"]), fault)
                body = body if isinstance(body, str) else body.decode("utf-8-sig", "replace")
                line = f'{{"custom_id": "{asked["custom_id"]}", "response": {{"status_code": 200, '
                line += '"body": '
                rows["output"].append(f"{line}{body}}}}}")  # unescaped, as some servers write it
                continue
            if isinstance(fault, dict):
                row |= fault
            elif isinstance(fault, int):
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

    async def respond(self, number, request):
        for key in self.unknown & set(request):
            return http(
                400, {"error": {"message": f"Unsupported parameter: '{key}'", "param": key}}
            )
        match self.fault(number, request):
            case None:
                return http(200, self.completion(request), self.headers)
            case "drop":
                return None
            case ("shape", shape):
                return http(200, shaped(self.completion(request), shape))
            case ("raw", bytes(raw)):
                return raw
            case "dribble":
                whole = http(200, self.completion(request))
                return [whole[i : i + 1] for i in range(len(whole))]
            case ("model", name):
                return http(200, self.completion(request) | {"model": name})
            case ("reply", content, reason):
                return http(
                    200,
                    shaped(self.completion(request, content), ("choices.0.finish_reason", reason)),
                )
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
        choice = {
            "index": 0,
            "finish_reason": "stop",
            # fmt: skip
            "message": {"role": "assistant", "content": content, "refusal": refusal},
        }
        if request.get("logprobs") and self.logprobs:
            tokens = []
            for name, share in zip(LABELS, shares(reply), strict=True):
                # every label is spelled in two ways
                tokens += [(name[:3], share * 0.75), (f" {name.upper()}", share * 0.25)]
            top = [
                {"token": t, "logprob": math.log(p), "bytes": None}
                for t, p in [*tokens, ("I", 0.02)]
            ]
            choice["logprobs"] = {
                "content": [{**top[0], "top_logprobs": top[: request["top_logprobs"]]}]
            }
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [choice],
            # fmt: skip
            "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101},
        }


def http(status, content, headers=()):
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    body = text.encode() if isinstance(text, str) else text
    kind = "text/html" if body.startswith(b"<") else "application/json"
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in dict(headers).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


if __name__ == "__main__":
    ApiServer(int(sys.argv[1]), float(sys.argv[2])).loop.run_forever()
