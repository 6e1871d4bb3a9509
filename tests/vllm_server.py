"""Stands in for vLLM: its command line and the routes that are asked, on models of transformers.

It knows the options that vLLM 0.27 knows, and no others. FAULT=stale serves the first weights for
ever, FAULT=wrong another model's, FAULT=start does not start.
"""

import argparse
import json
import os
import sys
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Lock

import torch
from peft import PeftModel
from small import JsonHandler
from transformers import AutoModelForCausalLM, set_seed

WORDS = ["--tokenizer", "--dtype", "--host", "--served-model-name", "--generation-config"]
WORDS += ["--revision", "--tokenizer-revision"]
NUMBERS = ["--port", "--tensor-parallel-size", "--seed", "--max-model-len", "--max-lora-rank"]
NUMBERS += ["--max-loras", "--max-cpu-loras"]
FAULT = os.environ.get("FAULT")
lock = Lock()


def parse():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    for name in WORDS:
        parser.add_argument(name)
    for name in NUMBERS:
        parser.add_argument(name, type=int)
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--lora-modules", nargs="+", default=[])
    return parser.parse_args()


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if FAULT == "wrong":
        set_seed(9)
        model.apply(model._init_weights)
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    return model.eval()


class Models:
    """Weights by the name that a request calls them."""

    def __init__(self, options):
        self.base = load(options.model)
        self.adapters = dict(module.split("=", 1) for module in options.lora_modules)
        assert options.enable_lora == bool(self.adapters)
        self.ranks = options.max_lora_rank
        self.loaded = {}

    def named(self, name):
        if name == "base":
            return self.base
        if FAULT == "stale":
            name = next(iter(self.adapters))
        if name not in self.loaded:
            base = load(OPTIONS.model)  # anew: peft puts an adapter into the model itself
            self.loaded[name] = PeftModel.from_pretrained(base, self.adapters[name]).eval()
        return self.loaded[name]

    def reload(self, folder):
        assert os.environ["VLLM_SERVER_DEV_MODE"] == "1" and Path(folder).is_dir()
        if FAULT != "stale":
            self.base = load(folder)


def complete(body):
    model, prompt = MODELS.named(body["model"]), body["prompt"]
    with torch.inference_mode():
        if "prompt_logprobs" in body:
            scores = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
            ranked = [None]
            for i, token in enumerate(prompt[1:]):
                ranked.append({str(token): {"logprob": scores[i, token].item(), "rank": 1}})
            return {"text": "", "finish_reason": "length", "prompt_logprobs": ranked}
        torch.manual_seed(body["seed"])
        tokens, stops = [], body["stop_token_ids"]
        while len(tokens) < body["max_tokens"] and not (tokens and tokens[-1] in stops):
            scores = model(torch.tensor([prompt + tokens])).logits[0, -1]
            shares = (scores / body["temperature"]).softmax(-1)
            tokens.append(int(torch.multinomial(shares, 1)))
    ended = tokens[-1] in stops
    said = {"text": "", "finish_reason": "stop" if ended else "length"}
    return said | ({"token_ids": tokens} if body.get("return_token_ids") else {})


class Handler(JsonHandler):
    def do_GET(self):
        self.answer({"/health": {}, "/version": {"version": "0.27.1"}}[self.path])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            if self.path == "/v1/completions":
                choice = complete(body) | {"index": 0, "logprobs": None}
                about = {"id": "1", "object": "text_completion", "created": 0}
                self.answer(about | {"model": body["model"], "choices": [choice]})
            elif self.path == "/collective_rpc" and body["method"] == "reload_weights":
                MODELS.reload(body["kwargs"]["weights_path"])
                self.answer({})
            elif self.path == "/reset_prefix_cache":
                self.answer({})
            else:
                self.answer({"error": self.path}, 404)


if __name__ == "__main__":
    if FAULT == "start":
        sys.exit("no GPU")
    OPTIONS = parse()
    torch.set_num_threads(1)
    MODELS = Models(OPTIONS)
    ThreadingHTTPServer((OPTIONS.host, OPTIONS.port), Handler).serve_forever()
