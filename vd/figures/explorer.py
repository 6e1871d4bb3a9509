"""Replies and stances of a study to look through in JupyterLab: what was said, when, and how that
changed.

    Explorer("pocket").show()

Choose a study, a run, a topic or one prompt, and move the checkpoint: the picture shows the stances
over training, the page beneath it what the model said there and at the checkpoint before. Marked
are replies whose stance flipped. A second run beside the first answers the same prompts.
"""

import html
import io
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from vd import paths
from vd.figures.replies import judged
from vd.figures.style import COLOURS, MARKERS
from vd.lineages import short_names
from vd.stances import STANCES, P
from vd.store import recorded
from vd.store.recorded import found
from vd.store.shown import excerpt, visible
from vd.study.load import load_study

ALL, NONE = "(all)", "(none)"
SHOWN = 12  # prompts on a page
ORDERS = {"as asked": "place", "largest change first": "change"}


def studies() -> list[str]:
    """Studies whose judged replies lie in results/ or are recorded there, in alphabetical order."""
    folders = [place for place in paths.results("").iterdir() if paths.config(place.name).exists()]
    return sorted(place.name for place in folders if _judged(place.name))


def _judged(study: str) -> bool:
    return any(recorded.folder(study).rglob("stances.parquet"))


def missing(study: str, runs: list[str]) -> list[Path]:
    """Stances of these runs that are neither here nor recorded."""
    files = [paths.stances(study, run) for run in runs]
    return [file for file in files if not found(file, study).exists()]


@lru_cache(maxsize=8)
def replies_of(study: str, run: str) -> pd.DataFrame:
    """All replies of a run with their stances: step, prompt_id, topic, sample, prompt, response,
    the three probabilities, label, `before` and `response_before` (those of the same prompt and
    sample at the checkpoint before), `flipped`, and `change`, how far net stance has moved on that
    prompt from the first to the last checkpoint.
    """
    table = judged(study, run)
    table = table.sort_values(["sample", "step"], kind="stable").reset_index(drop=True)
    of_prompt = table.groupby(["prompt_id", "sample"], sort=False)
    table["before"] = of_prompt["label"].shift()
    table["response_before"] = of_prompt["response"].shift()
    table["flipped"] = table["before"].notna() & (table["before"] != table["label"])
    net = (table["p_support"] - table["p_oppose"]).groupby([table["prompt_id"], table["step"]])
    path = net.mean().unstack("step")
    change = path.iloc[:, -1] - path.iloc[:, 0]
    places = {name: i for i, name in enumerate(table["prompt_id"].unique())}
    return table.assign(change=table["prompt_id"].map(change), place=table["prompt_id"].map(places))


def chosen(
    table: pd.DataFrame, topic: str = ALL, prompt: str = ALL, word: str = ""
) -> pd.DataFrame:
    """The replies to a topic's prompts, or to one, of which some reply or the prompt holds a
    word.
    """
    rows = table if topic == ALL else table[table["topic"] == topic]
    rows = rows if prompt == ALL else rows[rows["prompt_id"] == prompt]
    if word:
        hit = rows["prompt"].str.contains(word, case=False, regex=False)
        hit |= rows["response"].str.contains(word, case=False, regex=False)
        rows = rows[rows["prompt_id"].isin(rows.loc[hit, "prompt_id"])]
    return rows


def trajectory(tables: dict[str, pd.DataFrame], step: int) -> Figure:
    """Mean stances of each run's replies over steps, a panel per run, with a line at `step`."""
    figure, axes = plt.subplots(
        1, len(tables), figsize=(4.2 * len(tables), 2.2), sharey=True, squeeze=False
    )
    for ax, (run, rows) in zip(axes[0], tables.items(), strict=True):
        means = rows.groupby("step")[P].mean()
        for stance, column in zip(STANCES, P, strict=True):
            style = {"color": COLOURS[stance], "marker": MARKERS[stance], "markersize": 4}
            ax.plot(means.index, means[column], label=stance, **style)
        ax.axvline(_at(rows, step), color="black", linewidth=0.8)
        ax.set(ylim=(0, 1), title=run, xlabel="training step")
    axes[0][0].set_ylabel("mean probability")
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def page(tables: dict[str, pd.DataFrame], step: int, order: str = "place") -> str:
    """The replies at a checkpoint and at the one before as HTML, runs side by side, all texts as
    text.
    """
    first = next(iter(tables.values()))
    prompts = first.drop_duplicates("prompt_id")
    if order == "change":
        prompts = prompts.sort_values("change", key=abs, ascending=False, kind="stable")
    found, parts = len(prompts), []
    for asked in prompts.head(SHOWN).itertuples():
        cells = "".join(_cell(rows, asked.prompt_id, step) for rows in tables.values())
        title = f"{html.escape(visible(asked.prompt))} <small>({html.escape(asked.topic)})</small>"
        parts.append(f"<p><b>{title}</b></p><div style='display:flex;gap:1.5em'>{cells}</div>")
    said = f"{min(found, SHOWN)} of {found} prompts" if found else "no prompt holds that word"
    return f"<p><small>{said}</small></p>" + "".join(parts)


