"""What one answer is worth beside its references: name → numbers of one item. Texts in, numbers out; no files.

A metric that is defined over a whole set leaves the parts that data/measures.py puts together: corpus BLEU and chrF, MCC, macro F1,
Spearman, micro F1. Numbers are in [0, 1]. Answers are compared by `words_of`: NFC, case-folded, without punctuation, every letter
kept, no article removed (English ones are Faroese words). What cannot be said of an item is left out, never 0."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from data.measures import BLEU_ORDER, CHRF_ORDER
from factory.benchmarks._squad import token_f1
from factory.rewards import _chrf
from factory.rewards._number_words import as_digits
from factory.rewards._numerals import numerals
from factory.rewards.similarity import bleu as sentence_bleu
from factory.rewards.text import nfc, squash

Values = dict[str, float]
Labels = Sequence[str]
TOLERANCE = 1e-6  # two numbers that differ by no more are one
MISC = ("misc", "ymiskt")  # the entity type that is left out of micro_f1_no_misc
_MARKER = re.compile(r"#{3,4}|\b(?:svarið|svar|úrslitið|answer)\b(?:\s*(?:er|verður|is))?\s*:?", re.IGNORECASE)
_CLAUSE = re.compile(r"\n|[.!?;](?:\s|$)")


def words_of(text: str) -> list[str]:
    """Words as answers are compared by.

    >>> words_of("Á Heygum – 'Ólavur'!")
    ['á', 'heygum', 'ólavur']
    """
    kept = "".join(" " if unicodedata.category(c)[0] in "PS" else c for c in nfc(nfc(text).casefold()))
    return kept.split()


def exact(answer: str, references: Sequence[str], labels: Labels) -> Values:
    """1 where the words are those of a reference."""
    return {"exact": float(any(words_of(answer) == words_of(r) for r in references))} if references else {}


def f1(answer: str, references: Sequence[str], labels: Labels) -> Values:
    """F1 of the words, the best over the references."""
    return {"f1": max(token_f1(words_of(answer), words_of(r)) for r in references)} if references else {}


def bleu(answer: str, references: Sequence[str], labels: Labels) -> Values:
    """Sentence BLEU, the best over the references; and the parts of corpus_bleu, all references together."""
    from sacrebleu.metrics import BLEU

    if not references:
        return {}
    whole = BLEU(effective_order=False).corpus_score([squash(answer)], [[squash(r)] for r in references])
    parts = {f"bleu_correct_{n + 1}": float(whole.counts[n]) for n in range(BLEU_ORDER)}
    parts |= {f"bleu_total_{n + 1}": float(whole.totals[n]) for n in range(BLEU_ORDER)}
    parts |= {"bleu_length": float(whole.sys_len), "bleu_reference_length": float(whole.ref_len)}
    return {"bleu": max(sentence_bleu(squash(answer), squash(r)) for r in references)} | parts


def chrf(answer: str, references: Sequence[str], labels: Labels) -> Values:
    """chrF, and the parts of corpus_chrf, both of the reference that fits best."""
    if not references:
        return {}
    scored = [(_chrf.score(squash(answer), squash(r)), r) for r in references]
    value, best = max(scored, key=lambda pair: pair[0])
    ours, theirs = _chrf.counts(squash(answer)), _chrf.counts(squash(best))
    found: Values = {"chrf": min(1.0, value)}
    for n in range(CHRF_ORDER):
        found[f"chrf_matched_{n + 1}"] = float((ours[n] & theirs[n]).total())
        found[f"chrf_text_{n + 1}"] = float(ours[n].total())
        found[f"chrf_reference_{n + 1}"] = float(theirs[n].total())
    return found


def label_of(answer: str, labels: Labels) -> int:
    """The label meant: equal words, else the longest that the answer begins with, else the one of the least edit distance.

    >>> label_of("Ja, tað er rætt.", ["nei", "ja"]), label_of("jáa", ["nei", "ja"])
    (1, 1)
    """
    from rapidfuzz.distance import Levenshtein

    said = words_of(answer)
    known = [words_of(label) for label in labels]
    if said in known:
        return known.index(said)
    begun = [i for i, words in enumerate(known) if words and said[: len(words)] == words]
    if begun:
        return max(begun, key=lambda i: len(known[i]))
    text = " ".join(said)
    return min(range(len(known)), key=lambda i: Levenshtein.normalized_distance(text, " ".join(known[i])))


def accuracy(answer: str, references: Sequence[str], labels: Labels) -> Values:
    """1 where the label meant is the reference's; and the parts of mcc and macro_f1. Missing where the reference is no label."""
    known = [words_of(label) for label in labels]
    true = next((known.index(words_of(r)) for r in references if words_of(r) in known), None)
    if true is None:
        return {}
    meant = label_of(answer, labels)
    return {"accuracy": float(meant == true), "label_predicted": float(meant), "label_true": float(true)}


