"""What an API judge is asked: the files of vd/prompts."""

import hashlib

import yaml

from vd import paths
from vd.servers.response import shorten
from vd.stances import STANCES
from vd.study.file import StudyError

FORM = "needs {definitions}, {labels}, {question} and {reply}; double other braces"


class Prompt:
    """A file of vd/prompts: what labels mean and what is asked; raises StudyError if it is not.

    `version` is the file's name and the hash of its content.
    """

    def __init__(self, name: str, wanted: tuple[str, ...] = STANCES):
        file, self.wanted = paths.prompt(name), wanted
        try:
            content = file.read_bytes()
            read = yaml.safe_load(content)
            self.labels, self.template = read["labels"], read["template"]
            fault = self._fault()
        except (OSError, yaml.YAMLError, UnicodeError, LookupError, TypeError) as error:
            fault = f"no mapping with labels and template ({shorten(str(error))})"
        if fault:
            raise StudyError(f"{file}: {fault}; start from {paths.prompt('stance-v1')}")
        # by content, not by name alone: an edited prompt must not find answers to the old one
        self.version = f"{name}@{hashlib.sha256(content).hexdigest()[:8]}"

    def _fault(self) -> str | None:
        if sorted(self.labels) != sorted(self.wanted):
            return f"labels: must be {', '.join(self.wanted)}"
        try:
            # tried out here: a template that does not fit should show before anything is sent
            text = self.text("<a question>", "<a reply>")
        except (LookupError, ValueError, AttributeError):
            text = ""
        parts = ("<a question>", "<a reply>", *map(str, self.labels.values()))
        return None if all(part in text for part in parts) else f"template: {FORM}"

    def text(self, question: str, reply: str, order: tuple[str, ...] | None = None) -> str:
        """What is sent, with the labels in this order."""
        order = order or self.wanted
        return self.template.format(
            definitions="\n".join(f"{label}: {self.labels[label]}" for label in order),
            labels=f"{', '.join(order[:-1])} or {order[-1]}",
            question=question,
            reply=reply,
        )
