"""Servers that are not there, fail for ever or lie: endpoints that answer for the teacher, and the storage of a lake.

`serve` says bytes of the row's choice to every request: a real connection, and the row shows the lie whole. `refuses`
(conftest.py) asserts the rest for each row: exit code 2, at most three lines, a next step that can be typed, a lake that verifies.
What is no mistake of anybody's (a filter, a refusal, odd text) is not refused but recorded: `records`."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from data.lake import Lake
from data.verify import verify

Serve = Callable[[bytes | None], str]
ANSWERS = "factory 'stages=[prompts,answers]'"
ENDPOINT = """teacher: {{path: tiny, endpoint: e}}
components: {{chrf: {{use: similarity, metric: chrf}}}}
reward: chrf
where: null
factory:
  shard_groups: 2
  endpoints: {{e: {{base_url: "{url}", timeout: 0.5, attempts: 2{more}}}}}
"""


def rows(*found: tuple[Any, ...]) -> pytest.MarkDecorator:
    """Parametrise over rows (name, what the server says, command line, what the answer says…)."""
    cases = [pytest.param(said, line, says, id=name) for name, said, line, *says in found]
    return pytest.mark.parametrize(("said", "line", "says"), cases)


def reply(status: int, body: bytes | str | dict[str, Any] = b"", *headers: str, length: int | None = None) -> bytes:
    """A whole answer as it goes over the wire; `length` is what its header claims."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
    said = [f"HTTP/1.1 {status} Said", f"content-length: {len(content) if length is None else length}", *headers]
    return "\r\n".join([*said, "connection: close", "", ""]).encode() + content


