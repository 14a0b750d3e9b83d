"""Which action an answer of a language model names, whatever way it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflect_rl.model_servers.answers import begins_with_choice, labels_for, read_choice, read_thought

WORDS = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=8).filter(
        lambda word: word not in ("answer", "choice", "label", "option", "action", "choose", "pick", "select", "the")
    ),
    min_size=2,
    max_size=3,
).map(" ".join)


@given(actions=st.lists(WORDS, min_size=1, max_size=70, unique=True), data=st.data())
def test_one_choice_is_read_however_it_is_written(actions: list[str], data: st.DataObject) -> None:
    labels = labels_for(len(actions))
    assert len(set(labels)) == len(actions)
    index = data.draw(st.integers(0, len(actions) - 1))
    label, action = labels[index], actions[index]
    for text in (
        *(label, f"{label})", f"({label})", f"{label}.", f"**{label}**", f"The answer is {label}.", f"Answer: {label}"),
        *(action, action.upper(), f'"{action}".', f"I will {action}!", f"{label}) {action}", f"[{label}] {action}"),
        f"\n\n{label}\n\n{actions[0]} is worse.",
    ):
        assert read_choice(text, actions, labels) == index, text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", None),
        ("I do not know.", None),
        ("A) go north", None),  # the label of one, the text of another
        ("go north or go south", None),
        ("go to shelf 10", 3),
        ("Let me go to shelf 1.", 2),
        ("E", None),
        ("A good idea would be to wait.", None),
        ("The best action is a left turn.", None),
        ("My choice is a guess.", None),
        ("My choice: a", 0),
        ("The answer is A, since it is near.", 0),
        ("The answer is B because it is near.", 1),
        ("b", 1),
        ("Let me think.\nThe best choice: C", 2),
        ("GO  NORTH", 1),
    ],
)
def test_what_is_read_and_what_is_not(text: str, wanted: int | None) -> None:
    actions = ["go south", "go north", "go to shelf 1", "go to shelf 10"]
    assert read_choice(text, actions, labels_for(4)) == wanted


@pytest.mark.parametrize(
    ("text", "actions", "wanted"),
    [
        ("-1", ["1", "-1"], 1),
        ("**-1**.", ["1", "-1"], 1),
        ("\N{MINUS SIGN}1", ["1", "-1"], 1),
        ("- 1", ["-1", "1"], 1),
        ("- B", ["1", "-1"], 1),
        ("-1", ["-2", "1"], None),
        ("-1.", [f"cell {number}" for number in range(60)], None),  # the labels are numbers
        ("Answer: 1", ["-1", "1"], 1),
        ("I choose move 1", ["move -1", "move 1"], 1),
        ("I choose move -1, not left-1.", ["move 1", "move -1"], 1),
        ("-", ["+", "-"], 1),
        ("(a) is wrong", ["north", "south"], None),
        ("(a)", ["north", "south"], 0),
        ("I take (A).", ["north", "south"], 0),
        ("(A) south", ["north", "south"], None),
        ("(A) north", ["north", "south"], 0),
        ("Action: I would open the drawer on the left", [f"open drawer {number}" for number in range(1, 11)], None),
        ("GO NORTH", ["Go north", "go north"], None),
        ("There are many options.", [f"go to shelf {number}" for number in range(1, 21)], None),
        ("I choose option B", ["north", "south"], 1),
        ("go north", ["Go north", "go north"], 1),
    ],
)
def test_signs_articles_and_equal_words_are_told_apart(text: str, actions: list[str], wanted: int | None) -> None:
    assert read_choice(text, actions, labels_for(len(actions))) == wanted


@pytest.mark.parametrize(
    ("text", "begins"),
    [("B", True), ("B) go north", True), ("B.\nIt is near.", True), ("I choose B", False), ("I go north", False)],
)
def test_whether_an_answer_begins_with_its_label(text: str, begins: bool) -> None:
    actions = ["go south", "go north", *(f"open drawer {number}" for number in range(8))]
    assert read_choice(text, actions, labels_for(10)) == 1
    assert begins_with_choice(text, actions, labels_for(10)) == begins


def test_a_thought_and_the_first_action_after_it() -> None:
    assert read_thought("Thought: it is dark.\nAction: light the lamp") == ("it is dark.", "light the lamp")
    assert read_thought("It is dark.\n**Action:** B\nObservation: lit\nAction: C") == ("It is dark.", "** B")
    assert read_thought("light the lamp") == ("light the lamp", "light the lamp")
