"""Chat models: what is sent, what is drawn, and what is kept when a run dies."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from hf_cap.errors import ModelError, ServerError
from hf_cap.lm.base import Query, ScorerRuntime, ScorerSettings
from hf_cap.lm.cache import StoredScorer
from hf_cap.lm.chat import Reply, Sampling, StandInChat, StoredChat
from hf_cap.lm.mock import StandInScorer
from hf_cap.lm.open import open_chat
from hf_cap.lm.served import Connection, LocalChat, ServedChat
from tests.tiny import byte_tokenizer, llama

SHORT = Sampling(max_new_tokens=6)
DRAWN = Sampling(max_new_tokens=6, temperature=1.0)
PROMPTS = [f"prompt {number}" for number in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llama(vocabulary=512).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def local(folder: Path) -> LocalChat:
    return LocalChat(ScorerSettings(model=str(folder)), ScorerRuntime(device="cpu"))


def test_the_likeliest_answer_does_not_depend_on_the_batch(local: LocalChat) -> None:
    alone = [local.reply([prompt], SHORT)[0] for prompt in ("hi", "a longer prompt")]
    assert local.reply(["hi", "a longer prompt"], SHORT) == alone
    assert alone[1].prompt_tokens == alone[0].prompt_tokens + len("a longer prompt") - len("hi")
    assert all(0 < reply.completion_tokens <= 6 for reply in alone)


def test_a_drawn_answer_depends_on_the_seed_and_leaves_the_generator_alone(
    local: LocalChat,
) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    once = local.reply(["a", "bbb"], DRAWN)
    assert torch.equal(torch.get_rng_state(), state)
    assert once == local.reply(["a", "bbb"], DRAWN)
    assert once != local.reply(["a", "bbb"], Sampling(max_new_tokens=6, temperature=1.0, seed=1))


def test_a_stopped_run_of_a_local_model_ends_as_it_would_have(
    local: LocalChat, tmp_path: Path
) -> None:
    expected = local.reply(PROMPTS, DRAWN)
    first = local.reply(PROMPTS[:16], DRAWN)  # a batch, then the kill
    kept = StoredChat(local, tmp_path / "s.sqlite")
    kept.store.put({kept._key(p, DRAWN): r for p, r in zip(PROMPTS, first, strict=False)})
    assert kept.reply(PROMPTS, DRAWN) == expected


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    byte_tokenizer(chat=False).save_pretrained(tmp_path)
    llama().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no chat template"):
        LocalChat(ScorerSettings(model=str(tmp_path)), ScorerRuntime(device="cpu"))


class Answering(Connection):
    """A server made of a function of the body of a request."""

    def __init__(self, answer: Callable[[dict[str, Any]], Any]) -> None:
        super().__init__("http://server/v1", ScorerRuntime(max_concurrency=2, max_retries=0))
        self.bodies: list[dict[str, Any]] = []
        self._answer = answer

    def _client(self) -> httpx2.AsyncClient:
        def handle(request: httpx2.Request) -> httpx2.Response:
            assert request.url.path == "/v1/chat/completions"
            self.bodies.append(json.loads(request.content))
            found = self._answer(self.bodies[-1])
            if isinstance(found, int):
                return httpx2.Response(found)
            return httpx2.Response(200, json=found)

        return httpx2.AsyncClient(transport=httpx2.MockTransport(handle))


def message(content: str | None) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return {"choices": [{"message": {"content": content}}], "usage": usage}


def prompt_of(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def test_a_served_model_is_asked_at_the_chat_endpoint() -> None:
    server = Answering(lambda body: message(prompt_of(body).upper()))
    chat = ServedChat(server, "gpt")
    sampling = Sampling(max_new_tokens=9, temperature=0.5, seed=3)
    assert chat.reply(["a", "b"], sampling) == [Reply("A", 7, 2), Reply("B", 7, 2)]
    body = next(body for body in server.bodies if prompt_of(body) == "b")
    assert body == {
        "model": "gpt",
        "messages": [{"role": "user", "content": "b"}],
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 3,
    }
    assert chat.identity.startswith("http://server/v1|gpt")


def test_a_message_without_content_is_an_empty_text() -> None:
    chat = ServedChat(Answering(lambda body: message(None)), "gpt")
    assert chat.reply(["a"], SHORT) == [Reply("", 7, 2)]


@pytest.mark.parametrize("answer", [{"error": "no"}, {"choices": []}, {"choices": None}])
def test_an_answer_without_a_message_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(ServerError, match="holds no message"):
        ServedChat(Answering(lambda body: answer), "gpt").reply(["a"], SHORT)


def test_what_a_server_said_before_it_failed_is_kept(tmp_path: Path) -> None:
    # two requests at a time: the fifth is refused once four have been answered
    server = Answering(lambda body: 400 if prompt_of(body) == "prompt 4" else message("yes"))
    with pytest.raises(ServerError, match="status 400"):
        StoredChat(ServedChat(server, "gpt"), tmp_path / "s.sqlite").reply(PROMPTS, SHORT)
    well = Answering(lambda body: message("yes"))
    again = StoredChat(ServedChat(well, "gpt"), tmp_path / "s.sqlite")
    assert [reply.text for reply in again.reply(PROMPTS, SHORT)] == ["yes"] * 20
    asked = {prompt_of(body) for body in well.bodies}
    assert not asked & set(PROMPTS[:4])
    assert "prompt 4" in asked


def test_replies_are_kept_as_they_come(tmp_path: Path) -> None:
    def reply(prompt: str) -> str:
        if len(chat.asked) == 13:
            raise KeyboardInterrupt
        return prompt.upper()

    chat = StandInChat(reply)
    with pytest.raises(KeyboardInterrupt):
        StoredChat(chat, tmp_path / "s.sqlite").reply(PROMPTS, SHORT)
    told: list[str] = []
    again = StoredChat(chat, tmp_path / "s.sqlite")
    found = again.reply([*PROMPTS, PROMPTS[0]], SHORT, lambda prompt, reply: told.append(prompt))
    assert [one.text for one in found] == [p.upper() for p in [*PROMPTS, PROMPTS[0]]]
    assert chat.asked[13:] == PROMPTS[12:]  # the one that was killed, and the rest
    assert told == PROMPTS  # kept or new, each once
    assert found[0] == Reply("PROMPT 0", 2, 2)


def test_another_model_or_sampling_is_asked_anew(tmp_path: Path) -> None:
    for identity, sampling, asked in (
        ("m", SHORT, 1),
        ("m", SHORT, 0),
        ("n", SHORT, 1),
        ("m", DRAWN, 1),
        ("m", Sampling(max_new_tokens=6, seed=1), 1),
    ):
        chat = StandInChat(str.upper, identity)
        StoredChat(chat, tmp_path / "s.sqlite").reply(["a"], sampling)
        assert len(chat.asked) == asked


def test_a_damaged_reply_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    StoredChat(StandInChat(str.upper), path).reply(["a", "b"], SHORT)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE replies SET value = x'5b5d'")  # an empty list
    connection.close()
    chat = StandInChat(str.upper)
    assert StoredChat(chat, path).reply(["a"], SHORT)[0].text == "A"
    assert chat.asked == ["a"]


def test_replies_and_scores_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    scorer = StoredScorer(StandInScorer(lambda prompt, answer: -1.0), path)
    scorer.score([Query("a", "b", "c")])
    chat = StoredChat(StandInChat(str.upper), path)
    chat.reply(["a"], SHORT)
    scorer.score([Query("a", "b", "c")])
    assert scorer.statistics.stored == 1
    assert chat.reply(["a"], SHORT)[0].text == "A"


def test_a_chat_model_is_opened_once_a_process_with_its_store(folder: Path, tmp_path: Path) -> None:
    runtime = ScorerRuntime(device="cpu", store=str(tmp_path / "s.sqlite"))
    chat = open_chat(ScorerSettings(model=str(folder)), runtime)
    assert open_chat(ScorerSettings(model=str(folder)), runtime) is chat
    assert isinstance(chat, StoredChat)
    assert isinstance(chat.chat, LocalChat)
    assert chat.identity == chat.chat.identity
    served = ScorerSettings(model="gpt", base_url="http://x/v1")
    assert isinstance(open_chat(served, ScorerRuntime(store="none")), ServedChat)
