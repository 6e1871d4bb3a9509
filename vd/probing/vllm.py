"""Replies from a vLLM server (https://docs.vllm.ai): many times faster on a GPU.

A run has one server (vd/servers/vllm.py), and all its checkpoints go through it: adapters are known
to it from the start, whole weights are read into it one after the other. What is asked are token
ids, so the two sides cannot disagree about a template, and a request has a seed of its own. Other
random numbers than ours are drawn, hence other replies: a study has one engine, and records say
which.

Servers have served old weights under a new name. So before a checkpoint is asked, the
log-probabilities of some prompts' tokens are compared with those that transformers gives it, and
with those of the checkpoints before: what differs too much, or does not differ at all, ends the
job.
"""

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from vd import paths
from vd.models import deltas, loading, locate
from vd.models.weights import weights_digest
from vd.probing import responders, sampling
from vd.servers.vllm import VLLM
from vd.store.files import read_json
from vd.study.runs import Run
from vd.study.settings import ModelSettings, Probing

GUARDS = 8  # prompts whose tokens are compared
TOLERANCE = 0.05  # nats a token, on average: bfloat16 rounds differently in other kernels
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for


class ServedWeightsError(RuntimeError):
    """The server answers with other weights than those that it was told to."""


@contextmanager
def serving(run: Run, probing: Probing, asked: pd.DataFrame, folders: list[Path | None]):
    """Within it, a server for these checkpoints of a run (None: the study's model); it starts when
    the first one is loaded.
    """
    server = Server(run.model_settings, probing, asked, folders, paths.run(run.study, run.id))
    try:
        yield server
    finally:
        if server.process:
            server.process.stop()


@dataclass
class Served:
    """A checkpoint behind the server, that replies as a `vd.probing.responders.Responder` does."""

    server: "Server"
    name: str  # as the server knows it

    def respond(self, asked, probing, seed, report=None) -> pd.DataFrame:
        """Replies to rows (prompt_id, topic, prompt), as `sampling.ask` returns them."""
        rows = sampling.asked_for(asked, probing.samples)
        prompts = self.server.tokens(rows["prompt"])
        seeds = [_seed(seed, row.prompt_id, row.sample) for row in rows.itertuples()]
        sampling.check_room(self.server.context, [*map(len, prompts)], rows, probing)
        how = {"max_tokens": probing.max_new_tokens, "temperature": probing.temperature}
        how |= {"top_p": 1.0, "stop_token_ids": self.server.stops}
        tokens = self.server.process.complete(self.name, prompts, seeds, report, **how)
        replies = sampling.read(self.server.tokenizer, tokens, self.server.stops)
        return rows.join(replies)[sampling.OF_REPLY]


