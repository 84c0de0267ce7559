"""Which documents hold what is evaluated: runs of words, whatever their case, punctuation and composition."""

from __future__ import annotations

import random
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from factory.contamination import Forbidden, words

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"
WORD = st.sampled_from(
    ["á", "báturin", "siglir", "til", "oynna", "sólin", "skínur", "í", "dag", "kvøldið", "er", "kalt", "nú"]
)


def forbidden(*texts):
    made = Forbidden()
    made.add("benchmark", texts)
    return made


def test_thirteen_words_in_common_are_found_and_twelve_are_not():
    against = forbidden(LONG)
    assert against.sources_in(f"before {LONG.upper()}, and after") == {"benchmark"}
    assert not against.sources_in(LONG.replace("thirteen", "fourteen"))
    assert forbidden("a b c d e f g h").sources_in("x a b c d e f g h y")  # a text of 8 to 12 words is one run


def test_a_text_under_eight_words_counts_where_a_document_is_nothing_else():
    against = forbidden("a b c d e f g", "a")
    assert against.sources_in("A, b: c d E f g!") == {"benchmark"} and against.short == {"benchmark": 2}
    assert not against.sources_in("a b c d e f g h") and not against.sources_in("b a")
    assert not forbidden("...").sources_in("!")  # no word at all: nothing is said, nothing is the same


def test_words_are_compared_without_case_and_composition():
    assert words("Eg EITI a\u0301!") == ("eg", "eiti", "á")


def test_each_source_that_a_document_shares_with_is_named():
    made = forbidden(LONG)
    made.add("prompts", [f"zero {LONG}"])
    assert made.sources_in(LONG) == {"benchmark", "prompts"} and made.sources_in(f"zero {LONG}") == {
        "benchmark",
        "prompts",
    }
    assert made.sources_in("zero " + LONG.removesuffix(" thirteen")) == {"prompts"}


def test_the_digest_is_of_the_words_in_any_order():
    one, other = forbidden("a b", "c"), forbidden("C.", "A b")
    assert one.digests == other.digests != forbidden("a b", "d").digests


@given(
    st.lists(WORD, min_size=8, max_size=30), st.lists(WORD, max_size=8), st.lists(WORD, max_size=8), st.integers(0, 99)
)
def test_a_planted_text_is_found_whatever_stands_around_it(item, before, after, seed):
    draw = random.Random(seed)
    dressed = [draw.choice([str.upper, str.title, lambda w: unicodedata.normalize("NFD", w)])(w) for w in item]
    planted = "".join(w + draw.choice([" ", ", ", "\n\n", " – ", "\u00a0", ". "]) for w in [*before, *dressed, *after])
    assert forbidden(" ".join(item)).sources_in(planted) == {"benchmark"}
