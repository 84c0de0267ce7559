"""The hf engine: batches change nothing but speed, and its sentences are refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.config import ModelSettings
from data.refusal import Refusal
from factory.engines import ENGINES, ChatRequest, GroupRequest, ScoreRequest, TokenSampling, require
from factory.engines.tokens import Tokens


@pytest.fixture
def engine(tiny_model):
    from factory.engines.hf import HfEngine

    model = ModelSettings(path=tiny_model("llama"))
    folder = Path(model.path)

    def open_(batch_tokens=4096):
        return HfEngine(folder, model, {}, Tokens.open(model, folder), batch_tokens=batch_tokens, device="cpu", seed=0)

    return open_


SAMPLING = TokenSampling(max_tokens=5, stop_ids=(1,))
REQUESTS = [
    GroupRequest(10, [5, 6, 7, 8, 9, 10, 11], [1, 2, 3], SAMPLING),
    GroupRequest(11, [5, 6], [4, 5, 6], SAMPLING),
    GroupRequest(12, [7], [7], SAMPLING, first_index=2),
]


def test_a_smaller_batch_draws_the_same_tokens(engine):
    with engine() as large, engine(batch_tokens=1) as small:
        ours, theirs = ({g.group_id: g for g in e.generate(REQUESTS)} for e in (large, small))
    assert ours.keys() == {10, 11, 12} and ours[12].first_index == 2
    for group_id, group in ours.items():
        assert [d.token_ids for d in group.samples] == [d.token_ids for d in theirs[group_id].samples]


def test_batches_hold_at_most_their_tokens_and_one_sampling(engine):
    other = [GroupRequest(13, [7], [7], TokenSampling(max_tokens=9)), GroupRequest(8, [5] * 30, [1], SAMPLING)]
    requests = [*REQUESTS, *other, GroupRequest(9, [5], [1], SAMPLING)]
    with engine(batch_tokens=40) as e:
        batches = list(e._batches(requests))
    assert sorted(r.group_id for b in batches for r in b) == [8, 9, 10, 11, 12, 13]
    for batch in batches:
        assert len({(r.sampling, len(r.seeds)) for r in batch}) == 1
        width = max(len(r.prompt_ids) for r in batch) + batch[0].sampling.max_tokens
        assert len(batch) == 1 or len(batch) * len(batch[0].seeds) * width <= 40


def test_scores_come_per_completion_and_do_not_depend_on_the_batch(engine):
    requests = [
        ScoreRequest(1, [5, 6, 7], [[8, 9, 1], [10]]),
        ScoreRequest(2, [5], [[8, 9], [11, 12, 13], [1]]),
        ScoreRequest(3, [5, 6], [[14]]),
    ]
    with engine() as large, engine(batch_tokens=1) as small:
        ours, theirs = ({s.group_id: s.logprobs for s in e.score(requests)} for e in (large, small))
        cold = {s.group_id: s.logprobs for s in large.score(requests, temperature=0.5)}
    assert {k: [len(v) for v in values] for k, values in ours.items()} == {1: [3, 1], 2: [2, 3, 1], 3: [1]}
    for group_id, values in ours.items():
        for a, b in zip(values, theirs[group_id], strict=True):
            assert a == pytest.approx(b, abs=1e-4)
    assert cold != ours


def test_an_answer_is_the_greedy_continuation_of_the_chat(engine):
    with engine() as e:
        chat = [{"role": "user", "content": "the sun"}]
        greedy = TokenSampling(temperature=0.0, max_tokens=4, stop_ids=tuple(e.tokens.end))
        (answer,) = e.answer([ChatRequest(1, chat, [0], greedy)])
        (group,) = e.generate([GroupRequest(1, e.tokens.prompt_ids(chat), [9], greedy)])
    assert answer.token_ids == group.samples[0].token_ids and answer.candidate == 0
    assert answer.n_prompt_tokens == len(e.tokens.prompt_ids(chat))


def test_the_forward_paths_sentence_leaves_as_a_refusal(engine):
    with engine() as e, pytest.raises(Refusal, match="longer than the model's context of 512"):
        list(e.generate([GroupRequest(1, [5] * 510, [0], SAMPLING)]))


def test_an_engine_is_asked_what_it_can_before_it_is_opened():
    require("hf", "score")
    with pytest.raises(Refusal, match="engine hf cannot sing"):
        CHOIR = {**ENGINES, "other": frozenset({"sing"})}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("factory.engines.ENGINES", CHOIR)
            require("hf", "sing")


def test_a_tokenizer_without_a_template_reads_the_contents_line_by_line(tiny_model, tmp_path):
    import json

    folder = Path(tiny_model("llama", tmp_path))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = Tokens.open(ModelSettings(path=str(folder)), folder)
    chat = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert tokens.prompt_ids(chat) == tokens.tokenizer("a\nb\n").input_ids


def test_the_recipes_template_wins(tiny_model):
    folder = Path(tiny_model("llama"))
    model = ModelSettings(path=str(folder), chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}!")
    tokens = Tokens.open(model, folder)
    assert tokens.prompt_ids([{"role": "user", "content": "ab"}]) == tokens.tokenizer("ab!").input_ids


def test_text_is_composed_before_it_is_encoded(tiny_model):
    folder = Path(tiny_model("llama"))
    tokens = Tokens.open(ModelSettings(path=str(folder)), folder)
    assert tokens.answer_ids("a\u0301") == tokens.answer_ids("á")
    assert tokens.prompt_ids([{"role": "user", "content": "a\u0301"}]) == tokens.prompt_ids(
        [{"role": "user", "content": "á"}]
    )