@dataclass
class Server:
    """One vLLM server for the checkpoints of a run."""

    model: ModelSettings
    probing: Probing
    asked: pd.DataFrame
    folders: list[Path | None]
    place: Path  # where it says what it does: vllm.log
    process: VLLM | None = None  # once a checkpoint was loaded
    code: ClassVar[str] = "vd.probing.vllm.Server"  # on which replies depend
    known: dict = field(default_factory=dict)  # what transformers says, by folder
    seen: dict = field(default_factory=dict)  # what the server said, by folder

    @property
    def version(self) -> str:
        """The engine's name, with its number once it has started."""
        return self.process.version if self.process else "vllm"

    def load(self, folder: Path | None) -> Served:
        """What answers for a checkpoint, after the guard."""
        if self.process is None:
            self._prepare()
            self.process = VLLM(self._words(), self.place / "vllm.log")
        if folder and not self.adapters:
            self.process.post("/collective_rpc", _reload(folder))
            self.process.post("/reset_prefix_cache")
        name = f"step-{_step(folder)}" if folder and self.adapters else "base"
        self._guard(folder, name)
        return Served(self, name)

    def tokens(self, prompts) -> list[list[int]]:
        """Token ids of prompts, as a model reads them."""
        texts = sampling.as_read(self.tokenizer, prompts)
        # the template writes the start token itself
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _prepare(self) -> None:
        """What the server is to be told, and what transformers says of each checkpoint."""
        import torch

        for folder in filter(None, self.folders):
            if (folder / responders.FILE).exists():
                why = "is more than the weights of one model"
                raise ValueError(f"{folder}: {why}; write probing.engine: transformers")
            if (folder / deltas.FILE).exists():
                fix = "write keep: all and train the run again, or probing.engine: transformers"
                raise ValueError(f"{folder}: holds a difference of weights; {fix}")
        self.tokenizer = loading.load_tokenizer(self.model)
        self.prompts = self.tokens(self.asked["prompt"])
        files = [folder / "adapter_config.json" for folder in self.folders if folder]
        self.adapters = bool(files) and all(file.exists() for file in files)
        if any(file.exists() for file in files) and not self.adapters:
            raise ValueError(f"{self.place}: some checkpoints are adapters and some whole weights")
        for folder in self.folders:
            own = responders.load_responder(self.model, folder)
            self.known[folder] = _likelihoods(own, self.prompts[:GUARDS])
            self.context = loading.context(own.model.config)
            self.stops = sampling.stops_of(own.model.generation_config, self.tokenizer)
            del own
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # which the server cannot use otherwise

    def _words(self) -> list[str]:
        """What the server is started with."""
        first = next(filter(None, self.folders), None)
        whole = first if first and not self.adapters else None
        source = locate.locate(self.model.source)
        longest = max(map(len, self.prompts)) + self.probing.max_new_tokens
        words = [str(whole or source), "--tokenizer", source, "--dtype", self.model.dtype]
        words += ["--served-model-name", "base"]
        words += ["--tensor-parallel-size", "1", "--seed", "0", "--max-model-len", str(longest)]
        words += ["--generation-config", "vllm"]  # of a model's own defaults none counts
        if self.model.revision:
            words += [
                "--revision",
                self.model.revision,
                "--tokenizer-revision",
                self.model.revision,
            ]
        if self.adapters:
            folders = [folder for folder in self.folders if folder]
            rank = max(read_json(folder / "adapter_config.json")["r"] for folder in folders)
            room = next(size for size in RANKS if size >= rank)
            words += ["--enable-lora", "--max-lora-rank", str(room), "--max-loras", "1"]
            words += ["--max-cpu-loras", str(len(folders)), "--lora-modules"]
            words += [f"step-{_step(folder)}={folder}" for folder in folders]
        return words

    def _guard(self, folder: Path | None, name: str) -> None:
        """Raises ServedWeightsError unless the server's numbers are those of this checkpoint."""
        body = {"model": name, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        found = []
        for prompt in self.prompts[:GUARDS]:
            said = json.loads(self.process.post("/v1/completions", body | {"prompt": prompt}))
            at = said["choices"][0]["prompt_logprobs"][1:]
            pairs = zip(at, prompt[1:], strict=True)
            found += [ranked[str(token)]["logprob"] for ranked, token in pairs]
        found, what = np.array(found), folder or self.model.source
        apart = np.abs(found - self.known[folder]).mean()
        if not apart <= TOLERANCE:
            said = f"gives prompts' tokens other log-probabilities than transformers: {apart:.3f}"
            raise ServedWeightsError(f"{what}: vLLM {said} nats apart, above {TOLERANCE}")
        for other, theirs in self.seen.items():
            if np.array_equal(found, theirs) and _digest(folder) != _digest(other):
                said = "vLLM gives exactly the numbers of"
                raise ServedWeightsError(f"{what}: {said} {other}; it serves old weights")
        self.seen[folder] = found


def _reload(folder: Path) -> dict:
    how = {"weights_path": str(folder), "is_checkpoint_format": True}
    return {"method": "reload_weights", "kwargs": how}


def _step(folder: Path) -> str:
    return folder.name.rpartition("-")[2]


def _digest(folder: Path | None) -> str | None:
    return weights_digest(folder) if folder else None


def _seed(seed: int, prompt_id: str, sample: int) -> int:
    """The seed of one reply, by its identity."""
    key = hashlib.sha256(f"{seed}/{prompt_id}/{sample}".encode()).digest()
    return int.from_bytes(key[:4], "big")


def _likelihoods(responder, prompts: list[list[int]]) -> np.ndarray:
    """Log-probabilities (nats) of all tokens of prompts behind the first, one after the other."""
    import torch

    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=responder.model.device)
        with torch.inference_mode():
            scores = responder.logits(ids, torch.ones_like(ids))[0, :-1].double().log_softmax(-1)
        found.append(scores.gather(1, ids[0, 1:, None])[:, 0].cpu().numpy())
    return np.concatenate(found)
