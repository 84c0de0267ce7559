"""Samples: their distribution, their log-probabilities, their random numbers, and where they end."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.forward import GroupTokens, Mix, Sampling, generate, group_logprobs
from trainer.forward import generate as generate_function
from trainer.forward.generate import inverse_cdf

FAMILIES = ["llama", "qwen3", "mistral", "gemma3", "gpt2", "bloom"]
PROMPTS = [[7, 30, 41, 12, 99, 100, 120, 8, 9], [50, 60], [200, 33, 21, 45, 19]]


def seeds_for(n, prompts=3, base=1000):
    return [[base + 100 * i + j for j in range(n)] for i in range(prompts)]


def processed_distribution(policy, prompt, sampling):
    """The textbook form, in numpy-like steps of our own: penalty, temperature, the k best, the smallest set of mass ≥ top_p."""
    ids_1t = torch.tensor([prompt])
    logits = policy.model(input_ids=ids_1t, attention_mask=torch.ones_like(ids_1t)).logits[0, -1].double().tolist()
    for token in set(prompt):
        logits[token] *= sampling.repetition_penalty if logits[token] < 0 else 1 / sampling.repetition_penalty
    weight = [math.exp(x / sampling.temperature) for x in logits]
    order = sorted(range(len(weight)), key=lambda token: -weight[token])[: sampling.top_k or len(weight)]
    total, mass, kept = sum(weight[token] for token in order), 0.0, []
    for token in order:
        kept.append(token)
        mass += weight[token] / total
        if mass >= sampling.top_p:
            break
    whole = sum(weight[token] for token in kept)
    return {token: weight[token] / whole for token in kept}


@pytest.mark.parametrize("family", FAMILIES)
def test_at_temperature_one_behaviour_is_the_policys_own_logprob(family, policy):
    tiny = policy(family)
    samples = generate(tiny, PROMPTS, 3, Sampling(max_tokens=12, stop_ids=(1, 17, 40, 77, 90)), seeds_for(3))
    groups = [GroupTokens(p, [s.token_ids for s in g]) for p, g in zip(PROMPTS, samples, strict=True)]
    with torch.no_grad():
        logprob_n = group_logprobs(tiny, groups)
    behaviour_n = torch.tensor([x for g in samples for s in g for x in s.logprobs])
    torch.testing.assert_close(behaviour_n, logprob_n, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_at_another_temperature_behaviour_is_the_logprob_at_that_temperature(temperature, policy):
    tiny = policy("llama")
    samples = generate(tiny, PROMPTS, 2, Sampling(temperature=temperature, max_tokens=9), seeds_for(2))
    groups = [GroupTokens(p, [s.token_ids for s in g]) for p, g in zip(PROMPTS, samples, strict=True)]
    with torch.no_grad():
        logprob_n = group_logprobs(tiny, groups, temperature=temperature)
    torch.testing.assert_close(
        torch.tensor([x for g in samples for s in g for x in s.logprobs]), logprob_n, atol=2e-5, rtol=0
    )


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=1),
        Sampling(temperature=0.7, top_p=0.9, max_tokens=1),
        Sampling(top_k=5, max_tokens=1),
        Sampling(temperature=1.3, top_k=40, top_p=0.6, repetition_penalty=1.8, max_tokens=1),
    ],
)
def test_draws_follow_the_processed_distribution_and_behaviour_names_it(sampling, policy):
    """Pearson's chi-square over cells of expected count ≥ 5, against its normal approximation at 5 sigma."""
    tiny, prompt, draws = policy("llama"), PROMPTS[0], 20_000
    expected = processed_distribution(tiny, prompt, sampling)
    samples = generate(tiny, [prompt], draws, sampling, [list(range(draws))])[0]
    counts: dict[int, int] = {}
    for sample in samples:
        token = sample.token_ids[0]
        assert token in expected
        counts[token] = counts.get(token, 0) + 1
        assert sample.logprobs[0] == pytest.approx(math.log(expected[token]), abs=1e-5)
    cells = [(counts.get(token, 0), draws * p) for token, p in expected.items() if draws * p >= 5]
    chi_square, freedom = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells), len(cells) - 1
    assert freedom >= 3
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def test_a_sample_can_be_replayed_by_hand_from_its_seed(policy):
    import numpy as np

    tiny, seed = policy("llama"), 2**64 + 12345
    (sample,) = generate(tiny, [PROMPTS[1]], 1, Sampling(temperature=1.4, max_tokens=6), [[seed]])[0]
    uniform, ids = np.random.Generator(np.random.Philox(key=seed)).random(6), list(PROMPTS[1])
    for number in uniform:
        logits_v = tiny.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0, -1]
        cdf_v = torch.softmax(logits_v.double() / 1.4, -1).cumsum(-1)
        ids.append(int((cdf_v <= number).sum()))
    assert sample.token_ids == ids[2:]


