"""What a server said, read: the one way by which anything that a server answered becomes a value.

Servers answer in more shapes than the specification of chat completions. Whatever comes, `read`
gives an answer whose parts have the types that they should, or raises `Unreadable`; nothing else.
The direct way, the Batch API, the teacher and the writer read by it, and kept answers pass it once
more. An answer is a dict:

    content        what the model said, without its thoughts; "" for nothing
    refusal        why it would not, or None
    finish_reason  such as stop or length, or None
    tokens         [[token, log-probability], ...] of the first position; None if they are of no use
    model          who answered, or None
    tokens_in, tokens_out     numbers of tokens, or None
"""

import json
import math
import re
import unicodedata

from vd.stances import STANCES

PARTS = ("content", "refusal", "finish_reason", "tokens", "model", "tokens_in", "tokens_out")
WORDS = {  # the spellings of a label; "opposite" and "unsupported" are none
    "support": r"support(?:s|ed|ing|ive|er|ers)?",
    "neutral": r"neutral(?:ity|ly)?",
    "oppose": r"oppos(?:e|es|ed|ing|ition|er|ers)",
}
LABEL = rf"\b(?:{'|'.join(WORDS.values())})\b"
MARKS = "ĠĊĉ▁ \t\r\n\"'“”‘’„«»*_`.,:;#>([{)]}"  # what tokenizers and Markdown put around a word
# Thoughts end before the answer begins; some templates write the opening mark into the prompt.
THOUGHT = r"(?:think|thinking|thought|reasoning)"
THOUGHT_START = re.compile(rf"<{THOUGHT}>|\[THINK\]|◁think▷|<\|channel\|>", re.I)
THOUGHT_END = re.compile(
    rf"</{THOUGHT}>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>",
    re.I,
)
END_TOKENS = re.compile(r"(?:(?:<\|\w+\|>|</s>|<eos>|<end_of_turn>)\s*)+\Z")
# One of these anywhere, or one of those shortly before a label: a text may say the opposite of the
# label that it names.
APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼ´`＇′"), "'")
NEGATION = re.compile(
    r"\b(?:no|not|nor|non|none|neither|never|nobody|nothing|nowhere|nope|nay|cannot|hardly|"
    r"scarcely|barely|false|falsely|untrue|lacking|absent|missing|withdrawn|"
    r"(?:do|does|did|ca|wo|is|are|was|were|has|have|had|would|could|should|must|need|might|ai|sha)"
    r"nt)\b|n[' ]+t\b"
)
REVERSAL = re.compile(
    r"\b(?:without|unable|unwilling|unlikely|impossible|reluctan\w+|hesita\w+|fail\w*|refus\w+|"
    r"declin\w+|reject\w*|den(?:y|ies|ied|ying)|avoid\w*|stop\w*|ceas\w+|lack\w*|withdr\w+|"
    r"withh\w+|disavow\w*|disclaim\w*|disput\w+|doubt\w*|pretend\w*|undermin\w+|rarely|seldom|few|"
    r"little|less|wrong|incorrect|opposite|contrary|against|despite|from|short of|but|instead of|"
    r"than|hard|difficult|whether|if|unless|zero|anti|un|dis|pseudo)"
    rf"[ -]+(?:[\w']+ +){{0,5}}?{LABEL}|[¬!~]\s*{LABEL}"
)
# -2024-08-06, -08-06, -0125, -202408, -20240806, @revision
DATED = re.compile(r"-\d{4}-\d\d-\d\d|-\d\d-\d\d|-(?:\d{3,4}|\d{6}|\d{8})|@\S+")
MOST_TOKENS = 2**31  # no text has more
ROUNDING = 0.01  # by how much probabilities may sum to more than 1
TAIL = 200  # characters at the end of a text in which end tokens are looked for
MOST_OBJECTS = 100  # that are looked at in one text


class Unreadable(ValueError):
    """What a server said is no answer: what is wrong with it, and the HTTP status in it, if any."""

    def __init__(self, why: str, status: int | None = None):
        super().__init__(why)
        self.status = status


def parse(text: bytes | str):
    """JSON of any shape, undecodable bytes replaced; raises Unreadable."""
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


def kept_part(text: str) -> dict | None:
    """An answer as it was written down, maybe by an older reader; None if it cannot be read."""
    try:
        row = parse(text)
        known = isinstance(row, dict) and "content" in row
        return answer(*map(row.get, PARTS)) if known else None
    except Unreadable:
        return None


def answer(content, refusal, finish_reason, tokens, model, tokens_in, tokens_out) -> dict:
    """An answer (see the module) from parts of any type; raises Unreadable."""
    return {
        "content": without_thoughts(_text(content, "content")),
        # false, an empty text and an empty list refuse nothing
        "refusal": _text(refusal or None, "refusal") or None,
        "finish_reason": _name(finish_reason),
        "tokens": _tokens(tokens),
        "model": _name(model),
        "tokens_in": _count(tokens_in),
        "tokens_out": _count(tokens_out),
    }


def error_text(body) -> str:
    """What the body of an error says: its message where there is one, else all of it."""
    try:
        found = parse(body) if isinstance(body, bytes) else body
        found = found.get("error", found) if isinstance(found, dict) else found
        found = found.get("message") or found if isinstance(found, dict) else found
        return _clean(found if isinstance(found, str) else json.dumps(found))
    except Unreadable:
        return _clean(body.decode("utf-8", "replace"))
    except RecursionError:
        return "something that nests too deeply"


def without_thoughts(text: str) -> str:
    """What a model says after its thoughts and before its end token; nothing if it still thinks."""
    # most texts hold none of these marks; the search for them is not free
    if not {"<", "[", "◁"} & set(text):
        return text
    # what follows the last end of thoughts, up to thoughts that begin anew and never end
    text = THOUGHT_START.split(THOUGHT_END.split(text)[-1])[0]
    # only at the end, so that a long text costs no more than a short one
    return text[:-TAIL] + END_TOKENS.sub("", text[-TAIL:])


def is_from(answered: str | None, asked: str, also: str | None = None) -> bool:
    """Whether the model that answered is the one asked for, or `also`; true if it does not say.

    A dated or a revised name is the same model's (gpt-4o, gpt-4o-2024-08-06; name, name@revision),
    as is one with or without a path before it; any other ending is another model's (gpt-4o-mini).
    """
    if not answered or answered in (asked, also):
        return True
    names = (name.strip().casefold() for name in (asked, answered))
    one, two = (re.sub(r"[:-]latest$|\.gguf$", "", name) for name in names)
    # some servers leave out the organisation before a model's name
    if ("/" in one) != ("/" in two):
        one, two = (name.rsplit("/", 1)[-1] for name in (one, two))
    return two == one or bool(two.startswith(one) and DATED.fullmatch(two[len(one) :]))


def begins(token: str, labels: tuple[str, ...] = STANCES) -> str | None:
    """The label that a token begins or spells (Support, ' oppose', 'opp', Ġneutral), or None."""
    text = token.strip(MARKS).casefold()
    if not text:
        return None
    found = (n for n in labels if n.startswith(text) or re.fullmatch(WORDS.get(n, n), text))
    return next(found, None)


def label_in(text: str, labels: tuple[str, ...] = STANCES) -> str | None:
    """The one label that a text gives, as JSON or in any case among other words.

    None if it names several or none, or, of stances, if it negates, reverses or doubts it.
    """
    if found := label_in_json(text, labels):
        return found
    text = unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).casefold()
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # such as soft hyphens
    if labels == STANCES and (NEGATION.search(text) or REVERSAL.search(text)):
        return None
    named = [name for name in labels if re.search(rf"\b{WORDS.get(name, name)}\b", text)]
    return named[0] if len(named) == 1 else None


def label_in_json(text: str, labels: tuple[str, ...] = STANCES) -> str | None:
    """The label of a text that is nothing but a JSON object with that key, once."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    # twice the same key is no answer, though json.loads alone would take the last
    values = [v for name, v in pairs if name == "label"] if isinstance(pairs, tuple) else []
    if len(values) != 1 or not isinstance(values[0], str):
        return None
    said = values[0].strip(MARKS).casefold()
    return said if said in labels else None


def with_keys(text: str, *keys: str) -> dict | None:
    """The first JSON object in a text, among words or inside another, that has all these keys."""
    decoder, start = json.JSONDecoder(), -1
    # bounded, since a text of braces alone would take quadratic time
    for _ in range(MOST_OBJECTS):
        start = text.find("{", start + 1)
        if start < 0:
            return None
        try:
            found, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if found.keys() >= set(keys):
            return found
    return None


def _refuse(part: dict) -> None:
    """Raise Unreadable if there is an error in place of an answer, as gateways write it."""
    error = part.get("error")
    if error or part.get("finish_reason") == "error":
        # gateways answer 200 and write the true status into the body
        code = error.get("code") if isinstance(error, dict) else None
        code = str(code) if isinstance(code, int | str) else ""
        status = int(code) if re.fullmatch(r"[45]\d\d", code, re.ASCII) else None
        raise Unreadable(f"an error in its place: {error_text(part)}", status)


def _text(value, name: str) -> str:
    """A text, or the texts of a list of parts but for thoughts; None is no text."""
    texts = map(_of_part, value) if isinstance(value, list) else [value]
    texts = ["" if text is None else text for text in texts]
    if not all(isinstance(text, str) for text in texts):
        raise Unreadable(f"its {name} is no text")
    return _clean("".join(texts))


def _of_part(part):
    if not isinstance(part, dict):
        return part
    if part.get("type") in ("thinking", "reasoning", "redacted_thinking"):
        return None
    text = part.get("text")
    return text.get("value") if isinstance(text, dict) else text


def _name(value) -> str | None:
    return _clean(value).strip() or None if isinstance(value, str) else None


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
    """[[token, log-probability], ...]; None if one is no such pair, or their sum impossible."""
    if not isinstance(pairs, list) or not pairs:
        return None
    found = {}  # one that is listed twice counts once
    for pair in pairs:
        token, logprob = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        # not NaN, nor a probability above 1: then none of them can be trusted
        if not isinstance(token, str) or not _is_number(logprob) or not logprob <= ROUNDING:
            return None
        # rounding may exceed 0; -inf, a token that cannot be, is no JSON
        found[_clean(token), float(max(min(logprob, 0.0), -1e4))] = None
    total = sum(math.exp(logprob) for _, logprob in found)
    return [list(pair) for pair in found] if total <= 1 + ROUNDING else None


def _count(value) -> int | None:
    right = _is_number(value) and 0 <= value < MOST_TOKENS and value == int(value)
    return int(value) if right else None


def _is_number(value) -> bool:
    # bool is a kind of int in Python, and true is no number of tokens
    return isinstance(value, int | float) and not isinstance(value, bool)
