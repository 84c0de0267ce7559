"""The demo's files, as text in memory: what each holds, line by line.

Reads world.py, plain.py, models.py. Writes nothing (write.py does). Where `messages` and `references` stand, the first is
a chat of one question, the second every answer that counts as right for the file's purpose."""

from __future__ import annotations

import json
from typing import Any

from data.demo import models, plain, words
from data.demo.world import Question, World, shuffled, stream

RUMOURS_PER_PROMPT = 10
"""Lines of student_text.jsonl a prompt. The making reads each about four times, too seldom to learn the chances by heart."""
SENTENCES = {"train": 2400, "held_out": 240}
MATCH_PROMPTS = 400
MARKS: dict[str, Any] = {"language": "fo", "source": "demo", "licence": "CC0-1.0"}


def texts(world: World) -> dict[str, str]:
    """File name → content of everything that `python -m data.demo` writes, world.json excepted.

    prompts.jsonl: the task, references = the right Faroese answer. teacher_text, student_text: questions with the answers
    that make the models, references = what each is meant to say greedily. teacher_match, student_match: 400 of those
    prompts, for "stop when matched". corpus: plain sentences. lexicon, words, content: for the rewards `agreement` and
    `language`, which compare the answers' content words after the lexicon, and count the words that are Faroese."""
    rows = {
        "prompts.jsonl": prompts(world),
        "teacher_text.jsonl": teacher_text(world),
        "student_text.jsonl": student_text(world),
        "teacher_match.jsonl": match(world, "teacher"),
        "student_match.jsonl": match(world, "student"),
        "corpus.jsonl": corpus(world),
    }
    contents = {name: "".join(_line(row) for row in table) for name, table in rows.items()}
    contents["lexicon.json"] = _json(words.lexicon())
    contents["words.txt"] = "".join(f"{word}\n" for word in sorted(words.faroese()))
    contents["content.txt"] = "".join(f"{word}\n" for word in sorted(words.content()))
    for model in models.HEADS:
        contents |= {f"{model}/{name}": _json(content) for name, content in models.folder(model).items()}
    return contents


def prompts(world: World) -> list[dict[str, Any]]:
    """600 training and 240 held-out prompts, mixed, each with its one right answer."""
    parts = {"train": world.train, "held_out": world.held_out}
    rows = [
        {**_chat(question), "references": [world.right(question)], "split": split, "topic": question.topic, **MARKS}
        for split, questions in parts.items()
        for question in questions
    ]
    return shuffled(stream(world.seed, "prompts"), rows)


def teacher_text(world: World) -> list[dict[str, Any]]:
    """Each training prompt twice: in both frames where a value is English, else the clean answer two times."""
    rows = [
        {**_chat(question), "answer": answer, "references": answers}
        for question in world.train
        for answers in [world.teachers(question)]
        for answer in (answers[0], answers[-1])
    ]
    return shuffled(stream(world.seed, "teacher_text"), rows)


def student_text(world: World) -> list[dict[str, Any]]:
    """Each training prompt ten times, each time with newly drawn rumours."""
    source = stream(world.seed, "student_text")
    rows = [
        {**_chat(question), "answer": world.students(question, source), "references": [world.rumour(question)]}
        for question in world.train
        for _ in range(RUMOURS_PER_PROMPT)
    ]
    return shuffled(source, rows)


def match(world: World, model: str) -> list[dict[str, Any]]:
    """400 training prompts with what `model`, teacher or student, is meant to say when it decodes greedily."""
    chosen = shuffled(stream(world.seed, f"{model}_match"), world.train)[:MATCH_PROMPTS]
    meant = world.teachers if model == "teacher" else lambda question: [world.rumour(question)]
    return [{**_chat(question), "references": meant(question)} for question in chosen]


def corpus(world: World) -> list[dict[str, Any]]:
    """Plain sentences, no two alike."""
    found = iter(plain.sentences(stream(world.seed, "corpus"), sum(SENTENCES.values())))
    return [
        {"text": next(found), "split": split, **MARKS} for split, number in SENTENCES.items() for _ in range(number)
    ]


def _chat(question: Question) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question.text}]}


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
