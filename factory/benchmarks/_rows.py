"""Questions of a benchmark that brings its own: rows of a file or hub data set with their references, and examples before them.

Refuses columns that are not there, templates that do not fit the rows, and rows without a question or a right answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from data.keys import hex_id, nfc, prompt_id
from data.refusal import Refusal
from factory.sources import Rows, Source, mapped, messages_of

KNOWN = ("id", "messages", "references", "answer_pattern")
Messages = list[dict[str, str]]


class Templated(Source, Protocol):
    """A source with our names of its columns, and how a row becomes a question."""

    @property
    def columns(self) -> dict[str, str]: ...
    @property
    def template(self) -> str | None: ...


@dataclass(frozen=True)
class Question:
    """One row."""

    id: str
    messages: Messages
    references: list[str]
    answer_pattern: str | None

    @property
    def text(self) -> str:
        """The messages as one text, a line each, for models that continue text."""
        return "\n".join(m["content"] for m in self.messages)


def questions(source: Templated, what: str, limit: int | None = None) -> Iterator[Question]:
    """The source's rows in order. `what` names the recipe's key in refusals."""
    rows = Rows(source, what, limit)
    columns = mapped(rows.names, source.columns, KNOWN, what)
    for name, missing in (("messages", source.template is None), ("references", True)):
        if missing and name not in columns:
            raise Refusal(
                f"{what}: no column holds the {name}; there are: {', '.join(rows.names)}",
                f"{what}.columns={{{name}: {rows.names[0]}}}"
                + (f", or {what}.template='{{{{ {rows.names[0]} }}}}'" if name == "messages" else ""),
            )
    render = _renderer(source.template, what) if source.template is not None else None
    taken: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        where = f"{what}: {source.path} row {number}"
        messages = messages_of(render(row, where) if render else row.get(columns["messages"]), where)
        given = row.get(columns.get("id", ""))
        id_ = str(given) if given is not None else hex_id(prompt_id(messages))
        taken[id_] = taken.get(id_, 0) + 1
        pattern = row.get(columns.get("answer_pattern", ""))
        yield Question(
            id_ if taken[id_] == 1 else f"{id_}-{taken[id_]}",  # a question asked twice is two items
            messages,
            _references(row.get(columns["references"]), where),
            str(pattern) if pattern is not None else None,
        )


def _references(value: Any, where: str) -> list[str]:
    """Right answers: a text, a number, an object (as JSON), or a list of them."""
    import json

    found = []
    for one in value if isinstance(value, list | tuple) else [value]:
        text = json.dumps(one, ensure_ascii=False) if isinstance(one, Mapping) else "" if one is None else str(one)
        found += [nfc(text)] if text.strip() else []
    if not found:
        raise Refusal(f"{where} has no right answer", "correct that row, or map `references` to another column")
    return found


def _renderer(template: str, what: str) -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def render(row: Mapping[str, Any], where: str) -> str:
        try:
            return str(compiled.render(row))
        except jinja2.TemplateError as error:
            raise Refusal(
                f"{where}: the template does not fit: {error}; columns: {', '.join(row)}", f"correct {what}.template"
            ) from error

    try:
        compiled = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(template)
    except jinja2.TemplateError as error:
        raise Refusal(f"{what}.template is no Jinja: {error}", f"{what}.template='{{{{ question }}}}'") from error
    return render


def examples(pool: Sequence[Question], shots: int, question: Question) -> list[Question]:
    """The first so many examples that ask something else."""
    return [one for one in pool if one.messages != question.messages][:shots]


def as_turns(question: Question, before: Sequence[Question]) -> Messages:
    """Examples as turns of the conversation, then the question."""
    turns = [turn for one in before for turn in (*one.messages, {"role": "assistant", "content": one.references[0]})]
    return [*turns, *question.messages]


def as_text(question: Question, before: Sequence[Question]) -> str:
    """Examples and question as one text: an answer behind its question, a blank line between two.

    >>> ask = lambda q, a: Question(q, [{"role": "user", "content": q}], [a], None)
    >>> as_text(ask("2+3 =", "5"), [ask("1+1 =", "2")])
    '1+1 = 2\\n\\n2+3 ='
    """
    shown = [one.text + ("" if one.text[-1:].isspace() else " ") + one.references[0] for one in before]
    return "\n\n".join([*shown, question.text])
