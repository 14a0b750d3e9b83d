"""Calls to a server that speaks the OpenAI protocol, tried again after errors that pass."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import numpy as np

from reflect_rl.errors import ServerError, SettingsError
from reflect_rl.model_servers.meter import Price, most_prompt_tokens
from reflect_rl.model_servers.records import Answer, Ask, Failed
from reflect_rl.progress import Progress
from reflect_rl.seeding import stream
from reflect_rl.settings.server import ServerSettings, checked_address

FIRST_WAIT = 1.0
"""Seconds before the first retry, unless the server says how long to wait."""
TOP_LOGPROBS = 20
"""The most that OpenAI and vLLM allow."""
TOO_LONG = ("context length", "context_length", "context size", "context window")
FILTERED = ("content_filter", "content_policy", "content management policy")
MOST_COUNTED = 1e12
"""Tokens of one call; a server that counts more is not believed."""
PLACEHOLDER = "none"
"""Sent to servers that want no key."""


class Again(Exception):  # noqa: N818  no error yet
    """A call that failed in a way that may pass. wait: seconds, if the server said so."""

    def __init__(self, reason: str, wait: float | None = None, limited: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.limited = limited


def address_and_key(settings: ServerSettings) -> tuple[str | None, str]:
    """The server's address (None: OpenAI's own) and its key ("": none).

    Raises SettingsError: no model, no or an unusable address or key, or no openai package.
    """
    if find_spec("openai") is None:
        raise SettingsError("Model servers need the openai package: pip install 'reflect-rl[api]'")
    key, address = os.environ.get("OPENAI_API_KEY", "").strip(), os.environ.get("OPENAI_BASE_URL", "").strip()
    if not settings.base_url and address:
        try:
            checked_address(address)
        except ValueError as error:
            raise SettingsError(f"OPENAI_BASE_URL cannot be used: {error}.") from None
    if not (address := settings.base_url or address) and not key:
        raise SettingsError(
            "There is no model server: set base_url (teacher.base_url, reflector.server.base_url, or evaluate's "
            "--server.base_url) or OPENAI_BASE_URL to your server's address, such as http://127.0.0.1:8000/v1, or "
            "OPENAI_API_KEY to use OpenAI's API."
        )
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("OPENAI_API_KEY should be printable ASCII characters. Copy the key again.")
    if not settings.model:
        raise SettingsError(
            "Name the model as the server calls it: teacher.model, reflector.server.model, or --agent openai:MODEL."
        )
    return address or None, key


class Calls:
    """Sends asks to one server; its coroutines share an event loop. Raises as `address_and_key` does."""

    def __init__(self, settings: ServerSettings, price: Price | None, progress: Progress) -> None:
        address, self._key = address_and_key(settings)
        from openai import AsyncOpenAI

        self.settings = settings
        self._price = price
        self._progress = progress
        url = urlsplit(address or "")
        self._client = AsyncOpenAI(
            api_key=self._key or PLACEHOLDER,
            base_url=urlunsplit(url._replace(query="")) or None,
            default_query=dict(parse_qsl(url.query, keep_blank_values=True)),
            max_retries=0,
            timeout=settings.timeout,
        )
        self._refused: set[str] = set()
        self._answered = 0

    @property
    def _address(self) -> str:
        """The server's address for messages."""
        return str(self._client.base_url)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def answer(self, ask: Ask) -> Answer | Failed:
        """Send an ask until it is answered. Raises ServerError."""
        failures, answered = 0, self._answered
        while True:
            try:
                found = await self._once(ask)
            except Again as again:
                served_others = self._answered > answered
                failures, answered = 1 if again.limited and served_others else failures + 1, self._answered
                if failures > self.settings.retries:
                    raise ServerError(
                        f"The model server {self._address} did not answer: {again} ({failures} tries). All "
                        f"earlier answers are kept. When it is back, run the same command again."
                    ) from None
                await asyncio.sleep(self._wait(again, ask, failures))
            else:
                self._answered += 1
                return found

    def _wait(self, again: Again, ask: Ask, failures: int) -> float:
        """Seconds to wait before the next try: the server's own wish, or exponential back-off with jitter."""
        jitter = stream(ask.sample, f"retry {ask}", failures).random()
        wait = again.wait or FIRST_WAIT * 2 ** (failures - 1) * (1 + jitter)
        return min(wait, self.settings.max_retry_wait)

    async def _once(self, ask: Ask) -> Answer | Failed:
        """One try. Raises Again, or ServerError if no retry would help."""
        from openai import APIConnectionError, APIStatusError

        body = self._body(ask)
        try:
            async with asyncio.timeout(self.settings.timeout):
                response = await self._client.chat.completions.with_raw_response.create(**body)
                return self._read(response.http_response.text, ask)
        except TimeoutError:
            raise Again(f"no answer within {self.settings.timeout:g} s") from None
        except APIConnectionError as error:
            raise Again(hide_keys(str(error.__cause__ or error), self._key) or type(error).__name__) from None
        except APIStatusError as error:
            status, headers = error.status_code, error.response.headers
            said = readable(hide_keys(f"{error.message} {error.code or ''}".strip(), self._key))
        if status in (400, 403, 422) and self._left_out(said, body):
            return await self._once(ask)
        return self._refusal(status, headers, said)

    def _body(self, ask: Ask) -> dict[str, Any]:
        """The fields of a request, without those that the server refused."""
        body: dict[str, Any] = {}
        body["max_completion_tokens" if "max_tokens" in self._refused else "max_tokens"] = ask.max_tokens
        if "temperature" not in self._refused:
            body["temperature"] = self.settings.temperature
        if ask.labels and "logprobs" not in self._refused:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        messages = [message._asdict() for message in ask.messages]
        return {"model": self.settings.model, "messages": messages, **body, "extra_body": self.settings.extra}

    def _refusal(self, status: int, headers: Any, said: str) -> Failed:
        """What to do about an HTTP error. Raises Again or ServerError."""
        low = said.lower()
        if status in (400, 413, 422):
            if any(word in low for word in FILTERED):
                return Failed(f"refused by the server's filter ({said})")
            if any(word in low for word in TOO_LONG):
                return Failed(f"too long for the model ({said})", final=False)
        if (status in (408, 409, 429) or status >= 500) and "insufficient_quota" not in low:
            raise Again(said, retry_after(headers), limited=status == 429)
        what = {401: "the key in OPENAI_API_KEY", 403: "the key in OPENAI_API_KEY", 404: "the model or the address"}
        raise ServerError(
            f"The model server {self._address} refused {what.get(status, 'the request')} for model "
            f"'{self.settings.model}'. {said}. All earlier answers are kept."
        )

    def _left_out(self, said: str, body: dict[str, Any]) -> bool:
        """Whether the server does not support an optional field of this request, and later ones do without it.

        OpenAI's newer models want max_completion_tokens in place of max_tokens. Every server refuses log-probabilities
        in words of its own, and speaks of them on no other occasion.
        """
        named = {name for name in ("max_tokens", "temperature") if f"'{name}'" in said and "support" in said}
        if re.search("log_?probs", said, flags=re.IGNORECASE):
            named.add("logprobs")
        named &= body.keys()
        for name in named - self._refused:
            self._refused.add(name)
            if name != "max_tokens":
                self._progress.warn(f"{self.settings.model} does not support {name}: it is asked without.")
        return bool(named)

    def _read(self, text: str, ask: Ask) -> Answer | Failed:
        """The answer in a response; Failed if it cannot be used, but is paid for. Raises Again or ServerError."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise Again("the answer is no chat completion; check base_url")
        usage = data["usage"] if isinstance(data.get("usage"), dict) else {}
        prompt = counted(usage.get("prompt_tokens"), most_prompt_tokens(ask))
        completion = counted(usage.get("completion_tokens"), ask.max_tokens)
        paid = prompt, completion, self._price and self._price.usd(prompt, completion)
        status, reason = error_in(data)
        reason = readable(hide_keys(reason, self._key))
        if not data.get("choices") and not (usage.get("prompt_tokens") or usage.get("completion_tokens")):
            if reason:
                return self._refusal(status, {}, reason)
            if "choices" not in data:
                raise Again("the answer is no chat completion; check base_url")
        try:
            if not data.get("choices"):
                return Failed(f"the server gave no choice{reason and f' ({reason})'}", *paid)
            choice = data["choices"][0]
            finish = str(choice.get("finish_reason") or "stop")
            if finish == "error" or choice.get("error") or data.get("error"):  # as gateways tell of a lost model
                _, broken = error_in(choice if choice.get("error") else data)
                raise Again(readable(hide_keys(broken, self._key)) or "the server broke the answer off")
            said = choice["message"]
            content = without_thinking(readable(text_of(said.get("content"))))
            if finish == "content_filter" or said.get("refusal"):
                return Failed("refused by the server's filter", *paid)
            return Answer(content, finish, *paid, label_logprobs(choice, ask.labels, content))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            return Failed(f"the server's answer cannot be read ({type(error).__name__})", *paid)


IN_WORDS = ((429, "rate_limit"), (503, "overloaded"), (503, "unavailable"), (500, "server_error"))
"""HTTP statuses that errors name in words, as their code or type."""


def counted(tokens: Any, most: int) -> int:
    """The tokens that a server counted; if it gives no usable number, the most that there can be."""
    return int(tokens) if isinstance(tokens, int | float) and 0 <= tokens < MOST_COUNTED else most


def error_in(data: dict[str, Any]) -> tuple[int, str]:
    """(HTTP status, reason) of an error that came as an answer, as some gateways send them; (400, "") if there is none.

    400 stands for errors that name no status, also not in words.
    """
    error = data.get("error") or ""
    told = error if isinstance(error, dict) else {"message": error}
    code = told.get("code")
    named = [int(str(code))] if re.fullmatch("[45][0-9][0-9]", str(code)) else []
    words = f"{code} {told.get('type')}".lower()
    named += [status for status, part in IN_WORDS if part in words]
    return (named or [400])[0], f"{told.get('message') or ''} {code or ''}".strip()


def text_of(content: Any) -> str:
    """The text of a message, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else part.get("text") or "" for part in content)
    return content or ""


