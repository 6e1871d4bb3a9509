"""Rewards by name, for methods that let a policy write: another one than a scorer of the study.

A file of vd/rewards holds

    Settings    its keys
    COLUMNS     columns of the run's data that it reads beside `prompt`
    PARTS       what the reward is the sum of
    load        (settings) -> a function from replies, a table of prompt, response and `COLUMNS`, to
                a table of these parts, one row a reply
    reads       (settings) -> names of the data sets that it reads by itself; left out for none

A study names one by `reward: {<name>: {its keys}}`, in place of `scorer`.
"""

from pydantic import ValidationError

from vd import plugins
from vd.study.file import fix, shown
from vd.study.found import check_settings, file_of, imported, stems
from vd.study.types import Settings

ROOM = "rewards"
NEEDED = ("Settings", "COLUMNS", "PARTS", "load")


def settings_of(reward: dict) -> Settings:
    """The settings of a run's reward; ValueError says what is wrong."""
    if len(reward) != 1:
        raise ValueError("name one reward, as in {rewriting: {}}")
    ((name, keys),) = reward.items()
    known, file = stems(ROOM), file_of(ROOM, name)
    if name.replace("-", "_") not in known:
        add = f"add vd/rewards/<name>.py with {', '.join(NEEDED)}"
        raise ValueError(f"no reward {shown(name)}; write one of {', '.join(known)}, or {add}")
    try:
        module = imported(ROOM, name)
        if missing := [own for own in NEEDED if not hasattr(module, own)]:
            raise LookupError(f"{file} has no {missing[0]}; add it")
        check_settings(module, file, Settings)
    except LookupError as error:
        raise ValueError(error.args[0]) from None
    try:
        return module.Settings(**(keys or {}))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([name, *map(str, first["loc"])])
        raise ValueError(f"{place}: {fix(first)}") from None


def module_of(reward: dict):
    """The file behind a run's reward."""
    return plugins.load(ROOM, next(iter(reward)))


def code_of(settings) -> list[str]:
    """What a run's settings find by name among rewards, as the dotted name of its code."""
    reward = getattr(settings, "reward", None)
    return [f"{plugins.module(ROOM, name)}.load" for name in reward or {}]


def reads(settings) -> list[str]:
    """Data sets that a run's reward reads beside those it trains on."""
    reward = getattr(settings, "reward", None)
    if not reward:
        return []
    return getattr(module_of(reward), "reads", lambda own: [])(settings_of(reward))
