"""Soft targets of a model: what is drawn follows p, what is chosen is the top, and no batch or chunk changes anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.forward import distribution, drawn_support, group_logprobs, support_at, top_support

SHAPES = [(9, [5, 1, 3]), (2, [4]), (6, [2, 7])]
SEEDS = [[1, 2, 3], [2**64 - 1], [5, 6]]
TOKENS = 22


@pytest.fixture
def tiny(policy):
    """A random policy and its vocabulary."""
    model = policy("llama")
    return model, model.model.config.vocab_size


def rows_alone(policy, groups, vocabulary):
    """Textbook: every sample alone through the model's own logits; log p (n, v) over the first ids."""
    found = []
    for group in groups:
        for completion in group.completions:
            ids_1t = torch.tensor([[*group.prompt, *completion]])
            logits_tv = policy.model(input_ids=ids_1t, attention_mask=torch.ones_like(ids_1t)).logits[0]
            found.append(logits_tv[len(group.prompt) - 1 : -1, :vocabulary].double().log_softmax(-1))
    return torch.cat(found).detach()


def by_token(support, values):
    return torch.split(values, support.size_n.tolist())


def test_counts_sum_to_the_draws_and_ids_are_distinct_with_their_log_p(tiny, random_groups):
    policy, vocabulary = tiny
    groups = random_groups(SHAPES)
    support = drawn_support(policy, groups, 40, SEEDS, vocabulary)
    logprob_nv = rows_alone(policy, groups, vocabulary)
    assert len(support.size_n) == TOKENS
    for row, (ids, counts, logprobs) in enumerate(
        zip(*(by_token(support, x) for x in (support.id_m, support.count_m, support.logprob_m)), strict=True)
    ):
        assert counts.sum() == 40 and counts.min() >= 1
        assert len(set(ids.tolist())) == len(ids)
        torch.testing.assert_close(logprobs.double(), logprob_nv[row, ids], atol=2e-5, rtol=0)


def test_draws_are_the_inverse_cdf_of_the_samples_own_philox_stream(tiny, random_groups):
    policy, vocabulary = tiny
    groups = random_groups([(5, [3, 4])])
    support = drawn_support(policy, groups, 30, [[11, 12]], vocabulary)
    cdf_nv = rows_alone(policy, groups, vocabulary).exp().cumsum(-1).numpy()
    uniform = [np.random.Generator(np.random.Philox(key=s)).random((t, 30)) for s, t in ((11, 3), (12, 4))]
    for row, numbers in enumerate(np.concatenate(uniform)):
        expected = np.bincount([(cdf_nv[row] <= u).sum() for u in numbers], minlength=vocabulary)
        ids, counts = (by_token(support, x)[row].numpy() for x in (support.id_m, support.count_m))
        assert ids.tolist() == np.flatnonzero(expected).tolist()
        assert counts.tolist() == expected[expected > 0].tolist()


def test_the_share_of_draws_converges_to_p(tiny, random_groups):
    policy, vocabulary = tiny
    draws, groups = 10_000, random_groups([(7, [3])])
    support = drawn_support(policy, groups, draws, [[99]], vocabulary)
    for row, p_v in enumerate(rows_alone(policy, groups, vocabulary).exp()):
        share_v = torch.zeros(vocabulary, dtype=torch.float64)
        share_v[by_token(support, support.id_m)[row]] = by_token(support, support.count_m)[row].double() / draws
        assert ((share_v - p_v).abs() <= 5 * (p_v * (1 - p_v) / draws).sqrt() + 1e-9).all()
        assert (share_v - p_v).abs().sum() < 2 * (vocabulary / draws) ** 0.5


@pytest.mark.parametrize("kind", ["drawn", "top", "at"])
def test_batches_and_chunks_change_nothing(kind, tiny, random_groups, monkeypatch):
    policy, vocabulary = tiny
    groups = random_groups(SHAPES)
    given = top_support(policy, groups, 6, vocabulary)
    starts = np.cumsum([0, *(sum(map(len, g.completions)) for g in groups)])

    def made(indices):
        part = [groups[i] for i in indices]
        if kind == "drawn":
            return drawn_support(policy, part, 50, [SEEDS[i] for i in indices], vocabulary)
        if kind == "top":
            return top_support(policy, part, 6, vocabulary)
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in indices])
        return support_at(policy, part, given.size_n[rows], given.id_m.view(-1, 6)[rows].flatten(), vocabulary)

    whole = made([0, 1, 2])
    monkeypatch.setattr(distribution, "CHUNK_ROWS", 3)
    parts = [made(batch) for batch in ([0], [1, 2])]
    assert whole.size_n.tolist() == [n for p in parts for n in p.size_n.tolist()]
    assert whole.id_m.tolist() == [n for p in parts for n in p.id_m.tolist()]
    torch.testing.assert_close(whole.logprob_m, torch.cat([p.logprob_m for p in parts]), atol=2e-5, rtol=0)
    if kind == "drawn":
        assert whole.count_m.tolist() == [n for p in parts for n in p.count_m.tolist()]


