"""Texts of others are shown as text: nothing of an attack lives in a notebook or a table."""

import html.parser
import re

import matplotlib
import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter, MarkdownExporter

from vd import paths
from vd.figures import data_plots, plots, style, tables
from vd.figures.plots import STANCES
from vd.store import files, shown
from vd.store.shown import excerpt
from vd.workflow import notebooks

ATTACKS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(2)</script>",
    "<iframe src='javascript:alert(3)'></iframe>",
    "</pre></code></div><svg onload=alert(4)>",
    "` **bold** `",
    "```\n<b onclick=alert(5)>x</b>\n```",
    "[link](javascript:alert(6)) ![image](http://evil.example/x.png)",
    "<http://evil.example> http://evil.example",
    r"$\href{javascript:alert(7)}{x}$ $$\unicode{x}$$ \(x\)",
    "\x1b[31mred\x1b]8;;http://evil.example\x07\u202egnidaer\u2066\0\x85\ud800",
    "| a | b |\n|---|---|",
    "_under_ *star* ~~gone~~ #head &amp; 50%",
]
ATTACK = " x ".join(ATTACKS)


class Live(html.parser.HTMLParser):
    """Collects what an attack would bring to life in a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        """Keep a tag or attribute that only an attack holds."""
        values = dict(attrs)
        if tag in ("script", "iframe", "svg", "b", "strong", "em", "del", "img") or (
            any(name.startswith("on") for name in values)
            or re.search("javascript:|evil", str(values.get("href")) + str(values.get("src")))
        ):
            self.found.append((tag, attrs))


def page(code):
    """A notebook with one cell as an HTML page, without its frame, and as Markdown."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(book, kernel_name="python3", timeout=600).execute()
    body, _ = HTMLExporter(template_name="basic", exclude_input=True).from_notebook_node(book)
    text, _ = MarkdownExporter(exclude_input=True).from_notebook_node(book)
    return body, text


def live(body):
    parser = Live()
    parser.feed(body)
    return parser.found


def test_the_attack_would_live_if_it_were_shown_as_before():
    attack = " ".join(ATTACKS[:4])
    code = f"from IPython.display import Markdown, display\ndisplay(Markdown({attack!r}))"
    assert {"img", "script", "iframe", "svg"} <= {tag for tag, _ in live(page(code)[0])}


def test_no_text_lives_in_an_exported_notebook():
    topics = [" ".join(text.replace("\ud800", "").split()) for text in ATTACKS]
    code = (
        "import pandas as pd\nfrom IPython.display import Markdown, display\n"
        "from vd.store import shown\n"
        f"for text in {ATTACKS!r}:\n    print(shown.whole(text, text))\n"
        "    print(shown.excerpt(text))\n"
        f"table = pd.DataFrame({{'topic': {topics!r}, 'a_b': '+0.40 [+0.31, +0.48], 0.20'}})\n"
        "display(Markdown(shown.markdown(table)))\n"
        "table.map(shown.visible).set_index('topic')"
    )
    body, text = page(code)
    assert not live(body)
    assert "tex2jax_ignore" in body, "tables hold no formulas"
    assert "\x1b" not in body and "\u202e" not in body and "\ud800" not in body
    assert r"\x1b[31mred\x1b]8;;" in body and r"\u202egnidaer" in body and r"\ud800" in body
    printed = [line for line in text.split("<div>")[0].splitlines() if "alert(" in line]
    assert printed and all(line.startswith(("    ", "|")) for line in printed), "code or a table"


@pytest.mark.parametrize("text", [*ATTACKS, ATTACK])
def test_shown_texts_are_whole_and_hold_nothing_invisible(text):
    for line in (shown.whole(text, "step 3"), excerpt(text, 10_000)):
        assert all(mark == "\n" or mark.isprintable() for mark in line)
        plain = "".join(mark for mark in text if mark.isprintable() and not mark.isspace())
        found = iter("".join(line.removeprefix("step 3:").split()))
        assert all(mark in found for mark in plain), "every letter is there, in its order"
    assert max(map(len, shown.whole(text).split("\n"))) <= shown.WIDTH
    assert len(excerpt(text)) <= 60 and "\n" not in excerpt(text)


def test_ordinary_text_stays_as_it_is():
    assert shown.whole("Né 字 👩‍💻!", "a") == "a: Né 字 👩‍💻!"
    assert shown.whole("one\n\n  two\r\nthree") == "one\n\n      two\n    three"
    table = pd.DataFrame({"topic": ["death-penalty"], "a → b": ["+0.40 [+0.31, +0.48], 0.20"]})
    assert shown.markdown(table) == table.to_markdown(index=False)


