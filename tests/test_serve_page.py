"""The page of a server, in a real browser: a person steps the agent's world."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reflect_rl.envs.checked import advance, begin
from reflect_rl.players.agent import Agent
from reflect_rl.players.context import Context
from serving_process import Server, served

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'reflect-rl[serve]'")
pytestmark = pytest.mark.browser

TOKEN = "a-planted-secret"
EVIL = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def server(whole: Path) -> Iterator[Server]:
    with served(whole) as running:
        yield running


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[tuple[Any, list[str], list[str]]]:
    """A page, what it complained of, and what it asked for."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
    errors: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type in ("error", "warning") else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    try:
        yield page, errors, asked
    finally:
        page.close()


def shown(page: Any) -> tuple[str, str, list[str], str]:
    """Observation, reflection, probabilities and the agent's choice."""
    numbers = page.locator("#actions .number").all_inner_texts()
    choice = page.locator("#actions .chosen .name").inner_text().removesuffix("agent").strip()
    return page.locator("#observation").inner_text(), page.locator("#reflection").inner_text(), numbers, choice


def begin_task(page: Any, task: str) -> None:
    page.locator("#tasks").select_option(task)
    page.locator("#new").click()
    page.locator("#task", has_text=task).wait_for()


def test_a_person_steps_the_world_beside_the_agent(browser: Any, server: Server, whole: Path) -> None:
    agent = Agent.load(whole)
    env, memory = Context(agent.settings).make_env(), agent.new_memory()
    task = env.tasks("test")[0]
    observation, actions, _ = begin(env, 0, {"task": task})
    with opened(browser, server.url) as (page, errors, asked):
        begin_task(page, task)
        total, stop, step = 0.0, None, 0
        while stop is None:
            (decision,) = agent.decide([memory.observe(observation, actions)])
            numbers = [f"{100 * share:.1f} %" for share in decision.probabilities]
            found = shown(page)
            assert found[0] == observation
            assert found[1] == (decision.reflection or "It wrote nothing.")
            assert [float(n[:-2]) for n in found[2]] == pytest.approx([float(n[:-2]) for n in numbers], abs=0.11)
            assert found[3] == decision.action
            choice = (decision.choice, (decision.choice + 1) % len(actions))[step % 2]  # a person may differ
            memory.acted(choice, decision.reflection)
            observation, actions, reward, stop = advance(env, choice)
            total, step = total + reward, step + 1
            page.locator("#actions button").nth(choice).click()
            page.locator("#step", has_text=re.compile(f"^{step} of at most")).wait_for()
            assert page.locator("#steps tr").count() == step
        assert page.locator("#stop").inner_text() == f"ended: {stop}"
        assert page.locator("#return").inner_text().replace("−", "-") == f"{total:+.2f}"
        assert page.locator("#actions button").count() == 0
        assert page.locator("#follow").is_disabled()
        assert errors == []
        assert {url.removeprefix(server.url).split("/")[1] for url in asked if url.startswith("http")} == {"", "worlds"}
        assert all(url.startswith((server.url, "data:")) for url in asked)


def test_the_keyboard_and_the_play_button_act(browser: Any, server: Server) -> None:
    with opened(browser, server.url) as (page, errors, _):
        page.locator("#actions button").first.wait_for()
        page.keyboard.press(" ")
        page.locator("#steps tr").first.wait_for()
        done, would = page.locator("#steps tr").first.locator("td").all_inner_texts()[1:3]
        assert done == would
        page.locator("#new").click()
        page.locator("#steps tr").first.wait_for(state="detached")
        page.locator("#play").click()
        page.locator("#stop", has_text="ended").wait_for(timeout=60_000)
        assert page.locator("#play").is_disabled()
        assert errors == []


def test_texts_of_worlds_and_models_are_shown_as_text(browser: Any, server: Server) -> None:
    decision = {"choice": 0, "action": EVIL, "reflection": EVIL, "probabilities": [0.9, 0.1]}
    view = {
        "world": "w",
        "task": EVIL,
        "step": 0,
        "observation": EVIL,
        "actions": [EVIL, "b"],
        "reward": 0.0,
        "return": 0.0,
        "stop": None,
        "decision": decision,
    }
    about = {"agent": EVIL, "name": EVIL, "task_text": EVIL, "horizon": 3, "tasks": [EVIL]}

    def answer(route: Any) -> None:
        step = int(route.request.url.endswith("/w"))
        given = about if route.request.method == "GET" else {**view, "step": step}
        route.fulfill(body=json.dumps(given), content_type="application/json")

    with opened(browser, "about:blank") as (page, errors, _):
        page.route("**/worlds**", answer)
        page.goto(server.url)
        page.locator("#actions button").first.click()
        page.locator("#steps tr").first.wait_for()
        assert page.title() == f"{EVIL} · reflect-rl"
        assert page.locator("img, main script").count() == 0
        assert [page.locator(part).inner_text() for part in ("#observation", "#reflection")] == [EVIL, EVIL]
        assert errors == []
        # Even markup that got in would not run.
        page.evaluate("text => { document.getElementById('task').innerHTML = text; }", EVIL)
        page.wait_for_timeout(100)
        assert page.title() != "taken"


def test_the_page_asks_for_the_token(browser: Any, whole: Path) -> None:
    with served(whole, token=TOKEN) as running, opened(browser, running.url) as (page, _, asked):
        page.locator("#token").fill("wrong")
        page.locator("#login button").click()
        page.locator("#message", has_text="missing or wrong").wait_for()
        page.locator("#token").fill(TOKEN)
        page.locator("#login button").click()
        page.locator("#actions button").first.wait_for()
        assert page.locator("#login, #message").locator("visible=true").count() == 0
        assert [url for url in asked if TOKEN in url] == []


def test_a_server_that_is_gone_is_told(browser: Any, whole: Path) -> None:
    with served(whole) as running, opened(browser, running.url) as (page, _, _):
        page.locator("#actions button").first.wait_for()
        running.end()
        page.locator("#follow").click()
        page.locator("#message", has_text="does not answer").wait_for()
        assert page.locator("#follow").is_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_can_be_read(browser: Any, server: Server, scheme: Any, width: int) -> None:
    options = {"color_scheme": scheme, "reduced_motion": "reduce"}
    with opened(browser, server.url, **options) as (page, errors, _):
        page.set_viewport_size({"width": width, "height": 900})
        page.locator("#actions button").first.wait_for()
        wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wider) == 0
        for part in ("#observation", ".lead", "#follow", "#actions .name"):
            assert page.evaluate(CONTRAST, part) >= 4.5, part
        assert errors == []


CONTRAST = """part => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const element = document.querySelector(part);
  let behind = element, colour = [0, 0, 0, 0];
  while (behind && colour[3] === 0) {
    colour = numbers(getComputedStyle(behind).backgroundColor);
    if (colour.length === 3) colour.push(1);
    behind = behind.parentElement;
  }
  const [a, b] = [light(numbers(getComputedStyle(element).color)), light(colour)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
