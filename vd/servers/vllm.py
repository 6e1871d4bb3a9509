"""A vLLM server (https://docs.vllm.ai) that is started here and lives in an environment of its own.

It wants other versions of our libraries, so VD_VLLM names its program (default: vllm). It answers
this machine alone. With VLLM_BATCH_INVARIANT a reply depends on no other that is asked for at the
same time, and in development mode weights can be read anew.
"""

import asyncio
import json
import os
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from vd.servers.ports import free_port
from vd.store.parents import POLL, outside

PATIENCE = 1800  # seconds until a server has to answer: it reads weights and compiles
IN_FLIGHT = 256  # requests at a time


class VLLM:
    """One server; what it says goes to `log`."""

    def __init__(self, words: Sequence[str], log: Path):
        """Start `vllm serve` with these words and wait until it answers.

        RuntimeError, with the fix, where it does not.
        """
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [*shlex.split(os.environ.get("VD_VLLM") or "vllm"), "serve", *words]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        env = outside() | {
            "VLLM_BATCH_INVARIANT": "1",
            "VLLM_SERVER_DEV_MODE": "1",
            "DO_NOT_TRACK": "1",
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as told:
            try:
                self.process = subprocess.Popen(command, env=env, stdout=told, stderr=told)
            except OSError as error:
                fix = "install vLLM in an environment of its own and let VD_VLLM name its program"
                raise RuntimeError(f"{command[0]}: {error.strerror}; {fix}") from None
        until = time.monotonic() + PATIENCE
        while not self._healthy():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"vLLM does not serve; it says why in {log}")
            time.sleep(POLL)
        self.version = f"vllm {json.loads(self.get('/version'))['version']}"

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def complete(
        self,
        name: str,
        prompts: list[list[int]],
        seeds: list[int],
        report: Callable[[int], None] | None = None,
        **how,
    ) -> list[list[int]]:
        """Tokens of one reply to each prompt, by the model of that name; `how` are further keys of
        a request. `report` is called with the number of replies done so far.
        """
        return asyncio.run(self._complete(name, prompts, seeds, report, how))

    async def _complete(self, name, prompts, seeds, report, how) -> list[list[int]]:
        import openai

        done, room = 0, asyncio.Semaphore(IN_FLIGHT)
        client = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=PATIENCE)

        async def one(prompt: list[int], seed: int) -> list[int]:
            nonlocal done
            body = {"model": name, "prompt": prompt, "seed": seed, "return_token_ids": True}
            async with room:
                said = await client.post("/completions", cast_to=object, body=body | how)
            done += 1
            if report:
                report(done)
            ids = said["choices"][0].get("token_ids")
            if ids is None:
                fix = "take vLLM 0.11 or newer"
                raise RuntimeError(f"{self.url}: replies without token ids; {fix}")
            return ids

        async with client:
            asking = zip(prompts, seeds, strict=True)
            return await asyncio.gather(*(one(prompt, seed) for prompt, seed in asking))

    def _healthy(self) -> bool:
        try:
            self.get("/health")
        except OSError:  # urllib's errors are some
            return False
        return True

    def get(self, path: str) -> bytes:
        """What a route answers."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as said:
            return said.read()

    def post(self, path: str, body: dict | None = None) -> bytes:
        """What a route answers to a body; RuntimeError with its words where it refuses."""
        data, kind = json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, kind)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as said:
                return said.read()
        except urllib.error.HTTPError as error:
            why = error.read().decode(errors="replace")[:300]
            raise RuntimeError(f"{path}: vLLM answers {error.code}: {why}") from None
