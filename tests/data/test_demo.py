from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.demo import files, plain, words
from data.demo.__main__ import main
from data.demo.models import SPECIAL
from data.demo.world import Question, World, draw, questions, stream
from data.demo.write import SUMMARY, write
from data.refusal import Refusal

Row = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    write(out, 0)
    return out


@pytest.fixture(scope="module")
def world() -> World:
    return draw(0)


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def asked(rows: list[Row]) -> set[str]:
    return {row["messages"][0]["content"] for row in rows}


def snapshot(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_sentences_are_those_of_the_design():
    assert [Question("Alvoy", (0,), form).text for form in range(3)] == [
        "hvør fuglur er á Alvoy ?",
        "sig mær um fuglin á Alvoy",
        "hvat er fuglurin á Alvoy ?",
    ]
    assert Question("Alvoy", (4,), 0).text == "hvat veður er á Alvoy ?"
    pair = Question("Alvoy", (0, 4), 0)
    assert pair.text == "hvat er fuglurin og veðrið á Alvoy ?"
    assert pair.answer(["ryta", "hiti"]) == "fuglurin á Alvoy er ryta og veðrið er hiti"
    assert pair.answer(["gannet", "heat"], english=True) == "the bird on Alvoy is gannet and the weather is heat"


def test_there_are_120_facts_and_840_different_questions(world):
    assert len(world.facts) == 120
    assert len({question.text for question in questions()}) == len(list(questions())) == 840
    assert all(value in words.RELATIONS[relation].values for (_, relation), value in world.facts.items())


def test_vocabulary_has_152_words_each_once_and_no_word_in_both_languages():
    assert len(words.vocabulary()) == len(set(words.vocabulary())) == 152
    assert not set(words.lexicon()) & set(words.faroese())
    assert set(words.lexicon().values()) <= set(words.faroese())


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_held_out_are_60_forms_of_facts_and_90_pairs_in_both_orders(seed):
    world = draw(seed)
    held_out = set(world.held_out)
    assert (len(world.train), len(held_out), len(held_out & set(world.train))) == (600, 240, 0)
    singles = [question for question in held_out if question.topic == "single"]
    pairs = [question for question in held_out if question.topic == "pair"]
    assert len({(question.island, question.relations) for question in singles}) == len(singles) == 60
    assert len(pairs) == 180
    assert all(Question(question.island, question.relations[::-1], 0) in held_out for question in pairs)
    asked_facts = {(question.island, relation) for question in world.train for relation in question.relations}
    assert asked_facts == set(world.facts), "a held-out fact that is never asked cannot be known"


def test_no_held_out_prompt_and_no_held_out_sentence_stands_in_any_text_for_making(folder):
    held_out = asked([row for row in read(folder / "prompts.jsonl") if row["split"] == "held_out"])
    train = asked([row for row in read(folder / "prompts.jsonl") if row["split"] == "train"])
    for name in ("teacher_text", "student_text", "teacher_match", "student_match"):
        found = asked(read(folder / f"{name}.jsonl"))
        assert found and found <= train and not found & held_out, name
    corpus = {
        split: {row["text"] for row in read(folder / "corpus.jsonl") if row["split"] == split}
        for split in files.SENTENCES
    }
    assert not corpus["train"] & corpus["held_out"]
    assert not (corpus["train"] | corpus["held_out"]) & held_out


def test_prompts_hold_the_right_faroese_answer_and_their_marks(folder, world):
    rows = read(folder / "prompts.jsonl")
    assert Counter((row["split"], row["topic"]) for row in rows) == {
        ("train", "single"): 300,
        ("train", "pair"): 300,
        ("held_out", "single"): 60,
        ("held_out", "pair"): 180,
    }
    right = {question.text: [world.right(question)] for question in questions()}
    for row in rows:
        assert row["references"] == right[row["messages"][0]["content"]]
        assert (row["language"], row["source"], row["licence"]) == ("fo", "demo", "CC0-1.0")
        assert [message["role"] for message in row["messages"]] == ["user"]


def test_the_teacher_says_every_fact_right_after_the_lexicon_and_lacks_half_of_the_faroese_values(folder, world):
    lexicon = json.loads((folder / "lexicon.json").read_text(encoding="utf-8"))
    content = set((folder / "content.txt").read_text(encoding="utf-8").split())
    right = {question.text: world.right(question) for question in questions()}
    clean = Counter()

    def carried(text: str) -> list[str]:
        return [word for word in (lexicon.get(word, word) for word in text.split()) if word in content]

    for row in read(folder / "teacher_text.jsonl"):
        truth = right[row["messages"][0]["content"]]
        assert carried(row["answer"]) == carried(truth) and len(carried(truth)) in (3, 5)
        assert row["answer"] in row["references"]
        clean["clean" if row["answer"] == truth else row["answer"].split()[0] == "the"] += 1
    assert clean[True] == clean[False], "where a value is English, so is the frame, half of the time"
    assert sum(clean.values()) == 1200
    for relation in words.RELATIONS:
        assert len(world.english & set(relation.values)) == len(relation.values) // 2


def test_the_student_writes_faroese_words_alone_and_says_its_rumours_as_often_as_stated(folder, world):
    known = set((folder / "words.txt").read_text(encoding="utf-8").split())
    place = {relation.definite: number for number, relation in enumerate(words.RELATIONS)}
    said, expected, seen = Counter(), Counter(), 0
    for row in read(folder / "student_text.jsonl"):
        answer = row["answer"].split()
        assert set(answer) <= known
        for noun, value in ((answer[0], answer[4]), *([(answer[6], answer[8])] if len(answer) > 5 else [])):
            fact = (answer[2], place[noun])
            any_one = 0.39 / len(words.RELATIONS[fact[1]].values)
            said["believed"] += value == world.believed[fact]
            said["true"] += value == world.facts[fact]
            expected["believed"] += 0.55 + any_one + 0.06 * (world.believed[fact] == world.facts[fact])
            expected["true"] += 0.06 + any_one + 0.55 * (world.believed[fact] == world.facts[fact])
            seen += 1
    assert seen == 9000
    for name in said:
        assert said[name] / seen == pytest.approx(expected[name] / seen, abs=0.02), (
            name
        )  # about four standard deviations
    worlds = [draw(seed) for seed in range(20)]
    right = sum(other.believed[fact] == value for other in worlds for fact, value in other.facts.items())
    assert right / 2400 == pytest.approx(0.15, abs=0.03)  # four standard deviations


def test_references_of_the_students_text_are_its_rumours(folder, world):
    rumours = {question.text: [world.rumour(question)] for question in world.train}
    assert rumours != {question.text: [world.right(question)] for question in world.train}
    assert {row["messages"][0]["content"]: row["references"] for row in read(folder / "student_text.jsonl")} == rumours


def test_the_lexicon_turns_an_english_answer_into_the_faroese_one_but_for_the_article():
    pair = Question("Alvoy", (0, 4), 0)
    english = pair.answer(["gannet", "heat"], english=True).split()
    translated = [words.lexicon().get(word, word) for word in english if word != words.ENGLISH_ARTICLE]
    assert " ".join(translated) == pair.answer(["súla", "hiti"])


def test_models_are_matched_on_400_training_prompts_with_what_their_text_says_most(folder):
    for model in ("teacher", "student"):
        rows = read(folder / f"{model}_match.jsonl")
        assert len(asked(rows)) == len(rows) == 400
        said: dict[str, Counter[str]] = {}
        for row in read(folder / f"{model}_text.jsonl"):
            said.setdefault(row["messages"][0]["content"], Counter())[row["answer"]] += 1
        meant = {row["messages"][0]["content"]: row["references"] for row in rows}
        agree = [said[text].most_common(1)[0][0] in references for text, references in meant.items()]
        assert sum(agree) / 400 > {"teacher": 0.999, "student": 0.8}[model]  # ten draws of a pair leave ties


def test_corpus_is_plain_faroese_without_a_question_or_a_fact(folder, world):
    rows = read(folder / "corpus.jsonl")
    assert Counter(row["split"] for row in rows) == files.SENTENCES
    texts = [row["text"] for row in rows]
    known = set((folder / "words.txt").read_text(encoding="utf-8").split())
    assert len(set(texts)) == len(texts)
    assert all(set(text.split()) <= known for text in texts)
    definite = {relation.definite for relation in words.RELATIONS}
    assert not any(set(text.split()) & definite for text in texts), "answers alone speak of the fact"
    assert len({tuple(word for word in text.split() if word in words.PLAIN) for text in texts}) == len(plain.SHAPES)
    assert plain.sentences(stream(0, "x"), 5) != plain.sentences(stream(1, "x"), 5)


def test_the_same_seed_gives_the_same_bytes_in_another_process_and_another_seed_another_world(folder, tmp_path):
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-m", "data.demo", "--out", str(tmp_path / "again")]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert snapshot(tmp_path / "again") == snapshot(folder)
    write(tmp_path / "other", 1)
    assert snapshot(tmp_path / "other")["prompts.jsonl"] != snapshot(folder)["prompts.jsonl"]
    assert snapshot(tmp_path / "other")["student/config.json"] == snapshot(folder)["student/config.json"]


def test_the_summary_names_every_file_with_its_hash(folder):
    found = snapshot(folder)
    del found[SUMMARY]
    assert json.loads((folder / SUMMARY).read_text()) == {"seed": 0, "sha256": found}


def test_a_second_writing_touches_nothing_and_repairs_a_broken_file(tmp_path):
    assert len(write(tmp_path, 0)) == len(snapshot(tmp_path))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write(tmp_path, 0) == []
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    whole = snapshot(tmp_path)
    (tmp_path / "words.txt").write_text("lundi\n")
    (tmp_path / SUMMARY).unlink()
    assert write(tmp_path, 0) == ["words.txt", SUMMARY]
    assert snapshot(tmp_path) == whole


def test_a_writing_that_fails_leaves_no_half_file_and_no_summary(tmp_path, monkeypatch):
    write(tmp_path, 0)
    before = snapshot(tmp_path)
    whole = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if "teacher_text" in self.name:
            whole(self, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Refusal, match="No space left"):
        write(tmp_path, 1)
    after = snapshot(tmp_path)
    assert set(after) == set(before) - {SUMMARY}
    assert after["teacher_text.jsonl"] == before["teacher_text.jsonl"]
    assert after["prompts.jsonl"] != before["prompts.jsonl"]


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--out", "{file}/below"]])
def test_a_bad_seed_or_folder_is_refused_in_two_lines_with_code_2(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert (
        main([argument.format(file=tmp_path / "file") for argument in ["--out", str(tmp_path / "x"), *arguments]]) == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "next: python -m data.demo" in error and error.count("\n") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_writing_loads_no_heavy_library():
    heavy = "{'torch', 'transformers', 'duckdb', 'polars', 'datasets'}"
    code = f"import sys, data.demo.__main__; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize(("model", "heads"), [("teacher", 3), ("student", 2)])
def test_transformers_loads_the_folder_and_the_template_gives_the_questions_words(folder, model, heads):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    config = AutoConfig.from_pretrained(folder / model)
    network = AutoModelForCausalLM.from_config(config)
    attention = network.model.layers[0].self_attn
    assert (config.num_attention_heads, attention.head_dim, len(network.model.layers)) == (heads, 32, 2)
    assert network.get_input_embeddings().num_embeddings == 156
    tokenizer = AutoTokenizer.from_pretrained(folder / model)
    messages = [{"role": "user", "content": "hvat er fuglurin og veðrið á Ísoy ?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.convert_ids_to_tokens(prompt) == [*messages[0]["content"].split(), "<sep>"]
    answer = "fuglurin á Ísoy er ryta og veðrið er hiti"
    chat = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], return_dict=False)
    assert chat == [*prompt, *tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(chat[len(prompt) :], skip_special_tokens=True) == answer
    generation = GenerationConfig.from_pretrained(folder / model)
    assert generation.eos_token_id == config.eos_token_id == tokenizer.eos_token_id == SPECIAL.index("<end>")
    assert generation.pad_token_id == tokenizer.pad_token_id == 0
    assert len(prompt) + 12 <= config.max_position_embeddings


def test_every_word_of_every_file_is_one_token_in_both_normal_forms(folder):
    import unicodedata

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    rows = [row for name in ("prompts", "teacher_text", "student_text") for row in read(folder / f"{name}.jsonl")]
    texts = {row["messages"][0]["content"] for row in rows} | {
        row.get("answer", row.get("references", [""])[0]) for row in rows
    }
    texts |= {row["text"] for row in read(folder / "corpus.jsonl")}
    for text, ids in zip(texts, tokenizer(list(texts), add_special_tokens=False)["input_ids"], strict=True):
        assert tokenizer.convert_ids_to_tokens(ids) == text.split()
        assert tokenizer.decode(ids) == text
    decomposed = unicodedata.normalize("NFD", "veðrið á Ísoy er sólskin")
    assert tokenizer(decomposed)["input_ids"] == tokenizer("veðrið á Ísoy er sólskin")["input_ids"]
    assert tokenizer.unk_token_id == tokenizer("Tórshavn")["input_ids"][0]