def test_the_top_is_the_most_probable_in_order_and_at_most_the_vocabulary(tiny, random_groups):
    policy, vocabulary = tiny
    groups = random_groups(SHAPES)
    support, logprob_nv = top_support(policy, groups, 5, vocabulary), rows_alone(policy, groups, vocabulary)
    expected = logprob_nv.sort(dim=1, descending=True)
    assert support.id_m.view(-1, 5).tolist() == expected.indices[:, :5].tolist()
    torch.testing.assert_close(support.logprob_m.view(-1, 5).double(), expected.values[:, :5], atol=2e-5, rtol=0)
    every = top_support(policy, groups, 10_000, vocabulary)
    assert every.size_n.tolist() == [vocabulary] * TOKENS and every.count_m is None
    torch.testing.assert_close(every.logprob_m.view(-1, vocabulary).exp().sum(1), torch.ones(TOKENS))


def test_log_p_at_given_ids_is_that_of_scoring(tiny, random_groups):
    policy, vocabulary = tiny
    groups = random_groups(SHAPES)
    target_n = torch.tensor([t for g in groups for c in g.completions for t in c])
    support = support_at(policy, groups, torch.ones(TOKENS, dtype=torch.long), target_n, vocabulary)
    with torch.no_grad():
        torch.testing.assert_close(support.logprob_m, group_logprobs(policy, groups), atol=1e-6, rtol=0)
    size_n = torch.tensor([i % 3 for i in range(TOKENS)])  # ragged, with tokens that have none
    ids = torch.arange(int(size_n.sum())) * 7 % vocabulary
    ragged = support_at(policy, groups, size_n, ids, vocabulary)
    logprob_nv = rows_alone(policy, groups, vocabulary)
    wanted = logprob_nv[torch.arange(TOKENS).repeat_interleave(size_n), ids]
    torch.testing.assert_close(ragged.logprob_m.double(), wanted, atol=2e-5, rtol=0)


def test_a_smaller_vocabulary_is_a_distribution_over_its_own_ids(tiny, random_groups):
    policy, vocabulary = tiny
    groups = random_groups([(4, [6])])
    small = vocabulary // 3
    support = top_support(policy, groups, small, small)
    assert int(support.id_m.max()) < small
    torch.testing.assert_close(support.logprob_m.view(6, small).exp().sum(1), torch.ones(6))
    assert int(drawn_support(policy, groups, 500, [[3]], small).id_m.max()) < small


def test_logits_of_more_than_a_chunk_never_exist(tiny, random_groups, monkeypatch):
    from trainer.forward import Head

    policy, vocabulary = tiny
    seen, logits = [], Head.logits
    monkeypatch.setattr(distribution, "CHUNK_ELEMENTS", 4 * 5 * vocabulary)
    monkeypatch.setattr(Head, "logits", lambda head, hidden: seen.append(len(hidden)) or logits(head, hidden))
    drawn_support(policy, random_groups(SHAPES), 4, SEEDS, vocabulary)
    assert seen == [5, 5, 5, 5, 2]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, g, v: drawn_support(p, g, 4, [[1]], v), r"seeds for \[1\] samples of \[3, 1, 2\]"),
        (lambda p, g, v: drawn_support(p, g, 0, SEEDS, v), "0 draws"),
        (lambda p, g, v: top_support(p, g, 0, v), "0 most probable"),
        (lambda p, g, v: top_support(p, g, 2, v + 1), "the head has"),
        (lambda p, g, v: support_at(p, g, torch.ones(3, dtype=torch.long), torch.arange(3), v), "22 tokens"),
        (lambda p, g, v: support_at(p, g, torch.ones(22, dtype=torch.long), torch.arange(21), v), "sum to 22"),
        (lambda p, g, v: support_at(p, g, torch.ones(22, dtype=torch.long), torch.full((22,), v), v), "ids run from"),
    ],
)
def test_what_does_not_fit_is_refused(call, words, tiny, random_groups):
    policy, vocabulary = tiny
    with pytest.raises(ValueError, match=words):
        call(policy, random_groups(SHAPES), vocabulary)