def number_of(text: str) -> frozenset[float]:
    """The readings of the answer's number: the last of the clause behind the last marker ("svarið er", "####"), else of the text.

    >>> sorted(number_of("3 + 4 = 7. Svarið er tjúgu og tvey. Ikki 9.")), sorted(number_of("#### 1,234"))
    ([22.0], [1.234, 1234.0])
    """
    markers = list(_MARKER.finditer(nfc(text)))
    clause = _CLAUSE.split(nfc(text)[markers[-1].end() :].strip(), maxsplit=1)[0] if markers else ""
    found = numerals(as_digits(clause)) or numerals(as_digits(text))
    return found[-1] if found else frozenset()


def numeric(answer: str, references: Sequence[str], labels: Labels) -> Values:
    """1 where the answer's number is a reference's, in digits or Faroese words. Missing where no reference holds a number."""
    wanted = [value for reference in references for value in number_of(reference)]
    right = any(abs(ours - value) <= TOLERANCE for ours in number_of(answer) for value in wanted)
    return {"numeric": float(right)} if wanted else {}


def spearman(answer: str, references: Sequence[str], labels: Labels) -> Values:
    """The parts of spearman: the number said and the right one, each read as it is smallest; `answered`: whether one is said."""
    wanted, ours = [v for r in references for v in number_of(r)], number_of(answer)
    if not wanted:
        return {}
    said = {"spearman_predicted": min(ours, key=abs)} if ours else {}
    return {"answered": float(bool(ours)), "spearman_true": min(wanted, key=abs)} | said


def entities(answer: str, references: Sequence[str], labels: Labels) -> Values:
    """The parts of micro_f1, with and without MISC: entities of {"type": ["text", …]} as a bag of (type, text).

    `parsed`: whether the answer holds such an object; without one it names no entity. Missing where the reference is none."""
    gold, said = _entities(references[0]) if references else None, _entities(answer)
    if gold is None:
        return {}
    found: Values = {"parsed": float(said is not None)}
    for suffix, left_out in (("", ()), ("_no_misc", MISC)):
        ours, theirs = (
            Counter({e: n for e, n in bag.items() if e[0] not in left_out}) for bag in (said or Counter(), gold)
        )
        right = (ours & theirs).total()
        found |= {f"entity_tp{suffix}": float(right), f"entity_fp{suffix}": float(ours.total() - right)}
        found[f"entity_fn{suffix}"] = float(theirs.total() - right)
    return found


def _entities(text: str) -> Counter[tuple[str, str]] | None:
    """The bag in the text's outermost braces; None where they hold no JSON object."""
    try:
        parsed = json.loads(text[text.index("{") : text.rindex("}") + 1])
    except ValueError:
        return None
    if not isinstance(parsed, Mapping):
        return None
    pairs = [(str(kind), one) for kind, told in parsed.items() for one in (told if isinstance(told, list) else [told])]
    return Counter(
        (squash(kind).casefold(), squash(one)) for kind, one in pairs if isinstance(one, str) and one.strip()
    )


METRICS: dict[str, Callable[[str, Sequence[str], Labels], Values]] = {
    "exact": exact, "f1": f1, "bleu": bleu, "chrf": chrf, "accuracy": accuracy, "mcc": accuracy, "macro_f1": accuracy,
    "numeric": numeric, "spearman": spearman, "entities": entities,
}  # fmt: skip
"""Name in a recipe → function. mcc and macro_f1 are of the parts that accuracy leaves."""
WITH_LABELS = frozenset({"accuracy", "mcc", "macro_f1"})
