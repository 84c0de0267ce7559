"""A student of byte-level BPE and a teacher of SentencePiece with bytes for unknown letters: from prompts to trained weights by the
real commands, and then the weights again by transformers alone, from the samples' texts and nobody's scores."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.__main__ import COMMAND

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "factory"))

from conftest import Place
from families import END, family

LR, STEPS, LOW, HIGH, CAP = 0.5, 2, 0.02, 0.02, 1.05
RECIPE = """# @package _global_
# two random models of two tokenizers
name: tiny
student: {{path: {student}}}
teacher: {{path: {teacher}}}
prompts: {{path: {prompts}}}
sampling: {{n: 6, max_tokens: 24}}
answers: {{max_tokens: 8}}
components: {{by_token: {{use: teacher_loglik, form: token}}, by_byte: {{use: teacher_loglik, form: byte}}}}
reward: by_token
"""
QUESTIONS = ["hvat eitur oyggin ?", "what is the capital ?", "the little boat", "báturin siglir", "sólin skínur"]
PLAIN = ["optimiser.name=sgd", f"optimiser.lr={LR}", "optimiser.clip=null", "probe.every=null", "replay.prompts=5"]
PLAIN += ["replay.truncated=keep", "losses.pt=0", "losses.kl=0", f"steps={STEPS}"]
BC = ["losses.bc=0.5", "replay.bc=teacher", "replay.answers=5"]
CLIPS = [f"clip.clip_low={LOW}", f"clip.clip_high={HIGH}", f"clip.cap={CAP}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Place:
    """Prompts, the teacher's answers, a pool, its scores and rewards."""
    folder = tmp_path_factory.mktemp("two")
    models = {}
    for role, name, seed in (("student", "byte_level", 0), ("teacher", "llama", 7)):
        tokenizer = family(name)
        ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
        models[role] = tiny_model("llama", folder / role, seed=seed, vocab_size=len(tokenizer), **ends)
        tokenizer.save_pretrained(models[role])
    lines = [json.dumps({"messages": [{"role": "user", "content": text}], "split": "train"}) for text in QUESTIONS]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = folder / "conf" / "recipe" / "tiny.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(RECIPE.format(**models, prompts=prompts), encoding="utf-8")
    made = Place(folder)
    made.factory(*words(made), "stages=[prompts,answers,samples,scores,rewards]")
    return made


def words(place: Place) -> tuple[str, ...]:
    return "recipe=tiny", "--config-dir", f"{place.folder}/conf"