def readable(text: str) -> str:
    """`text` without halves of surrogate pairs, which JSON can hold, but no file."""
    return text.encode("utf-8", "replace").decode()


def without_thinking(text: str) -> str:
    """`text` after the thoughts that some servers leave in the answers of models that reason.

    Where the model's chat template begins the thoughts, the answer holds only the tag that ends them.
    """
    return re.sub(r"^\s*<think>.*", "", text.rpartition("</think>")[2], flags=re.DOTALL).strip()


def label_logprobs(choice: dict[str, Any], labels: Sequence[str], text: str) -> dict[str, float] | None:
    """Log-probabilities of labels at the first token that is not blank; tokens that differ by white space count as one.

    text: the answer, without white space around it. None if it does not begin with that token, which is then one of the
    model's thoughts, or if the log-probabilities are damaged.
    """
    tokens = (choice.get("logprobs") or {}).get("content") if labels else None
    if not tokens:
        return None
    found: dict[str, float] = {}
    try:
        first = next((token for token in tokens if token.get("token", text).strip()), None)
        if first is None or not text.startswith(first.get("token", "").strip()):
            return None
        for token in first.get("top_logprobs") or []:
            label, value = token["token"].strip(), float(token["logprob"])
            if label in labels and math.isfinite(value):
                found[label] = float(np.logaddexp(found.get(label, -math.inf), value))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return found


def hide_keys(text: str, key: str) -> str:
    """`text` without `key`, and without anything that looks like an API key."""
    text = text.replace(key, "***") if key else text
    return re.sub(r"\bsk-[\w*-]{6,}|(?<=Bearer )\S+", "***", text)


def retry_after(headers: Any) -> float | None:
    """The seconds that a server asks to wait: a number or a date; None if it does not say."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            return max(0.0, float(value) / unit)
        except ValueError:
            pass
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
