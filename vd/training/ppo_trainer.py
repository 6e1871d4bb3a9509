"""TRL's PPOTrainer, mended.

Likelihoods of rollouts and updates agree, measures have plain names.
"""

import functools
from unittest import mock


def trainer_class():
    """TRL's PPOTrainer with likelihoods that agree between rollouts and updates, and measures under
    plain names.
    """
    import torch
    from trl.experimental.ppo import PPOTrainer, ppo_trainer

    plain_forward, plain_rollouts = ppo_trainer.forward, ppo_trainer.batch_generation

    class Trainer(PPOTrainer):
        _total_train_tokens = 0

        def __init__(self, **kwargs):
            accelerator = functools.partial(_accelerator, kwargs["args"].mixed_precision)
            with mock.patch.object(ppo_trainer, "Accelerator", accelerator):
                super().__init__(**kwargs)

        def train(self):
            with mock.patch.multiple(
                ppo_trainer, forward=self.forward, batch_generation=self.rollouts
            ):
                super().train()

        def forward(self, model, tokens, pad_token_id):
            """TRL's pass, in the same precision for rollouts, updates and reference, with logits in
            float32.
            """
            with self.accelerator.autocast():
                output = plain_forward(model, tokens, pad_token_id)
            if hasattr(output, "logits"):
                output.logits = output.logits.float()
            return output

        def rollouts(self, model, queries, batch_size, pad_token_id, generation_config):
            """TRL's, with logits from the training forward pass instead of generation, whose
            rounding differs.
            """
            written, _ = plain_rollouts(model, queries, batch_size, pad_token_id, generation_config)
            outputs = (
                self.forward(self.model.policy, rows, pad_token_id)
                for rows in written.split(batch_size)
            )
            logits = torch.cat([output.logits[:, queries.shape[1] - 1 : -1] for output in outputs])
            self._total_train_tokens += int((written != pad_token_id).sum())
            return written, logits / (self.args.temperature + 1e-7)

        def log(self, logs, start_time=None):
            # others average over padding as well
            kept = {new: logs[old] for new, old in MEASURES.items()}
            kept["loss"] = logs["loss/policy_avg"] + self.args.vf_coef * logs["loss/value_avg"]
            kept["ended"] = logs["val/num_eos_tokens"] / self.args.batch_size
            super().log(kept | {"num_tokens": self._total_train_tokens}, start_time)

    return Trainer


def _accelerator(precision: str, gradient_accumulation_steps: int):
    """In place of TRL's own, which leaves out the precision, and takes a step per part of a batch
    where the data end.
    """
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

    plugin = GradientAccumulationPlugin(
        num_steps=gradient_accumulation_steps, sync_with_dataloader=False
    )
    return Accelerator(gradient_accumulation_plugin=plugin, mixed_precision=precision)


MEASURES = {  # per update; KL, entropy and reward are means over rollouts of sums over tokens
    "reward": "objective/scores",
    "kl": "objective/kl",
    "entropy": "objective/entropy",
    "rlhf_reward": "objective/rlhf_reward",
    "clip_fraction": "policy/clipfrac_avg",
    "loss/policy": "loss/policy_avg",
    "loss/value": "loss/value_avg",
    "learning_rate": "lr",
}


def first_ratio(ppo) -> dict:
    """The ratio rho between update and rollout before any update: mean and largest distance from 1
    over real tokens.

    Anything but 1 means that rollouts and updates compute likelihoods differently, and clipping
    acts on noise.
    """
    import torch
    from transformers import GenerationConfig
    from trl.trainer.utils import selective_log_softmax

    a, pad = ppo.args, ppo.processing_class.pad_token_id
    queries = next(iter(ppo.dataloader))["input_ids"][: a.per_device_train_batch_size]
    sampling = {"temperature": a.temperature, "top_k": 0, "top_p": 1.0, "do_sample": True}
    with torch.no_grad():
        config = GenerationConfig(max_new_tokens=a.response_length, **sampling)
        written, logits = ppo.rollouts(ppo.model.policy, queries, len(queries), pad, config)
        output, _ = ppo.forward(ppo.model, written, pad)
    ppo._total_train_tokens = 0
    replies = written[:, queries.shape[1] :]
    new = output.logits[:, queries.shape[1] - 1 : -1] / (a.temperature + 1e-7)
    ratio = (selective_log_softmax(new, replies) - selective_log_softmax(logits, replies)).exp()[
        replies != pad
    ]
    return {"mean": float(ratio.mean()), "largest_distance": float((ratio - 1).abs().max())}


def trainable(model, lora):
    """Switch training on again: adapters and head with LoRA, everything without."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(lora is None or "lora_" in name or name.startswith("score."))
    return model
