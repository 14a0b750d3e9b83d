"""Read a language model's answer: leniently, but for exactly one of the choices."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from string import ascii_lowercase, ascii_uppercase

LETTERS = ascii_uppercase + ascii_lowercase
ANNOUNCED = r"\b(?:answer|choice|label|option|action)(?:\s+is)?\s*:?\s*[\"'*(\[]*(\w+)"
PHRASE_ENDS = r"\W*\Z|[^\w\s'’]|\s*\n"
WORDS = {"a", "i"}
"""Labels that are words too: "the answer is a door" does not name the choice A."""
ORNAMENTS = " \t\"'`*_.,;:!#>-"


def labels_for(count: int) -> list[str]:
    """Labels of so many choices: letters, each a single token for most models; numbers if there are more than 52."""
    return list(LETTERS[:count]) if count <= len(LETTERS) else [str(number) for number in range(1, count + 1)]


def has_single_tokens(labels: Sequence[str]) -> bool:
    """Whether labels are letters, so that the probability of a first token is that of a choice."""
    return labels[0] in LETTERS


def read_choice(text: str, actions: Sequence[str], labels: Sequence[str]) -> int | None:
    """The choice that an answer names by its label or its text; None if it names none, or several.

    The first line decides, if it names any; otherwise the whole answer does. A label counts where it stands alone, at
    the beginning before a bracket or a full stop, in brackets, or after a word such as "answer".
    """
    text = text.strip()
    for part in (text.partition("\n")[0], text):
        if found := _named(part, actions, labels):
            return found.pop() if len(found) == 1 else None
    return None


def read_thought(text: str) -> tuple[str, str]:
    """(thought, action) of an answer in the form of ReAct; what follows the first action is left out.

    Without a line "Action:", the whole answer is both.
    """
    text = text.strip()
    found = re.search(r"^\W*action\W*:\s*(.*)", text, flags=re.IGNORECASE | re.MULTILINE)
    thought = text[: found.start()] if found else text
    return re.sub(r"^\W*thought\W*:\s*", "", thought.strip(), flags=re.IGNORECASE), found[1] if found else text


def _named(text: str, actions: Sequence[str], labels: Sequence[str]) -> set[int]:
    """The choices that a text names."""
    plain = text.strip(ORNAMENTS)
    if plain in actions:
        return {actions.index(plain)}
    known = {label: index for index, label in enumerate(labels)}
    if len(labels) <= len(ascii_uppercase):
        known |= {label.lower(): index for label, index in known.items()}
    if (alone := plain.strip("()[] ")) in known:
        return {known[alone]}
    said = re.findall(r"[(\[](\w+)[)\]]", text)
    for announced in re.finditer(ANNOUNCED, text, flags=re.IGNORECASE):
        if announced[1].lower() not in WORDS or re.match(PHRASE_ENDS, text[announced.end() :]):
            said.append(announced[1])
    if begins := re.match(r"\W*(\w+)\s*[).:\]]", text):
        said.append(begins[1])
    return {known[label] for label in said if label in known} | named_actions(text, actions)


def named_actions(text: str, actions: Collection[str]) -> set[int]:
    """The indices of the actions that a text names, in any case and with or without articles.

    An action within a longer one that is named, as "look" in "look at bowl 1", does not count.
    """
    said, named = words_of(text), set()
    for index, action in sorted(enumerate(actions), key=lambda pair: -len(pair[1])):
        phrase = words_of(action)
        if phrase.strip() and phrase in said:
            named.add(index)
            said = said.replace(phrase, " | ")
    return named


def words_of(text: str) -> str:
    """The words of a text between single spaces, without articles and punctuation."""
    words = [word for word in re.findall(r"[\w']+", text.lower()) if word not in ("the", "a", "an")]
    return f" {' '.join(words)} "
