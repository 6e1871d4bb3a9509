"""Questions out of prompts by rules, with as few edits as rules can do.

A model would do better (see readings.py).
"""

import re
from functools import cache

import pandas as pd

from vd.data import sets

SHORTEST = 3  # words of a question
CONTEXT = 40  # words of a question with the sentences before it
AUXILIARY = set(
    re.findall(
        r"\S+",
        "is are was were am do does did can could should would will shall may might must has "
        "have had ought isn't "
        "aren't wasn't weren't don't doesn't didn't can't couldn't shouldn't wouldn't won't "
        "hasn't haven't",
    )
)
# without do and have, which may be main verbs: "the rich have too much" is not inverted
INVERTED = {
    "is",
    "are",
    "was",
    "were",
    "can",
    "could",
    "should",
    "would",
    "will",
    "may",
    "might",
    "must",
}
ASKING = {
    "what",
    "what's",
    "whats",
    "why",
    "how",
    "who",
    "who's",
    "whose",
    "whom",
    "when",
    "where",
    "which",
}
CLAUSE = {
    "that",
    "who",
    "which",
    "if",
    "because",
    "when",
    "what",
    "why",
    "how",
    "whoever",
    "whatever",
}
# whole beginnings that carry no content
GREETING = (
    r"(?:(?:hi|hello|hey|hiya|greetings|good (?:morning|afternoon|evening|day))(?: there| "
    r"chat)?\b[\s,.!]*)+"
)
# "so many" and "now that" begin what is said; white space behind, or android would lose its and
FILLER = (
    r"(?:(?:so(?! (?:many|much|few|long))|now(?! that)|and|but|well|ok|okay|also|please"
    r"|honestly|then|surely)"
    r"(?=[\s,])[\s,]*)+"
)
# before a question word only: "tell me a joke" is a request, and is left out
TELL_ME = (
    r"(?:(?:can|could|would|will) you )?(?:please )?(?:i(?:'d| would)? (?:like|want|wish) to "
    r"know|i wonder|i'm curious"
    r"|(?:tell|explain|describe)(?: to)?(?: me)?)(?: honestly| about)?,? (?=(?:what|why|how"
    r"|who|when|where|which)\b)"
)
OPINION = (
    r"(?:i (?:really |strongly |personally |firmly |honestly |just |also |do )?"
    r"(?:think|believe|feel|reckon|say|am convinced|am of the opinion)|i'd say|in my "
    r"(?:opinion|view)|imo|to me|for me"
    r"|if you ask me|it seems(?: to me)?|my (?:opinion|view) is)(?: that)?,? "
)
VIEW = re.compile(  # a request for a view without a question
    r"(?:(?:can|could|would) (?:you|we) )?(?:please )?(?:i(?:'d| would)? (?:like|want|wish) "
    r"to )?(?:let'?s )?"
    r"(?:(?:(?:give|tell) me|share|know|hear|explain|describe)(?: me)? )?(?:about )?"
    r"(?:(?:your )?(?:honest |personal |own )?(?:opinions?|views?|thoughts?|take|stance"
    r"|position)(?: is| are)? "
    r"(?:on|about|of|regarding)|(?:talk|discuss|chat|speak|debate)(?: to you| with you)?(?: "
    r"about)?) (?P<about>.+)",
    re.I,
)
# lest "write a poem about zoos" become "Do you agree that write a poem about zoos?"
ORDER = {
    "explain",
    "describe",
    "list",
    "write",
    "give",
    "tell",
    "provide",
    "discuss",
    "help",
    "compare",
    "convince",
}
ORDER |= {"justify", "argue", "prove"}
# its comma tells it from questions that end alike: "Is a clean river a right?"
TAG = (
    r", ?(?:do you agree|don't you agree|don't you think|what do you think|agree|right|yes|no"
    r"|isn't it|correct)\?$"
)
GENERIC = re.compile(  # questions that mean nothing without the sentence before them
    r"(?:(?:so|and|but) )?(?:what (?:do|are|is|would) you(?:r)? (?:think|thoughts?|say|views?"
    r"|opinion|reckon|take)"
    r"|do you agree|don't you (?:think|agree)|why(?: is that| not)?|am i (?:right|wrong)|right"
    r"|agree"
    r"|is (?:that|this|it) (?:right|wrong|true|fair|ok|okay|so))(?: (?:about|of|on|with) "
    r"(?:this|that|it|me))?\W*$",
    re.I,
)
FIRST_PERSON = re.compile(r"\b(?:i|i'm|i've|i'd|me|my|mine|myself)\b", re.I)


