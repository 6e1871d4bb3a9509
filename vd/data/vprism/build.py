"""V-PRISM: value-laden questions on the topics of a study, built from the opening prompts of PRISM
(arXiv 2404.16019).

Which steps the paper took is known to us from notes, how it took them hardly. A1_vprism takes these
functions in order:

    opening_prompts -> embed -> clusters -> name_clusters -> value_laden -> confirm -> rewrite ->
    duplicates -> draw

`settings.writer`, a model behind an OpenAI-compatible API, confirms and rewrites; without one,
labels kept in vd/corpora/prism_labels.jsonl confirm, and the rules of questions.py rewrite. Slow
steps and paid answers are kept in the cache folder, under a hash of what they depend on, so an
interrupted build goes on where it was.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from vd import paths
from vd.data import sets
from vd.data.probes import draw_probes
from vd.data.rows import free_name
from vd.models import embeddings, locate
from vd.store import files, fingerprint
from vd.store.formats import stem
from vd.study.settings import VPrismSettings

WORDS = (3, 60)  # of a prompt that is kept
COLUMNS = ["prompt_id", "topic", "prompt", "polarity"]
COLUMNS += [
    "original",
    "form",
    "rewritten_by",
    "confirmed_by",
    "probability",
    "cluster",
    "embedding",
    "source",
]


def opening_prompts(settings: VPrismSettings) -> tuple[pd.DataFrame, Counter]:
    """Prompts of the sources, id, prompt and source, and how many were left out for which reason.

    A source that knows topic and polarity of its prompts, as ours do, keeps them (known_topic,
    polarity). Raises ValueError if too few prompts are left to be clustered.
    """
    parts = [_prompts(name, settings.filters) for name in settings.source]
    table = pd.concat(parts, ignore_index=True).rename(columns={"topic": "known_topic"})
    ids = {}
    for name, source in zip(table["id"], table["source"], strict=True):  # may be numbered alike
        ids[free_name(f"{stem(source)}-{name}", ids) if name in ids else name] = source
    table["id"] = list(ids)
    # on one line, so that prompts which differ in white space alone count as one
    table["prompt"] = table["prompt"].map(lambda text: " ".join(text.split()))
    words = table["prompt"].str.split().str.len()
    # one reason for each row, the last that applies: kept and dropped sum to what was read
    reason = pd.Series(None, table.index, dtype=object)
    reason[table["prompt"].str.lower().duplicated()] = "twice"
    reason[words > WORDS[1]] = "too long"
    reason[words < WORDS[0]] = "too short"
    left, dropped = table[reason.isna()].reset_index(drop=True), Counter(reason.dropna())
    # UMAP needs more points than components, HDBSCAN a whole cluster
    needed = max(settings.n_components + 2, settings.min_cluster_size, 4)
    if len(left) < needed:
        said = f"{len(left)} prompts are left ({dict(dropped)}), {needed} are needed"
        fix = "name more under vprism.source, or lower n_components and min_cluster_size"
        raise ValueError(f"{', '.join(settings.source)}: {said}; {fix}")
    return left, dropped


def _prompts(name: str, filters: dict) -> pd.DataFrame:
    """Prompts of one source: id, prompt, topic, polarity, source."""
    table = sets.corpus(name, filters)
    if "prompt_id" in table and table["prompt_id"].notna().all():  # so probes keep their names
        table["id"] = table["prompt_id"].astype(str)
    # a source that knows neither topics nor polarities gets the columns, empty
    table = table.reindex(columns=["id", "prompt", "topic", "polarity"]).assign(source=name)
    given = table["polarity"].dropna()
    if not given.isin([-1, 0, 1]).all():
        row = table["id"][given.index[~given.isin([-1, 0, 1])][0]]
        raise ValueError(f"data set '{name}': {row}: polarity: write 1, -1, 0 or nothing")
    return table


def embed(settings: VPrismSettings, texts: pd.Series) -> np.ndarray:
    """Sentence embeddings (N, D) of unit length, cached."""
    # by what the encoder holds and not by where it lies, so a moved cache serves on
    how = settings.embedding.model_dump(exclude={"source"})
    key = [how, locate.identity(settings.embedding), *texts]

    def make() -> pd.DataFrame:
        return pd.DataFrame(embeddings.embed(texts, settings.embedding))

    return _cached("embed", key, make).to_numpy()


def clusters(settings: VPrismSettings, vectors: np.ndarray) -> pd.Series:
    """Cluster of each text, -1 for outliers: UMAP, then HDBSCAN, both as PRISM sets them.

    Cached.
    """

    def make() -> pd.DataFrame:
        from sklearn.cluster import HDBSCAN

        reduced = _umap(vectors, settings, settings.n_components, min_dist=0.0)
        # scikit-learn warns unless `copy` is set, since its default will change
        found = HDBSCAN(
            min_cluster_size=settings.min_cluster_size, cluster_selection_method="eom", copy=True
        )
        return pd.DataFrame({"cluster": found.fit_predict(reduced)})

    keys = settings.model_dump(include={"n_neighbors", "n_components", "min_cluster_size", "seed"})
    # both libraries change their results between versions
    versions = [version(package) for package in ("umap-learn", "scikit-learn")]
    return _cached("clusters", [keys, versions, _hash(vectors)], make)["cluster"]


def plane(settings: VPrismSettings, vectors: np.ndarray) -> pd.DataFrame:
    """A map of the texts: x and y, by UMAP. For looking at; nothing is computed from it. Cached."""
    # without what changes the clusters alone, so that the map is not made again for it
    keys = settings.model_dump(include={"n_neighbors", "seed"})

    def make() -> pd.DataFrame:
        return pd.DataFrame(_umap(vectors, settings, 2, min_dist=0.1), columns=["x", "y"])

    return _cached("plane", [keys, version("umap-learn"), _hash(vectors)], make)


def name_clusters(
    settings: VPrismSettings, prompts: pd.Series, vectors: np.ndarray, cluster: pd.Series
) -> pd.DataFrame:
    """What each cluster is about: cluster, size, words (its five highest c-TF-IDF terms), topic,
    similarity.

    c-TF-IDF is tf * log(1 + A / f), with the term's frequency tf in the cluster and f in all, and
    the mean number A of terms per cluster (Grootendorst 2022, arXiv 2203.05794). The topic is the
    study topic whose probes' centre is closest to the cluster's, missing below `topic_similarity`.
    Outliers have neither words nor topic.
    """
    names = sorted(set(cluster) - {-1})
    if not names:
        raise ValueError(
            f"no cluster among {len(prompts)} prompts; lower vprism.min_cluster_size in the study"
        )
    terms = _terms([" ".join(prompts[cluster == name]) for name in names])
    probes = sets.corpus("probes")
    known = embed(settings, probes["prompt"])
    centres = {
        topic: _centre(known[rows]) for topic, rows in probes.groupby("topic").indices.items()
    }
    # outliers have a row too, so that sizes sum to the number of prompts
    rows = [
        {
            "cluster": -1,
            "size": int((cluster == -1).sum()),
            "words": "",
            "topic": None,
            "similarity": None,
        }
    ]
    for name, words in zip(names, terms, strict=True):
        centre = _centre(vectors[cluster == name])
        # the cosine, since centres are of unit length
        closeness = {topic: float(centre @ other) for topic, other in centres.items()}
        topic = max(closeness, key=closeness.get)
        about = topic if closeness[topic] >= settings.topic_similarity else None
        rows.append({"cluster": name, "size": int((cluster == name).sum()), "words": words})
        rows[-1] |= {"topic": about, "similarity": closeness[topic]}
    return pd.DataFrame(rows)


def _terms(texts: list[str]) -> list[str]:
    """The five highest c-TF-IDF terms of each text; fewer where it has fewer Latin words."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(stop_words="english", token_pattern=r"(?u)\b[a-zA-Z]{3,}\b")
    # CountVectorizer raises where no text has a word, such as in Chinese
    if not any(map(counter.build_analyzer(), texts)):
        return [""] * len(texts)
    counts = counter.fit_transform(texts).toarray()
    # clusters differ in size; shares make their terms comparable
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # A and f of `name_clusters`: mean number of terms per cluster, and a term's count in all
    weights = share * np.log(1 + counts.sum() / len(texts) / counts.sum(axis=0))
    terms = counter.get_feature_names_out()
    order = (-weights).argsort(axis=1)[:, :5]
    # the order ends in terms that a text lacks, of weight 0
    best = [[i for i in order[text] if weights[text, i]] for text in range(len(texts))]
    return [", ".join(terms[words]) for words in best]


