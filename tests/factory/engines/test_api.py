"""Answers over HTTP, from a real server that fails on purpose: what is tried again, what is refused, what is no answer."""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from data.config import ModelSettings
from data.refusal import Refusal
from factory.endpoints import Endpoint, Limit, Price, check_endpoints
from factory.engines.api.limits import limiter, retry_after, waiting
from factory.engines.api.reply import read_reply
from factory.stages import check

CANARY = "sk-canary-7f3a9d"


@pytest.mark.parametrize("what", ["429:2", "500:2", "503date:1", "hang:1", "drip:1", "cut:2", "junk:2", "empty:1"])
def test_what_passes_is_tried_again_and_answered(server, open_apis, ask, what):
    apis = open_apis()
    text = f"{what} hvat eitur staðurin ?"
    answer = ask(apis, [text])[0, 0]
    assert answer.text == f"answer to {text}" and answer.finish_reason == "stop"
    assert server.asked() == [text] * (int(what.partition(":")[2]) + 1)


@pytest.mark.parametrize("what", ["hang:1", "drip:1"])
def test_an_attempt_ends_after_its_timeout_even_if_bytes_keep_dripping(server, open_apis, ask, what):
    ask(open_apis(timeout=0.5), [f"{what} now"])
    first, second = server.events("asked")
    assert 0.4 < second["at"] - first["at"] < 4  # the server would go on for five seconds


def test_retry_after_holds_the_whole_endpoint_back(server, open_apis, ask):
    ask(open_apis(concurrency=2), ["429:1 first", "slow:0.3 second", "plain third"])
    refused = next(e for e in server.events("asked") if e["text"].startswith("429"))
    later = [
        e
        for e in server.events("asked")
        if e["text"] == "plain third" or (e["text"] == refused["text"] and e != refused)
    ]
    assert len(later) == 2
    for event in later:  # the server said Retry-After: 1 to the first, and the third asked after that
        assert event["at"] - refused["at"] >= 0.95


def test_a_date_in_retry_after_is_waited_for(server, open_apis, ask):
    ask(open_apis(), ["503date:1 later"])
    first, second = server.events("asked")
    assert second["at"] - first["at"] >= 1.0  # two seconds from the date's own full second


def test_attempts_end_with_what_was_seen(server, open_apis, ask):
    apis = open_apis(attempts=2)
    with pytest.raises(Refusal, match=r"status 500 .*at 2 attempts") as caught:
        ask(apis, ["500:9 always"])
    assert "run the same command again" in caught.value.args[1]
    assert len(server.asked()) == 2


@pytest.mark.parametrize(
    ("what", "says", "then"),
    [
        ("401", "status 401", "VARIABLE"),
        ("403", "status 403", "VARIABLE"),
        ("404", "status 404", "base_url"),
        ("quota", "quota", "pay the account"),
        ("other:9", "tiny was asked, tiny-other answered", "aliases"),
    ],
)
def test_what_does_not_pass_is_refused_at_once(server, open_apis, ask, what, says, then):
    with pytest.raises(Refusal) as caught:
        ask(open_apis(), [f"{what} now"])
    assert says in caught.value.args[0] and then in caught.value.args[1]
    assert len(server.asked()) == 1


def test_a_server_that_is_not_there_is_refused_without_waiting(open_apis, ask):
    began = time.monotonic()
    with pytest.raises(Refusal, match="no server at"):
        ask(open_apis(base_url="http://127.0.0.1:9/v1"), ["plain"])
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("what", "reason"),
    [("filter", "content_filter"), ("filter400", "content_filter"), ("refuse", "refusal"), ("null", "length")],
)
def test_no_answer_is_recorded_as_none_and_not_asked_again(server, open_apis, ask, what, reason):
    apis = open_apis()
    for _ in range(2):
        answer = ask(apis, [f"{what} something"])[0, 0]
        assert (answer.text, answer.logprobs, answer.finish_reason) == (None, None, reason)
    assert len(server.asked()) == 1 and (apis.bought, apis.found) == (1, 1)


