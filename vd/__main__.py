"""`python -m vd STUDY` says what a study will do; its options do what belongs to no single run.

See `--help`.
"""

import argparse
import os
import re
import sys

from vd import paths
from vd.study import inputs
from vd.study.file import StudyError
from vd.study.load import Study, load_study

SHOWN = 20  # differences that are printed


def main() -> None:
    """Do what the options say; a mistake in study (status 1) or options (2) is one line."""
    parser = argparse.ArgumentParser(
        prog="python -m vd",
        description="Without options: what the study will do.",
    )
    # argparse alone would print its usage first, several lines for one mistake
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message}; see --help\n")
    parser.add_argument("study", help="a file of notebooks/configs, without its ending")
    parser.add_argument("--dry-run", action="store_true", help="with --judge: only say its cost")
    modes, on = parser.add_mutually_exclusive_group(), {"action": "store_true"}
    modes.add_argument("--check-data", help="find out whether its data sets can be had", **on)
    modes.add_argument("--where", help="where its results are", **on)
    modes.add_argument("--judge", help="ask the API judge (judge.api) about all replies", **on)
    modes.add_argument("--sheet", type=_count, metavar="N", help="draw N replies to be labelled")
    modes.add_argument("--tables", help="make tables and figures anew and compare them", **on)
    modes.add_argument("--fetch", help="get its models and data, for jobs without network", **on)
    modes.add_argument("--plan", help="what it costs: hours, memory, disk, dollars", **on)
    modes.add_argument("--record", help="pack its runs, without weights, for git", **on)
    modes.add_argument("--report", help="write it as one page that works offline", **on)
    parser.add_argument("--gpus", type=_count, default=1, metavar="N", help="with --plan")
    parser.add_argument(
        "--gpu", default="h100", metavar="CARD", help="with --plan: a100, h100, ..."
    )
    options = parser.parse_args()
    if options.dry_run and not options.judge:
        parser.error("--dry-run says what --judge would cost; add --judge")
    try:
        study = load_study(options.study)
    except StudyError as error:
        sys.exit(f"{error}")
    if options.where:
        print(f"figures  {_short(paths.figures(study.name))}/")
        print(f"tables   {_short(paths.results(study.name))}/")
    elif options.check_data:
        _check_data(study)
    elif options.judge:
        _judge(study, options.dry_run)
    elif options.tables:
        _tables(study)
    elif options.fetch:
        _fetch(study)
    elif options.plan:
        _bill(study, options.gpus, options.gpu)
    elif options.record:
        _record(study)
    elif options.report:
        _report(study)
    elif options.sheet:
        _sheet(study, options.sheet)
    else:
        _plan(study)


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of replies; write one above 0")
    return int(text)


def _plan(study: Study) -> None:
    for name, entry in study.recipes.items():
        print(f"recipe {name}: {entry['recipe']}, {_by_whom(entry)}")
    for run in study.runs().values():
        depth = 0 if run.is_base else run.lineage.count("/") + 1
        what, on = run.method or "as it is", run.training
        what += f", {on.length} on {on.data}" if on else ""
        how = "rewritten" if hasattr(run.settings, "rewriter") else "scored"
        what += f", {how} by {run.scorer}" if run.scorer else ""
        print(f"{'  ' * depth}{run.id}: {what}")
    print(f"then probe, judge, drift, figures and tables in {_short(paths.results(study.name))}/")
    for name in inputs.to_be_made(study):
        print(f"{name} is not there yet; make it first")


def _by_whom(entry: dict) -> str:
    writes = entry.get("writer")
    return f"written by {writes}" if writes else f"on the pairs of {entry.get('pairs')}"


def _check_data(study: Study) -> None:
    # Imported in the functions: saying what a study will do needs none of the heavy libraries.
    from vd.data.checks import check_data

    try:
        check_data(study)
    except (ValueError, ConnectionError) as error:
        sys.exit(f"{paths.config(study.name)}: {error}")


