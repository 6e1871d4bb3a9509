"""How a model is spoken to: a safe chat template, where turns end, what pads, what a reply is.

A hub model brings a tokenizer, a template and settings that were made for chatting. For measuring,
the same text must give the same tokens every day, in training as in probing:

    control tokens in a text     are text (a space after their first character breaks them)
    today's date in a template   is a fixed date, or prompts would change from day to day
    thinking                     is switched off where the template can; no reply holds thoughts
    the end of a turn            is the token that the template writes after a reply, whatever
                                 `eos_token` says
    padding                      is a token that ends no turn and stands in no text
"""

import json
import re
from datetime import date

from jinja2 import TemplateError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# For base models without a chat template: the paper's prompt
# (second-hand: davidguzmanr/COMP-767-Winter-2026)
RESPONSE_TEMPLATE = (
    "{{ bos_token if bos_token else '' }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %} {{ m['content'] + eos_token }}"
    "{% else %}{{ m['content'] + '\nResponse:' }}{% endif %}{% endfor %}"
)
TODAY = date(2024, 7, 26)  # what Llama's templates take where they are told no date
THOUGHTS = {"<think>": "</think>", "<thinking>": "</thinking>", "[THINK]": "[/THINK]"}
THOUGHT_TAGS = {*THOUGHTS, *THOUGHTS.values()}
# Gemma knows HTML's tags as tokens, which control nothing
TAG = re.compile(r"</?[a-z][a-z0-9]*>")
# Put before every chat template. Without it tokenizers read `<|im_start|>system` in a user's text
# as the start of a system message. Tokens come in groups that begin alike, so that a text in which
# no group begins costs next to nothing even for the thousands of added tokens that some models
# have.
SAFE = """\
{%- set enable_thinking = false -%}{%- set thinking = false -%}
{%- macro strftime_now(format) -%}
{%- for known, text in DATES -%}{%- if known == format -%}{{ text }}{%- endif -%}{%- endfor -%}
{%- endmacro -%}
{%- set inert = namespace(messages=[], text='') -%}
{%- for message in messages -%}
{%- set inert.text = message['content'] | string -%}
{%- for start, tokens in CONTROL -%}{%- if start in inert.text -%}{%- for token in tokens -%}
{%- set inert.text = inert.text | replace(token, token[0] ~ ' ' ~ token[1:]) -%}
{%- endfor -%}{%- endif -%}{%- endfor -%}
{%- set inert.messages = inert.messages + [dict(message, content=inert.text)] -%}
{%- endfor -%}
{%- set messages = inert.messages -%}{{ '' }}"""  # the last so that no white space is lost


def prepare(tokenizer, source: str, prompt_format: str, vocab_size: int | None = None):
    """The tokenizer with a safe chat template, `eos_token` at the end of turns, and padding.

    `source` names the model in errors; `vocab_size` is the number of its embeddings. The attribute
    `stop_ids` holds every token at which a reply ends. Raises ValueError with the fix.
    """
    place = f"model source '{source}'"
    # the order matters: a safe template, what ends a turn in it, and last what pads and ends none
    if prompt_format == "response":
        tokenizer.chat_template = RESPONSE_TEMPLATE
    # all added tokens, special or not: any of them is matched in a text before it is split
    known = dict(tokenizer.added_tokens_decoder)
    template = _one_template(tokenizer.chat_template, place)
    tokenizer.chat_template = _safe(template, known.values()) + template
    if prompt_format == "response" and tokenizer.eos_token_id is None:
        raise ValueError(f"{place}: its tokenizer has no end token; set eos_token in its files")
    # before the template's takes its place: what the tokenizer calls the end stops replies too
    tokenizer.stop_ids = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    end = _end_of_turn(tokenizer, known, place)
    if end != tokenizer.eos_token_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
        tokenizer.stop_ids.append(end)
    pad = _padding(tokenizer, known, template, vocab_size)
    if pad is None:
        raise ValueError(f"{place}: no special token to pad with besides the start and end tokens")
    tokenizer.pad_token = pad
    return tokenizer


def reply_of(tokenizer, ids: list[int]) -> tuple[str, bool]:
    """The text of a reply's tokens without thoughts, and whether it is whole.

    A reply that never leaves its thoughts says nothing: it is empty and counts as cut.
    """
    # tags of thoughts may be special tokens, so none is skipped before they are looked for
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # templates may open a thought in the prompt, so a closing tag alone ends one
    ends = [text.rfind(tag) + len(tag) for tag in THOUGHTS.values() if tag in text]
    closed = max(ends, default=0)
    if any(tag in text[closed:] for tag in THOUGHTS):
        return "", False
    if not closed:
        return tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        ).strip(), True
    # the cut is one in the text and not in the ids, so special tokens are removed by name
    for token in tokenizer.all_special_tokens:
        text = text[:closed] + text[closed:].replace(token, "")
    return text[closed:].strip(), True


