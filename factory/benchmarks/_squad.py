"""F1 and exact match of short answers, as the metric squad_v2 has them. Texts in, numbers in [0, 1] out; no files.

Source: Rajpurkar et al. 2016, §6.1 (arXiv 1606.05250), and the script of SQuAD 2.0. It lower-cases, and removes ASCII punctuation
and the English articles; that is what published FoQA figures are made by, so it stays, though "a" is no article in Faroese."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and spare white space.

    >>> normal("The  Ólavur, á Heygum!")
    'ólavur á heygum'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """F1 of two bags of words; where one of them is empty, whether both are.

    >>> token_f1(["í", "tórshavn"], ["tórshavn"]), token_f1([], [])
    (0.6666666666666666, 1.0)
    """
    if not ours or not theirs:
        return float(not ours and not theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


def scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """(F1, exact match): each the best over the right answers. With none, or blank ones alone: whether nothing is said.

    >>> scores("í Tórshavn", ["Tórshavn", "í  tórshavn."])
    (1.0, 1.0)
    """
    ours = normal(prediction)
    gold = [answer for answer in map(normal, answers) if answer] or [""]
    return max(token_f1(ours.split(), g.split()) for g in gold), float(ours in gold)