def _judge(study: Study, dry_run: bool) -> None:
    """Fill the cache with the API judge's answers on the drawn replies of all runs, after a line
    about its cost.
    """
    import pandas as pd

    from vd.judging.api import load_api_judge
    from vd.servers.client import ServerError
    from vd.servers.database import CacheError
    from vd.store.progress import Progress

    try:
        judge = load_api_judge(study)
        if judge is None:
            sys.exit(f"{paths.config(study.name)}: judge.api: missing; write at least its model")
        # Run by run, as 04_judge draws: strata are steps and topics, which runs have in common.
        tables = [judge.drawn(pd.read_parquet(file)) for file in _responses(study)]
        replies = pd.concat(tables, ignore_index=True)
        print(judge.cost_line(replies))
        if dry_run:
            return
        # no launcher reads a file of progress here, so it goes to the terminal
        os.environ.setdefault("VD_PROGRESS", "/dev/stderr")
        judged = judge.judge(replies, Progress("judge", study.name, len(replies)))
    except (StudyError, ServerError, CacheError) as error:
        sys.exit(f"{error}")
    # each answer is kept as it arrives (vd/servers/kept.py), so nothing has been paid for in vain
    except KeyboardInterrupt:
        sys.exit("interrupted; answers so far are kept, run again to go on")
    print(", ".join(f"{n:,} {status}" for status, n in judged["status"].value_counts().items()))


def _sheet(study: Study, n: int) -> None:
    import pandas as pd

    from vd.judging import sheets

    if n < 1:
        sys.exit(f"--sheet {n}: write how many replies to draw, 1 or more")
    file = paths.label_sheet(study.name)
    try:
        drawn = sheets.write_sheet(pd.concat(map(pd.read_parquet, _responses(study))), n, file)
    except FileExistsError as error:
        sys.exit(f"{error}")
    print(
        f"{drawn} replies in {_short(file)}: fill in the column label (support, neutral, oppose), "
        "then run 04_trust"
    )


def _tables(study: Study) -> None:
    from vd.workflow.rebuild import rebuild

    try:
        found = rebuild(study)
    except (FileNotFoundError, RuntimeError) as error:
        sys.exit(f"{error}")
    lines = [f"{_short(file)}: {said}" for file, differing in found.items() for said in differing]
    for line in lines[:SHOWN]:
        print(line)
    if lines:
        wrong = sum(map(bool, found.values()))
        sys.exit(f"{len(lines)} differences in {wrong} of {len(found)} files")
    print(f"{len(found)} files are as in print")


def _fetch(study: Study) -> None:
    from vd.data.fetch import fetch

    try:
        for what in fetch(study):
            print(what, flush=True)
    except (ValueError, ConnectionError, OSError) as error:
        sys.exit(f"{error}")
    print("jobs need no network now: HF_HUB_OFFLINE=1 forbids it")


def _bill(study: Study, gpus: int, card: str) -> None:
    from vd.costs.bill import bill, card_of

    try:
        plan, wrong = bill(study, card_of(card), gpus)
    except LookupError as error:
        sys.exit(f"{error.args[0]}")
    print(plan)
    if wrong:
        print("\nThis cannot run as it is written:")
        sys.exit("\n".join(wrong))


def _record(study: Study) -> None:
    from vd.evaluations import asked
    from vd.store.recorded import pack
    from vd.workflow.rebuild import needed

    if study.asks_vprism:
        sys.exit(f"{study.name}: its probes quote texts of others, which stay out of git")
    try:
        file = pack(study.name, [*needed(study), *asked.of_our_prompts(study)])
    except FileNotFoundError as error:
        sys.exit(f"{error.filename}: is not there; run ./reproduce.sh {study.name} first")
    print(f"{_short(file)}, {file.stat().st_size / 1e6:.1f} MB")


def _report(study: Study) -> None:
    from vd.figures.report import write_report

    try:
        file = write_report(study)
    except FileNotFoundError as error:
        sys.exit(f"{error}")
    print(f"{_short(file)}, {file.stat().st_size / 1e6:.1f} MB")


def _responses(study: Study) -> list:
    files = [file for run in study.runs() if (file := paths.responses(study.name, run)).exists()]
    # replies of some runs suffice: a study may be half done
    if not files:
        sys.exit(
            f"{_short(paths.results(study.name))}: no replies yet; "
            f"run ./reproduce.sh {study.name} first"
        )
    return files


def _short(path) -> str:
    return os.path.relpath(path)


main()
