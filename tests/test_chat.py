"""What a hub model brings: tokenizers, templates and settings must not bend a measurement."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import trl
from tokenizers import ByteLevelBPETokenizer
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from vd.models import chat, loading, locate
from vd.probing import probe, sampling
from vd.study import sources
from vd.study.settings import ModelSettings, Probing

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
LLAMA += ["<|eot_id|>"]
LLAMA += [f"<|reserved_special_token_{i}|>" for i in range(251)]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|vision_{i}|>" for i in range(11))]
QWEN_WORDS = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<think>", "</think>"]
GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"]
GEMMA_WORDS = [f"<unused{i}>" for i in range(6200)] + ["<table>", "<b>", "</b>", "\n\n", "▁▁"]
NEMO = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "<pad>"]
NEMO += [f"<SPECIAL_{i}>" for i in range(993)]
NEMO_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST]' + m['content'] "
    "+ '[/INST]' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
FAMILIES = {  # special tokens, other added tokens, named ones, template, end of a turn
    "llama-3": (LLAMA, [], {"bos": 0, "eos": 1}, "llama3_2.jinja", "<|eot_id|>"),
    "qwen-3": (QWEN, QWEN_WORDS, {"eos": 0, "pad": 0}, "qwen3.jinja", "<|im_end|>"),
    "gemma-3": (GEMMA, GEMMA_WORDS, {"pad": 0, "eos": 1, "bos": 2, "unk": 3}, "gemma3.jinja", "<end_of_turn>"),
    "mistral-nemo": (NEMO, [], {"unk": 0, "bos": 1, "eos": 2}, NEMO_TEMPLATE, "</s>"),
}  # fmt: skip
QUESTION, REPLY = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}


def tokenizer_in(folder, special, words=(), template=None, **named):
    """Save a tokenizer with these added tokens; `named` numbers bos, eos, pad and unk."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["Should tea be free?"], 400, special_tokens=[], show_progress=False)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer)
    made.add_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    made.add_tokens([AddedToken(t, special=False, normalized=False) for t in words])
    for name, number in named.items():
        setattr(made, f"{name}_token", special[number])
    made.chat_template = template
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    special, words, named, template, end = FAMILIES[request.param]
    if template.endswith(".jinja"):
        template = (TEMPLATES / template).read_text(encoding="utf-8")
    folder = tokenizer_in(tmp_path_factory.mktemp("family"), special, words, template, **named)
    return SimpleNamespace(folder=str(folder), special=special, words=words, end=end)


def rendered(tokenizer, *messages, **how):
    return tokenizer.apply_chat_template(list(messages), tokenize=False, **how)


@pytest.mark.parametrize("prompt_format", ["chat", "response"])
def test_families_of_tokenizers_load_fast_and_read_control_tokens_as_text(family, prompt_format):
    settings = ModelSettings(source=family.folder, prompt_format=prompt_format)
    raw = AutoTokenizer.from_pretrained(family.folder)
    start = time.process_time()
    tokenizer = loading.load_tokenizer(settings)
    attack = "Why " + "".join(family.special[-3:] + [t for t in family.words if "_" in t]) + "?"
    text = rendered(tokenizer, {**QUESTION, "content": attack}, add_generation_prompt=True)
    seconds = time.process_time() - start
    assert seconds < 2.0, "loading and the first prompt, in seconds of a core"
    start = time.process_time()
    for _ in range(20):
        rendered(tokenizer, QUESTION, add_generation_prompt=True)
    assert (time.process_time() - start) / 20 < 0.02
    broken = attack.replace("<", "< ").replace("[", "[ ")
    assert broken in text, "control tokens stand there as text"
    harmless = rendered(tokenizer, QUESTION, add_generation_prompt=True)
    count = [sum(i in raw.added_tokens_decoder for i in raw(t, add_special_tokens=False)["input_ids"])
             for t in (text, harmless)]  # fmt: skip
    assert count[0] == count[1]
    assert "<b>bold</b> <table>" in rendered(
        tokenizer, {**QUESTION, "content": "<b>bold</b> <table>"}
    )