def test_an_answer_carries_its_bill_and_its_logprobs(server, open_apis, ask):
    answer = ask(open_apis(logprobs=True), ["plain ein tveir"])[0, 0]  # 3 words in, "answer to plain ein tveir" 5 out
    assert (answer.n_prompt_tokens, answer.tokens_billed) == (3, 8)
    assert answer.price == pytest.approx((3 * 1000 + 5 * 2000) / 1e6)
    assert answer.logprobs == [-0.5] * 5
    assert "logprobs" in server.events("asked")[0]["body"]


def test_every_sampling_field_reaches_the_server(server, open_apis, ask):
    ask(open_apis(limit_field="max_completion_tokens"), ["plain"], draws=2, temperature=0.7, top_p=0.9, top_k=5)
    bodies = [event["body"] for event in server.events("asked")]
    for body in bodies:
        seed = body.pop("seed")
        assert 0 <= seed < 2**31
        assert body == {
            "model": "tiny",
            "messages": [{"role": "user", "content": "plain"}],
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 5,
            "max_completion_tokens": 8,
        }
    assert len({event["body"].get("seed") for event in server.events("asked")}) == 2  # two draws, two seeds


def test_a_dated_form_is_the_model_and_another_date_is_another_teacher(server, open_apis, ask):
    apis = open_apis()
    assert ask(apis, ["dated one"])[0, 0].text == "I am dated"
    with pytest.raises(Refusal, match="answered by tiny-0613 until now, and by tiny-1106") as caught:
        ask(apis, ["newer two"])
    assert caught.value.args[1].endswith("teacher.path=tiny-0613")
    # both were paid for: each is found once its snapshot is named
    assert ask(apis, ["dated one"], model="tiny-0613")[0, 0].text == "I am dated"
    assert ask(apis, ["newer two"], model="tiny-1106")[0, 0].text == "I am newer"
    assert len(server.asked()) == 2


def test_an_alias_is_the_model(server, open_apis, ask):
    assert ask(open_apis(aliases={"tiny": "tiny-other"}), ["other:1 now"])[0, 0].text == "I am another"


def test_concurrency_stays_below_its_bound_and_reaches_it(server, open_apis, ask):
    """Two shards at once are asked of one endpoint: its bound holds for both together."""
    apis = open_apis(concurrency=3, timeout=10)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda part: ask(apis, [f"slow:0.1 {part} {i}" for i in range(8)]), range(2)))
    steps = sorted(
        (e["at"], 1 if e["event"] == "asked" else -1) for k in ("asked", "sending") for e in server.events(k)
    )
    flying = [sum(step for _, step in steps[: i + 1]) for i in range(len(steps))]
    assert max(flying) == 3


def test_twins_in_flight_are_bought_once(server, open_apis, ask):
    found = ask(open_apis(timeout=10), ["slow:0.3 same"] * 4)
    assert len(server.asked()) == 1 and len({a.text for a in found.values()}) == 1 and len(found) == 4


@pytest.mark.parametrize("limits", [{"requests_per_minute": 70}, {"tokens_per_minute": 70 * 88}])
def test_a_limit_a_minute_is_kept(server, open_apis, ask, limits):
    ask(open_apis(**limits), [f"plain {i}" for i in range(10, 24)])
    at = [event["at"] for event in server.events("asked")]
    # a burst of a seventh, 10 (of 88 = 8 bytes + 8 + 64 + 8 tokens each), then one a second
    assert sum(t < at[0] + 1 for t in at) <= 11
    assert at[-1] - at[0] >= 3


@pytest.mark.parametrize("per_minute", [2, 6, 60, 6000])
def test_a_buckets_worst_minute_is_its_limit(per_minute):
    bucket = limiter(per_minute)
    assert bucket.max_rate + 60 * bucket.max_rate / bucket.time_period == pytest.approx(per_minute)
    assert bucket.max_rate >= 1


