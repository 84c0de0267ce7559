"""Models, tokenizers, templates, prompts, corpora and imports that cannot be used, each as a row with what its sentence must say.

`refuses` (conftest.py) asserts the rest for each row: exit code 2, at most three lines on stderr, a next step that can be typed,
no half-written file, whatever was published unchanged, and a lake that verifies (or names the file that the row damaged)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Broken = Callable[[Any], object]


def rows(*found: tuple[Any, ...]) -> pytest.MarkDecorator:
    """Parametrise over rows (name, how it is broken or None, command line, what it says…)."""
    cases = [pytest.param(broken, line, says, id=name) for name, broken, line, *says in found]
    return pytest.mark.parametrize(("broken", "line", "says"), cases)


def model(change: Callable[[Path], object], role: str = "student") -> Broken:
    """The recipe's student or teacher as a folder of its own, then changed."""

    def broken(place: Any) -> None:
        recipe = place.conf / "recipe" / "tiny.yaml"
        text = recipe.read_text(encoding="utf-8")
        old = next(x.split("path: ")[1].rstrip("}") for x in text.splitlines() if x.startswith(f"{role}:"))
        recipe.write_text(text.replace(old, f"{place.root}/{role}"), encoding="utf-8")
        shutil.copytree(old, place.root / role)
        change(place.root / role)

    return broken


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def holding(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("program", ["factory", "trainer"])
@rows(
    ("folder", None, "student.path=./nowhere/model", "no model folder at ./nowhere/model"),
    ("run", None, "policy=run:nope", "no finished run named nope"),
    ("policy that is no name", None, "policy=nope", "neither student nor run:NAME"),
    ("run without its weights", lambda p: shutil.rmtree(p.root / "runs/one/final"), "policy=run:one", "named one"),
    ("no weights", model(without(WEIGHTS)), "", "holds no *.safetensors", "/student"),
    ("empty weights", model(cut(WEIGHTS, 0)), "", "model.safetensors is no safetensors file"),
    ("cut weights", model(cut(WEIGHTS, 9000)), "", "model.safetensors is cut short"),
    ("no tokenizer", model(without("tokenizer.json")), "", "holds no tokenizer"),
    ("broken configuration", model(holding("config.json", "{")), "", "config.json is no JSON"),
    ("broken tokenizer settings", model(holding("tokenizer_config.json", "[]")), "", "tokenizer_config.json"),
    ("no GGUF file", None, "student.gguf_file=x.gguf", "holds no x.gguf"),
    ("template that is nowhere", None, "student.chat_template=nowhere.jinja", "no chat template at nowhere.jinja"),
)
def test_a_model_that_cannot_be_had(refuses, place, program, broken, line, says):
    if broken:
        broken(place)
    refuses(f"{program} {line}", *says)


@rows(
    ("folder", None, "factory teacher.path=./nowhere", "no model folder at ./nowhere"),
    ("none", None, "factory teacher=null", "has no teacher"),
    ("no weights", model(without(WEIGHTS), "teacher"), "factory", "holds no *.safetensors", "/teacher"),
    ("unknown family", model(holding("config.json", '{"model_type": "x"}'), "teacher"), "factory", "configuration"),
    ("broken tokenizer", model(holding("tokenizer.json", "{"), "teacher"), "factory", "no tokenizer"),
)
def test_a_teacher_that_cannot_be_had(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)


def test_a_hub_id_that_cannot_be_had(refuses, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for program in ("factory", "trainer"):
        refuses(f"{program} student.path=nobody/nothing", "no model nobody/nothing")


RL, BC, PT = "losses.bc=0 losses.pt=0", "losses.rl=0 losses.pt=0 replay.bc=teacher", "losses.rl=0 losses.bc=0"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@rows(
    (
        "teacher of soft targets",
        None,
        "factory 'stages=[soft_targets]' teacher.path={other}",
        "different tokenizers (300 and 360 tokens)",
    ),
    ("student that is scored", None, "factory 'stages=[scores]' student.path={other}", "another policy, tokenizer"),
    ("student of the pool", None, f"trainer student.path={{other}} {RL}", "another policy, tokenizer or chat template"),
    ("student of the answers", None, f"trainer student.path={{other}} {BC}", "not in this student's tokens"),
    ("student of the corpus", None, f"trainer student.path={{other}} {PT}", "no corpus plain in this student's tokens"),
    ("template of the pool", None, f"trainer student.chat_template=t.jinja {RL}", "or chat template"),
    ("template of the answers", None, f"trainer student.chat_template=t.jinja {BC}", "chat template or end of turn"),
    (
        "template of the scored pool",
        None,
        "factory 'stages=[scores]' student.chat_template=t.jinja",
        "or chat template",
    ),
)
def test_another_tokenizer_or_chat_template(refuses, place, tiny_model, broken, line, says):
    place.write("t.jinja", TEMPLATE)
    refuses(line.replace("{other}", tiny_model("mistral")), *says)


@rows(
    ("samples", "{{ raise_exception('no such role') }}", "factory 'stages=[samples]' student", "no such role"),
    ("answers", "{{ raise_exception('no such role') }}", "factory 'stages=[answers]' teacher", "no such role"),
    ("syntax", "{% if %}", "factory 'stages=[samples]' student", "chat template"),
    ("undefined", "{{ messages[0].no.more }}", "factory 'stages=[samples]' student", "chat template"),
    ("probe", "{{ raise_exception('no such role') }}", f"trainer probe.every=1 {PT} student", "no such role"),
)
def test_a_chat_template_that_raises(refuses, place, broken, line, says):
    place.write("t.jinja", broken)
    refuses(f"{line}.chat_template=t.jinja", *says)


# sources


def prompts(*found: Any) -> Broken:
    return lambda place: place.write("prompts.jsonl", list(found))


def source(name: str, content: str | bytes) -> Broken:
    return lambda place: place.write(name, content)


LONG = "orð " * 600
HELD_OUT = {"messages": "a", "split": "held_out"}


@rows(
    ("empty file", source("prompts.jsonl", ""), "factory", "prompts.jsonl has no rows"),
    ("blank lines", source("prompts.jsonl", "\n\n"), "factory", "prompts.jsonl has no rows"),
    ("empty list", source("p.json", "[]"), "factory prompts.path=p.json", "p.json has no rows"),
    ("all held out, samples", prompts(HELD_OUT), "factory 'stages=[prompts,samples]'", "all 1 prompts are held out"),
    ("all held out, answers", prompts(HELD_OUT), "factory 'stages=[prompts,answers]'", "all 1 prompts are held out"),
    (
        "none held out to measure",
        prompts({"messages": "a"}),
        "factory 'stages=[prompts,evaluate]'",
        "no held_out prompts",
    ),
    ("an empty prompt", prompts({"messages": " "}), "factory", "row 1", "is an empty prompt"),
    ("no file", None, "factory prompts.path=prompt.jsonl", "no file prompt.jsonl", "did you mean 'prompts.jsonl'"),
    ("a folder", lambda p: (p.root / "d.jsonl").mkdir(), "factory prompts.path=d.jsonl", "no file d.jsonl"),
    ("no path", None, "factory prompts.path=''", "path is empty"),
    ("a broken line", source("prompts.jsonl", '{"messages": "a"}\n{"messages": \n'), "factory", "line 2 is no JSON"),
    ("a line that is a list", source("prompts.jsonl", '["a"]\n'), "factory", "line 1 is no JSON object"),
    ("no UTF-8", source("prompts.jsonl", b'{"messages": "\xff"}\n'), "factory", "prompts.jsonl line 1"),
    (
        "half a surrogate",
        source("prompts.jsonl", '{"messages": "\\ud800"}\n'),
        "factory",
        "line 1 is no JSON",
        "surrogate",
    ),
    ("no JSON", source("p.json", "{"), "factory prompts.path=p.json", "p.json is no JSON"),
    ("JSON that is no UTF-8", source("p.json", b"\xff"), "factory prompts.path=p.json", "p.json is no JSON"),
    ("JSON that is no list", source("p.json", '{"a": 1}'), "factory prompts.path=p.json", "no list of objects"),
    ("no Parquet", source("p.parquet", "text"), "factory prompts.path=p.parquet", "p.parquet cannot be read"),
    ("empty CSV", source("p.csv", ""), "factory prompts.path=p.csv", "p.csv cannot be read"),
    ("ragged CSV", source("p.csv", "messages,b\n1\n"), "factory prompts.path=p.csv", "Expected 2 columns, got 1"),
    ("messages of a wrong type", prompts({"messages": 7}), "factory", "row 1", "neither a text nor a list"),
    ("messages without roles", prompts({"messages": [{"text": "a"}]}), "factory", "without role and content"),
    ("no messages", prompts({"body": "a"}), "factory", "no column holds the messages", "columns={messages: body}"),
    ("unknown split", prompts({"messages": "a", "split": "test"}), "factory", "neither train nor held_out"),
    ("column of the source", None, "factory 'prompts.columns={references: refs}'", "did you mean 'references'"),
    ("column of ours", None, "factory 'prompts.columns={reference: references}'", "did you mean 'references'"),
    ("empty corpus", source("corpus.jsonl", ""), "factory 'stages=[corpus]'", "corpus.jsonl has no rows"),
    ("corpus of numbers", source("corpus.jsonl", '{"text": 3}\n'), "factory 'stages=[corpus]'", "row 1", "int"),
    ("corpus without text", source("corpus.jsonl", '{"body": "a"}\n'), "factory 'stages=[corpus]'", "holds the text"),
    (
        "corpus of nothing",
        source("corpus.jsonl", '{"text": " "}\n'),
        "factory 'stages=[corpus]'",
        "no document",
        "is left",
    ),
    (
        "broken line of a corpus",
        source("corpus.jsonl", '{"text": "a"\n'),
        "factory 'stages=[corpus]'",
        "line 1 is no JSON",
    ),
)
def test_a_source_that_holds_nothing_or_nonsense(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)


TAUGHT = {"messages": "a", "teacher_messages": LONG}


@rows(
    ("samples", prompts({"messages": LONG}), "factory 'stages=[prompts,samples]'", "512 positions", "6 to be drawn"),
    ("answers", prompts({"messages": LONG}), "factory 'stages=[prompts,answers]'", "512 positions", "6 to be drawn"),
    ("the teacher's prompt", prompts(TAUGHT), "factory 'stages=[prompts,answers]'", "512 positions"),
    (
        "the teacher's context",
        prompts(TAUGHT),
        "factory 'stages=[prompts,samples,scores]'",
        "a cut context gives scores",
    ),
    ("evaluate", prompts({**HELD_OUT, "messages": LONG}), "factory 'stages=[prompts,evaluate]'", "512 positions"),
    ("long samples", None, "factory 'stages=[samples]' sampling.max_tokens=1000", "512 positions", "at most"),
    ("long answers", None, "factory 'stages=[answers]' answers.max_tokens=1000", "512 positions", "at most"),
    ("long evaluation", None, "factory 'stages=[evaluate]' benchmarks.task.max_tokens=999", "512 positions"),
    ("probe", None, "trainer probe.every=1 probe.max_tokens=5000", "longer than the model's context of 512"),
)
def test_a_prompt_longer_than_the_context(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)


def imported(*found: Any, more: str = "") -> Broken:
    """Completions to be imported for the two prompts a and b."""

    def broken(place: Any) -> None:
        place.write("prompts.jsonl", [{"messages": "a"}, {"messages": "b"}])
        place.write("i.jsonl", list(found))
        place.recipe(f"factory: {{imports: {{old: {{kind: samples, path: i.jsonl{more}}}}}}}")

    return broken


def completion(**more: Any) -> dict[str, Any]:
    return {"messages": "a", "completion": "x", "token_ids": [9, 1], "logprobs": [-1.0, -2.0], **more}


@rows(
    ("all zero", imported(completion(logprobs=[0, 0])), "every log-probability is 0"),
    ("missing for one", imported(completion(), {"messages": "b", "completion": "y"}), "1 of 2 completions", "row 2"),
    ("missing for a token", imported(completion(logprobs=[-1.0])), "row 1", "1 log-probabilities for 2 tokens"),
    ("NaN", imported(completion(logprobs=[-1.0, float("nan")])), "null or NaN"),
    ("null", imported(completion(logprobs=[-1.0, None])), "null or NaN"),
    ("minus infinity", imported(completion(logprobs=[-1.0, float("-inf")])), "infinite"),
    ("above 0", imported(completion(logprobs=[1.0, -2.0])), "none can be above 0"),
    ("texts", imported(completion(logprobs=["a", "b"])), "row 1", "logprobs is no list of numbers"),
    ("one number", imported(completion(logprobs=-1.0)), "row 1", "logprobs is no list of numbers"),
    ("another vocabulary", imported(completion(token_ids=[9, 99999])), "row 1", "not all below 300"),
    ("no token", imported(completion(token_ids=[], logprobs=[-1.0])), "row 1", "token_ids are empty"),
    ("half a token", imported(completion(token_ids=[9.5, 1])), "row 1", "token_ids is no list of numbers"),
    ("a completion that is a number", imported(completion(completion=3)), "row 1", "the completion is no text"),
    ("no completion", imported({"messages": "a", "other": "x"}), "holds the completion", "columns={completion: other}"),
    ("other prompts", imported(completion(messages="z")), "none of the prompts in i.jsonl"),
    ("NaN as a reward", imported(completion(s=float("nan")), more=", rewards: [s]"), "row 1", "'s' holds nan"),
    ("a text as a reward", imported(completion(s="a"), more=", rewards: [s]"), "row 1", "'s' holds 'a'"),
    ("no reward", imported(completion(), more=", rewards: [s]"), "row 1", "no reward column 's'"),
    ("a reward's label", imported(completion(text=1), more=", rewards: [text]"), "component label text"),
    ("column of the source", imported(completion(), more=", columns: {logprobs: lp}"), "no column 'lp'"),
    ("column of ours", imported(completion(), more=", columns: {logprob: logprobs}"), "did you mean 'logprobs'"),
    ("kind", imported(completion(), more="}, new: {kind: smaples, path: i.jsonl"), "did you mean 'samples'"),
    ("file", imported(completion(), more="}, new: {kind: samples, path: j.jsonl"), "did you mean 'i.jsonl'"),
    ("n", imported(completion(), more=", n: 0"), "n=0 is outside"),
    ("too long", imported({"messages": "a", "completion": LONG}), "512"),
)
def test_an_import_without_a_usable_behaviour(refuses, place, broken, line, says):
    broken(place)
    refuses("factory 'stages=[prompts,import]'", line, *says)


def behaviour(values: Callable[[list[float]], list[float]]) -> Broken:
    """The pool as someone else's tool could have written it: other μ, a manifest that fits."""

    def broken(place: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from data.storage import file_sha256

        manifest = json.loads(place.manifest("samples").read_text(encoding="utf-8"))
        for path, entry in zip(place.slice("samples").files, manifest["shards"], strict=True):
            table = pq.read_table(path)
            changed = [values(row) for row in table["behaviour_logprobs"].to_pylist()]
            index, field = table.schema.get_field_index("behaviour_logprobs"), table.schema.field("behaviour_logprobs")
            pq.write_table(table.set_column(index, field, pa.array(changed, field.type)), path)
            entry["sha256"] = file_sha256(path)
        place.manifest("samples").write_text(json.dumps(manifest), encoding="utf-8")

    return broken


@rows(
    ("zero", behaviour(lambda row: [0.0] * len(row)), "trainer", "behaviour log-probabilities are all zero"),
    ("missing", behaviour(lambda row: []), "trainer", "behaviour log-probabilities are missing"),
)
def test_a_pool_without_a_usable_behaviour(refuses, place, broken, line, says):
    if broken:
        broken(place)
    refuses(line, *says)