def value_laden(settings: VPrismSettings, vectors: np.ndarray) -> np.ndarray:
    """Probability (N,) that a text raises a matter on which people disagree because of their
    values.

    A logistic regression on sentence embeddings, trained on the embedded corpus `openers`.
    """
    from sklearn.linear_model import LogisticRegression

    openers = sets.corpus("openers")
    model = LogisticRegression(C=10, class_weight="balanced", max_iter=3000)
    model.fit(embed(settings, openers["prompt"]), openers["value_laden"].astype(bool))
    return model.predict_proba(vectors)[:, 1]


def duplicates(settings: VPrismSettings, vectors: np.ndarray) -> np.ndarray:
    """Group (N,) of each text, by single linkage on the cosine.

    Texts are in one group if a chain of pairs with at least `duplicate_similarity` leads from one
    to the other.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    # single linkage: groups are the connected components of the graph of near pairs
    pairs = [[], []]
    # block by block, since all N x N cosines of a large source would not fit into memory
    for start in range(0, len(vectors), 1000):
        near = np.argwhere(
            vectors[start : start + 1000] @ vectors.T >= settings.duplicate_similarity
        )
        pairs[0].append(near[:, 0] + start)
        pairs[1].append(near[:, 1])
    rows, columns = map(np.concatenate, pairs)
    # False: undirected
    return connected_components(
        coo_matrix((np.ones(len(rows)), (rows, columns)), [len(vectors)] * 2), False
    )[1]


def draw(settings: VPrismSettings, distinct: pd.DataFrame) -> pd.DataFrame:
    """At most `per_topic` questions of each topic, see `vd.data.probes.draw_probes`."""
    return draw_probes(distinct, settings.per_topic, settings.seed)


def write(settings: VPrismSettings, drawn: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Write the probe set as JSON lines, each row with its provenance (`COLUMNS`).

    Returns the table.
    """
    # load_probes reads prompt_id and prompt: the question, and beside it what a person wrote
    table = drawn.assign(prompt_id=drawn["id"], original=drawn["prompt"], prompt=drawn["question"])
    table = table.assign(embedding=settings.embedding.source)[COLUMNS]
    rows = [json.dumps(row, ensure_ascii=False) for row in table.to_dict("records")]
    files.write_text("\n".join(rows) + "\n", file)
    return table


