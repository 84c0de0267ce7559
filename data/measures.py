"""Measures of a whole set of items, which no mean over items is: a ratio of sums, a correlation.

Reads and writes nothing. A benchmark's items carry the parts (`evaluations.metrics`); the leaderboard shows the measure in
their place, and its interval resamples items and measures anew. Adding one: its function, and its line in MEASURES."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measure:
    """One measure: names of the parts that each item must carry, and the number that arrays over items make.

    `compute` takes a float64 array over items for each name (NaN: null) and gives NaN where the set has no value."""

    needs: tuple[str, ...]
    compute: Callable[[Mapping[str, np.ndarray]], float]


def bits_per_byte(parts: Mapping[str, np.ndarray]) -> float:
    """Bits of all items over bytes of all items, so that long documents count by their length.

    >>> bits_per_byte({"bits": np.array([30.0, 10.0]), "bytes": np.array([10.0, 6.0])})
    2.5
    """
    held = ~(np.isnan(parts["bits"]) | np.isnan(parts["bytes"]))
    length = parts["bytes"][held].sum()
    return float(parts["bits"][held].sum() / length) if length else float("nan")


Parts = Mapping[str, np.ndarray]
BLEU_ORDER, CHRF_ORDER, CHRF_BETA = 4, 6, 2


def spearman(parts: Parts) -> float:
    """Spearman's ρ: Pearson's r of the ranks, equal values sharing their mean rank; NaN where one side does not vary.

    >>> round(spearman({"spearman_predicted": np.array([1.0, 2.0, 2.0, 4.0]), "spearman_true": np.array([0.0, 1.0, 2.0, 3.0])}), 4)
    0.9487
    """
    from scipy.stats import rankdata

    ours, true = (rankdata(values) for values in _complete(parts, "spearman_predicted", "spearman_true"))
    ours, true = ours - (len(ours) + 1) / 2, true - (len(true) + 1) / 2
    spread = float(np.sqrt((ours @ ours) * (true @ true)))
    return float(ours @ true) / spread if spread else math.nan


def _confusion(parts: Parts) -> np.ndarray:
    """Counts (true, predicted) over the classes that occur on either side."""
    ours, true = _complete(parts, "label_predicted", "label_true")
    classes, places = np.unique(np.concatenate([true, ours]), return_inverse=True)
    table = np.zeros((len(classes), len(classes)))
    np.add.at(table, (places[: len(true)], places[len(true) :]), 1)
    return table


def mcc(parts: Parts) -> float:
    """Matthews' correlation of predicted and true classes, (c·s − Σ pₖtₖ) / √((s² − Σ pₖ²)(s² − Σ tₖ²)) for any number of them.

    Source: Gorodkin 2004, eq. 8. One class alone on a side: 0, as in scikit-learn; no item: NaN.

    >>> mcc({"label_predicted": np.array([0.0, 1.0, 1.0, 1.0]), "label_true": np.array([0.0, 0.0, 1.0, 1.0])})
    0.5773502691896258
    """
    table = _confusion(parts)
    total, true, ours = table.sum(), table.sum(axis=1), table.sum(axis=0)
    spread = float(np.sqrt((total**2 - ours @ ours) * (total**2 - true @ true)))
    return float(np.trace(table) * total - ours @ true) / spread if spread else (0.0 if total else math.nan)


def macro_f1(parts: Parts) -> float:
    """Mean over classes of F1 = 2·tp / (predicted + true), over those that occur on either side."""
    table = _confusion(parts)
    return float((2 * np.diag(table) / (table.sum(axis=0) + table.sum(axis=1))).mean()) if table.size else math.nan


def _micro_f1(suffix: str) -> Measure:
    """F1 of all items' entities together, 2·tp / (2·tp + fp + fn); no entity on either side: NaN."""
    names = tuple(f"entity_{count}{suffix}" for count in ("tp", "fp", "fn"))

    def compute(parts: Parts) -> float:
        tp, fp, fn = (float(values.sum()) for values in _complete(parts, *names))
        return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan

    return Measure(names, compute)


