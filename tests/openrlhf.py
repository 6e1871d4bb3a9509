"""Stands in for OpenRLHF 0.11.0: takes its options and no others, asks for rewards, and leaves
checkpoints where it does.

FAULT=breaks ends it with an error, FAULT=empty leaves no weights.
"""

import argparse
import json
import os
import sys
import urllib.request
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# options of openrlhf/cli/train_ppo_ray.py at version 0.11.0 that take one value, two, or none
ONE = """actor.num_nodes actor.num_gpus_per_node critic.num_nodes critic.num_gpus_per_node
ref.num_nodes ref.num_gpus_per_node actor.adam.lr critic.adam.lr actor.adam.weight_decay critic.adam.weight_decay
actor.lr_scheduler critic.lr_scheduler actor.lr_warmup_ratio critic.lr_warmup_ratio
actor.model_name_or_path actor.eps_clip reward.remote_url critic.value_clip train.batch_size
train.micro_batch_size train.max_epochs train.num_episodes train.seed rollout.batch_size
rollout.micro_batch_size rollout.n_samples_per_prompt rollout.temperature rollout.max_new_tokens
data.prompt_dataset data.input_key data.max_len data.max_samples algo.advantage.estimator
algo.advantage.gamma algo.advantage.lambd algo.kl.init_coef algo.kl.estimator ckpt.path
ckpt.output_dir ckpt.save_steps ckpt.max_num ds.zero_stage ds.param_dtype vllm.num_engines
vllm.tensor_parallel_size vllm.gpu_memory_utilization"""
TWO = "actor.adam.betas critic.adam.betas"
NONE = """actor.gradient_checkpointing_enable train.colocate_all ckpt.save_hf ckpt.disable_ds
vllm.enable_sleep ds.enable_sleep"""


def parse():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ONE.split():
        parser.add_argument(f"--{name}")
    for name in TWO.split():
        parser.add_argument(f"--{name}", nargs=2, type=float)
    for name in NONE.split():
        parser.add_argument(f"--{name}", action="store_true")
    return vars(parser.parse_args())


def reward(url, texts):
    body = json.dumps({"query": texts, "prompts": texts, "labels": [""] * len(texts)}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())["rewards"]


def main():
    o = parse()
    if os.environ.get("FAULT") == "breaks":
        sys.exit("CUDA out of memory")
    start, size = o["actor.model_name_or_path"], int(o["rollout.batch_size"])
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(start)
    lines = Path(o["data.prompt_dataset"]).read_text().splitlines()
    prompts = [json.loads(line)[o["data.input_key"]] for line in lines]
    assert len(prompts) == int(o["data.max_samples"])
    steps = len(prompts) // size
    for step in range(1, steps + 1):
        batch = prompts[(step - 1) * size : step * size]
        scores = reward(
            o["reward.remote_url"], [f"{text}Yes.{tokenizer.eos_token}" for text in batch]
        )
        for weight in model.parameters():
            weight.data += 1e-3
        status = {"policy_loss": f"{-sum(scores):.4f}", "kl": "0.0100"}
        print(f"INFO ✨ Global step {step}: {status}", flush=True)
        if step % int(o["ckpt.save_steps"]) == 0 and os.environ.get("FAULT") != "empty":
            save(model, tokenizer, Path(o["ckpt.path"]) / f"global_step{step}_hf")
    save(model, tokenizer, Path(o["ckpt.output_dir"]))


def save(model, tokenizer, folder):
    model.to(torch.bfloat16).save_pretrained(folder)
    model.to(torch.float32)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
