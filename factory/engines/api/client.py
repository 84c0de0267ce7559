"""One endpoint over HTTP: bounded, paced, timed, tried again where that may help. The only module that speaks to a server.

Sends conversations, writes nothing. The server's errors leave here as `Refusal`s, and its key leaves only in the request's header:
whatever comes back is read after the key is struck out of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from data.refusal import Refusal
from factory.endpoints import Endpoint
from factory.engines.api.limits import Pace, Transient, retry_after, waiting
from factory.engines.api.reply import Reply, read_reply
from factory.engines.api.stop import Stop

PASSING = (408, 409, 425, 429)  # statuses below 500 that may pass
LONGEST_PAUSE = 900.0  # seconds: a server that asks for more is not waited for
FILTERED = ("content_filter", "content_policy_violation")  # a prompt that a filter stopped comes back as status 400


class Client:
    """A server. Belongs to one event loop; `slots` bounds what is in flight."""

    def __init__(self, name: str, endpoint: Endpoint):
        import openai

        self.name, self.endpoint, self._key = name, endpoint, endpoint.key()
        self.slots = asyncio.Semaphore(endpoint.concurrency)
        self._pace = Pace(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._reached = False
        self._http = openai.AsyncOpenAI(
            api_key=self._key or "none",  # never OPENAI_API_KEY by default: it would go to whatever server this is
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=endpoint.timeout,
        )

    async def ask(self, body: Mapping[str, Any], tokens: int, stop: Stop, lost: Callable[[], None]) -> Reply:
        """The reply to a request of at most so many tokens. `lost` is called for an attempt that may have been billed in vain.

        Once `stop` is set, what is in flight is waited for, and nothing else: Stopped is raised in place of another attempt."""
        import tenacity

        tries = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_after_attempt(self.endpoint.attempts),
            wait=_wait,
            sleep=lambda seconds: stop.unless(asyncio.sleep(seconds)),
            reraise=True,
        )
        try:
            return await tries(self._attempt, body, tokens, stop, lost)
        except Transient as error:
            raise Refusal(
                f"{self._where}: {error.what}, at {self.endpoint.attempts} attempts",
                "run the same command again later: what was answered is kept, and not asked again",
            ) from None

    async def _attempt(self, body: Mapping[str, Any], tokens: int, stop: Stop, lost: Callable[[], None]) -> Reply:
        await stop.unless(self._pace.wait(tokens))
        try:
            raw = await self._sent(body)
            self._reached = True
            if isinstance(raw, Reply):
                return raw
            return read_reply(raw, body["model"], self.endpoint.aliases.get(body["model"]))
        except Transient as error:
            if error.billed:
                lost()
            if error.retry_after is not None:
                self._pause(error)
            raise

    def _pause(self, error: Transient) -> None:
        assert error.retry_after is not None
        if error.retry_after > LONGEST_PAUSE:
            raise Refusal(
                f"{self._where}: {error.what}, and it asks to wait {error.retry_after:,.0f} s",
                "run the same command again then: what was answered is kept, and not asked again",
            )
        self._pace.pause(error.retry_after)

    async def _sent(self, body: Mapping[str, Any]) -> bytes | Reply:
        import openai

        own = {name: value for name, value in body.items() if name not in ("model", "messages")}
        try:
            async with asyncio.timeout(
                self.endpoint.timeout
            ):  # the client's own is per read: a server that drips never ends
                raw = await self._http.chat.completions.with_raw_response.create(
                    model=body["model"], messages=body["messages"], extra_body=own
                )
                return self._struck(raw.http_response.content)
        except (TimeoutError, openai.APITimeoutError):
            raise Transient(f"no answer within {self.endpoint.timeout:g} s", billed=True) from None
        except openai.APIStatusError as error:
            self._reached = True
            return self._status(error, body["model"])
        except openai.APIConnectionError as error:
            raise self._unconnected(error) from None

    def _status(self, error: Any, model: str) -> Reply:
        """A status as what it means: a filtered prompt is an answer; the rest is raised."""
        status, text = error.status_code, self._struck(error.response.content)
        message, code = _told(text)
        what = f"status {status}" + (f" ({message})" if message else "")
        if status == 400 and code in FILTERED:
            return Reply(None, "content_filter", None, None, None)
        if code == "insufficient_quota":
            raise Refusal(f"{self._where}: {what}", "pay the account, then run the same command") from None
        if status in PASSING or status >= 500:
            raise Transient(what, retry_after(error.response.headers.get("retry-after"), time.time())) from None
        raise Refusal(f"{self._where} refuses {model}: {what}", self._repair(status)) from None

    def _repair(self, status: int) -> str:
        variable = self.endpoint.api_key_env
        if status in (401, 403):
            return (
                f"export {variable}=… with a key that may use it"
                if variable
                else (f"factory.endpoints.{self.name}.api_key_env=VARIABLE, the variable that holds the key")
            )
        if status == 404:
            return f"correct the model's path, or factory.endpoints.{self.name}.base_url"
        return f"correct the model's settings, or factory.endpoints.{self.name}"

    def _unconnected(self, error: Exception) -> Exception:
        import httpx2

        cause, what = error.__cause__, self._struck(str(error.__cause__ or error).encode()).decode()
        if isinstance(cause, httpx2.ConnectError) and not self._reached:
            return Refusal(f"no server at {self.endpoint.base_url}: {what}", "start it, or correct base_url")
        return Transient(
            f"connection lost ({what or type(cause).__name__})", billed=not isinstance(cause, httpx2.ConnectError)
        )

    @property
    def _where(self) -> str:
        return f"endpoint {self.name} ({self.endpoint.base_url})"

    def _struck(self, raw: bytes) -> bytes:
        """Without the key: a server may repeat it, and what it says goes into messages and tables."""
        return raw.replace(self._key.encode(), b"***") if self._key else raw

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


def _wait(state: Any) -> float:
    error = state.outcome.exception()
    asked = error.retry_after or 0.0
    return float(asked + waiting(state.attempt_number))


def _told(raw: bytes) -> tuple[str, str | None]:
    """(message, code) of an error's body, as far as it has them."""
    try:
        error = json.loads(raw)
        error = error.get("error", error)
        message, code = error.get("message"), error.get("code")
    except (ValueError, AttributeError, RecursionError):
        message, code = raw[:200].decode("utf-8", "replace"), None
    return " ".join(str(message or "").split())[:200], code if isinstance(code, str) else None
