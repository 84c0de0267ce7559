"""What no training document may share: runs of 13 words of benchmarks and of held-out text, each with where it comes from.

Words are compared without case, punctuation and composition (NFC, case-folded). A text of 8 to 12 words is one run of its own
length. A shorter one says too little to be looked for inside others: only a document that is nothing else counts. Texts in, names
of sources out; reads no file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from data.keys import digest, nfc

GRAM = 13  # words; Brown et al. 2020 (arXiv 2005.14165, appendix C) use 8 to 13 by data set
SHORTEST = 8  # a text below GRAM words is one run of its own length, down to this one
WORD = re.compile(r"\w+")

Gram = tuple[str, ...]


def words(text: str) -> Gram:
    """Words as they are compared: NFC, case-folded, without punctuation."""
    return tuple(WORD.findall(nfc(text).casefold()))


@dataclass
class Forbidden:
    """Runs of words that no training document may hold, and texts that none may be."""

    runs: dict[Gram, set[str]] = field(default_factory=dict)
    """Run of 8 to 13 words → names of the sources that hold it."""
    whole: dict[Gram, set[str]] = field(default_factory=dict)
    """Text under 8 words → names of its sources."""
    short: Counter[str] = field(default_factory=Counter)
    """Source → its texts under 8 words."""
    digests: dict[str, str] = field(default_factory=dict)
    """Source → sha256 of its texts, whatever their order."""
    lengths: set[int] = field(default_factory=set)

    def add(self, source: str, texts: Iterable[str]) -> None:
        """Forbid the runs of 13 words of each text; a shorter text as the module says.

        >>> forbidden = Forbidden()
        >>> forbidden.add("benchmark", ["a b c d e f g h i j k l m n", "a b c"])
        >>> len(forbidden.runs), forbidden.sources_in("B, c. D e f g h i j k L m n o"), forbidden.sources_in("A b C!")
        (2, {'benchmark'}, {'benchmark'})
        """
        distinct = {words(text) for text in texts} - {()}
        self.digests[source] = digest(sorted(distinct))
        for sequence in distinct:
            length = min(GRAM, len(sequence))
            if length < SHORTEST:
                self.whole.setdefault(sequence, set()).add(source)
                self.short[source] += 1
                continue
            self.lengths.add(length)
            for i in range(len(sequence) - length + 1):
                self.runs.setdefault(sequence[i : i + length], set()).add(source)

    def sources_in(self, text: str) -> set[str]:
        """Names of the sources that a document shares a run with, or is a short text of."""
        sequence = words(text)
        found = set(self.whole.get(sequence, ()))
        for n in self.lengths:
            for i in range(len(sequence) - n + 1):
                found |= self.runs.get(sequence[i : i + n], set())
        return found
