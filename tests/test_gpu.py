"""Steps of a 3B model on a GPU, beside the plan: skipped where there is none.

Weights are random, since only their number matters. `python tests/test_gpu.py` prints the table and
writes results/benchmark_gpu.json.
"""

import time

import pandas as pd
import pytest
import torch

from vd import paths
from vd.costs import formulas
from vd.costs.cards import CARDS, SPARE
from vd.costs.formulas import Texts
from vd.costs.shapes import KNOWN
from vd.store.files import write_json
from vd.store.provenance import provenance

SHAPE = KNOWN["meta-llama/Llama-3.2-3B"]
BATCH, LENGTH, REPLIES, REPLY = 4, 512, 64, 64
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def model_3b(dtype):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=SHAPE.hidden,
        intermediate_size=SHAPE.intermediate,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads,
        head_dim=SHAPE.head_size,
        vocab_size=SHAPE.vocabulary,
        tie_word_embeddings=SHAPE.tied,
        max_position_embeddings=4096,
    )
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)


def card():
    """The one that this machine has, or an H100's numbers."""
    name = torch.cuda.get_device_name(0).lower()
    return next((c for key, c in CARDS.items() if key.split("-")[0] in name), CARDS["h100"])


def timed(work, n=3):
    work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(n):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / n, torch.cuda.max_memory_reserved() / 1e9


def training(frozen):
    """An optimiser step on whole weights in float32 with bfloat16 compute; with a frozen copy it is
    one of DPO, on both replies of a pair.
    """
    model = model_3b(torch.float32)
    reference = model_3b(torch.float32).requires_grad_(False) if frozen else None
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    rows = BATCH if not frozen else BATCH // 2 * 2
    ids = torch.randint(0, SHAPE.vocabulary, (rows, LENGTH), device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
            if reference is not None:
                with torch.no_grad():
                    loss = loss + 0 * reference(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    seconds, memory = timed(step)
    texts = Texts(rows * LENGTH, LENGTH, rows * LENGTH)
    flops = formulas.step(SHAPE, texts, adapters=False, again=False, frozen=frozen)
    planned = formulas.training_bytes(SHAPE, texts, r=None, again=False, frozen=frozen)
    share = flops / seconds / card().peak
    return told("dpo" if frozen else "sft", rows * LENGTH / seconds, share, memory, planned)


def writing():
    model = model_3b(torch.bfloat16).eval()
    ids = torch.randint(0, SHAPE.vocabulary, (REPLIES, 40), device="cuda")
    how = {"max_new_tokens": REPLY, "min_new_tokens": REPLY, "do_sample": True, "pad_token_id": 0}

    def step():
        with torch.inference_mode():
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)

    seconds, memory = timed(step, 1)
    limit = formulas.writing(SHAPE, REPLIES, 40, REPLY, card().peak, card().bandwidth)
    planned = formulas.writing_bytes(SHAPE, REPLIES, 40 + REPLY)
    return told("writing", REPLIES * REPLY / seconds, limit / seconds, memory, planned)


def told(what, rate, share, memory, planned):
    torch.cuda.empty_cache()
    found = {"what": what, "tokens_per_s": round(rate), "share_of_limit": round(share, 2)}
    return found | {"gb": round(memory, 1), "gb_planned": round(planned / 1e9, 1)}


def measured():
    room = torch.cuda.get_device_properties(0).total_memory * (1 - SPARE)
    whole = [training(0)] if room > 16 * SHAPE.parameters else []
    both = [training(1)] if room > 20 * SHAPE.parameters else []
    return [*whole, *both, writing()]


def test_steps_of_a_3b_model_stay_within_the_plan():
    """Memory within a quarter, and no step faster than its card."""
    for row in measured():
        print(row)
        assert row["gb"] == pytest.approx(row["gb_planned"], rel=0.25), row
        assert 0 < row["share_of_limit"] < 1, row


if __name__ == "__main__":
    rows = measured()
    print(pd.DataFrame(rows).to_string(index=False))
    about = {"model": "Llama-3.2-3B, random weights", "steps": rows, **provenance()}
    write_json(about, paths.results("") / "benchmark_gpu.json")
