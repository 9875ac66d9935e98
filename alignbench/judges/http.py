"""A judge behind an OpenAI-compatible endpoint: requests with retries, and strict reading of the judgment."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from alignbench import layout, store
from alignbench.api.judge import Models
from alignbench.errors import ModelError, Problem, RecipeError, SecurityError
from alignbench.judges.reader import Ask, Asking, Found, Reader

if TYPE_CHECKING:
    import httpx

LARGEST = 1 << 20
"""Largest response in bytes; a judgment needs a few hundred."""
LONGEST_WAIT = 60.0
"""Largest wait between two attempts in seconds, whatever the server asks for."""
SLACK = 8
"""Largest judgment in tokens: an option, and the punctuation that some models put around it."""


class HTTP(Reader):
    """Asks a server for its judgment, both orders as two requests; answers are cached in the store.

    The label is soft where the server returns log-probabilities, otherwise it is the written judgment: the
    option alone. Anything else is an abstention. Redirects are not followed, the name is resolved once, and
    cloud metadata addresses are never contacted.
    """

    api = 2
    trains = True
    uncounted = ("flops",)

    class Config(Asking):
        url: str
        """The endpoint's address with its version: `http://localhost:8000/v1`."""
        model: str
        """The model's name on the server."""
        api: Literal["chat", "decisions"] = "chat"
        """`chat`: /chat/completions. `decisions`: /systemone of `transformers serve`, always soft, no reasons."""
        key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
        """Name of the environment variable that holds the key; the key itself is written to no file."""
        timeout: float = Field(60.0, gt=0)
        """Timeout of one attempt in seconds."""
        retries: int = Field(4, ge=0)
        """Further attempts after a timeout, a broken connection, or an overload or server error."""
        concurrency: int = Field(4, ge=1)
        """Concurrent requests."""
        per_minute: int | None = Field(None, ge=1)
        """Largest number of requests in a minute."""

        @field_validator("url")
        @classmethod
        def _is_http(cls, url: str) -> str:
            if not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s?#]*)?", url):
                raise ValueError("not a plain http address; write it like http://localhost:8000/v1")
            return url.rstrip("/")

        @model_validator(mode="after")
        def _can_think(self) -> Self:
            if self.think and self.api == "decisions":
                raise ValueError("api: decisions gives no reasons; leave think out, or write api: chat")
            return self

    @classmethod
    def reads_with(cls, config: Any, base: str) -> str:
        return config.model

    def reader(self, models: Models) -> Ask:
        return Server(self.config, models.store)


class RetryError(Exception):
    """A failed attempt that may be retried; `wait` is the delay that the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Address:
    """A server's address, resolved once: the name is not resolved again."""

    scheme: str
    host: str
    port: int
    path: str
    ip: str

    @property
    def base(self) -> str:
        """The address to connect to."""
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{self.scheme}://{ip}:{self.port}{self.path}"


