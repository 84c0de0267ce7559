"""The vLLM engine against transformers and against the hf engine, in float32: the same distributions, drawn from and scored.

One engine serves the module (it takes a minute to load, and one process holds one). The model's heads are 32 wide, the narrowest
that vLLM's attention has on a CPU."""

from __future__ import annotations

import importlib.util
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch

from data.config import ModelSettings
from data.refusal import Refusal
from factory.config import VllmSettings
from factory.engines import ChatRequest, GroupRequest, Mixing, ScoreRequest, SoftSpec, TokenSampling
from factory.engines.tokens import Tokens

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="make vllm-env; make test-vllm"),
]
WIDE = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}
CONTEXT = 512  # of the tiny models
PROMPTS = [[5, 6, 7, 8], [9, 10], list(range(20, 60)), [70, 71, 72]]
DRAWN = TokenSampling(temperature=0.7, max_tokens=24, stop_ids=(1,))


@pytest.fixture(scope="module")
def settings(tiny_model):
    return ModelSettings(path=tiny_model("llama", **WIDE))


@pytest.fixture(scope="module")
def tokens(settings):
    return Tokens.open(settings, Path(settings.path))


@pytest.fixture(scope="module")
def engine(settings, tokens):
    from factory.engines.vllm import VllmEngine

    with VllmEngine(
        Path(settings.path), settings, {}, tokens, VllmSettings(max_num_seqs=64, max_num_batched_tokens=64)
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def hf(settings, tokens):
    from factory.engines.hf import HfEngine

    return HfEngine(Path(settings.path), settings, {}, tokens, batch_tokens=4096, device="cpu", seed=0)


@pytest.fixture(scope="module")
def logits_of(settings):
    """`logits_of(prompt, completion)`: transformers' own logits (t, v) of each completion token, float32."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(settings.path, dtype=torch.float32).eval()

    def go(prompt, completion):
        with torch.no_grad():
            return model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]

    return go


@pytest.fixture(scope="module")
def groups(engine):
    requests = [GroupRequest(i, p, [100 * i + j for j in range(6)], DRAWN) for i, p in enumerate(PROMPTS)]
    return {group.group_id: group for group in engine.generate(requests)}


def scored(groups):
    return [ScoreRequest(g, PROMPTS[g], [d.token_ids for d in group.samples]) for g, group in groups.items()]


def test_behaviour_is_the_distribution_at_the_temperature(groups, logits_of):
    """Above 0: two programs that agree to the last bit are one program, and then nothing was tested."""
    deltas = []
    for g, group in groups.items():
        for draw in group.samples:
            logprob_tv = (logits_of(PROMPTS[g], draw.token_ids) / DRAWN.temperature).log_softmax(-1)
            wanted = logprob_tv.gather(1, torch.tensor(draw.token_ids)[:, None]).squeeze(1)
            deltas.append((torch.tensor(draw.logprobs) - wanted).abs())
    mean = torch.cat(deltas).mean().item()
    assert 0 < mean <= 1e-3, mean
    assert torch.cat(deltas).max() <= 1e-3


def test_behaviour_is_the_cut_and_penalised_distribution(engine, logits_of):
    import transformers as tf

    sampling = TokenSampling(temperature=0.8, top_p=0.8, top_k=12, max_tokens=16, repetition_penalty=1.3)
    (group,) = engine.generate([GroupRequest(0, PROMPTS[0], [1, 2, 3], sampling)])
    process = tf.LogitsProcessorList(
        [
            tf.RepetitionPenaltyLogitsProcessor(1.3),
            tf.TemperatureLogitsWarper(0.8),
            tf.TopKLogitsWarper(12),
            tf.TopPLogitsWarper(0.8),
        ]
    )
    for draw in group.samples:
        logits_tv = logits_of(PROMPTS[0], draw.token_ids)
        for t, (token, logprob) in enumerate(zip(draw.token_ids, draw.logprobs, strict=True)):
            before = torch.tensor([[*PROMPTS[0], *draw.token_ids[:t]]])
            wanted = process(before, logits_tv[t : t + 1].clone()).log_softmax(-1)[0, token].item()
            assert logprob == pytest.approx(wanted, abs=1e-3)


def test_draws_follow_the_distribution_that_is_recorded(engine, logits_of):
    """One token under each of 3,000 seeds against the exact probabilities: χ² of ids that 10 or more draws are expected of."""
    from scipy import stats

    sampling, draws = TokenSampling(temperature=0.7, max_tokens=1), 3000
    (group,) = engine.generate([GroupRequest(0, PROMPTS[1], list(range(draws)), sampling)])
    counts = Counter(draw.token_ids[0] for draw in group.samples)
    expected_v = (logits_of(PROMPTS[1], [0])[0].double() / 0.7).softmax(-1) * draws
    common = [i for i, e in enumerate(expected_v.tolist()) if e >= 10]
    seen = [counts[i] for i in common]
    wanted = [expected_v[i].item() for i in common]
    rest = draws - sum(wanted)
    assert len(common) > 10 and rest > 10
    assert stats.chisquare([*seen, draws - sum(seen)], [*wanted, rest]).pvalue > 1e-3


def test_a_sample_is_its_seeds_whatever_is_drawn_beside_it(engine, groups):
    """So a group is topped up: its first samples stay, and the new ones are those of a larger group."""
    late = GroupRequest(2, PROMPTS[2], [203, 204, 205], DRAWN, first_index=3)
    (group,) = engine.generate([late])
    assert group.first_index == 3
    assert [d.token_ids for d in group.samples] == [d.token_ids for d in groups[2].samples[3:]]
    assert len({tuple(d.token_ids) for d in groups[2].samples}) == 6
    huge = 2**64 - 1  # seeds are unsigned 64-bit numbers
    (other,) = engine.generate([GroupRequest(2, PROMPTS[2], [huge, huge], DRAWN)])
    assert other.samples[0].token_ids == other.samples[1].token_ids


def test_more_prompts_than_a_forward_pass_has_room_for_are_drawn(engine):
    prompts = [[5 + i, *range(20, 79)] for i in range(20)]  # 1,200 tokens, a pass holds 513
    sampling = TokenSampling(temperature=0.7, max_tokens=2)
    drawn = {g.group_id: g for g in engine.generate([GroupRequest(i, p, [i], sampling) for i, p in enumerate(prompts)])}
    (alone,) = engine.generate([GroupRequest(19, prompts[19], [19], sampling)])
    assert len(drawn) == 20 and drawn[19].samples[0].token_ids == alone.samples[0].token_ids


def test_stop_ids_end_a_sample_and_stay_in_it(engine):
    stops = tuple(range(100, 130))
    (group,) = engine.generate(
        [GroupRequest(0, PROMPTS[0], list(range(20)), TokenSampling(max_tokens=6, stop_ids=stops))]
    )
    reasons = Counter(draw.finish_reason for draw in group.samples)
    assert reasons["stop"] > 3 and reasons["length"] > 3
    for draw in group.samples:
        assert len(draw.logprobs) == len(draw.token_ids)
        if draw.finish_reason == "stop":
            assert draw.stop_token == draw.token_ids[-1] and draw.stop_token in stops
        else:
            assert len(draw.token_ids) == 6 and draw.stop_token is None
        assert not set(draw.token_ids[:-1]) & set(stops)


def test_nothing_but_the_requests_stop_ids_ends_a_sample(engine, tokens):
    """Not even the model's own end, which a recipe may leave out."""
    (group,) = engine.generate(
        [GroupRequest(0, PROMPTS[0], list(range(60)), TokenSampling(temperature=2.0, max_tokens=30))]
    )
    assert {draw.finish_reason for draw in group.samples} == {"length"}
    assert any(tokens.end[0] in draw.token_ids[:-1] for draw in group.samples)


def test_scores_are_those_of_the_hf_engine(engine, hf, groups):
    requests = scored(groups)
    ours, theirs = ({s.group_id: s.logprobs for s in e.score(requests)} for e in (engine, hf))
    assert ours.keys() == theirs.keys()
    for g in ours:
        for a, b in zip(ours[g], theirs[g], strict=True):
            assert a == pytest.approx(b, abs=1e-3)


def test_a_text_as_long_as_the_context_is_scored_whole_and_an_empty_one_is_empty(engine, hf):
    whole = [3 + i % 290 for i in range(CONTEXT)]
    requests = [ScoreRequest(1, whole[:1], [whole[1:], [], [5]]), ScoreRequest(2, [4], [[]])]
    ours = {s.group_id: s.logprobs for s in engine.score(requests)}
    assert [len(row) for row in ours[1]] == [CONTEXT - 1, 0, 1] and ours[2] == [[]]
    (theirs,) = hf.score([ScoreRequest(1, whole[:1], [whole[1:], [5]])])
    for a, b in zip([ours[1][0], ours[1][2]], theirs.logprobs, strict=True):
        assert a == pytest.approx(b, abs=1e-3)


def test_the_most_probable_ids_are_those_of_the_hf_engine(engine, hf, groups, tokens):
    spec = SoftSpec("top_k", k=9, vocabulary=tokens.width)
    requests = scored(groups)
    ours, theirs = ({s.group_id: s.rows for s in e.distribution(requests, spec)} for e in (engine, hf))
    for g in ours:
        for a, b in zip(ours[g], theirs[g], strict=True):
            assert a.sizes.tolist() == b.sizes.tolist() and a.counts is None
            assert a.ids.tolist() == b.ids.tolist() and a.ids.dtype == b.ids.dtype
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3) and a.logprobs.dtype == b.logprobs.dtype


