"""Scorers: models that give texts a score, on the backbone of a checkpoint; made, kept and read.

A scorer's checkpoint holds what was trained, and says what it belongs to:

    scorer.safetensors     adapters (or all weights) and the head, by their names in the scorer
    scorer.json            model, lora and seed of its run; parent: the run whose end it sits on

A score is taken at a reply's last token. Whoever names a scorer loads it with `load`.
"""

import copy
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from vd import paths
from vd.finite import finite
from vd.models import loading
from vd.store.files import read_json, write_json
from vd.store.progress import Progress
from vd.study.runs import Run
from vd.study.settings import Lora, ModelSettings
from vd.training import trainer
from vd.training.report import FIX


class Head(torch.nn.Linear):
    """A score head in float32 on a backbone of any dtype.

    Bfloat16 would round its small updates away.
    """

    def forward(self, hidden):
        """Scores (..., 1) of hidden states (..., d)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.to(self.weight.dtype))


def new(
    model: ModelSettings, lora: Lora | None, start: Path | None, tokenizer, seed: int
) -> torch.nn.Module:
    """A scorer on the backbone of a checkpoint, its head fresh: zero bias, weights of standard
    deviation 1/sqrt(d + 1).

    With LoRA, adapters go into the backbone in place, so the model stays the plain class that TRL's
    PPO expects.
    """
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(seed)
    language_model = loading.for_inference(model, start)
    if lora is None:
        # all weights are trained then, and bfloat16 rounds their small updates away as well
        language_model = language_model.float()
    config = copy.deepcopy(language_model.config)
    # by its padding transformers finds a row's last token, where the score is read
    config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
    # not from_pretrained: the checkpoint may be an adapter, which for_inference has merged
    scorer = AutoModelForSequenceClassification.from_config(config, dtype=language_model.dtype)
    loading.quick_backward(scorer)
    backbone = getattr(scorer, scorer.base_model_prefix)
    backbone.load_state_dict(language_model.base_model.state_dict())
    # transformers' own head has no bias, into which `normalise` folds the mean
    scorer.score = Head(config.hidden_size, 1)
    torch.nn.init.normal_(scorer.score.weight, std=(config.hidden_size + 1) ** -0.5)
    torch.nn.init.zeros_(scorer.score.bias)
    if lora:
        # linear layers of the backbone alone: the head is trained whole
        linear = {
            n.rpartition(".")[2]
            for n, m in backbone.named_modules()
            if isinstance(m, torch.nn.Linear)
        }
        adapters = LoraConfig(
            r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=linear
        )
        inject_adapter_in_model(adapters, backbone)
        for name, weight in backbone.named_parameters():
            if (
                "lora_" in name
            ):  # in float32 for the same reason as the head; PEFT sees to it elsewhere
                weight.data = weight.data.float()
    return scorer


def save(model, run: Run, folder: Path) -> None:
    """Keep what was trained of a scorer, and what it takes to put it together again."""
    lora = run.training.lora
    own = {n: w for n, w in model.named_parameters() if _is_trained(n, lora)}
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that are not contiguous
    weights = {name: weight.detach().cpu().contiguous() for name, weight in own.items()}
    save_file(weights, folder / "scorer.safetensors")
    # The backbone is the parent's and lies there: a scorer on LoRA costs a thousandth of a model.
    about = {"model": run.model_settings.model_dump(), "parent": run.parent, "seed": run.seed}
    write_json(about | {"lora": lora and lora.model_dump()}, folder / "scorer.json")


def load(study: str, scorer: str, tokenizer) -> torch.nn.Module:
    """A scorer of a study by its run id, trained to its end, frozen.

    Raises FileNotFoundError if it is not, ValueError if its files do not fit together.
    """
    # Its last checkpoint alone could be that of a run that was interrupted.
    record = paths.record(study, scorer, "train")
    if not record.exists():
        raise FileNotFoundError(f"{record}: {scorer} is not trained to its end; train it first")
    folder = paths.last_checkpoint(study, scorer)
    about, kept = read_json(folder / "scorer.json"), load_file(folder / "scorer.safetensors")
    lora = about["lora"] and Lora(**about["lora"])
    start = paths.last_checkpoint(study, about["parent"])
    # put together as it was made: what was not trained comes from the parent's checkpoint
    model = new(ModelSettings(**about["model"]), lora, start, tokenizer, about["seed"])
    own = {name: weight for name, weight in model.named_parameters() if _is_trained(name, lora)}
    if own.keys() != kept.keys():
        raise ValueError(f"{folder}: holds other weights than scorer.json says; train it again")
    for name, weight in own.items():
        weight.data = kept[name].to(weight.device)
    return model.eval().requires_grad_(False)


def _is_trained(name: str, lora: Lora | None) -> bool:
    """Adapters and head with LoRA, everything without."""
    return lora is None or "lora_" in name or name.startswith("score.")


def scores(
    model, tokenizer, prompts: list[list[int]], replies: list[list[int]], batch: int = 8
) -> torch.Tensor:
    """Scores (N,) in float32 of tokenised prompts and replies, padded and read as PPO does."""
    from trl.experimental.utils import get_reward

    found = []
    for start in range(0, len(prompts), batch):
        asked = pad(prompts[start : start + batch], tokenizer.pad_token_id, "left")
        # prompts end in one column; behind it get_reward looks for a reply's first padding
        told = pad(replies[start : start + batch], tokenizer.pad_token_id, "right")
        whole = torch.cat([asked, told], dim=1).to(model.device)
        with torch.no_grad():
            found.append(
                get_reward(model, whole, tokenizer.pad_token_id, asked.shape[1])[1].float().cpu()
            )
        finite(found[-1], "a score of the reward model", FIX)
    return torch.cat(found)


def sample(run: Run, tokenizer, prompts: list[list[int]]) -> list[list[int]]:
    """One reply of the parent to each tokenised prompt, sampled as PPO samples rollouts, end
    token included.
    """
    policy, replies = loading.for_inference(run.model_settings, trainer.start_of(run)), []
    batch = run.settings.device_batch_size or run.settings.batch_size
    progress = Progress("sample", run.id, len(prompts))
    torch.manual_seed(run.seed)
    for start in range(0, len(prompts), batch):
        asked = pad(prompts[start : start + batch], tokenizer.pad_token_id, "left").to(
            policy.device
        )
        written = policy.generate(
            input_ids=asked,
            attention_mask=asked != tokenizer.pad_token_id,
            max_new_tokens=run.settings.response_length,
            # nothing is cut off the distribution, as in the rollouts of TRL's PPO
            do_sample=True,
            temperature=run.settings.temperature,
            top_k=0,
            top_p=1.0,
            # the end of a turn (see vd.models.chat), which need not be the model's own end token
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )[:, asked.shape[1] :]
        # no text holds the padding token (see vd.models.chat), so only padding goes
        replies += [[t for t in reply if t != tokenizer.pad_token_id] for reply in written.tolist()]
        progress(len(replies))
    return replies


def normalise(model, reference: torch.Tensor) -> None:
    """Fold mean and standard deviation of reference scores (N,) into the head."""
    # (w h + b - mean) / std = (w / std) h + (b - mean) / std
    model.score.bias.data = (model.score.bias.data - reference.mean()) / reference.std()
    model.score.weight.data /= reference.std()


def pad(rows: list[list[int]], token: int, side: str) -> torch.Tensor:
    """Rows of tokens as one tensor (N, T), filled up on one side."""
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(
        tensors, batch_first=True, padding_value=token, padding_side=side
    )
