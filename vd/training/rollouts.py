"""What methods share whose policy writes while it trains: prompts, and rewards of replies."""

from vd.data import sets
from vd.study.runs import Run
from vd.training import scorers, trainer


def prompts(run: Run, tokenizer, columns: tuple[str, ...] = ()):
    """The run's pairs with the ids of their prompts in `input_ids`, and further columns of its
    data, as `row_<name>`, without those that leave no room for a rollout within `max_length`.
    """
    s, pairs = run.settings, sets.preferences(run.settings, run.seed)
    # encode wants a reply too; the prompt's tokens are the same with either
    ids = [trainer.encode(tokenizer, row["prompt"], row["chosen"])[0] for row in pairs]
    if columns:
        table = sets.draw_rows(s, run.seed, *columns)
        for name in columns:
            pairs = pairs.add_column(f"row_{name}", table[name].tolist())
    room = s.max_length - s.response_length
    return pairs.add_column("input_ids", ids).filter(lambda row: len(row["input_ids"]) <= room)


def rewards(
    run: Run, scorer, tokenizer, asked: list[list[int]], replies: list[list[int]]
) -> list[float]:
    """Scores of tokenised replies to tokenised prompts, less the run's `missing_eos_penalty` for
    those that do not end.
    """
    found = scorers.scores(scorer, tokenizer, asked, replies).tolist()
    penalty, end = run.settings.missing_eos_penalty or 0.0, [tokenizer.eos_token_id]
    return [score - penalty * (ids[-1:] != end) for score, ids in zip(found, replies, strict=True)]