# tables and figures from names

TOPIC = "a|b <i>x</i> _y_ $z^$ 50% #1 & {c} ~ \\d"


def drifts(topic=TOPIC, run="m/sft_a/seed-0"):
    """A table of drifts as 07_tables reads it."""
    row = {
        "run": run,
        "magnitude": 0.1,
        "magnitude_lo": 0.0,
        "magnitude_hi": 0.2,
        "time": 0.5,
        "n_prompts": 40,
    }
    keys = [{"topic": t, "stance": s} for t in (topic, "all") for s in STANCES]
    return pd.DataFrame([row | key for key in keys])


def test_a_topic_breaks_no_table(tmp_path):
    tables.write(tables.drift_by_topic(drifts(), "support"), tmp_path / "t", "Drift.")
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}, "two columns in all rows"
    assert not re.search(r"<i>|(?<!\\)_y|(?<!>)\$", "\n".join(lines))
    latex = (tmp_path / "t.tex").read_text()
    for mark in r"\_y\_", r"\$z", r"50\%", r"\#1", r"\& \{c\}":
        assert mark in latex, mark
    assert pd.read_csv(tmp_path / "t.csv")["topic"].tolist() == [TOPIC, "all"]


def test_a_topic_breaks_no_figure(tmp_path):
    gap = drifts().rename(columns={"run": "dataset", "magnitude": "gap", "magnitude_lo": "lo"})
    gap = gap.rename(columns={"magnitude_hi": "hi"}).assign(n_pairs=3, dataset="my_$data^$.jsonl")
    figure, labels = data_plots.value_gap(gap), [excerpt(TOPIC, 30), "all"]
    style.save(figure, gap, tmp_path / "gap")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == labels
    path = drifts().rename(columns={"magnitude": "probability", "magnitude_lo": "lo"})
    path = path.rename(columns={"magnitude_hi": "hi"})
    path = path.merge(pd.DataFrame({"step": [0, 9]}), how="cross")
    style.save(plots.stances_over_steps(path), path, tmp_path / "steps")
    leaning = pd.DataFrame({"measure": ["acquiescence", "lean"]}).merge(path, how="cross")
    leaning = leaning[leaning["stance"] == "support"].rename(columns={"probability": "value"})
    leaning = leaning[leaning["topic"] == "all"]
    style.save(plots.acquiescence_lean(leaning), leaning, tmp_path / "leaning")
    style.save(plots.drift_by_topic(drifts()), path, tmp_path / "topics")
    assert not matplotlib.rcParams["text.parse_math"]


@pytest.mark.parametrize("sets", [[], ["empty"], ["full", "empty"]])
def test_a_value_gap_of_nothing_is_drawn_and_says_so(tmp_path, sets):
    gap = drifts().rename(columns={"run": "dataset", "magnitude": "gap", "magnitude_lo": "lo"})
    gap = gap.rename(columns={"magnitude_hi": "hi"})
    full = gap.assign(dataset="full", n_pairs=7)
    none = gap[gap["topic"] == "all"].assign(dataset="empty", n_pairs=0, gap=None, lo=None, hi=None)
    table = pd.concat([full, none])
    table = table[table["dataset"].isin(sets)].astype({"gap": float, "lo": float, "hi": float})
    files.write_table(table, tmp_path / "gap.csv")
    figure = data_plots.value_gap(pd.read_csv(tmp_path / "gap.csv"))
    said = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert said == [[] if name == "full" else ["no pair was judged"] for name in sets or [""]]
    style.save(figure, table, tmp_path / "figure")


def test_a_stance_profile_of_nothing_is_drawn_and_says_so(tmp_path):
    rows = [("a", "reply", s, 1 / 3, 5) for s in STANCES]
    rows += [("b", "reply", s, None, 0) for s in STANCES]
    names = ["dataset", "side", "stance", "probability", "n_replies"]
    figure = data_plots.stance_profile(pd.DataFrame(rows, columns=names))
    assert [text.get_text() for text in figure.axes[0].texts] == ["n = 5", "n = 0"]
    style.save(figure, pd.DataFrame(rows), tmp_path / "profile")


# notebooks


@pytest.mark.parametrize("notebook", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda n: n.stem)
def test_notebooks_give_no_text_of_others_to_markdown(notebook):
    """Markdown is made of tables that escape their cells, or of our own words."""
    for source in notebooks.code_cells(notebook):
        for made in re.findall(r"Markdown\((.*)\)", source):
            ours = notebook.stem == "08_findings" and "to_markdown" in made
            assert made.startswith("shown.markdown(") or ours, made