def resolve(url: str) -> Address:
    """Return the address of `url`. Raises SecurityError for an address that a recipe must not reach.

    Link-local addresses, where clouds serve a machine's credentials, are never contacted. A private or
    loopback address must be named explicitly: a public name must not lead into a private network.
    """
    import httpx

    parts = httpx.URL(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(parts.host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        what = f"{parts.host} cannot be resolved: {error}"
        raise ModelError(Problem(what, "check the address and the network", field="url")) from error
    ip = str(found[0][4][0]).partition("%")[0]
    named = ipaddress.ip_address(ip)
    named = getattr(named, "ipv4_mapped", None) or named
    explicit = parts.host == "localhost" or _is_ip(parts.host)
    if named.is_link_local or named.is_multicast or named.is_unspecified:
        what = f"rule no-metadata: {parts.host} leads to {ip}"
    elif not named.is_global and not explicit:
        what = f"rule no-private-names: {parts.host} leads to the private address {ip}"
    else:
        return Address(parts.scheme, parts.host, port, parts.path.rstrip("/"), ip)
    raise SecurityError(Problem(what, "name the server's public address, or its IP address", field="url"))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Server:
    """Client of one server: concurrent requests, a rate limit, and retries."""

    def __init__(self, config: Any, kept: store.Store):
        import httpx

        self.config, self.kept = config, kept
        self.address = resolve(config.url)
        self.soft = True
        """Whether log-probabilities are requested: until the server rejects such a request."""
        self.begins = True
        """Whether the turn of the model is begun for it: until the server rejects such a request."""
        self.answered = False
        """Whether the server has answered any question."""
        self.likeliest: list[str] = []
        self.fresh = 0
        self._pace = threading.Lock()
        self._next = 0.0
        headers = {"Host": _host(self.address), "Accept": "application/json"}
        self._secret = b""
        if config.key_env is not None:
            key = self._key()
            headers["Authorization"] = f"Bearer {key}"
            self._secret = key.encode()
        # No proxy and no .netrc of the environment: requests go to the address that was checked.
        self.client = httpx.Client(
            headers=headers, timeout=config.timeout, follow_redirects=False, trust_env=False
        )

    def _key(self) -> str:
        name = self.config.key_env
        if self.address.scheme == "http" and not ipaddress.ip_address(self.address.ip).is_loopback:
            what = f"rule no-key-in-the-clear: {self.config.url} is not encrypted"
            raise SecurityError(Problem(what, "use https, or leave key_env out", field="url"))
        key = os.environ.get(name, "")
        if not key:
            what = f"the environment variable {name} is not set"
            raise RecipeError(Problem(what, f"export {name}=...", field="key_env"))
        return key

    def fingerprint(self) -> Any:
        return [self.config.url, self.config.model, self.config.api]

    def forget(self) -> None:
        self.fresh += 1

    def read(
        self,
        questions: Sequence[str],
        options: Sequence[str],
        think: tuple[str, int] | None,
        lead: str = "",
    ) -> tuple[list[Found], int]:
        """See `alignbench.judges.reader.Ask`. Raises ModelError where the server answers no question.

        What it refuses after it has answered others, such as a question too long for its model, is an abstention.
        """
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            answers = list(pool.map(lambda question: self._answer(question, options, think, lead), questions))
        failed = [answer["failed"] for answer in answers if "failed" in answer]
        self.answered |= len(failed) < len(answers)
        refused = [one for one in failed if one.startswith(REFUSED)]
        if len(failed) == len(answers) and not (self.answered and len(refused) == len(failed)):
            what = f"{self.config.url} gives no answer: {failed[0]}"
            fix = (
                "check url, model and key_env of the judge" if refused else "check that the server is running"
            )
            raise ModelError(Problem(what, fix, field="url"))
        found = [_judgment(answer, options, lead) for answer in answers]
        self.likeliest = [_first_word(answer) for answer in answers]
        return found, sum(answer.get("tokens", 0) for answer in answers)

    def _answer(
        self, question: str, options: Sequence[str], think: tuple[str, int] | None, lead: str
    ) -> dict[str, Any]:
        """Return the server's answer: from the store where the same question was answered before, else asked."""
        what = [self.fingerprint(), question, list(options), think, lead, self.fresh]
        failure: dict[str, Any] = {}

        def ask(folder: Any) -> None:
            answer = self._ask(question, options, think, lead)
            if "failed" in answer:
                failure.update(answer)
                raise RetryError(answer["failed"])
            store.write_json(folder / layout.JUDGE_ANSWER, answer)

        try:
            folder = self.kept.make(store.digest(["http judge", what]), ask, producer="alignbench")
        except RetryError:
            return failure
        return json.loads((folder / layout.JUDGE_ANSWER).read_text(encoding="utf-8"))

    def _ask(
        self, question: str, options: Sequence[str], think: tuple[str, int] | None, lead: str
    ) -> dict[str, Any]:
        turns = [{"role": "user", "content": question}]
        if self.config.api == "decisions":
            asked = {"type": "choice", "criteria": dict.fromkeys(options)}
            body = {"model": self.config.model, "state": question, "questions": {"judgment": asked}}
            found = self._post("/systemone", body)
            return found if "failed" in found else _decision(found)
        tokens = 0
        if think is not None:
            thought = self._chat(turns, think[1], soft=False)
            if "failed" in thought:
                return thought
            tokens = thought["tokens"]
            turns += [
                {"role": "assistant", "content": thought["text"]},
                {"role": "user", "content": f"Answer with one of these alone: {', '.join(options)}"},
            ]
        answer = self._judged(turns, lead)
        return answer if "failed" in answer else {**answer, "tokens": answer["tokens"] + tokens}

    def _judged(self, turns: Sequence[Mapping[str, str]], lead: str) -> dict[str, Any]:
        """Ask with all that the server is known to take, and with less where it refuses that.

        What it does not take is left out from then on, once it has answered without: a question may be the reason.
        """
        soft, begins = self.soft, self.begins and bool(lead)
        ways = dict.fromkeys([(soft, begins), (soft, False), (False, begins), (False, False)])
        answer: dict[str, Any] = {}
        for way in ways:
            answer = self._chat(turns, SLACK, soft=way[0], lead=lead if way[1] else "")
            if not str(answer.get("failed", "")).startswith(REFUSED):
                self.soft &= way[0] or not soft
                self.begins &= way[1] or not begins
                break
        return answer

    def _chat(
        self, turns: Sequence[Mapping[str, str]], most: int, *, soft: bool, lead: str = ""
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.config.model, "messages": turns, "temperature": 0, "max_tokens": most
        }  # fmt: skip
        if lead:
            # As vLLM and SGLang know it.
            body["messages"] = [*turns, {"role": "assistant", "content": lead}]
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        if soft:
            body |= {"logprobs": True, "top_logprobs": 20}
        found = self._post("/chat/completions", body)
        return found if "failed" in found else _completion(found)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON object of a request, or {"failed": reason} where it is refused or all attempts failed."""
        reason = ""
        for attempt in range(self.config.retries + 1):
            self._wait_for_turn()
            try:
                return self._attempt(path, body)
            except RetryError as error:
                reason = str(error)
                if attempt < self.config.retries:
                    time.sleep(min(LONGEST_WAIT, max(error.wait, backoff(attempt))))
        return {"failed": reason}

    def _attempt(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        import httpx

        request = self.client.build_request(
            "POST", self.address.base + path, json=body, extensions={"sni_hostname": self.address.host}
        )
        try:
            response = self.client.send(request, stream=True)
            try:
                content = b"".join(_at_most(response))
                if self._secret:  # servers may repeat a rejected key, and their responses are stored
                    content = content.replace(self._secret, b"(the key)")
            finally:
                response.close()
        except httpx.TimeoutException as error:
            raise RetryError("timeout") from error
        except httpx.TransportError as error:
            raise RetryError(f"no connection ({type(error).__name__})") from error
        status = response.status_code
        if status in (408, 409, 425, 429) or status >= 500:
            raise RetryError(f"status {status}", _retry_after(response))
        if 300 <= status < 400:
            where = response.headers.get("location", "another address")[:200]
            what = f"rule no-redirects: {self.config.url} redirects to {where}"
            raise SecurityError(Problem(what, "name the server's own address", field="url"))
        message = " ".join(content[:300].decode("utf-8", "replace").split())
        if status in (400, 413, 422):
            return {"failed": f"{REFUSED}: status {status}: {message}"}
        if status >= 400:
            what = (
                f"{self.config.url}{path} refuses the model {self.config.model}: status {status}: {message}"
            )
            raise ModelError(Problem(what, "check url, model and key_env of the judge", field="model"))
        try:
            found = json.loads(content)
        except ValueError as error:
            raise RetryError("the response is not JSON") from error
        if not isinstance(found, dict):
            raise RetryError("the response is not a JSON object")
        return found

    def _wait_for_turn(self) -> None:
        if self.config.per_minute is None:
            return
        with self._pace:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + 60 / self.config.per_minute
        time.sleep(begin - now)


REFUSED = "refused"
"""What the reason of a request begins with that the server does not take."""


def backoff(attempt: int) -> float:
    """Return the seconds to wait after failed attempt `attempt`, counted from 0: doubled each time."""
    # Jitter spreads the retries of many workers; it does not use the seeded generators.
    return min(LONGEST_WAIT, 0.5 * 2**attempt) * random.SystemRandom().uniform(0.5, 1.0)


def _host(address: Address) -> str:
    usual = {"http": 80, "https": 443}[address.scheme]
    host = f"[{address.host}]" if ":" in address.host else address.host
    return host if address.port == usual else f"{host}:{address.port}"


def _at_most(response: httpx.Response) -> Iterator[bytes]:
    size = 0
    for block in response.iter_bytes():
        size += len(block)
        if size > LARGEST:
            raise RetryError("the response is too large")
        yield block


def _retry_after(response: httpx.Response) -> float:
    seconds = response.headers.get("retry-after", "")
    return float(seconds) if re.fullmatch(r"\d{1,6}(\.\d+)?", seconds) else 0.0


# --- judgments -----------------------------------------------------------------------------------------------


def _decision(found: Mapping[str, Any]) -> dict[str, Any]:
    answer = _get(found, "answers", "judgment", "probabilities")
    probabilities = {str(k): float(v) for k, v in answer.items()} if isinstance(answer, Mapping) else {}
    tokens = _number(_get(found, "usage", "input_tokens"))
    return {"text": "", "probabilities": probabilities, "tokens": tokens}


def _completion(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chat completion's text, its first token's alternatives with probabilities, and its tokens."""
    message = _get(found, "choices", 0, "message")
    text = _get(message, "content")
    alternatives: dict[str, float] = {}
    for one in _get(found, "choices", 0, "logprobs", "content", 0, "top_logprobs") or ():
        token, logp = _get(one, "token"), _get(one, "logprob")
        if isinstance(token, str) and isinstance(logp, (int, float)) and logp <= 1e-3:
            alternatives[token.strip()] = alternatives.get(token.strip(), 0.0) + math.exp(logp)
    filtered = _get(found, "choices", 0, "finish_reason") == "content_filter"
    return {
        "text": text if isinstance(text, str) else "",
        "refused": filtered or bool(_get(message, "refusal")),
        "called": bool(_get(message, "tool_calls")),
        "probabilities": alternatives,
        "tokens": _number(_get(found, "usage", "total_tokens")),
    }


def _first_word(answer: Mapping[str, Any]) -> str:
    """Return the likeliest beginning of an answer; empty where it has none."""
    alternatives = answer.get("probabilities") or {}
    words = str(answer.get("text", "")).split()
    return max(alternatives, key=lambda word: alternatives[word]) if alternatives else next(iter(words), "")


def _judgment(answer: Mapping[str, Any], options: Sequence[str], lead: str = "") -> Found:
    """Return the probability of each option, or why there is none. Only an option alone is a judgment.

    Some servers repeat the `lead` with which the answer was begun.
    """
    if "failed" in answer:
        return str(answer["failed"])
    if answer.get("refused"):
        return "refused"
    if answer.get("called"):
        return "called a tool"
    text = str(answer.get("text", "")).strip().removeprefix(lead)
    written = re.sub(r"^[\s*_`\"'(\[]+|[\s*_`\"')\].!:]+$", "", text)
    alternatives = answer.get("probabilities") or {}
    soft = [alternatives.get(option, 0.0) for option in options]
    # A first token that begins two options ("1" of "10") is ambiguous: then the text decides.
    likely = [option for option in options if alternatives.get(option)]
    ambiguous = any(
        other.startswith(one) and other not in alternatives for one in likely for other in options
    )
    if sum(soft) > 0 and (not written or written in options) and not ambiguous:
        return soft
    if written in options:
        return [float(option == written) for option in options]
    return "no judgment" if written else "empty"


def _get(value: Any, *path: str | int) -> Any:
    for key in path:
        if isinstance(key, int):
            value = value[key] if isinstance(value, list) and len(value) > key else None
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _number(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