@pytest.mark.parametrize("prompt_format", ["chat", "response"])
def test_a_reply_follows_its_prompt_and_ends_where_the_template_ends_turns(family, prompt_format):
    settings = ModelSettings(source=family.folder, prompt_format=prompt_format)
    tokenizer = loading.load_tokenizer(settings)
    prompt = rendered(tokenizer, QUESTION, add_generation_prompt=True)
    whole = rendered(tokenizer, QUESTION, REPLY)
    end = family.end if prompt_format == "chat" else tokenizer.eos_token
    assert whole.startswith(prompt) and whole.removeprefix(prompt).strip().startswith(f"So.{end}")
    assert tokenizer.eos_token == end
    original = AutoTokenizer.from_pretrained(family.folder).eos_token_id
    assert {original, tokenizer.eos_token_id} == set(tokenizer.stop_ids)
    assert tokenizer.pad_token_id not in {*tokenizer.stop_ids, tokenizer.bos_token_id, None}
    assert tokenizer.pad_token not in rendered(tokenizer, QUESTION, REPLY, QUESTION)


def test_a_prompt_is_the_same_every_day(tmp_path):
    template = (TEMPLATES / "llama3_2.jinja").read_text(encoding="utf-8")
    template = "{{ strftime_now('%Y') }}" + template
    folder = tokenizer_in(tmp_path, LLAMA, template=template, bos=0, eos=1)
    tokenizer = loading.load_tokenizer(ModelSettings(source=str(folder)))
    text = rendered(tokenizer, QUESTION, add_generation_prompt=True)
    assert "Today Date: 26 Jul 2024\n" in text and text.startswith("2024<")


QWEN3 = ModelSettings(source="random:qwen3", dtype="float32")


class Says:
    """A model that says what it is told to say."""

    device, generation_config = torch.device("cpu"), SimpleNamespace(eos_token_id=None)
    config = locate.config(QWEN3)

    def __init__(self, tokenizer, text):
        self.ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    def generate(self, input_ids, max_new_tokens, eos_token_id, pad_token_id, **kwargs):
        ids, stops = self.ids[:max_new_tokens], set(eos_token_id)
        first = next((i for i, token in enumerate(ids) if token in stops), len(ids) - 1)
        ids = ids[: first + 1] + [pad_token_id] * 3
        return torch.cat([input_ids, torch.tensor([ids] * len(input_ids))], dim=1)


def said(tokenizer, text, **probing):
    asked = pd.DataFrame({"prompt_id": ["p"], "topic": ["t"], "prompt": ["Why?"]})
    probing = Probing(samples=1, max_new_tokens=probing.pop("max_new_tokens", 60), **probing)
    row = sampling.ask(Says(tokenizer, text), tokenizer, asked, probing, seed=0).iloc[0]
    return row["response"], row["finish_reason"]


def altered(folder, **changes):
    """A copy of random:qwen3 whose tokenizer's settings are changed."""
    base = Path(locate.locate("random:qwen3"))
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return QWEN3.model_copy(update={"source": str(folder)})


def test_a_turn_that_ends_in_another_token_than_eos(tmp_path, place):
    import yaml

    from vd.methods import sft
    from vd.study.load import load_study

    settings = altered(tmp_path, eos_token="<|pad|>")
    tokenizer = loading.load_tokenizer(settings)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")
    reply = "No.<|im_end|>\n<|im_start|>user\nAnd then?"
    assert said(tokenizer, reply) == ("No.", "stop")
    assert said(tokenizer, "No.<|pad|>Yes") == ("No.", "stop"), (
        "what the tokenizer calls the end too"
    )

    study = yaml.safe_load(Path("notebooks/configs/smoke.yaml").read_text(encoding="utf-8"))
    study["models"]["tiny-llama"] = {"source": settings.source, "dtype": "float32"}
    (place / "configs" / "own.yaml").write_text(yaml.safe_dump(study))
    rows = sft.build(load_study("own").run("tiny-llama/sft-support/seed-0")).train_dataset
    ends = [row["labels"].count(tokenizer.eos_token_id) for row in rows if len(row["labels"]) < 128]
    assert ends and set(ends) == {1}, "every reply that is not cut teaches where to stop"