def corpus_bleu(parts: Parts) -> float:
    """BLEU of all items together in [0, 1]: matches and lengths are summed, then clipped precisions and brevity penalty.

    Source: Papineni et al. 2002, eq. 1–3, with sacrebleu's exponential smoothing (Post 2018)."""
    from sacrebleu.metrics import BLEU

    *counts, ours, theirs = (int(values.sum()) for values in _complete(parts, *BLEU_PARTS))
    score = BLEU.compute_bleu(counts[:BLEU_ORDER], counts[BLEU_ORDER:], ours, theirs, smooth_method="exp")
    return float(score.score) / 100


def corpus_chrf(parts: Parts) -> float:
    """chrF of all items together in [0, 1]: n-gram counts are summed, then F2 of mean precision and recall (Popović 2015, eq. 1).

    As in sacrebleu an order that one side is too short for is left out."""
    sums = np.array([values.sum() for values in _complete(parts, *CHRF_PARTS)]).reshape(3, CHRF_ORDER)
    matched, ours, theirs = sums[:, (sums[1] > 0) & (sums[2] > 0)]
    if not matched.any():
        return 0.0
    precision, recall = float((matched / ours).mean()), float((matched / theirs).mean())
    return (1 + CHRF_BETA**2) * precision * recall / (CHRF_BETA**2 * precision + recall)


def _iterations(name: str, radius: bool = False) -> Measure:
    """Mean over iterations of an iteration's mean; or 1.96 standard errors of that mean, NaN under two iterations."""

    def compute(parts: Parts) -> float:
        iteration, values = _complete(parts, "iteration", name)
        _, places = np.unique(iteration, return_inverse=True)
        if not len(values):
            return math.nan
        means = np.bincount(places, values) / np.bincount(places)
        if not radius:
            return float(means.mean())
        return float(1.96 * means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan

    return Measure(("iteration", name), compute)


def _complete(parts: Parts, *names: str) -> list[np.ndarray]:
    """These parts of the items that have all of them."""
    held = ~np.logical_or.reduce([np.isnan(parts[name]) for name in names])
    return [parts[name][held] for name in names]


BLEU_PARTS = tuple(
    [f"bleu_{part}_{n}" for part in ("correct", "total") for n in range(1, BLEU_ORDER + 1)]
    + ["bleu_length", "bleu_reference_length"]
)
"""n-grams of an item's text that the reference has, and all, by n; tokens of both sides."""
CHRF_PARTS = tuple(f"chrf_{part}_{n}" for part in ("matched", "text", "reference") for n in range(1, CHRF_ORDER + 1))
"""Character n-grams that both sides have, of the text, and of the reference, by n."""
LABEL_PARTS = ("label_predicted", "label_true")

MEASURES: dict[str, Measure] = {
    "bits_per_byte": Measure(("bits", "bytes"), bits_per_byte),
    "spearman": Measure(("spearman_predicted", "spearman_true"), spearman),
    "mcc": Measure(LABEL_PARTS, mcc),
    "macro_f1": Measure(LABEL_PARTS, macro_f1),
    "micro_f1": _micro_f1(""),
    "micro_f1_no_misc": _micro_f1("_no_misc"),
    "corpus_bleu": Measure(BLEU_PARTS, corpus_bleu),
    "corpus_chrf": Measure(CHRF_PARTS, corpus_chrf),
    "squad_f1_mean": _iterations("squad_f1"),
    "squad_f1_radius": _iterations("squad_f1", radius=True),
    "squad_em_mean": _iterations("squad_em"),
    "squad_em_radius": _iterations("squad_em", radius=True),
}


LOWER_IS_BETTER = frozenset({"bits_per_byte", "foreign_words", "repetition", "truncated"})
"""Names of metrics of which the lowest value is the best; of all others it is the highest."""
NEITHER = frozenset({"kl", "length", "n_tokens"})
"""Names of metrics that are no merit either way; half widths (`…_radius`) are none too."""


def measured(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What a benchmark whose items carry these names is shown by: measure → its parts, and every other name → itself.

    >>> measured(["bits", "bytes", "exact"])
    {'bits_per_byte': ('bits', 'bytes'), 'exact': ('exact',)}
    """
    there = set(names)
    whole = {name: m.needs for name, m in MEASURES.items() if there.issuperset(m.needs)}
    parts = {part for needs in whole.values() for part in needs}
    return whole | {name: (name,) for name in sorted(there - parts)}
