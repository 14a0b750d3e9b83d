"""Renamed copies of SFT examples: a name becomes the same other word everywhere, and the right answer moves with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Heard
from reflect_rl import SimpleTextEnv, StopReason
from reflect_rl.data.annotate import annotate
from reflect_rl.data.collect import collect
from reflect_rl.errors import PromptError
from reflect_rl.players.context import Context
from reflect_rl.players.policy import Policy
from reflect_rl.progress import Progress
from reflect_rl.records import State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.training import sft
from reflect_rl.training.renaming import Copy, Example, renamed_copies, rows_of_copies
from reflect_rl.training.sft import sft_policy, sft_reflector
from reflect_rl.training.sft_losses import ChoiceRow, Loss, choice_loss

NAMES = ("lemon", "carrot", "onion", "pepper", "banana", "apple", "potato", "garlic")
VALID, UNSEEN = ("fig", "plum"), ("turnip", "melon", "radish", "cherry")
WORD = re.compile(r"[a-zA-Z]+")


class Fetch(SimpleTextEnv):
    """Take what is asked for. The test tasks have names that no train task has."""

    task_text = "Take what the order says."
    teachers = ("note",)

    def tasks(self, split: str) -> tuple[str, ...]:
        self.check_split(split)
        names = {"train": NAMES, "valid": VALID, "test": UNSEEN}[split]
        return tuple(f"{asked} {other}" for asked in names for other in names if asked != other)

    def begin(self, task: str, stage: str | None) -> None:
        self.asked, other = task.split()
        self.shown = sorted((self.asked, other))

    def observe(self) -> str:
        return f"Here are a {self.shown[0]} and a {self.shown[1]}. Order: {self.asked}."

    def admissible(self) -> tuple[str, ...]:
        return tuple(f"take {name}" for name in self.shown)

    def act(self, choice: int) -> tuple[float, StopReason | None]:
        right = self.shown[choice] == self.asked
        return float(right), StopReason.SUCCESS if right else StopReason.FAILURE

    def expert(self) -> int:
        return self.shown.index(self.asked)

    def describe(self) -> dict[str, Any]:
        return {"asked": self.asked}

    @classmethod
    def teach(cls, facts: Mapping[str, Any], style: str) -> str:
        return f"Take the {facts['asked']}."


names = st.sampled_from((*NAMES, *UNSEEN))
states = st.builds(
    lambda first, second, past: State(
        f"{first.capitalize()} is near the {second} 1, not the {second}s.",
        (f"take {first}", f"take {second}", "go north"),
        ((f"You saw a {past}.", f"take {past}"),),
        {"notes": [f"the {first}", None, ""], "else": 3},
        (f"Seek the {past}.",),
    ),
    *(names, names, names),
)
examples = st.builds(
    lambda some, chooses: [Example(state, f"It is the {state.actions[0][5:]}.", chooses) for state in some],
    st.lists(states, max_size=6),
    st.booleans(),
)


def texts_of(state: State, text: str | None) -> list[str]:
    notes = [note or "" for note in state.facts["notes"]]
    past = [part for step in state.history for part in step]
    return [state.observation, *state.actions, *past, *notes, *state.reflections, text or ""]


@given(examples, st.integers(0, 3), st.integers(0, 99))
def test_a_name_becomes_the_same_new_word_everywhere(whole: list[Example], copies: int, seed: int) -> None:
    made = list(renamed_copies(whole, copies, np.random.default_rng(seed)))
    assert made == list(renamed_copies(whole, copies, np.random.default_rng(seed)))
    assert len(made) <= copies * len(whole)
    for copy in made:
        pairs = set()
        for old, new in zip(
            texts_of(whole[copy.example].state, whole[copy.example].text), texts_of(copy.state, copy.text), strict=True
        ):
            assert WORD.split(old) == WORD.split(new)
            assert [word[0].isupper() for word in WORD.findall(old)] == [w[0].isupper() for w in WORD.findall(new)]
            pairs |= set(zip(WORD.findall(old.lower()), WORD.findall(new.lower()), strict=True))
        assert len(pairs) == len(dict(pairs)) == len({new for _, new in pairs})
        assert all(new == old or old in NAMES + UNSEEN for old, new in pairs)
        assert any(new != old for old, new in pairs)


def test_words_of_most_examples_and_words_that_the_state_lacks_stay() -> None:
    whole = [
        Example(State(f"A {name} and a knife.", ("wait",)), f"Cut {name} with knife soon.", False) for name in NAMES
    ]
    made = list(renamed_copies(whole, 5, np.random.default_rng(0)))
    assert made
    for copy in made:
        assert copy.text is not None
        assert re.fullmatch(r"Cut \w+ with knife soon\.", copy.text)
        assert copy.text.split()[1] not in ("knife", NAMES[copy.example])
        assert copy.state.observation == f"A {copy.text.split()[1]} and a knife."


def test_words_that_no_action_names_keep_their_meaning_for_the_policy() -> None:
    """To fry is to cook with the stove, whatever is fried: that cannot be looked up."""
    actions = {name: (f"cook {name} with stove", f"cook {name} with oven") for name in NAMES}
    whole = [
        Example(State(f"A {name}. Recipe: {verb} the {name}.", actions[name]), f"To do: {verb} the {name}.", True)
        for name in NAMES
        for verb in ("fry", "roast", "grill")
    ]
    made = list(renamed_copies(whole, 5, np.random.default_rng(0)))
    assert made
    for copy in made:
        food = copy.state.actions[0].split()[1]
        verb = (whole[copy.example].text or "").split()[2]
        assert food not in NAMES[copy.example // 3]
        assert copy.state.actions == (f"cook {food} with stove", f"cook {food} with oven")
        assert copy.state.observation == f"A {food}. Recipe: {verb} the {food}."
        assert copy.text == f"To do: {verb} the {food}."


def test_no_copies_of_no_examples() -> None:
    assert list(renamed_copies([], 3, np.random.default_rng(0))) == []


@pytest.fixture(scope="module")
def fetching(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Settings]) -> Path:
    run = RunFolder(tmp_path_factory.mktemp("fetching"))
    for stage in (collect, annotate):
        stage(run, Context(fetch(tiny)), Progress())
    return run.path


def fetch(tiny: Callable[..., Settings], **more: Any) -> Settings:
    part = {"env.name": "test_renaming:Fetch", "env.options": {}, "annotate.teacher": "note", "policy.head": "pointer"}
    return tiny({**part, "reflector_sft.steps": 2, "policy_sft.steps": 2, "prompt.history": 1, **more})


def test_the_policy_chooses_the_same_action_under_its_new_name(
    fetching: Path, tmp_path: Path, tiny: Callable[..., Settings], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(shutil.copytree(fetching, tmp_path / "run"))
    settings = fetch(tiny, **{"policy_sft.renamed": 3, "policy_sft.steps": 0, "reflector_sft.steps": 0})
    learned: list[tuple[str, Sequence[int]]] = []

    def told(policy: Policy, rows: Sequence[ChoiceRow], smoothing: float) -> Loss:
        learned.extend((policy.tokenizer.decode(row.prompt.ids), row.wanted) for row in rows)
        return choice_loss(policy, rows, smoothing)

    monkeypatch.setattr(sft, "choice_loss", told)
    sft_reflector(run, Context(settings), heard)
    figures = sft_policy(run, Context(settings), heard)
    assert figures["labels"] == 60  # copies cost none
    assert re.fullmatch(r"The policy learns from \d+ examples and \d+ renamed copies\.", heard.said[-1])
    asked = {re.search(r"Order: (\w+)\.", text)[1] for text, _ in learned}  # type: ignore[index]
    assert asked > set(NAMES)
    for text, (choice,) in learned:
        _, order, lines = re.split(r"Order: (\w+)\.", text)
        assert f"Reflection: Take the {order}." in lines
        assert lines.partition("Choices:\n")[2].splitlines()[choice] == f"take {order}"


def test_a_longer_copy_that_does_not_fit_is_left_out(heard: Heard) -> None:
    def row(copy: Copy) -> str:
        if copy.example:
            raise PromptError("too long")
        return copy.state.observation

    whole = [Example(State(f"a {name}", ("wait",)), name, chooses=False) for name in NAMES[:3]]
    rows = rows_of_copies(whole, 4, 0, "reflector", row, heard)
    assert 1 <= len(rows) <= 4
    assert re.search(r"3 examples and \d renamed copies; \d more would be too long for it\.", heard.said[0])


def test_examples_without_names_are_announced(heard: Heard) -> None:
    whole = [Example(State("a door", ("wait",)), "Open the door.", chooses=False) for _ in range(3)]
    assert rows_of_copies(whole, 2, 0, "reflector", lambda copy: copy, heard) == []
    assert heard.warned == [
        "reflector_sft.renamed is 2, but no example of the reflector has names that could be other words."
    ]