def _cell(rows: pd.DataFrame, prompt: str, step: int) -> str:
    """What one run says to one prompt at a checkpoint, and what it said before."""
    own = rows[(rows["prompt_id"] == prompt) & (rows["step"] == _at(rows, step))]
    said = []
    for reply in own.itertuples():
        mark = " <b>flipped</b>" if reply.flipped else ""
        said.append(f"<div>{_text(reply.response, reply.label)}{mark}</div>")
        if isinstance(reply.before, str):
            before = _text(reply.response_before, reply.before)
            said.append(f"<div style='opacity:.6;margin-left:1em'>before: {before}</div>")
    return f"<div style='flex:1'>{''.join(said)}</div>"


def _text(reply: str, stance: str) -> str:
    colour = COLOURS.get(stance, "black")
    return f"<span style='color:{colour}'>{stance}</span>: {html.escape(visible(reply))}"


def _at(rows: pd.DataFrame, step: int) -> int:
    """The last checkpoint of a run that is not after `step`."""
    steps = rows["step"].unique()
    return int(max((s for s in steps if s <= step), default=steps.min()))


class _Live(widgets.VBox):
    """A box that says so where nothing is live, in place of all that it holds."""

    def __repr__(self):
        return "the explorer, which is live in JupyterLab"


class Explorer:
    """The controls, the picture and the page; every change of a control draws both anew."""

    def __init__(self, study: str, run: str | None = None):
        """Begin with a study, and a run of it or the first that was trained."""
        self.study = widgets.Dropdown(options=sorted({*studies(), study}), value=study)
        self.run, self.other = widgets.Dropdown(), widgets.Dropdown()
        self.topic, self.prompt = widgets.Dropdown(), widgets.Dropdown()
        self.word = widgets.Text(placeholder="a word", continuous_update=False)
        self.order = widgets.Dropdown(options=ORDERS)
        self.step = widgets.SelectionSlider(options=[0], continuous_update=False)
        self.picture, self.page = widgets.Image(format="png"), widgets.HTML()
        self._quiet = False
        self.study.observe(lambda _: self._of_study(), "value")
        self.run.observe(lambda _: self._of_run(), "value")
        self.topic.observe(lambda _: self._of_topic(), "value")
        for control in (self.other, self.prompt, self.word, self.order, self.step):
            control.observe(lambda _: self.draw(), "value")
        self._of_study(run)

    def show(self) -> None:
        """Display it."""
        named = {
            "study": self.study,
            "run": self.run,
            "beside it": self.other,
            "topic": self.topic,
            "prompt": self.prompt,
            "with the word": self.word,
            "order": self.order,
            "checkpoint": self.step,
        }
        wide = widgets.Layout(width="7em")
        rows = [
            widgets.HBox([widgets.Label(name, layout=wide), box]) for name, box in named.items()
        ]
        grid = widgets.GridBox(
            rows, layout=widgets.Layout(grid_template_columns="repeat(2, minmax(20em, 1fr))")
        )
        display(_Live([grid, self.picture, self.page]))

    def draw(self) -> None:
        """Draw picture and page anew."""
        if self._quiet:
            return
        runs = dict.fromkeys(run for run in (self.run.value, self.other.value) if run != NONE)
        names = short_names(pd.Series(list(runs)))
        what = self.topic.value, self.prompt.value, self.word.value
        tables = {
            name: chosen(replies_of(self.study.value, run), *what)
            for name, run in zip(names, runs, strict=True)
        }
        there = all(len(rows) for rows in tables.values())
        if there:
            figure, data = trajectory(tables, self.step.value), io.BytesIO()
            figure.savefig(data, format="png", dpi=150)  # twice what is shown: sharp on any screen
            self.picture.layout.width = f"{figure.get_size_inches()[0]:.1f}in"
            plt.close(figure)
            self.picture.value = data.getvalue()
        self.picture.layout.display = "" if there else "none"
        self.page.value = page(tables, self.step.value, self.order.value)

    def _of_study(self, run: str | None = None) -> None:
        runs = load_study(self.study.value).policies()
        files = {run: paths.stances(self.study.value, run) for run in runs}
        there = [run for run, file in files.items() if found(file, self.study.value).exists()]
        trained = [name for name in there if "/base/" not in name] or there
        with self._silent():
            self.run.options, self.other.options = there, [NONE, *there]
            self.run.value, self.other.value = run or trained[0], NONE
        self._of_run()

    def _of_run(self) -> None:
        if self._quiet:
            return
        table, topic = replies_of(self.study.value, self.run.value), self.topic.value
        topics, steps = [ALL, *table["topic"].unique()], sorted(map(int, table["step"].unique()))
        with self._silent():
            self.topic.options, self.step.options = topics, steps
            self.topic.value = topic if topic in topics else ALL
            self.step.value = steps[-1]
        self._of_topic()

    def _of_topic(self) -> None:
        if self._quiet:
            return
        rows = chosen(replies_of(self.study.value, self.run.value), self.topic.value)
        asked = rows.drop_duplicates("prompt_id")
        with self._silent():
            named = zip(asked["prompt"].map(excerpt), asked["prompt_id"], strict=True)
            self.prompt.options, self.prompt.value = [(ALL, ALL), *named], ALL
        self.draw()

    @contextmanager
    def _silent(self):
        """Controls may be changed within it without drawing for each."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False
