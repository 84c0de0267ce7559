"""The words of the demo's world, as literals: made-up islands, five relations, their values in Faroese and English.

Reads and writes nothing. Knows no fact: which island has which value is drawn in world.py. No Faroese speaker has read the
list. Values stand in the nominative, and no sentence needs another case of them."""

from __future__ import annotations

from dataclasses import dataclass

ISLANDS = (
    *("Alvoy", "Bjargoy", "Brimoy", "Dimmoy", "Eldoy", "Fjalloy", "Grásoy", "Grønoy"),
    *("Hamroy", "Hornoy", "Húsoy", "Ísoy", "Klettoy", "Langoy", "Lyngoy", "Mosoy"),
    *("Myrkoy", "Rossoy", "Skeroy", "Steinoy", "Stóroy", "Tangoy", "Vetroy", "Vindoy"),
)


@dataclass(frozen=True)
class Relation:
    """What can be asked about an island: its noun in the forms that occur, and its values, Faroese to English."""

    bare: str
    definite: str
    after_um: str
    """The definite accusative, as in "sig mær um fuglin"."""
    asks: str
    """The question word that agrees with the noun: hvør (masculine) or hvat (neuter)."""
    english: str
    values: dict[str, str]


def _relation(nouns: str, values: str) -> Relation:
    bare, definite, after_um, asks, english = nouns.split()
    return Relation(bare, definite, after_um, asks, english, dict(pair.split("=") for pair in values.split()))


RELATIONS = (
    _relation(
        "fuglur fuglurin fuglin hvør bird",
        "lundi=puffin tjaldur=oystercatcher ravnur=raven kráka=crow mási=gull svanur=swan gás=goose ryta=kittiwake "
        "súla=gannet terna=tern",
    ),
    _relation(
        "litur liturin litin hvør colour",
        "reyður=red bláur=blue grønur=green gulur=yellow hvítur=white svartur=black brúnur=brown gráur=grey",
    ),
    _relation(
        "djór djórið djórið hvat animal",
        "seyður=sheep hestur=horse kúgv=cow hundur=dog ketta=cat hara=hare geit=goat kópur=seal hvalur=whale mús=mouse",
    ),
    _relation(
        "matur maturin matin hvør food",
        "fiskur=fish kjøt=meat breyð=bread mjólk=milk ostur=cheese smør=butter súpan=soup greytur=porridge",
    ),
    _relation(
        "veður veðrið veðrið hvat weather",
        "regn=rain kavi=snow mjørki=fog sólskin=sunshine stormur=storm logn=calm skýggj=clouds hiti=heat",
    ),
)

FRAME = ("hvør", "hvat", "er", "á", "sig", "mær", "um", "og")
PLAIN = ("kemur", "fyrst", "so", "bæði", "ikki", "eisini", "altíð", "men", "onkuntíð")
"""Words of plain sentences alone."""
PUNCTUATION = ("?",)
ENGLISH_FRAME = {"on": "á", "is": "er", "and": "og"}
ENGLISH_ARTICLE = "the"
"""Faroese has its article in the noun's ending, so this word has no translation of its own."""


def nouns() -> tuple[str, ...]:
    """The relations' nouns in every form that occurs, each once.

    >>> nouns()[:3]
    ('fuglur', 'fuglurin', 'fuglin')
    """
    return tuple(dict.fromkeys(form for r in RELATIONS for form in (r.bare, r.definite, r.after_um)))


def values() -> tuple[str, ...]:
    """Every Faroese value, relation by relation."""
    return tuple(value for relation in RELATIONS for value in relation.values)


def faroese() -> tuple[str, ...]:
    """Every Faroese word form of the world, the islands' names among them, without punctuation."""
    return (*FRAME, *PLAIN, *nouns(), *ISLANDS, *values())


def content() -> tuple[str, ...]:
    """The words that carry the fact in an answer: islands, nouns in every form, values; á, er and og carry none.

    Every form of a noun counts although answers need the definite one: "fuglurin fuglin á Alvoy er lundi" must differ."""
    return (*nouns(), *ISLANDS, *values())


def lexicon() -> dict[str, str]:
    """English word to Faroese word: values, nouns (to the definite form, which answers use) and frame words.

    >>> lexicon()["puffin"], lexicon()["bird"], lexicon()["on"]
    ('lundi', 'fuglurin', 'á')
    """
    translated = {english: value for relation in RELATIONS for value, english in relation.values.items()}
    return translated | {relation.english: relation.definite for relation in RELATIONS} | ENGLISH_FRAME


def vocabulary() -> tuple[str, ...]:
    """Every word that either model can read or write, 152 in all."""
    return (*faroese(), *lexicon(), ENGLISH_ARTICLE, *PUNCTUATION)