def test_waits_grow_and_are_drawn():
    random.seed(0)
    drawn = [[waiting(attempt) for _ in range(200)] for attempt in (1, 3, 9)]
    assert [max(d) > bound * 0.9 and max(d) <= bound for d, bound in zip(drawn, (1, 4, 60), strict=True)] == [True] * 3
    assert len(set(drawn[0])) > 190


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, None), ("2", 2), ("-1", 0), ("x", None), ("Fri, 31 Dec 9999", None)]
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert retry_after(header, 0.0) == seconds


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'{"choices": [{}], "model": "tiny"}',
        b'{"choices": [{"message": {"content": 3}}], "model": "tiny"}',
        b'{"choices": [{"message": {"content": "x"}}], "model": "tiny", "usage": {"prompt_tokens": -1}}',
        b'{"choices": [{"message": {"content": "x"}}], "model": "tiny", "usage": {"prompt_tokens": 1e400}}',
        b'{"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{}]}}], "model": "tiny"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_completion_is_tried_again(raw):
    from factory.engines.api.limits import Transient

    with pytest.raises(Transient) as caught:
        read_reply(raw, "tiny", None)
    assert caught.value.billed


def test_a_completion_may_hold_half_a_surrogate_and_infinite_logprobs():
    raw = json.dumps(
        {
            "model": "tiny",
            "choices": [{"message": {"content": "já \ud83d"}, "logprobs": {"content": [{"logprob": float("-inf")}]}}],
        }
    )
    reply = read_reply(raw.encode(), "tiny", None)
    assert reply.text == "já ?" and reply.logprobs is None and reply.prompt_tokens is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"base_url": "http://user:secret@host/v1"}, "credentials"),
        ({"base_url": "localhost:8000"}, "no http address"),
        ({"api_key_env": CANARY}, "no variable's name"),
        ({"concurrency": 0}, "concurrency"),
        ({"requests_per_minute": 1}, "requests_per_minute"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_not_repeated(settings, says):
    with pytest.raises(Refusal) as caught:
        Endpoint(**{"base_url": "http://host/v1", **settings})
    assert says in str(caught.value)
    assert CANARY not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("budget", ["much", {"dollars": 3}, {"money": "x"}, True, -1, {"tokens": -5}])
def test_a_budget_is_usd_or_money_and_tokens(budget):
    with pytest.raises(Refusal, match="budget"):
        Limit.read(budget)


def with_endpoint(change, recipe, **values):
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", prices={"gpt-4": Price(30, 60)})
    teacher = ModelSettings(path=values.pop("model", "gpt-4"), endpoint="e")
    return change(recipe, teacher=teacher, endpoints={"e": endpoint}, **values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"stages": ["rewards"]}, "component loglik wants token scores of teacher gpt-4"),
        ({"stages": ["soft_targets"]}, "stage soft_targets wants token scores"),
        ({"stages": ["evaluate"], "policies": ["teacher"]}, "stage evaluate wants"),
        ({"stages": ["answers"], "budget": 5, "model": "gpt-5"}, "what gpt-5 costs at endpoint e is not known"),
        ({"stages": ["answers"], "endpoints": {}}, "teacher.endpoint=e"),
        ({"stages": ["samples"], "student": ModelSettings(path="x", endpoint="e")}, "student.endpoint=e"),
    ],
)
def test_what_an_endpoint_cannot_give_is_refused_when_composed(recipe, change, values, says):
    composed = with_endpoint(change, recipe, **{k: v for k, v in values.items() if k not in ("endpoints", "student")})
    composed = change(composed, **{k: v for k, v in values.items() if k in ("endpoints", "student")})
    with pytest.raises(Refusal, match=says):
        check_endpoints(composed)


def test_token_scores_alone_keep_a_recipe_from_an_endpoint(recipe, change):
    components = {"chrf": {"use": "similarity", "metric": "chrf"}}
    stages = ["prompts", "answers", "samples", "scores", "rewards", "selections"]
    composed = with_endpoint(change, recipe, components=components, reward="chrf", stages=stages, budget=5)
    check(composed)  # nothing of it is refused, and with one component more it is
    more = change(composed, components={**components, "loglik": {"use": "teacher_loglik"}})
    with pytest.raises(Refusal, match="component loglik wants token scores"):
        check(more)