def test_padding_of_the_head_among_the_most_probable_is_refused(engine, groups):
    with pytest.raises(Refusal, match="its tokenizer has 30 tokens"):
        list(engine.distribution(scored(groups)[:1], SoftSpec("top_k", k=9, vocabulary=30)))


def test_a_greedy_answer_is_the_hf_engines(engine, hf):
    chat = [
        ChatRequest(i, [{"role": "user", "content": t}], [0], greedy(engine)) for i, t in enumerate(["the sun", "fólk"])
    ]
    ours, theirs = ({a.request_id: a for a in e.answer(chat)} for e in (engine, hf))
    assert ours.keys() == {0, 1}
    for i in ours:
        same = ("candidate", "text", "n_prompt_tokens", "token_ids", "finish_reason")
        assert [getattr(ours[i], n) for n in same] == [getattr(theirs[i], n) for n in same]
        assert ours[i].logprobs == pytest.approx(theirs[i].logprobs, abs=1e-3)


def greedy(engine):
    return TokenSampling(temperature=0.0, max_tokens=8, stop_ids=tuple(engine.tokens.end))


def test_two_callers_at_once_get_their_own(engine, groups):
    found = {}

    def call(name):
        requests = [GroupRequest(g, PROMPTS[g], [100 * g + j for j in range(6)], DRAWN) for g in name]
        found[name] = {group.group_id: group for group in engine.generate(requests)}

    threads = [threading.Thread(target=call, args=(name,)) for name in ((0, 1), (2, 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for name, own in found.items():
        assert own.keys() == set(name)
        for g in name:
            assert [d.token_ids for d in own[g].samples] == [d.token_ids for d in groups[g].samples]


def test_what_vllm_would_do_otherwise_is_refused(engine, hf):
    def drawn(**sampling):
        return list(engine.generate([GroupRequest(0, [5, 6], [1], TokenSampling(**sampling))]))

    with pytest.raises(Refusal, match=r"temperature 0\.005: vLLM would take \.01"):
        drawn(temperature=0.005)
    with pytest.raises(Refusal, match="may have 513 tokens, vLLM was opened for 512"):
        drawn(max_tokens=511)
    with pytest.raises(Refusal, match="scores at temperature 1, not"):
        list(engine.score([ScoreRequest(0, [5], [[6]])], temperature=0.7))
    with pytest.raises(Refusal, match="mixes no teacher"):
        list(engine.generate([GroupRequest(0, [5], [1], DRAWN)], Mixing(hf, {0: [5]}, 0.5)))