@pytest.mark.parametrize("processed", [{}, {"repetition_penalty": 1.7, "top_p": 0.95, "temperature": 1.2}])
def test_a_seed_gives_the_same_sample_in_any_batch(processed, policy):
    tiny, sampling = policy("qwen3"), Sampling(max_tokens=10, stop_ids=tuple(range(40, 80)), **processed)
    seeds = seeds_for(4)
    whole = generate(tiny, PROMPTS, 4, sampling, seeds)
    assert len({tuple(s.token_ids) for g in whole for s in g}) > 6
    for i, prompt in enumerate(PROMPTS):
        for j in range(4):
            (alone,) = generate(tiny, [prompt], 1, sampling, [[seeds[i][j]]])[0]
            assert alone.token_ids == whole[i][j].token_ids
            assert (alone.finish_reason, alone.stop_token) == (whole[i][j].finish_reason, whole[i][j].stop_token)
            assert alone.logprobs == pytest.approx(whole[i][j].logprobs, abs=1e-5)
    assert generate(tiny, PROMPTS[::-1], 4, sampling, seeds[::-1])[::-1] != generate(
        tiny, PROMPTS, 4, sampling, seeds_for(4, base=1)
    )


def test_a_longer_limit_only_continues_a_sample(policy):
    tiny, seeds = policy("gpt2"), seeds_for(2)
    short, long = (generate(tiny, PROMPTS, 2, Sampling(max_tokens=m), seeds) for m in (4, 9))
    for a, b in zip([s for g in short for s in g], [s for g in long for s in g], strict=True):
        assert b.token_ids[:4] == a.token_ids and len(b.token_ids) == 9


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers_generate(family, penalty, policy):
    tiny, prompts = policy(family), PROMPTS
    sampling = Sampling(greedy=True, max_tokens=14, stop_ids=(1,), repetition_penalty=penalty, temperature=0.3)
    ours = generate(tiny, prompts, 1, sampling, seeds_for(1))
    for prompt, (sample,) in zip(prompts, ours, strict=True):
        ids_1t = torch.tensor([prompt])
        theirs = tiny.model.generate(
            ids_1t, attention_mask=torch.ones_like(ids_1t), do_sample=False, max_new_tokens=14, repetition_penalty=penalty,
            eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        assert sample.token_ids == theirs[0, len(prompt) :].tolist()


def test_greedy_logprobs_are_the_policys_own(policy):
    tiny = policy("mistral")
    samples = generate(tiny, PROMPTS, 1, Sampling(greedy=True, max_tokens=9, repetition_penalty=1.4), seeds_for(1))
    groups = [GroupTokens(p, [s.token_ids for s in g]) for p, g in zip(PROMPTS, samples, strict=True)]
    with torch.no_grad():
        logprob_n = group_logprobs(tiny, groups)
    torch.testing.assert_close(
        torch.tensor([x for g in samples for s in g for x in s.logprobs]), logprob_n, atol=1e-5, rtol=0
    )


def test_an_end_token_ends_its_sample_and_stays_in_it(policy):
    stop_ids = tuple(range(0, 300, 7))
    samples = [
        s
        for g in generate(policy("llama"), PROMPTS, 8, Sampling(max_tokens=8, stop_ids=stop_ids), seeds_for(8))
        for s in g
    ]
    assert {s.finish_reason for s in samples} == {"stop", "length"}
    for sample in samples:
        assert len(sample.token_ids) == len(sample.logprobs) <= 8
        assert not set(sample.token_ids[:-1]) & set(stop_ids)
        if sample.finish_reason == "stop":
            assert sample.stop_token == sample.token_ids[-1] in stop_ids
        else:
            assert (sample.stop_token, len(sample.token_ids)) == (None, 8) and sample.token_ids[-1] not in stop_ids


def test_an_end_token_at_the_limit_is_a_stop(policy):
    tiny, everything = policy("llama"), tuple(range(300))
    samples = generate(tiny, PROMPTS, 2, Sampling(max_tokens=1, stop_ids=everything), seeds_for(2))
    assert {s.finish_reason for g in samples for s in g} == {"stop"}


def test_nothing_comes_from_the_models_generation_configuration(policy):
    tiny, sampling = policy("llama"), Sampling(max_tokens=8)
    before = generate(tiny, PROMPTS, 2, sampling, seeds_for(2))
    tiny.model.generation_config.update(
        top_k=1, temperature=0.01, eos_token_id=before[0][0].token_ids[2], repetition_penalty=9.0
    )
    assert generate(tiny, PROMPTS, 2, sampling, seeds_for(2)) == before


def test_the_prompt_is_encoded_once_and_ended_rows_leave(policy, monkeypatch):
    import sys

    from trainer.forward import attention

    tiny, module, seen = policy("llama"), sys.modules[generate_function.__module__], []
    encode = attention.encode

    def counted(model, ids_bt, *rest):
        seen.append(tuple(ids_bt.shape))
        return encode(model, ids_bt, *rest)

    monkeypatch.setattr(attention, "encode", counted)
    monkeypatch.setattr(module, "encode", counted)
    sampling = Sampling(max_tokens=12, stop_ids=tuple(range(0, 300, 4)))
    samples = [s for g in generate(tiny, PROMPTS, 8, sampling, seeds_for(8)) for s in g]
    assert seen[0] == (3, 9) and seen[1][0] <= 24
    assert all(shape[1] == 1 for shape in seen[1:])
    for step, (rows, _) in enumerate(seen[1:], start=1):
        alive = sum(len(s.token_ids) > step for s in samples)
        assert alive <= rows < 2 * alive
    assert seen[-1][0] < 12


def test_a_token_of_probability_zero_is_never_drawn():
    probability_bv = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]], dtype=torch.float64).repeat(6, 1)
    below_one = 1 - 2**-53
    uniform_b = torch.tensor([0.0, 0.2499999, 0.25, 0.5, below_one, 1.0], dtype=torch.float64)
    assert inverse_cdf(probability_bv, uniform_b).tolist() == [1, 1, 3, 3, 3, 3]
    tiny = torch.tensor([[0.1] * 3 + [0.0]], dtype=torch.float64)
    assert inverse_cdf(tiny, torch.tensor([below_one], dtype=torch.float64)).tolist() == [2]
    assert inverse_cdf(tiny, torch.tensor([0.5], dtype=torch.float64)).tolist() == [1]  # of the total, whatever it is


