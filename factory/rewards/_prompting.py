"""Wordings of the questions that components and stages ask models: placeholders filled, languages by name.

Reads and writes nothing. Refuses a placeholder that a wording cannot fill."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from data.refusal import nearest

LANGUAGES = {
    "fo": "Faroese",
    "en": "English",
    "da": "Danish",
    "is": "Icelandic",
    "no": "Norwegian",
    "nb": "Norwegian Bokmål",
    "nn": "Norwegian Nynorsk",
    "sv": "Swedish",
    "de": "German",
    "fr": "French",
}
TRANSLATE = """Translate the text between the <text> tags from {source} into {target}. Keep names, numbers and line breaks.
Write the translation alone.

<text>
{text}
</text>"""
_PLACE = re.compile(r"\{(\w+)\}")


def language(code: str | None) -> str:
    """The language's English name; a code that is not listed stands for itself.

    >>> language("fo"), language("Faroese"), language(None)
    ('Faroese', 'Faroese', 'its language')
    """
    return "its language" if code is None else LANGUAGES.get(code, code)


def check_wording(wording: str, places: Collection[str], needed: Collection[str]) -> None:
    """ValueError where a wording names an unknown place, or lacks one without which the question makes no sense."""
    found = set(_PLACE.findall(wording))
    for place in sorted(found - set(places)):
        raise ValueError(f"{{{place}}} is no place of this wording; {nearest(place, places)}")
    for place in sorted(set(needed) - found):
        raise ValueError(f"the wording has no {{{place}}}")


def filled(wording: str, values: Mapping[str, str]) -> str:
    """The wording with its places filled, in one pass: braces inside a value are text.

    >>> filled("{a} and {b}", {"a": "{b}", "b": "1"})
    '{b} and 1'
    """
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), wording)


def conversation(messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as one text: a single question bare, several messages each behind its role.

    >>> conversation([{"role": "user", "content": "Ja?"}])
    'Ja?'
    """
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages)


def user(text: str) -> list[dict[str, str]]:
    """One user message."""
    return [{"role": "user", "content": text}]
