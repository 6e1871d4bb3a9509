"""V-PRISM's clusters against what others say belongs together."""

import numpy as np
import pandas as pd
import yaml

from vd.data.reading import mirror
from vd.store.formats import lines
from vd.study.settings import VPrismSettings


def known_clusters(settings: VPrismSettings, prompts: pd.DataFrame) -> dict[str, pd.Series]:
    """What others say belongs together, to compare with, missing where they say nothing; index of
    `prompts`.

    For PRISM, where the mirror has its files: `topics`, the topic clusters of the texts that PRISM
    prints for each, and `near-duplicates`, the groups of its file clusters.csv, which are far
    smaller than topics. Else the sources' topics.
    """
    if settings.source != ["prism"]:
        return {"topics": prompts["known_topic"]} if prompts["known_topic"].notna().any() else {}
    folder = mirror() / "prism" if mirror() else None
    # a mirror may hold PRISM's conversations alone
    if not folder or not all(
        (folder / name).exists() for name in ("clusters.csv", "cluster_names.csv")
    ):
        return {}
    try:
        # by text, in lower case and on one line, since the file gives texts and no ids
        named = {
            " ".join(text.lower().split()): row["gpt_description"].strip('"')
            for row in lines(folder / "cluster_names.csv")
            # a list as Python prints it; YAML reads both kinds of quotation marks, JSON one
            for text in yaml.safe_load(row["top_texts"])
            if row["cluster_id"] != "-1"
        }
        rows = lines(folder / "clusters.csv")
        # conversation c7 is prism-7, as vd/data/public/prism.py and IssueBench name it
        groups = {f"prism-{row['conversation_id'][1:]}": row["cluster_membership"] for row in rows}
    except (KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        fix = "take PRISM's own clusters.csv and cluster_names.csv, or none"
        raise ValueError(f"{folder}: not as PRISM prints its clusters ({said}); {fix}") from None
    return {
        "topics": prompts["prompt"].str.lower().map(named),
        "near-duplicates": prompts["id"].map(groups),
    }


def agreement(known: pd.Series, found: pd.Series) -> dict:
    """How far two clusterings agree: prompts, ari (adjusted Rand index), nmi (normalised mutual
    information).

    `prompts` counts those on which both say something; without any, ari and nmi are NaN.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    # PRISM prints texts for some prompts of a cluster only
    both = known.notna()
    if not both.any():
        return {"prompts": 0, "ari": np.nan, "nmi": np.nan}
    pair = known[both].astype(str), found[both].astype(str)
    return {
        "prompts": int(both.sum()),
        "ari": adjusted_rand_score(*pair),
        "nmi": normalized_mutual_info_score(*pair),
    }