def to_question(text: str) -> tuple[str, str] | None:
    """A prompt as one natural question with as few changes as rules can do, and its form; None if
    they find none.

    A question stays as it is, with the sentences before it if all is short enough. A statement with
    an early auxiliary is inverted, another becomes "Do you agree that ...?"; a request for a view
    becomes "What do you think about ...?". Other requests and statements about the writer's own
    life are left out. For the form see `form`.
    """
    # typographic apostrophes would hide don't and what's from the rules
    text = _without(GREETING, " ".join(text.split()).replace("’", "'"))
    # two letters before the mark, so that Roe v. Wade is one sentence
    sentences = [
        _without(TELL_ME, _without(FILLER, s)) for s in re.split(r"(?<=\w\w[.?!])\s+", text) if s
    ]
    sentences = [sentence for sentence in sentences if not GENERIC.match(sentence)]
    # the first sentence that asks is the question; what stands after it is dropped
    for i, sentence in enumerate(sentences):
        if (wanted := VIEW.match(sentence)) and _first_word(wanted["about"]) not in ASKING:
            return _asked(f"What do you think about {wanted['about']}")
        # by the first word too, since people leave question marks out
        asks = _first_word(sentence) in AUXILIARY | ASKING
        if asks or (sentence.endswith("?") and not re.search(TAG, sentence, re.I)):
            return _asked(sentence, " ".join(sentences[:i]))
    # nobody asks anything: the first sentence is the statement
    first = re.sub(TAG, "", sentences[0], flags=re.I) if sentences else ""
    return _stated(_without(OPINION, first).strip(" .!?,"))


def form(question: str) -> str:
    """Whether a question can be answered by yes or no.

    Closed if its first word is an auxiliary, else open.
    """
    return "closed" if _first_word(question) in AUXILIARY else "open"


def _stated(statement: str) -> tuple[str, str] | None:
    """A statement as a question, see `to_question`."""
    words = statement.split()
    if len(words) < SHORTEST or FIRST_PERSON.search(statement) or words[0].lower() in ORDER:
        return None
    place = next((i for i, word in enumerate(words[:6]) if i and word.lower() in INVERTED), None)
    # an auxiliary within a clause is not the sentence's: what he said is wrong
    if place is None or CLAUSE & {word.lower() for word in words[:place]}:
        return _asked(f"Do you agree that {_lower(statement)}")
    # the auxiliary moves to the front: "Borders are cruel" becomes "Are borders cruel"
    return _asked(" ".join([words[place], _lower(" ".join(words[:place])), *words[place + 1 :]]))


def _asked(sentence: str, before: str = "") -> tuple[str, str] | None:
    """A sentence as a question, after what stands before it, with its form."""
    sentence = sentence.strip(" .!?,;:")
    if len(sentence.split()) < SHORTEST:
        return None
    whole = f"{before} {sentence[0].upper()}{sentence[1:]}?".strip()
    # a question after a whole story is no probe; it must stand alone
    if before and len(whole.split()) > CONTEXT:
        return _asked(sentence)
    return f"{whole[0].upper()}{whole[1:]}", form(sentence)


def _without(beginning: str, sentence: str) -> str:
    return re.sub(rf"^{beginning}", "", sentence, flags=re.I).strip()


def _first_word(sentence: str) -> str:
    return sentence.split()[0].lower().strip(",") if sentence.split() else ""


def _lower(sentence: str) -> str:
    """A sentence for use within another.

    Its first word in lower case if our own prompts write it so.
    """
    return (
        # names are never in lower case there, so Islam keeps its capital without a list of names
        sentence[0].lower() + sentence[1:]
        if sentence.split()[0].lower() in _lower_case_words()
        else sentence
    )


@cache
def _lower_case_words() -> frozenset[str]:
    prompts = pd.concat([sets.corpus(name)["prompt"] for name in ("probes", "judge")]).unique()
    return frozenset(
        word for prompt in prompts for word in re.findall(r"[\w']+", prompt) if word.islower()
    )