def _umap(
    vectors: np.ndarray, settings: VPrismSettings, n_components: int, min_dist: float
) -> np.ndarray:
    from umap import UMAP

    # with a seed UMAP takes one thread in any case, and warns unless told so
    how = dict(
        n_neighbors=settings.n_neighbors, metric="cosine", random_state=settings.seed, n_jobs=1
    )
    return UMAP(n_components=n_components, min_dist=min_dist, **how).fit_transform(vectors)


def _centre(vectors: np.ndarray) -> np.ndarray:
    centre = vectors.mean(axis=0)
    return centre / np.linalg.norm(centre)


def _hash(vectors: np.ndarray) -> str:
    # hashlib takes C-contiguous arrays only
    return hashlib.sha256(np.ascontiguousarray(vectors)).hexdigest()


def _cached(step: str, key: list, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """What `make`, of the function `step`, gives, kept under a hash of `key` and of its code."""
    code = fingerprint.code(f"{__name__}.{step}")
    name = fingerprint.digest(json.dumps([key, code], default=str))
    file = paths.cache() / "vprism" / f"{step}-{name}.parquet"
    if not file.exists():
        table = make()
        files.write_table(table.set_axis(table.columns.astype(str), axis=1), file)
    # also what was made just now, so that a first call gives what later ones give
    return pd.read_parquet(file)