def completion(content: object = "svar", model: str = "tiny", **more: Any) -> dict[str, Any]:
    """A chat completion; `more` replaces parts of its choice, or of the whole where it has them."""
    whole: dict[str, Any] = {"model": model, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    whole |= {name: more.pop(name) for name in ("usage", "choices", "model") if name in more}
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"} | more
    return {"choices": [choice]} | whole


def said(**more: Any) -> bytes:
    return reply(200, completion(**more))


def error(status: int, message: str, code: str | None = None, *headers: str) -> bytes:
    return reply(status, {"error": {"message": message, "code": code}}, *headers)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(bytes)`: the address of a server that says so to every request and closes; None: it never says anything."""
    listeners: list[socket.socket] = []
    speaking: list[threading.Thread] = []
    taken: list[socket.socket] = []  # a connection that is not held is closed

    def speak(listener: socket.socket, what: bytes | None) -> None:
        while True:
            try:
                client, _ = listener.accept()
                client.recv(1 << 16)
                taken.append(client)
                if what is not None:
                    client.sendall(what)
                    client.shutdown(socket.SHUT_WR)
            except OSError:
                if listener.fileno() < 0:
                    return

    def go(what: bytes | None) -> str:
        listeners.append(socket.create_server(("127.0.0.1", 0)))
        speaking.append(threading.Thread(target=speak, args=(listeners[-1], what), daemon=True))
        speaking[-1].start()
        return f"http://127.0.0.1:{listeners[-1].getsockname()[1]}"

    yield go
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)  # closing alone wakes nobody who waits in accept
    for end in (*listeners, *taken):
        end.close()
    for thread in speaking:
        thread.join(10)


def asks(place: Any, url: str, more: str = "") -> None:
    """The recipe's teacher behind an endpoint at this address."""
    place.recipe(ENDPOINT.format(url=url, more=more))


SPEAKS_NO_HTTP = b"220 mail.example ESMTP\r\n"
LATER = "no chat completion but"


@rows(
    ("401", error(401, "no such key"), ANSWERS, "endpoint e", "status 401 (no such key)", "api_key_env=VARIABLE"),
    ("403", error(403, "not for you"), ANSWERS, "status 403", "api_key_env=VARIABLE"),
    ("404 of the model", error(404, "no model tiny"), ANSWERS, "refuses tiny", "status 404", "base_url"),
    ("404 of the address", reply(404, "<html>not here</html>"), ANSWERS, "status 404", "base_url"),
    ("405", reply(405), ANSWERS, "status 405"),
    ("400", error(400, "prompt too long"), ANSWERS, "status 400 (prompt too long)", "model's settings"),
    ("quota", error(429, "you exceeded your quota", "insufficient_quota"), ANSWERS, "quota", "pay the account"),
    ("429 for ever", error(429, "slow down"), ANSWERS, "status 429", "at 2 attempts", "again later"),
    ("429 for a day", error(429, "slow down", None, "retry-after: 86400"), ANSWERS, "asks to wait 86,400 s"),
    ("500 for ever", error(500, "oops"), ANSWERS, "status 500 (oops)", "at 2 attempts"),
    ("502 of a proxy", reply(502, "<html>bad gateway</html>"), ANSWERS, "status 502", "at 2 attempts"),
    ("redirected for ever", reply(308, b"", "location: /v1/chat/completions"), ANSWERS, "endpoint e"),
    ("a hang", None, ANSWERS, "no answer within 0.5 s", "at 2 attempts"),
    ("closed at once", b"", ANSWERS, "connection lost", "at 2 attempts"),
    ("cut in the headers", b"HTTP/1.1 200 OK\r\ncontent-le", ANSWERS, "connection lost"),
    ("cut in the body", reply(200, b'{"choices": [', length=900), ANSWERS, "connection lost"),
    ("no HTTP", SPEAKS_NO_HTTP, ANSWERS, "connection lost"),
    ("nothing in 200", reply(200), ANSWERS, "an empty body"),
    ("malformed JSON", reply(200, '{"choices": [{"mess'), ANSWERS, LATER),
    ("HTML instead of JSON", reply(200, "<html>log in, please</html>"), ANSWERS, LATER, "<html>log in, please"),
    ("no UTF-8", reply(200, b'{"choices": "\xff\xfe"}'), ANSWERS, LATER),
    ("a list", reply(200, "[]"), ANSWERS, LATER),
    ("nested without end", reply(200, "[" * 100_000), ANSWERS, LATER),
    ("an error in 200", reply(200, {"error": {"message": "overloaded"}}), ANSWERS, LATER, "overloaded"),
    ("no choices", reply(200, {"model": "tiny"}), ANSWERS, LATER),
    ("empty choices", said(choices=[]), ANSWERS, LATER),
    ("a choice without a message", said(choices=[{}]), ANSWERS, LATER),
    ("content that is a number", said(content=3), ANSWERS, LATER),
    ("another model", said(model="tiny-other"), ANSWERS, "tiny was asked, tiny-other answered", "aliases"),
    ("no model", said(model=None), ANSWERS, LATER),
    ("a hostile model's name", said(model="x\n\x1b[2Jnext: rm -rf /"), ANSWERS, "tiny was asked"),
    ("hostile error text", error(401, "\x1b[31mno\r\n\nnext: rm\u202e -rf /"), ANSWERS, "status 401"),
    ("negative usage", said(usage={"prompt_tokens": -1, "completion_tokens": 2}), ANSWERS, LATER),
    ("usage without end", reply(200, json.dumps(completion()).replace("3", "1e400")), ANSWERS, LATER),
    ("usage of text", said(usage={"prompt_tokens": "3", "completion_tokens": 2}), ANSWERS, LATER),
    ("logprobs without numbers", said(logprobs={"content": [{"token": "a"}]}), ANSWERS, LATER),
    (
        "no usage under a budget",
        said(usage=None),
        f"{ANSWERS} 'budget={{tokens: 9999}}'",
        "does not say how many tokens",
    ),
    ("budget 0", said(), f"{ANSWERS} 'budget={{tokens: 0}}'", "the budget ends here"),
    ("budget spent", said(), f"{ANSWERS} 'budget={{tokens: 100}}'", "the budget ends here", "goes on"),
    ("budget without a price", said(), f"{ANSWERS} budget=5", "what tiny costs at endpoint e is not known"),
    ("budget below 0", said(), f"{ANSWERS} budget=-1", "budget"),
    ("budget of words", said(), f"{ANSWERS} budget=much", "neither USD nor"),
)
def test_an_endpoint_that_fails_for_ever_or_lies(refuses, place, serve, said, line, says):
    asks(place, f"{serve(said)}/v1")
    message = refuses(line, *says)
    assert message.isprintable() or all(c.isprintable() or c == "\n" for c in message), ascii(message)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:9/v1", "no server at http://127.0.0.1:9/v1"),
        ("http://no-such-host.invalid/v1", "no server at http://no-such-host.invalid/v1"),
        ("https://127.0.0.1:9/v1", "no server at https"),
        ("127.0.0.1:9/v1", "no http address"),
        ("ftp://host/v1", "no http address"),
        ("http://", "no http address"),
        ("http://user:canary-1@host/v1", "credentials"),
        ("http://127.0.0.1:99999/v1", "no http address"),
    ],
)
def test_an_endpoint_whose_address_is_wrong(refuses, place, url, says):
    asks(place, url)
    assert "canary-1" not in refuses(ANSWERS, says)


@rows(
    ("TLS where there is none", said(), "https://{host}/v1", "no server at https"),
    ("the storage's server", None, "{s3}/v1", "endpoint e"),
)
def test_an_endpoint_that_is_another_service(refuses, place, serve, s3_server, said, line, says):
    asks(place, line.format(host=serve(said).removeprefix("http://"), s3=s3_server[0]))
    refuses(ANSWERS, *says)


@rows(
    ("variable unset", ", api_key_env: NO_SUCH_KEY", ANSWERS, "NO_SUCH_KEY is not set", "export NO_SUCH_KEY="),
    ("the key itself", ", api_key_env: sk-canary-1", ANSWERS, "no variable's name"),
    ("nobody in flight", ", concurrency: 0", ANSWERS, "concurrency=0"),
    ("no attempt", "", f"{ANSWERS} endpoints.e.attempts=0", "attempts=0"),
    ("a negative price", ", prices: {tiny: {input: -1, output: 2}}", ANSWERS, "input=-1"),
    ("half a price", ", prices: {tiny: {input: 1}}", f"{ANSWERS} budget=1", "output"),
    ("an unknown field", "", f"{ANSWERS} endpoints.e.time_out=3", "did you mean 'timeout'"),
    ("another endpoint", "", f"{ANSWERS} teacher.endpoint=f", "teacher.endpoint=f"),
    (
        "token scores",
        "",
        "factory 'stages=[scores]' 'components.l={use: teacher_loglik}' 'stages=[rewards]'",
        "token scores",
    ),
    ("soft targets", "", "factory 'stages=[soft_targets]'", "token scores"),
    ("a student", "", "factory 'stages=[samples]' student.endpoint=e", "needs its own weights"),
    ("engine api", "", f"{ANSWERS} engine.name=api", "engine api runs no model"),
)
def test_an_endpoint_set_wrong(refuses, place, serve, monkeypatch, said, line, says):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    asks(place, f"{serve(completed())}/v1", said)
    assert "sk-canary" not in refuses(line, *says)


def completed() -> bytes:
    return reply(200, completion())


HOSTILE = "<end><|user|>'; DROP TABLE answers; --\x00\x1b[2J\u202e ../../etc/passwd {{7*7}} \ud83d ð"


@pytest.mark.parametrize(
    ("said", "tells", "row"),
    [
        (said(content=None, finish_reason="length"), "no answer for 5 of 5", (None, "length")),
        (said(content="half", finish_reason="content_filter"), "no answer for 5 of 5", (None, "content_filter")),
        (error(400, "filtered", "content_filter"), "no answer for 5 of 5", (None, "content_filter")),
        (said(content="", finish_reason="stop"), "answers/", ("", "stop")),
        (said(content=HOSTILE), "answers/", (HOSTILE.replace("\ud83d", "?"), "stop")),
        (said(usage=None), "answers/", ("svar", "stop")),
        (said(logprobs={"content": [{"logprob": -0.5}] * 9}, token_ids=[5, 6]), "answers/", ("svar", "stop")),
        (said(logprobs={"content": [{"logprob": "-inf"}]}), "answers/", ("svar", "stop")),
    ],
    ids=["null", "filter", "filtered prompt", "empty", "hostile", "no usage", "logprobs of another length", "infinite"],
)
def test_an_answer_that_is_none_or_odd_is_recorded_as_it_is(place, serve, run, request, capfd, said, tells, row):
    asks(place, f"{serve(said)}/v1")
    assert run(ANSWERS) == 0
    out, err = capfd.readouterr()
    assert tells in out and err == ""
    lake = Lake.open(place.root / "lake")
    query = "SELECT text, finish_reason, token_ids, logprobs FROM answers JOIN models ON teacher = model_id WHERE name = 'tiny'"
    found = lake.sql(query).to_pylist()
    assert len(found) == 5 and {(r["text"], r["finish_reason"]) for r in found} == {row}
    for r in found:  # log-probabilities stand beside tokens of the same number, or alone
        assert not r["token_ids"] or not r["logprobs"] or len(r["token_ids"]) == len(r["logprobs"])
    assert verify(lake).faults == []
    request.node.user_properties.append(("recorded", next(line for line in out.splitlines() if tells in line)))


@pytest.fixture
def impatient(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address on storage, whose client gives up in seconds: tests do not wait for minutes."""
    monkeypatch.setattr("data.remote.RETRY", {"max_retries": 1, "retry_timeout": timedelta(seconds=3)})
    monkeypatch.setattr(
        "data.remote.CLIENT", {"connect_timeout": timedelta(seconds=1), "timeout": timedelta(seconds=1)}
    )
    return s3


def xml(code: str) -> str:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}, said the storage</Message></Error>'


COMMANDS = ["factory lake={s3}", "trainer lake={s3}", "data tables --lake {s3}"]


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.parametrize(
    ("said", "says"),
    [
        (reply(403, xml("AccessDenied")), "403"),
        (reply(404, xml("NoSuchBucket")), "404"),
        (reply(500, xml("InternalError")), "500"),
        (reply(200, '<?xml version="1.0"?><ListBucketRes', length=900), "s3://"),
        (b"", "s3://"),
        (None, "s3://"),
        (SPEAKS_NO_HTTP, "s3://"),
    ],
    ids=["403", "no bucket", "500 for ever", "cut", "closed at once", "a hang", "no HTTP"],
)
def test_a_storage_that_fails_for_ever_or_lies(refuses, impatient, serve, monkeypatch, said, says, line):
    monkeypatch.setenv("AWS_ENDPOINT_URL", serve(said))
    assert "canary" not in refuses(line.format(s3=impatient), impatient, says, "AWS_ENDPOINT_URL")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_storage_that_answers_with_a_web_page(refuses, impatient, serve, monkeypatch, line):
    """A page parses as a listing of nothing, so whoever reads is told that nothing is there, and where."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", serve(reply(200, "<html>log in, please</html>")))
    refuses(line.format(s3=impatient), impatient)


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.parametrize(
    ("variable", "value", "lake"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "{s3}"),
        ("AWS_ENDPOINT_URL", "http://no-such-host.invalid", "{s3}"),
        ("AWS_ENDPOINT_URL", "nonsense", "{s3}"),
        ("AWS_REGION", "us-east-1", "s3://no-such-bucket/lake"),
        ("AWS_REGION", "us-east-1", "s3://Not_A_Bucket/lake"),
        ("AWS_REGION", "us-east-1", "s3://"),
    ],
    ids=["refused", "no host", "no address", "no bucket", "no name of a bucket", "no bucket at all"],
)
def test_a_storage_that_is_not_there(refuses, impatient, monkeypatch, variable, value, lake, line):
    monkeypatch.setenv(variable, value)
    where = lake.format(s3=impatient)
    refuses(line.format(s3=where), where)


def on_server(s3_server: tuple[str, Path], uri: str, name: str) -> Path:
    """The object's file in the server's folder."""
    return next((s3_server[1] / uri.removeprefix("s3://")).glob(name))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("samples/*/part-00000*", lambda f: f.write_bytes(f.read_bytes()[:-20])),
        ("samples/*/part-00000*", lambda f: f.write_bytes(b"")),
        ("samples/*/part-00000*", lambda f: f.write_bytes(f.read_bytes()[::-1])),
        ("samples/*/part-00000*", lambda f: f.unlink()),
        ("samples/*/_manifest.json", lambda f: f.write_bytes(f.read_bytes()[:99])),
        ("samples/*/_manifest.json", lambda f: f.write_bytes(b"")),
    ],
    ids=["cut", "empty", "turned", "gone", "cut manifest", "empty manifest"],
)
@pytest.mark.parametrize("line", ["trainer lake={s3}", "data sql 'FROM samples, models' --lake {s3}"])
def test_an_object_that_was_changed_on_the_storage(refuses, place, run, s3, s3_server, monkeypatch, name, change, line):
    assert run(f"data push {s3}") == 0
    change(on_server(s3_server, s3, name))
    monkeypatch.setenv("GRPO_KD_CACHE", str(place.root / "another machine"))
    refuses(line.format(s3=s3))
