"""What a server said, read: the one way by which anything that a server answered becomes a value.

Servers answer in more shapes than the specification of chat completions. Whatever comes, `read` gives an answer whose
parts have the types they should, or raises `Unreadable`; nothing else. The direct way, the Batch API, the teacher and
the writer read by it, and kept answers pass it again. An answer is a dict:

    content        what the model said, without its thoughts; "" for nothing
    refusal        why it would not, or None
    finish_reason  such as stop or length, or None
    tokens         [[token, log-probability], ...] of the first position, or None if they cannot be gone by
    model          who answered, or None
    tokens_in, tokens_out                             numbers of tokens, or None
"""

import json
import math
import re
import unicodedata

LABELS = ("support", "neutral", "oppose")
WORDS = {  # the spellings of a label; "opposite" and "unsupported" are none
    "support": r"support(?:s|ed|ing|ive|er|ers)?",
    "neutral": r"neutral(?:ity|ly)?",
    "oppose": r"oppos(?:e|es|ed|ing|ition|er|ers)",
}
LABEL = rf"\b(?:{'|'.join(WORDS.values())})\b"
# Thoughts end before the answer begins; some templates write the opening mark into the prompt.
THOUGHT = r"(?:think|thinking|thought|reasoning)"
THOUGHT_END = re.compile(rf"</{THOUGHT}>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>", re.I)
THOUGHT_START = re.compile(rf"<{THOUGHT}>|\[THINK\]|◁think▷|<\|channel\|>", re.I)
END_TOKENS = re.compile(r"(?:\s*(?:<\|\w+\|>|</s>|<eos>|<end_of_turn>))+\s*$")
# One of these anywhere, or one of those shortly before a label, and a text may say the opposite of the label it names.
APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼ´`＇′"), "'")
NEGATION = re.compile(
    r"\b(?:no|not|nor|non|none|neither|never|nobody|nothing|nowhere|nope|nay|cannot|hardly|scarcely|barely|"
    r"false|falsely|untrue|lacking|absent|missing|withdrawn|"
    r"(?:do|does|did|ca|wo|is|are|was|were|has|have|had|would|could|should|must|need|might|ai|sha)nt)\b|n[' ]+t\b"
)
REVERSAL = re.compile(
    r"\b(?:without|unable|unwilling|unlikely|impossible|reluctan\w+|hesita\w+|fail\w*|refus\w+|declin\w+|reject\w*|"
    r"den(?:y|ies|ied|ying)|avoid\w*|stop\w*|ceas\w+|lack\w*|withdr\w+|withh\w+|disavow\w*|disclaim\w*|disput\w+|"
    r"doubt\w*|pretend\w*|undermin\w+|rarely|seldom|few|little|less|wrong|incorrect|opposite|contrary|against|despite|"
    r"from|short of|but|instead of|than|hard|difficult|whether|if|unless|zero|anti|un|dis|pseudo)"
    rf"[ -]+(?:[\w']+ +){{0,5}}?{LABEL}"
)
MARKS = "ĠĊĉ▁ \t\r\n\"'“”‘’„«»*_`.,:;#>([{)]}"  # what tokenizers and Markdown put around a word
DATED = re.compile(r"-\d{4}-\d\d-\d\d|-\d\d-\d\d|-(?:\d{3,4}|\d{6}|\d{8})|@\S+")
MOST_TOKENS = 2**31  # no text has more
ROUNDING = 0.01  # by how much probabilities may sum to more than 1


class Unreadable(ValueError):
    """What a server said is no answer; says what is wrong with it, and the HTTP status that stands in it, if any."""

    def __init__(self, why: str, status: int | None = None):
        super().__init__(why)
        self.status = status