@pytest.mark.parametrize(
    ("prompts", "n", "sampling", "seeds", "words"),
    [
        ([[1], []], 1, Sampling(), [[1], [2]], r"prompts of \[1, 0\]"),
        ([], 1, Sampling(), [], "none may be empty"),
        ([[1]], 2, Sampling(), [[1]], r"1 prompts of 2 samples, but seeds for \[1\]"),
        ([[1]], 1, Sampling(temperature=0.0), [[1]], "temperature > 0"),
        ([[1]], 1, Sampling(top_p=0.0), [[1]], "top_p"),
        ([[1]], 1, Sampling(max_tokens=0), [[1]], "max_tokens ≥ 1"),
        ([[1] * 100], 1, Sampling(max_tokens=29), [[1]], "prompt of 100 and max_tokens of 29 .* context of 128"),
    ],
)
def test_what_cannot_be_sampled_is_refused(prompts, n, sampling, seeds, words, policy):
    with pytest.raises(ValueError, match=words):
        generate(policy("gpt2"), prompts, n, sampling, seeds)


TEACHER_PROMPTS = [[11, 12, 13], [60, 50, 61, 70, 71, 72, 73], [44]]


@pytest.fixture
def mixture(policy):
    """`mixture(alpha, prompts)`: a student and a `Mix` of another model that reads its own prompts."""

    def make(alpha, prompts=TEACHER_PROMPTS, **overrides):
        return policy("llama"), Mix(policy("llama", seed=7, **overrides), prompts, alpha)

    return make


def mixed_by_hand(student, mix, prompt, told, sampling):
    """Textbook μ = αp + (1 − α)π of the next token, both processed, as a dict."""
    ours, theirs = (
        processed_distribution(policy, ids, sampling) for policy, ids in ((student, prompt), (mix.policy, told))
    )
    return {
        token: mix.alpha * theirs.get(token, 0.0) + (1 - mix.alpha) * ours.get(token, 0.0)
        for token in ours.keys() | theirs.keys()
    }


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=5),
        Sampling(temperature=0.6, max_tokens=5),
        Sampling(temperature=1.3, top_p=0.8, top_k=30, repetition_penalty=1.6, max_tokens=5),
    ],
)
def test_a_mixtures_behaviour_is_the_mixture_of_both_distributions(sampling, mixture):
    student, mix = mixture(0.3)
    drawn = generate(student, PROMPTS, 2, sampling, seeds_for(2), mix)
    for prompt, told, samples in zip(PROMPTS, TEACHER_PROMPTS, drawn, strict=True):
        for sample in samples:
            for t, (token, logprob) in enumerate(zip(sample.token_ids, sample.logprobs, strict=True)):
                before = sample.token_ids[:t]
                expected = mixed_by_hand(student, mix, [*prompt, *before], [*told, *before], sampling)
                assert logprob == pytest.approx(math.log(expected[token]), abs=2e-5)


