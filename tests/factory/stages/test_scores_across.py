"""Scores by a teacher of another tokenizer: 200 Faroese texts, every family, against transformers' own forward pass."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from data.config import ModelSettings, PromptSource
from data.refusal import Refusal
from data.verify import verify
from factory.config import ImportSource

sys.path.append(str(Path(__file__).parents[1]))

from families import END, FAMILIES, SPELLING, TEXTS, family, two_hundred

COUNT = 200


@pytest.fixture(params=["made up", "real"])
def texts(request):
    """200 texts: made of the tests' own sentences, and real Faroese ones where they stand."""
    return two_hundred(request.param)


@pytest.fixture
def model(tiny_model, tmp_path):
    """`model(family, seed)`: the settings of a random Llama with that family's tokenizer."""

    def of(name, seed=0):
        folder = tmp_path / f"{name}-{seed}"
        if not folder.exists():
            tokenizer = family(name)
            end = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
            made = tiny_model("llama", folder, seed=seed, vocab_size=len(tokenizer), **end)
            tokenizer.save_pretrained(made)
            return ModelSettings(path=made)
        return ModelSettings(path=str(next(folder.iterdir())))

    return of


@pytest.fixture
def pool(recipe, change, write_rows):
    """A recipe that imports completions, four of a prompt."""

    def of(texts, student, teacher, **values):
        rows = [
            {"prompt": f"hvat er {i // 4} ?", "completion": text, "finish_reason": "stop"}
            for i, text in enumerate(texts)
        ]
        path = write_rows(rows, "pool.jsonl")
        imports = {"told": ImportSource(kind="samples", path=path)}
        settings = {"prompts": PromptSource(path=path), "imports": imports, "components": {}, "reward": None} | values
        return change(recipe, student=student, teacher=teacher, shard_groups=25, **settings)

    return of


def scored(lake):
    """(samples, the teacher's scores) in the same order."""
    samples, scores = lake.slices("samples")[-1], lake.slices("scores", label="tiny-teacher")[-1]
    return lake.read(samples).to_pylist(), lake.read(scores).to_pylist()


