"""What is said while work goes on, and what is left of it."""

import nbformat
import pytest
from nbclient import NotebookClient

from vd.store import progress

WORK = """
import time
from vd.store import progress
progress.PATIENCE = 0.2
tell = progress.Progress("train", "m/sft/seed-0", 4)
for done in range(1, {last} + 1):
    time.sleep(0.6)
    tell(done, "loss 0.5")
{end}
print("done")
"""


class Watched(NotebookClient):
    """Keeps what was shown and shown anew, beside what is left at the end."""

    def process_message(self, msg, cell, cell_index):
        """Keep the content of a display."""
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.shown = [*getattr(self, "shown", []), msg["content"]["data"]]
        return super().process_message(msg, cell, cell_index)


def executed(last=4, end=""):
    cells = [nbformat.v4.new_code_cell(WORK.format(last=last, end=end))]
    client = Watched(nbformat.v4.new_notebook(cells=cells), kernel_name="python3", timeout=60)
    client.allow_errors = True
    client.execute()
    return getattr(client, "shown", []), client.nb.cells[0]["outputs"]


@pytest.mark.parametrize(("last", "end"), [(4, ""), (3, ""), (2, "raise ValueError")])
def test_a_cell_says_how_far_it_is_and_keeps_nothing_of_it(last, end):
    """Whether the stage comes to its end, stops before it, or fails."""
    shown, outputs = executed(last, end)
    texts = [data.get("text/plain", "") for data in shown]
    assert texts[0] == texts[-1] == "" and "train  m/sft/seed-0  1/4  about" in texts[1]
    assert "loss 0.5" in texts[1] and "a second)" in texts[1]
    kept = [o for o in outputs if o["output_type"] == "display_data"]
    assert [dict(o["data"]) for o in kept] == [{}]
    assert ("error" if end else "stream") in [o["output_type"] for o in outputs]


def test_jobs_of_the_workflow_tell_the_launcher_and_show_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("VD_PROGRESS", str(tmp_path / "log"))
    shown, outputs = executed()
    assert not shown and [o["output_type"] for o in outputs] == ["stream"]
    assert "train  m/sft/seed-0  4/4  about 0 s left  loss 0.5" in (tmp_path / "log").read_text()


def test_outside_a_kernel_nothing_is_shown(capsys):
    line = progress.Line()
    line.start -= 10
    line("something")
    line.clear()
    assert line.handle is None and capsys.readouterr().out == ""