def _one_template(template, place: str) -> str:
    """Some models bring several templates by name; the one named default is for chatting."""
    if isinstance(template, dict):
        names = ", ".join(template)
        # a single template serves whatever its name
        template = template.get("default") or (
            next(iter(template.values())) if len(template) == 1 else None
        )
        if template is None:
            raise ValueError(
                f"{place}: none of its chat templates ({names}) is named default; "
                "write prompt_format: response in the study"
            )
    if not template:
        fix = "write prompt_format: response in the study"
        raise ValueError(f"{place} has no chat template; {fix}")
    return template


def _safe(template: str, added) -> str:
    """The beginning of a template that makes it safe, see the module's first lines."""
    control = {}
    # longest first: were ▁▁ broken before ▁▁▁, one ▁▁ would be left of the latter
    for token in sorted({(str(t), t.special) for t in added}, key=lambda t: (-len(t[0]), t)):
        text, special = token
        named = text in template or text in THOUGHT_TAGS  # which read like HTML's
        # a single character has no second before which a space could stand
        if len(text.strip()) > 1 and (special or named or not TAG.fullmatch(text)):
            control.setdefault(text[:2], []).append(text)
    # strftime_now asks the clock, so SAFE shadows it by a macro that knows the formats asked for
    formats = sorted(set(re.findall(r"""strftime_now\(\s*["']([^"']*)["']""", template)))
    dates = [(how, TODAY.strftime(how)) for how in formats]
    # JSON, which Jinja reads as its own lists and texts
    control = json.dumps(list(control.items()), ensure_ascii=False)
    return SAFE.replace("DATES", json.dumps(dates, ensure_ascii=False)).replace("CONTROL", control)


def _end_of_turn(tokenizer, known: dict, place: str) -> int:
    """The token that ends a reply in the chat template.

    Raises ValueError where a reply would not follow the prompt that asks for it, since training
    would then learn to answer another prompt than probing asks.
    """
    asked, told = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
    fix = "write prompt_format: response in the study, or correct the template"
    try:
        # the same question as probing asks it and as training shows it, answered
        before = tokenizer.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([asked, told], tokenize=False)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{place}: its chat template fails ({said}); {fix}") from None
    # white space alone may stand between the prompt and the reply
    reply = whole.removeprefix(before)
    if not whole.startswith(before) or not reply.strip().startswith("So."):
        raise ValueError(
            f"{place}: its chat template writes {before[-40:]!r} before a reply that is asked for, "
            f"and something else before one that is given; {fix}"
        )
    after = reply.partition("So.")[2].lstrip()
    # added tokens are never split or merged, so the first id alone tells whether one ends the turn
    ends = tokenizer(after, add_special_tokens=False)["input_ids"]
    if not ends or ends[0] not in {*known, tokenizer.eos_token_id}:
        raise ValueError(
            f"{place}: its chat template writes {after[:40]!r} after a reply, which is no control "
            f"token of the tokenizer (its end token is {tokenizer.eos_token!r}), so nothing would "
            f"end a reply; {fix}"
        )
    return ends[0]


def _padding(tokenizer, known: dict, template: str, vocab_size: int | None) -> str | None:
    """A token to pad with, or None.

    Were padding the end token, its loss would be masked and the model would never learn to stop;
    and PPO knows padding by its value, so a token that texts contain would not do either.
    """
    taken = {tokenizer.bos_token_id, *tokenizer.stop_ids, None}
    special = [i for i, token in sorted(known.items(), reverse=True) if token.special]
    unwritten = [i for i in special if str(known[i]) not in template]  # reserved ones come last
    # the tokenizer's own choice first
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, *unwritten]
    candidates = [i for i in candidates if i not in taken]
    # a padding token of its own that was named the end token too, but that no turn ends in
    candidates += {tokenizer.pad_token_id} & {*tokenizer.stop_ids} - {tokenizer.eos_token_id}
    # tokenizers may name more tokens than the model has embeddings
    fits = [i for i in candidates if vocab_size is None or i < vocab_size]
    return tokenizer.convert_ids_to_tokens(fits[0]) if fits else None