def plain_totals(folder, prompts, texts):
    """Each text's log p by transformers alone: template, text, end of turn."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for messages, text in zip(prompts, texts, strict=True):
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        own = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.convert_tokens_to_ids(END)]
        with torch.no_grad():
            logprobs = network(torch.tensor([[*prompt, *own]])).logits[0].log_softmax(-1)
        behind = logprobs[len(prompt) - 1 : -1]
        found.append((behind[range(len(own)), own].double().sum().item(), len(own)))
    return found


@pytest.mark.parametrize("teacher", [name for name in FAMILIES if name != "byte_level"])
def test_stored_totals_are_the_teachers_own(pool, make, model, texts, teacher):
    recipe = pool(texts, model("byte_level"), model(teacher, 7))
    lake = make(recipe, "prompts,import,scores")
    samples, scores = scored(lake)
    shown = {p["prompt_id"]: p["messages"] for p in lake.read(lake.slices("prompts")[-1]).to_pylist()}
    asked = {g["group_id"]: shown[g["prompt_id"]] for g in lake.read(lake.slices("groups")[-1]).to_pylist()}
    plain = plain_totals(recipe.teacher.path, [asked[s["group_id"]] for s in samples], [s["text"] for s in samples])
    assert len(samples) == COUNT == len(scores)
    for sample, score, (total, length) in zip(samples, scores, plain, strict=True):
        assert score["total"] == pytest.approx(total, abs=1e-3)
        assert (score["alignment"], score["n_scorer_tokens"]) == ("byte_spans", length)
        assert len(score["logprobs"]) == sample["n_tokens"]
        missing = [value is None for value in score["logprobs"]]
        assert score["unaligned_share"] == pytest.approx(np.mean(missing))
        if not any(missing):
            assert sum(score["logprobs"]) == pytest.approx(score["total"], rel=1e-4)
    if teacher in SPELLING:
        assert max(score["unaligned_share"] for score in scores) == 0
    assert verify(lake).faults == []


@pytest.mark.parametrize("student", [name for name in FAMILIES if name != "qwen"])
def test_another_last_word_changes_the_scores_from_there_on_alone(pool, make, model, student):
    texts = [text.rpartition(" ")[0] + word for text in TEXTS[:2] for word in (" kavin", " boat")]
    _, scores = scored(make(pool(texts, model(student), model("qwen", 7)), "prompts,import,scores"))
    tokenizer = family(student)
    for first, second, text in ((0, 1, texts[0]), (2, 3, texts[2])):
        kept = (
            len(tokenizer(text.rpartition(" ")[0], add_special_tokens=False).input_ids) - 2
        )  # a token may reach over a space
        a, b = scores[first]["logprobs"], scores[second]["logprobs"]
        same = [x is None if y is None else x == pytest.approx(y, abs=1e-3) for x, y in zip(a, b, strict=False)]
        assert kept > 3 and all(same[:kept]) and not all(same)


def test_a_drawn_pool_is_scored_and_rewarded_per_scorer_token_and_per_byte(recipe, change, make, model, capsys):
    components = {f"by_{form}": {"use": "teacher_loglik", "form": form} for form in ("sum", "token", "byte")}
    lake = make(
        change(recipe, student=model("byte_level"), teacher=model("llama", 7), components=components, reward="by_byte"),
        "prompts,samples,scores,rewards",
    )
    samples, scores = scored(lake)
    values = {name: lake.read(lake.slices("rewards", label=name)[-1]).to_pylist() for name in components}
    lengths = set()
    for i, (sample, score) in enumerate(zip(samples, scores, strict=True)):
        ended = sample["finish_reason"] == "stop"
        size = len(sample["text"].encode())
        lengths.add(score["n_scorer_tokens"] - sample["n_tokens"])
        assert values["by_sum"][i]["value"] == pytest.approx(score["total"], rel=1e-5)
        if score["n_scorer_tokens"]:
            assert values["by_token"][i]["value"] == pytest.approx(score["total"] / score["n_scorer_tokens"], rel=1e-5)
        if size:
            assert values["by_byte"][i]["value"] == pytest.approx(score["total"] / size, rel=1e-5)
        assert ended == (sample["stop_token"] is not None)
        if ended:
            assert score["logprobs"][-1] is not None
    assert len(lengths) > 1  # dividing by the student's tokens would be another number
    broken = sum(score["unaligned_share"] > 0 for score in scores)
    assert (
        broken
        and f"in {broken} of {len(samples)} samples: text that the scorer's tokenizer changes"
        in capsys.readouterr().out
    )
    assert verify(lake).faults == []


def test_a_second_run_finds_the_scores_of_another_tokenizer(recipe, change, make, model, hashes, capsys):
    other = change(recipe, teacher=model("llama", 7), components={}, reward=None)
    before = hashes(make(other, "prompts,samples,scores"))
    capsys.readouterr()
    assert hashes(make(other, "scores")) == before
    assert "have no score" not in capsys.readouterr().out


def test_prompts_too_long_for_the_scorer_are_refused_in_its_own_tokens(recipe, change, make, tiny_model, tmp_path):
    tokenizer = family("byte_level_short")
    end = {"eos_token_id": tokenizer.eos_token_id, "vocab_size": len(tokenizer)}
    folder = tiny_model("llama", tmp_path / "short", max_position_embeddings=20, **end)
    tokenizer.save_pretrained(folder)
    with pytest.raises(Refusal, match=r"teacher .* would see a prompt of"):
        make(change(recipe, teacher=ModelSettings(path=folder), components={}, reward=None), "prompts,samples,scores")


def test_a_scorer_without_an_end_token_is_refused(recipe, change, make, tiny_model, tmp_path):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = family("llama")
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    folder = tiny_model("llama", tmp_path / "endless", vocab_size=len(tokenizer), eos_token_id=None)
    PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", chat_template=tokenizer.chat_template
    ).save_pretrained(folder)
    with pytest.raises(Refusal, match="names no end token"):
        make(change(recipe, teacher=ModelSettings(path=folder), components={}, reward=None), "prompts,samples,scores")


def test_the_end_of_turn_is_what_the_template_puts_behind_an_answer(tmp_path, tiny_model):
    from dataclasses import replace

    from factory.engines.tokens import Tokens

    tokenizer = family("byte_level")
    turn = tokenizer.convert_tokens_to_ids("<|system|>")
    folder = Path(tiny_model("llama", tmp_path, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id))
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": [{tokenizer.eos_token_id}, {turn}]}}')
    tokens = Tokens.open(ModelSettings(path=str(folder)), folder)
    assert tokens.end_of_turn == tokenizer.eos_token_id
    gemma = "{% for m in messages %}<|user|>{{ m['content'] }}<|system|>\n{% endfor %}"
    assert replace(tokens, template=gemma).end_of_turn == turn
    assert replace(tokens, template=None).end_of_turn == tokenizer.eos_token_id
    assert replace(tokens, template="{{ raise_exception('no') }}").end_of_turn == tokenizer.eos_token_id
