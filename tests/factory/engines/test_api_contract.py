"""The contract with a real server: vLLM's own, which OPENAI_TEST_URL names or which is started here where vLLM is installed.

OPENAI_TEST_URL=http://host:8000/v1 OPENAI_TEST_MODEL=name pytest tests/factory/engines/test_api_contract.py"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from data.config import ModelSettings
from data.lake import Lake
from data.refusal import Refusal
from factory.endpoints import Endpoint, Limit, Price
from factory.engines import Answer, ChatRequest, TokenSampling
from factory.engines.api import Apis

pytestmark = pytest.mark.vllm
READY = 400.0  # seconds: it loads in 100 on two cores, and compiles nothing
CONTEXT = (
    128  # positions of the model that is started here; its heads are 32 wide, the least that vLLM computes on a CPU
)


@pytest.fixture(scope="module")
def served(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(base URL, model) of the server."""
    if url := os.environ.get("OPENAI_TEST_URL"):
        yield url, os.environ.get("OPENAI_TEST_MODEL") or httpx2.get(f"{url}/models").json()["data"][0]["id"]
        return
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("neither OPENAI_TEST_URL nor vLLM is here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "--model",
        tiny_model("llama", max_position_embeddings=CONTEXT, head_dim=32),
        "--served-model-name",
        "tiny-llama",
    ]
    words += ["--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", **os.environ}
    with log.open("w") as out:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            _wait(f"http://127.0.0.1:{port}/v1/models", process, log)
            yield f"http://127.0.0.1:{port}/v1", "tiny-llama"
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < READY:
        try:
            if httpx2.get(url).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(1)
    raise AssertionError(log.read_text()[-4000:])


@pytest.fixture
def apis(served: tuple[str, str], tmp_path: Path) -> Iterator[Apis]:
    endpoint = Endpoint(base_url=served[0], timeout=120, logprobs=True, prices={served[1]: Price(1, 2)})
    opened = Apis(Lake.open(tmp_path / "lake"), "contract", {"e": endpoint}, Limit())
    yield opened
    opened.close()


def answers(apis: Apis, model: str, requests: list[ChatRequest], **request: object) -> list[Answer]:
    engine = apis.engine(ModelSettings(path=model, endpoint="e", request=dict(request)), "answers")
    return sorted(engine.answer(requests), key=lambda a: (a.request_id, a.candidate))


def asked(number: int, text: str, draws: int = 1, **sampling: float) -> ChatRequest:
    drawn = TokenSampling(**({"temperature": 0.0, "max_tokens": 6} | sampling))  # type: ignore[arg-type]
    return ChatRequest(number, [{"role": "user", "content": text}], [7 + number + i for i in range(draws)], drawn)


def test_an_answer_has_text_counts_price_and_logprobs(apis, served):
    found = answers(apis, served[1], [asked(0, "hvat eitur høvuðsstaðurin ?"), asked(1, "the little boat")])
    assert [a.request_id for a in found] == [0, 1]
    for answer in found:
        assert answer.text is not None and answer.finish_reason in ("stop", "length")
        assert answer.n_prompt_tokens and answer.tokens_billed and answer.price
        assert 1 <= answer.tokens_billed - answer.n_prompt_tokens <= 6
        assert answer.logprobs is not None and len(answer.logprobs) == answer.tokens_billed - answer.n_prompt_tokens
        assert all(math.isfinite(v) and v <= 0 for v in answer.logprobs)
        assert answer.price == pytest.approx((answer.n_prompt_tokens + 2 * len(answer.logprobs)) / 1e6)


def test_draws_have_seeds_and_a_second_call_asks_nobody(apis, served):
    request = asked(3, "báturin siglir", draws=4, temperature=1.0)
    first = answers(apis, served[1], [request])
    assert len({a.text for a in first}) > 1
    assert answers(apis, served[1], [request]) == first and (apis.bought, apis.found) == (4, 4)


def test_a_models_own_fields_reach_the_server(apis, served):
    (answer,) = answers(apis, served[1], [asked(5, "sólin skínur")], return_token_ids=True)
    assert answer.token_ids is None or len(answer.token_ids) == len(answer.logprobs or [])


@pytest.mark.parametrize(
    ("line", "mode", "value"), [("Score: 4", "score", 0.75), ("Verdict: no", "verdict", 0.0), (None, "score", None)]
)
def test_a_judge_is_asked_once_and_its_verdict_read(served, tmp_path, recipe, change, make, line, mode, value):
    """The server's own grammar makes a random model say a verdict; without it what it says is none, and so null.

    A few replies repeat the question's last bytes before the verdict (vLLM 0.32, where these are no whole character): null too."""
    own = {} if line is None else {"structured_outputs": {"choice": [line]}}
    spec = {
        "use": "judge",
        "by": "critic",
        "mode": mode,
        "rubric": "hvat",
        "wording": "{rubric} {answer}",
        "max_tokens": 16,
    }
    judged = change(
        recipe,
        teacher=None,
        reward=None,
        components={"judged": spec},
        models={"critic": ModelSettings(path=served[1], endpoint="e", request=own)},
        endpoints={"e": Endpoint(base_url=served[0], timeout=120, prices={served[1]: Price(1, 2)})},
        benchmarks={"task": {"metrics": {"judged": spec}, "split": "train", "limit": 2}},
        budget=1,
    )
    lake = make(judged, "prompts,samples,rewards,evaluate")
    found = [row for row in lake.read(lake.slices("rewards")[-1]).to_pylist() if row["detail"] != "no text"]
    assert {row["value"] for row in found} <= {value, None} and all(
        row["valid"] or "no verdict" in row["detail"] for row in found
    )
    assert sum(row["value"] == value for row in found) > len(found) / 2
    measured = [dict(row["metrics"]).get("judged") for row in lake.read(lake.slices("evaluations")[-1]).to_pylist()]
    assert len(measured) == 2 and set(measured) <= {value, None}
    [bill] = lake.sql("SELECT count(*) AS n, sum(price) AS price FROM ledger").to_pylist()
    assert bill["n"] > 1 and lake.sql("SELECT sum(money) AS m FROM costs").to_pylist()[0]["m"] == pytest.approx(
        bill["price"]
    )
    elsewhere = {"e": Endpoint(base_url="http://127.0.0.1:9/v1", prices={served[1]: Price(1, 2)})}
    shutil.rmtree(lake.root / lake.slices("rewards")[-1].path)
    make(change(judged, endpoints=elsewhere), "rewards,evaluate")  # made again without a server: from the ledger


def test_a_wrong_model_and_a_prompt_that_is_too_long_are_refused_in_a_sentence(apis, served):
    with pytest.raises(Refusal, match="status 404"):
        answers(apis, "no-such-model", [asked(0, "x")])
    with pytest.raises(Refusal, match="status 400"):
        answers(apis, served[1], [asked(0, "a b c " * 200_000)])