def test_a_mixtures_first_tokens_are_as_frequent_as_it_says(mixture):
    """Pearson's chi-square over cells of expected count ≥ 5, against its normal approximation at 5 sigma."""
    student, mix = mixture(0.6, TEACHER_PROMPTS[:1])
    draws, sampling = 4000, Sampling(max_tokens=1)
    expected = mixed_by_hand(student, mix, PROMPTS[0], TEACHER_PROMPTS[0], sampling)
    counts: dict[int, int] = {}
    for sample in generate(student, PROMPTS[:1], draws, sampling, [list(range(draws))], mix)[0]:
        counts[sample.token_ids[0]] = counts.get(sample.token_ids[0], 0) + 1
    cells = [(counts.get(token, 0), draws * p) for token, p in expected.items() if draws * p >= 5]
    chi_square, freedom = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells), len(cells) - 1
    assert freedom >= 10
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def test_a_mixed_sample_is_the_same_in_any_batch(mixture):
    sampling, seeds = Sampling(max_tokens=10, stop_ids=tuple(range(40, 90))), seeds_for(4)
    student, mix = mixture(0.4)
    whole = generate(student, PROMPTS, 4, sampling, seeds, mix)
    assert len({len(s.token_ids) for g in whole for s in g}) > 2  # rows leave the batch on the way
    for i, prompt in enumerate(PROMPTS):
        for j in range(4):
            own = Mix(mix.policy, [TEACHER_PROMPTS[i]], mix.alpha)
            (alone,) = generate(student, [prompt], 1, sampling, [[seeds[i][j]]], own)[0]
            assert alone.token_ids == whole[i][j].token_ids
            assert alone.logprobs == pytest.approx(whole[i][j].logprobs, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 0.9])
def test_the_weight_of_a_mixed_token_is_bounded_at_the_start(alpha, mixture):
    """w = π/μ ≤ 1/(1 − α), π by the function that training uses (MATH §5)."""
    student, mix = mixture(alpha)
    drawn = generate(student, PROMPTS, 4, Sampling(max_tokens=12), seeds_for(4), mix)
    with torch.no_grad():
        logprob_n = group_logprobs(
            student, [GroupTokens(p, [s.token_ids for s in g]) for p, g in zip(PROMPTS, drawn, strict=True)]
        )
    ratio_n = logprob_n - torch.tensor([x for g in drawn for s in g for x in s.logprobs])
    assert ratio_n.max() <= -math.log1p(-alpha) + 1e-5
    assert ratio_n.max() > -0.5 * math.log1p(-alpha) and ratio_n.min() < -0.5  # the bound is near, and weights differ
    sequence_b = ratio_n.view(-1, 12).sum(1)
    assert sequence_b.max() <= -12 * math.log1p(-alpha) + 1e-4


@pytest.mark.parametrize("vocab_size", [200, 400])
def test_a_teachers_head_of_another_width_is_cut_or_padded(vocab_size, mixture):
    student, mix = mixture(0.5, vocab_size=vocab_size)
    (sample,) = generate(
        student, PROMPTS[:1], 1, Sampling(max_tokens=1), [[5]], Mix(mix.policy, TEACHER_PROMPTS[:1], 0.5)
    )[0]
    width = student.model.config.vocab_size
    theirs_v = mix.policy.model(input_ids=torch.tensor(TEACHER_PROMPTS[:1])).logits[0, -1, :width].double().softmax(-1)
    ours_v = student.model(input_ids=torch.tensor(PROMPTS[:1])).logits[0, -1].double().softmax(-1)
    theirs = theirs_v[sample.token_ids[0]].item() if sample.token_ids[0] < vocab_size else 0.0
    assert sample.logprobs[0] == pytest.approx(
        math.log(0.5 * theirs + 0.5 * ours_v[sample.token_ids[0]].item()), abs=1e-5
    )


@pytest.mark.parametrize(
    ("alpha", "prompts", "sampling", "words"),
    [
        (0.0, TEACHER_PROMPTS, Sampling(), "alpha is 0.0"),
        (1.0, TEACHER_PROMPTS, Sampling(), "alpha is 1.0"),
        (0.5, TEACHER_PROMPTS, Sampling(greedy=True), "greedy"),
        (0.5, TEACHER_PROMPTS[:2], Sampling(), "3 prompts for the policy and 2 for the teacher"),
        (0.5, [[1] * 510, [1], [1]], Sampling(), "prompt of 510 and max_tokens of 16 .* context of 512"),
    ],
)
def test_what_is_no_mixture_is_refused(alpha, prompts, sampling, words, mixture):
    student, mix = mixture(alpha, prompts)
    with pytest.raises(ValueError, match=words):
        generate(student, PROMPTS, 1, sampling, seeds_for(1), mix)