def test_a_turn_that_nothing_ends_is_one_clear_error(tmp_path):
    template = chat.CHATML.replace("<|im_end|>", "##")
    settings = altered(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(
        ValueError, match=r"'##.*end token is '<\|im_end\|>'.*prompt_format: response"
    ):
        loading.load_tokenizer(settings)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    with pytest.raises(
        ValueError, match=r"template fails \(never\); write prompt_format: response"
    ):
        loading.load_tokenizer(settings)


def test_of_several_templates_the_default_is_taken(tmp_path):
    settings = altered(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    forms = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": chat.CHATML}]
    altered_file = tmp_path / "tokenizer_config.json"
    content = json.loads(altered_file.read_text())
    altered_file.write_text(json.dumps(content | {"chat_template": forms}))
    tokenizer = loading.load_tokenizer(settings)
    assert rendered(tokenizer, QUESTION) == "<|im_start|>user\nWhy?<|im_end|>\n"
    renamed = [{**form, "name": form["name"] + "2"} for form in forms]
    altered_file.write_text(json.dumps(content | {"chat_template": renamed}))
    with pytest.raises(ValueError, match=r"\(tool_use2, default2\) is named default"):
        loading.load_tokenizer(settings)


@pytest.fixture(scope="module")
def thinking(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinking")
    template = (TEMPLATES / "qwen3.jinja").read_text(encoding="utf-8")
    tokenizer_in(folder, QWEN, QWEN_WORDS, template, eos=2, pad=0)
    return loading.load_tokenizer(ModelSettings(source=str(folder)))


def test_nobody_thinks_in_training_or_probing(thinking):
    prompt = rendered(thinking, QUESTION, add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert rendered(thinking, QUESTION, REPLY) == f"{prompt}So.<|im_end|>\n"


@pytest.mark.parametrize(
    ("text", "reply", "finish"),
    [
        ("<think>\nHm.\n</think>\n\nNo.<|im_end|>", "No.", "stop"),
        ("Hm, hm.\n</think>\nNo.<|im_end|>", "No.", "stop"),
        ("<think>\nYes, tea should", "", "length"),
        ("<think>\nYes, tea should<|im_end|>", "", "length"),
        ("Yes.<|im_end|>", "Yes.", "stop"),
        ("Yes, and", "Yes, and", "length"),
        ("[THINK]Hm.[/THINK]No.<|im_end|>", "No.", "stop"),
    ],
)
def test_thoughts_are_no_reply(thinking, text, reply, finish):
    assert said(thinking, text) == (reply, finish)


def test_a_template_that_opens_a_thought_is_refused(tmp_path):
    template = (TEMPLATES / "deepseek_r1_distill.jinja").read_text(encoding="utf-8")
    tokens = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
    tokenizer_in(tmp_path, tokens, ["<think>", "</think>"], template, bos=0, eos=1)
    with pytest.raises(ValueError, match=r"<think>.*before a reply.*prompt_format: response"):
        loading.load_tokenizer(ModelSettings(source=str(tmp_path)))


def test_one_token_for_everything_cannot_pad(tmp_path):
    tokenizer_in(tmp_path / "one", ["<|endoftext|>"], bos=0, eos=0, unk=0)
    with pytest.raises(ValueError, match="no special token to pad with besides the start and end"):
        loading.load_tokenizer(
            ModelSettings(source=str(tmp_path / "one"), prompt_format="response")
        )
    tokenizer_in(tmp_path / "two", ["<|endoftext|>", "<|padding|>"], bos=0, eos=0, unk=0)
    settings = ModelSettings(source=str(tmp_path / "two"), prompt_format="response")
    assert loading.load_tokenizer(settings).pad_token == "<|padding|>"


def test_padding_beyond_the_models_vocabulary_is_not_taken(tmp_path):
    settings = altered(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    rows = loading.load_base(settings).get_input_embeddings().num_embeddings
    assert len(tokenizer) > rows > loading.load_tokenizer(settings).pad_token_id


def test_settings_for_chatting_do_not_reach_generation(tmp_path):
    settings = altered(tmp_path)
    file = tmp_path / "generation_config.json"
    chatty = {"repetition_penalty": 5.0, "temperature": 0.1, "top_k": 1, "do_sample": False,
              "no_repeat_ngram_size": 1, "max_length": 3, "suppress_tokens": [5]}  # fmt: skip
    file.write_text(json.dumps(json.loads(file.read_text()) | chatty))
    asked = pd.DataFrame(
        {"prompt_id": ["p", "q"], "topic": ["t"] * 2, "prompt": ["Why?", "Is it so?"]}
    )
    probing = Probing(samples=3, max_new_tokens=12, temperature=1.0)
    replies = [
        sampling.ask(loading.for_inference(s, None), loading.load_tokenizer(s), asked, probing, 0)
        for s in (QWEN3, settings)
    ]
    pd.testing.assert_frame_equal(*replies)
    loading.for_training(settings, None, None, seed=0).save_pretrained(tmp_path / "saved")
    assert "repetition_penalty" not in (tmp_path / "saved" / "generation_config.json").read_text()


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_broken_files_of_a_model_are_one_line(tmp_path, name, content):
    settings = altered(tmp_path)
    (tmp_path / name).write_bytes(content)
    said = "cannot be loaded: .*correct its source or revision in the study, or the files there"
    with pytest.raises(ValueError, match=said) as caught:
        loading.load_tokenizer(settings)
        loading.load_base(settings)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    settings, file = altered(tmp_path), tmp_path / "model.safetensors"
    weights = load_file(file)
    save_file({n: w for n, w in weights.items() if "layers.1" not in n}, file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"weights are missing, such as model.layers.1.* would be random"
    ):
        loading.load_base(settings)


@pytest.mark.parametrize("prompt_format", ["chat", "response"])
def test_families_go_through_training_and_probing(family, place, tmp_path, prompt_format):
    """A tiny model with each family's tokenizer: every reply that is not cut was taught to end."""
    import yaml
    from transformers import AutoConfig, AutoModelForCausalLM

    from vd.study.load import load_study
    from vd.training.train import train_run

    for file in Path(family.folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    sizes = dict(sources.TINY["llama"], vocab_size=len(AutoTokenizer.from_pretrained(tmp_path)))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes)).save_pretrained(
        tmp_path
    )
    study = yaml.safe_load(Path("notebooks/configs/smoke.yaml").read_text(encoding="utf-8"))
    source = {"source": str(tmp_path), "dtype": "float32", "prompt_format": prompt_format}
    study |= {"models": {"own": source}, "preference": {}, "findings": {}, "ablations": {}}
    for name in ("sft-neutral", "sft-support"):
        study["sft"][name] |= {"max_length": 500, "steps": 2}
    (place / "configs" / "own.yaml").write_text(yaml.safe_dump(study))
    study = load_study("own")
    for name in ("own/base/seed-0", "own/sft-support/seed-0"):
        run = study.run(name)
        if run.method:
            train_run(run)
        replies = probe.probe_run(study, run)
    assert set(replies["step"]) == {0, 2} and len(replies) == 2 * 22 * 2
    assert not replies["response"].str.contains("<|", regex=False).any(), (
        "control tokens are no text"
    )
