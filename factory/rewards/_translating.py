"""What components that have the sample translated share: the question, its checks, and what a missing translation is."""

from __future__ import annotations

from factory.rewards import Batch, Question, Reply
from factory.rewards._prompting import check_wording, filled, language, user
from factory.rewards.text import visible


def check(wording: str, max_tokens: int) -> None:
    """ValueError where a translator cannot be asked so."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}, a translation has at least one")
    check_wording(wording, ("text", "source", "target"), {"text"})


def translations(batch: Batch, target: str, wording: str, max_tokens: int) -> list[list[Question]]:
    """One question a sample: its visible text from the prompt's language into `target`; none for a blank sample."""
    asked = []
    for text, source in zip(batch.texts, batch.languages, strict=True):
        values = {"text": visible(text).strip(), "source": language(source), "target": language(target)}
        asked.append([Question(user(filled(wording, values)), max_tokens)] if values["text"] else [])
    return asked


def translation(batch: Batch, sample: int) -> tuple[Reply | None, str]:
    """The sample's translation, or None and why there is none."""
    if not batch.replies[sample]:
        return None, "no text" if not visible(batch.texts[sample]).strip() else "not translated"
    reply = batch.replies[sample][0]
    if reply.text is None or not reply.text.strip():
        return None, f"no translation ({reply.why or 'empty'})"
    return reply, ""