def parse(text: bytes | str):
    """JSON of any shape; raises Unreadable. Undecodable bytes and lone surrogates become replacement characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", "replace")
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise Unreadable("it is not JSON") from None


def read(body) -> dict:
    """The answer in a parsed chat completion; raises Unreadable if there is none."""
    if not isinstance(body, dict):
        raise Unreadable("it is no JSON object")
    _refuse(body)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Unreadable("it has no choices with a message")
    _refuse(choice)
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    return answer(
        message.get("content"),
        message.get("refusal"),
        choice.get("finish_reason"),
        _first_position(choice.get("logprobs")),
        body.get("model"),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
    )


def kept(text: str) -> dict | None:
    """An answer as it was written down, maybe by an older reader; None if it cannot be read."""
    try:
        row = parse(text)
        if not isinstance(row, dict) or "content" not in row:
            return None
        names = ("content", "refusal", "finish_reason", "tokens", "model", "tokens_in", "tokens_out")
        return answer(*map(row.get, names))
    except Unreadable:
        return None


def answer(content, refusal, finish_reason, tokens, model, tokens_in, tokens_out) -> dict:
    """An answer (see the module) from parts of any type; raises Unreadable where a part that decides has a wrong one."""
    return {
        "content": without_thoughts(_text(content, "content")),
        "refusal": _text(refusal or None, "refusal") or None,
        "finish_reason": _clean(finish_reason) if isinstance(finish_reason, str) else None,
        "tokens": _tokens(tokens),
        "model": _clean(model) or None if isinstance(model, str) else None,
        "tokens_in": _count(tokens_in),
        "tokens_out": _count(tokens_out),
    }


def error_text(body) -> str:
    """What the body of an error says: its message where there is one, else all of it."""
    try:
        found = parse(body) if isinstance(body, bytes) else body
    except Unreadable:
        found = body.decode("utf-8", "replace")
    found = found.get("error", found) if isinstance(found, dict) else found
    found = found.get("message") or found if isinstance(found, dict) else found
    return _clean(found if isinstance(found, str) else json.dumps(found))


def without_thoughts(text: str) -> str:
    """What a model says after its thoughts and before its end token; nothing if it never left its thoughts."""
    if "<" in text or "[" in text or "◁" in text:
        text = THOUGHT_START.split(THOUGHT_END.split(text)[-1])[0]
        text = END_TOKENS.sub("", text)
    return text


def is_from(answered: str | None, asked: str, also: str | None = None) -> bool:
    """Whether the model that answered is the one that was asked for, or named `also`; true if it does not say.

    A dated or a revised name is the same model's (gpt-4o, gpt-4o-2024-08-06; name, name@revision), as is one with or
    without a path before it; any other ending is another model's (gpt-4o-mini).
    """
    if not answered or answered in (asked, also):
        return True
    one, two = (re.sub(r"[:-]latest$|\.gguf$", "", name.strip().casefold()) for name in (asked, answered))
    if ("/" in one) != ("/" in two):
        one, two = (name.rsplit("/", 1)[-1] for name in (one, two))
    return two == one or bool(two.startswith(one) and DATED.fullmatch(two[len(one) :]))


def begins(token: str) -> str | None:
    """The label that a token begins or spells (Support, ' oppose', 'opp', Ġneutral, neutrality), or None."""
    text = token.strip(MARKS).casefold()
    if not text:
        return None
    return next((label for label in LABELS if label.startswith(text) or re.fullmatch(WORDS[label], text)), None)


def label_in(text: str) -> str | None:
    """The one label that a text gives, as JSON or in any case among other words.

    None if it names several or none, or if it negates, reverses or doubts what it names.
    """
    found = label_in_json(text)
    if found:
        return found
    text = unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).casefold()
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # such as soft hyphens
    if NEGATION.search(text) or REVERSAL.search(text) or re.search(r"[¬!~]\s*\b" + LABEL, text):
        return None
    named = [name for name in LABELS if re.search(rf"\b{WORDS[name]}\b", text)]
    return named[0] if len(named) == 1 else None


def with_keys(text: str, *keys: str) -> dict | None:
    """The first JSON object in a text, fenced or among words or inside another, that has all these keys."""
    decoder = json.JSONDecoder()
    starts = (match.start() for _, match in zip(range(100), re.finditer(r"\{", text), strict=False))
    for start in starts:
        try:
            found, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found.keys() >= set(keys):
            return found
    return None


def label_in_json(text: str) -> str | None:
    """The label of a text that is nothing but a JSON object with that key, once."""
    fenced = re.fullmatch(r"\s*```\w*\s*(.*?)\s*```\s*", text, re.S)
    try:
        pairs = json.loads(fenced[1] if fenced else text, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    values = [value for name, value in pairs if name == "label"] if isinstance(pairs, tuple) else []
    if len(values) != 1 or not isinstance(values[0], str):
        return None
    said = values[0].strip(MARKS).casefold()
    return said if said in LABELS else None


def _text(value, name: str) -> str:
    """A text, or the texts of a list of parts; thoughts are left out, None is no text."""
    if isinstance(value, list):
        parts = [part for part in value if not _is_thought(part)]
        return "".join(_text(part.get("text") if isinstance(part, dict) else part, name) for part in parts)
    if isinstance(value, dict):
        return _text(value.get("value"), name) if isinstance(value.get("value"), str) else _wrong(name)
    return _clean(value) if isinstance(value, str) else "" if value is None else _wrong(name)


def _refuse(part: dict) -> None:
    """Raise Unreadable if there is an error in place of an answer, as gateways write it."""
    error = part.get("error")
    if error or part.get("finish_reason") == "error":
        code = str(error.get("code")) if isinstance(error, dict) else ""
        status = int(code) if re.fullmatch(r"[45]\d\d", code, re.ASCII) else None
        raise Unreadable(f"an error in its place: {error_text(part)}", status)


def _is_thought(part) -> bool:
    return isinstance(part, dict) and part.get("type") in ("thinking", "reasoning", "redacted_thinking")


def _wrong(name: str):
    raise Unreadable(f"its {name} is no text")


def _clean(text: str) -> str:
    """A text that can be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _first_position(logprobs):
    """The alternatives at the first position, of whatever type; None where there are none."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    top = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(top, list):
        return None
    return [[t.get("token"), t.get("logprob")] if isinstance(t, dict) else t for t in top]


def _tokens(pairs) -> list[list] | None:
    """[[token, log-probability], ...]; None if one is no such pair, or together they are impossible."""
    if not isinstance(pairs, list) or not pairs:
        return None
    found = {}
    for pair in pairs:
        token, logprob = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
            return None
        if not logprob <= ROUNDING:  # nor NaN
            return None
        # one that is listed twice counts once
        found[_clean(token), float(max(min(logprob, 0.0), -1e4))] = None
    if sum(math.exp(logprob) for _, logprob in found) > 1 + ROUNDING:
        return None
    return [list(pair) for pair in found]


def _count(value) -> int | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST_TOKENS
    return int(value) if right and value == int(value) else None
