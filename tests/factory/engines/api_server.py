"""A chat-completions server that fails on purpose, in a process of its own: `python api_server.py PORT_FILE LOG [TOKENIZER]`.

Every request is a line of LOG before it is answered, every answer one after it was sent. A message's first word says what goes
wrong: `429:2` twice status 429 with Retry-After, then an answer; `hang:1`, `cut:1`, `500:1`, `503date:1`, `junk:1`, `empty:1`,
`other:1`, `filter`, `filter400`, `refuse`, `null`, `401`, `403`, `404`, `quota`, `echo` (the key in the answer), `slow:0.2`.
A judge's: `score:4` and `verdict:yes` end in that line, any other word in none. Billed are words, or TOKENIZER's tokens."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LOCK = threading.Lock()
SEEN: Counter[str] = Counter()
LOG: Any = None
COUNT: Callable[[str], int] = lambda text: len(text.split())  # noqa: E731
PERSISTENT = ("401", "403", "404", "quota", "filter", "filter400", "refuse", "null", "echo", "dear", "score", "verdict")


def note(**event: Any) -> None:
    with LOCK:
        LOG.write(json.dumps({**event, "at": time.monotonic()}) + "\n")
        LOG.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text, model = body["messages"][-1]["content"], body["model"]
        what = json.dumps([model, body["messages"], body.get("seed") if body["temperature"] else None])
        with LOCK:
            SEEN[what] += 1
            times = SEEN[what]
        note(event="asked", what=what, text=text, body=body)
        word, _, count = text.split()[0].partition(":")
        try:
            if word == "slow":
                time.sleep(float(count))
            fails = getattr(self, f"fail_{word}", None)
            if fails is not None and (word in PERSISTENT or times <= int(count or 1)):
                fails(body)
            else:
                self.answer(body, f"answer to {text}")
            note(event="answered", what=what, text=text)
        except (BrokenPipeError, ConnectionResetError):
            note(event="gone", what=what, text=text)

    def send(self, status: int, content: bytes, **headers: str) -> None:
        note(event="sending")  # before the client can know: what is asked and not being sent yet is surely in flight
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def error(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        self.send(status, json.dumps({"error": {"message": message, "code": code}}).encode(), **headers)

    def answer(
        self,
        body: dict[str, Any],
        text: str | None,
        reason: str = "stop",
        model: str = "",
        usage: dict[str, int] | None = None,
        **message: Any,
    ) -> None:
        read, written = sum(COUNT(m["content"]) for m in body["messages"]), COUNT(text or "")
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": reason,
            "message": {"role": "assistant", "content": text, **message},
        }
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": w, "logprob": -0.5} for w in (text or "").split()]}
        whole = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": model or body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        }
        self.send(200, json.dumps(whole | ({"usage": usage} if usage else {})).encode())

    def fail_dear(self, body: dict[str, Any]) -> None:
        """Billed as the most that it could be: a token a byte, the template around them, the longest answer."""
        time.sleep(0.2)
        read = sum(len(m["content"].encode()) + 8 for m in body["messages"]) + 64
        self.answer(body, "dear", usage={"prompt_tokens": read, "completion_tokens": body["max_tokens"]})

    def fail_score(self, body: dict[str, Any]) -> None:
        self.answer(body, f"It is like that.\nScore: {_value(body)}")

    def fail_verdict(self, body: dict[str, Any]) -> None:
        self.answer(body, f"It is like that.\nVerdict: {_value(body)}")

    def fail_429(self, _: Any) -> None:
        self.error(429, "slow down", retry_after="1")

    def fail_503date(self, _: Any) -> None:
        self.error(503, "busy", retry_after=formatdate(time.time() + 2, usegmt=True))

    def fail_500(self, _: Any) -> None:
        self.error(500, "oops")

    def fail_hang(self, _: Any) -> None:
        time.sleep(5)

    def fail_drip(self, body: Any) -> None:
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()
        for _ in range(50):
            self.wfile.write(b" ")
            time.sleep(0.1)

    def fail_cut(self, _: Any) -> None:
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def fail_junk(self, _: Any) -> None:
        self.send(200, b'{"choices": [{"message": {"content": "half')

    def fail_empty(self, _: Any) -> None:
        self.send(200, b'{"choices": []}')

    def fail_other(self, body: Any) -> None:
        self.answer(body, "I am another", model="tiny-other")

    def fail_dated(self, body: Any) -> None:
        self.answer(body, "I am dated", model=f"{body['model']}-0613")

    def fail_newer(self, body: Any) -> None:
        self.answer(body, "I am newer", model=f"{body['model']}-1106")

    def fail_filter(self, body: Any) -> None:
        self.answer(body, "half of an ans", reason="content_filter")

    def fail_filter400(self, _: Any) -> None:
        self.error(400, "the prompt was filtered", "content_filter")

    def fail_refuse(self, body: Any) -> None:
        self.answer(body, None, refusal="I can not help with that")

    def fail_null(self, body: Any) -> None:
        self.answer(body, None, reason="length")

    def fail_401(self, _: Any) -> None:
        self.error(401, f"incorrect key {self.headers['authorization']}", "invalid_api_key")

    def fail_403(self, _: Any) -> None:
        self.error(403, "not for you")

    def fail_404(self, _: Any) -> None:
        self.error(404, "no such model")

    def fail_quota(self, _: Any) -> None:
        self.error(429, "you exceeded your quota", "insufficient_quota")

    def fail_echo(self, body: Any) -> None:
        self.answer(body, f"your key is {self.headers['authorization']}")


def _value(body: dict[str, Any]) -> str:
    """What stands behind the colon of a message's first word."""
    return str(body["messages"][-1]["content"]).split()[0].partition(":")[2]


if __name__ == "__main__":
    port_file = Path(sys.argv[1])
    if len(sys.argv) > 3:
        from tokenizers import Tokenizer

        COUNT = lambda text: len(Tokenizer.from_file(sys.argv[3]).encode(text).ids)  # noqa: E731
    with Path(sys.argv[2]).open("a", encoding="utf-8") as LOG, ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        partial = port_file.with_suffix(".tmp")
        partial.write_text(str(server.server_address[1]))
        partial.replace(port_file)
        server.serve_forever()