def model(place: Place, role: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (folder,) = (place.folder / role).iterdir()
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def logprobs(network: Any, prompt: list[int], own: list[int]) -> torch.Tensor:
    """(t,) nats of these ids behind a prompt."""
    behind_tv = network(torch.tensor([[*prompt, *own]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return behind_tv[range(len(own)), own]


def by_the_teacher(place: Place, samples: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Per sample the teacher's log p of its *text*, end of turn included: by the teacher's own token, and by byte."""
    network, tokenizer = model(place, "teacher")
    end, per_token, per_byte = tokenizer.convert_tokens_to_ids(END), [], []
    for sample in samples:
        prompt = tokenizer.apply_chat_template(sample["messages"], add_generation_prompt=True, return_dict=False)
        own = tokenizer(sample["text"], add_special_tokens=False, split_special_tokens=True).input_ids
        own = [*own, *([end] if sample["finish_reason"] == "stop" else [])]
        with torch.no_grad():
            total = logprobs(network, prompt, own).double().sum().item()
        per_token.append(total / len(own))
        per_byte.append(total / max(len(sample["text"].encode()), 1))
    return per_token, per_byte


def pool(place: Place) -> list[dict[str, Any]]:
    return place.sql(
        "SELECT g.prompt_token_ids, p.messages, s.*, c.alignment, c.n_scorer_tokens, c.total FROM samples s"
        " JOIN groups g USING (group_id) JOIN prompts p USING (prompt_id) JOIN scores c USING (group_id, sample_index)"
        " WHERE c.alignment = 'byte_spans' ORDER BY group_id, sample_index"
    )


def test_the_rewards_are_the_teachers_own_numbers_of_the_text(place: Place) -> None:
    samples = pool(place)
    assert len(samples) == 30 and any(s["finish_reason"] == "stop" for s in samples)
    rewards = place.sql("SELECT * FROM reward_table ORDER BY group_id, sample_index")
    per_token, per_byte = by_the_teacher(place, samples)
    assert [r["by_token"] for r in rewards] == pytest.approx(per_token, abs=1e-3)
    assert [r["by_byte"] for r in rewards if r["text"]] == pytest.approx(
        [value for value, s in zip(per_byte, samples, strict=True) if s["text"]], abs=1e-3
    )
    assert any(s["n_scorer_tokens"] != s["n_tokens"] for s in samples)


def grpo(log_ratio_t: torch.Tensor, advantage: float) -> torch.Tensor:
    ratio_t = log_ratio_t.exp()
    return torch.minimum(ratio_t * advantage, ratio_t.clamp(1 - LOW, 1 + HIGH) * advantage).mean()


def seq_tis(log_ratio_t: torch.Tensor, advantage: float) -> torch.Tensor:
    """Its value is nothing; its gradient is min(w, C) A ∇ log π(y)."""
    return min(log_ratio_t.sum().exp().item(), CAP) * advantage * log_ratio_t.sum()


OBJECTIVES = {"grpo": grpo, "seq_tis": seq_tis}
Objective = Callable[[torch.Tensor, float], torch.Tensor]


def trained(place: Place, objective: Objective, behaviour: float) -> dict[str, torch.Tensor]:
    """The student after STEPS plain steps. `behaviour`: λ of behaviour cloning on the teacher's answers."""
    samples = pool(place)
    rewards = torch.tensor(by_the_teacher(place, samples)[0]).view(5, 6)
    advantages = (rewards - rewards.mean(1, keepdim=True)).flatten().tolist()
    answers = place.sql("SELECT prompt_token_ids, token_ids FROM answer_tokens")
    network, _ = model(place, "student")
    optimiser = torch.optim.SGD(network.parameters(), LR)
    for _ in range(STEPS):
        loss = torch.zeros(())
        for sample, advantage in zip(samples, advantages, strict=True):
            own = logprobs(network, sample["prompt_token_ids"], sample["token_ids"])
            loss -= objective(own - torch.tensor(sample["behaviour_logprobs"]), advantage) / len(samples)
        count = sum(len(answer["token_ids"]) for answer in answers)
        for answer in answers if behaviour else []:
            loss -= behaviour * logprobs(network, answer["prompt_token_ids"], answer["token_ids"]).sum() / count
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: tensor.detach() for name, tensor in network.named_parameters()}


def apart(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    return max((one[name] - two[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_steps_from_a_foreign_teachers_likelihood_are_those_of_plain_torch(place: Place, name: str) -> None:
    bc = BC if name == "grpo" else ["losses.bc=0"]
    said = *words(place), f"objective={name}", f"run={name}", *PLAIN, *CLIPS, *bc
    if name == "grpo":
        place.trainer(*said)
    else:
        assert COMMAND.main([*said, *place.places]) == 0
    start = dict(model(place, "student")[0].named_parameters())
    expected = trained(place, OBJECTIVES[name], 0.5 if name == "grpo" else 0)
    found = {n: t for n, t in place.weights(name).items() if n in expected}
    assert apart(start, expected) > 1e-2
    assert apart(expected, found) < 1e-4


@pytest.mark.parametrize("name", ["opd", "minillm"])
def test_objectives_of_single_tokens_refuse_such_scores_and_say_what_to_do(
    place: Place, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = *words(place), f"objective={name}", f"run={name}", *PLAIN, "losses.bc=0"
    assert COMMAND.main([*said, *place.places]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) <= 3 and "Traceback" not in told
    assert "a teacher of another tokenizer scored runs of tokens" in told and "objective=grpo" in told
    assert not (place.runs / name).exists()
