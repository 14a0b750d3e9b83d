"""A real language model behind a real server as the teacher of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Heard
from reflect_rl.data.annotate import annotate
from reflect_rl.data.pool import read_pool, read_reflections
from reflect_rl.errors import ServerError
from reflect_rl.model_servers.model import ServedModel
from reflect_rl.model_servers.records import Answer, Ask, Message
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.settings import Settings
from reflect_rl.settings.server import ServerSettings
from served_model import Served

pytestmark = pytest.mark.xdist_group("smollm")
FRANCE = Ask((Message("user", "What is the capital of France?"),), 10)


def test_it_answers_counts_its_tokens_and_is_asked_once(smollm: Served, tmp_path: Path) -> None:
    settings = ServerSettings(model=smollm.model, base_url=smollm.base_url, timeout=300)
    for _ in range(2):
        with ServedModel(settings, tmp_path / "answers.sqlite") as model:
            (answer,) = model.ask([FRANCE])
            assert isinstance(answer, Answer)
            assert "Paris" in answer.text
            assert answer.prompt_tokens > 10
            assert 0 < answer.completion_tokens <= 10
            assert (model.meter.calls, model.meter.usd) == (1, None)


def test_log_probabilities_that_the_server_does_not_give_are_none(smollm: Served) -> None:
    with ServedModel(ServerSettings(model=smollm.model, base_url=smollm.base_url, timeout=300), None) as model:
        (answer,) = model.ask([Ask(FRANCE.messages, 2, labels=("A", "B"))])
    assert isinstance(answer, Answer)
    assert answer.logprobs is None


def test_a_wrong_model_name_is_one_message(smollm: Served) -> None:
    settings = ServerSettings(model="no-such-model", base_url=smollm.base_url, retries=0)
    with ServedModel(settings, None) as model, pytest.raises(ServerError, match="no-such-model"):
        model.ask([FRANCE])


def test_it_teaches_a_run(smollm: Served, tmp_path: Path, tiny: Callable[..., Settings], heard: Heard) -> None:
    taught = {
        "annotate.teacher": "openai",
        "annotate.reflections": 4,
        "annotate.distinct": True,
        "teacher.model": smollm.model,
        "teacher.base_url": smollm.base_url,
        "teacher.concurrency": 2,
        "teacher.history": 1,
        "teacher.hint": False,
        "teacher.max_tokens": 30,
        "teacher.timeout": 300,
        "teacher.reflect": "A game: {task} You see: {observation}\n\nSay in one short sentence what to aim for.",
    }
    run = run_pipeline(tiny(), tmp_path / "run", Progress(), until="collect")
    counts = annotate(run, Context(tiny(taught)), heard)
    texts = [row.text for row in read_reflections(run, read_pool(run, tiny(taught)))]
    assert len(texts) == counts["reflections"] > 0
    assert len(texts) + sum(counts["teacher_failed"].values()) == 4
    assert all(len(text) > 5 and "\n" not in text for text in texts)
    assert counts["teacher_calls"] > 1
    assert json.dumps(counts)
