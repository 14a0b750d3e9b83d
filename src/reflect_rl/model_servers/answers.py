"""Read a language model's answer: leniently, but for exactly one of the choices."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from string import ascii_lowercase, ascii_uppercase

LETTERS = ascii_uppercase + ascii_lowercase
ANNOUNCED = r"\b(?:answer|choice|label|option|action|choose|pick|select)\b(?:\s+is)?\s*:?\s*[\"'*(\[]*(?=(\w+))"
BRACKETED = r"[(\[](\w+)[)\]]"
BEGINS = r"[^\w(\[]*?([-+]?\w+)\s*[).:\]]"
PHRASE_ENDS = r"\W*\Z|[^\w\s'’]|\s*\n"
WORDS = {"a", "i"}
"""Labels that are words too: "the answer is a door" does not name the choice A."""
ORNAMENTS = " \t\"'`*_.,;:!#>"
BULLET = r"^\W*-(?!\d)"
MINUS = str.maketrans("\N{MINUS SIGN}\N{EN DASH}", "--")


def labels_for(count: int) -> list[str]:
    """Labels of so many choices: letters, each a single token for most models; numbers if there are more than 52."""
    return list(LETTERS[:count]) if count <= len(LETTERS) else [str(number) for number in range(1, count + 1)]


def has_single_tokens(labels: Sequence[str]) -> bool:
    """Whether labels are letters, so that the probability of a first token is that of a choice."""
    return labels[0] in LETTERS


def read_choice(text: str, actions: Sequence[str], labels: Sequence[str]) -> int | None:
    """The choice that an answer names by its label or its text; None if it names none, or several.

    The first line decides, if it names any; otherwise the whole answer does. A label counts where it stands alone, at
    the beginning before a bracket or a full stop, in brackets, or after a word such as "answer" or "choose".
    """
    text = text.strip()
    for part in (text.partition("\n")[0], text):
        if found := _named(part, actions, labels):
            return found.pop() if len(found) == 1 else None
    return None


def begins_with_choice(text: str, actions: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether an answer begins with the label of the choice that it names: alone, or before a bracket or a stop."""
    choice, text = read_choice(text, actions, labels), text.strip()
    return choice is not None and bool(re.match(rf"{labels[choice]}\s*([).:\]\n]|\Z)", text))


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
    plain = re.sub(BULLET, "", text.translate(MINUS)).strip(ORNAMENTS)
    for exact in (text.strip(), plain):
        if exact in actions:
            return {actions.index(exact)}
    known = {label: index for index, label in enumerate(labels)}
    if len(labels) <= len(ascii_uppercase):
        known |= {label.lower(): index for label, index in known.items()}
    if (alone := plain.strip("()[] ")) in known:
        return {known[alone]}
    said = []
    for found in (*re.finditer(ANNOUNCED, text, flags=re.IGNORECASE), *re.finditer(BRACKETED, text)):
        after = text[max(found.end(), found.end(1)) :]
        listed = found.re.pattern == BRACKETED and named_actions(after.partition("\n")[0], actions)
        if found[1].lower() not in WORDS or listed or re.match(PHRASE_ENDS, after):
            said.append(found[1])
    if begins := re.match(BEGINS, text.translate(MINUS)):
        said.append(begins[1])
    return {known[label] for label in said if label in known} | named_actions(text, actions)


def named_actions(text: str, actions: Collection[str]) -> set[int]:
    """The indices of the actions that a text names, in any case and with or without articles.

    An action within a longer one that is named, as "look" in "look at bowl 1", does not count. Actions of the same
    words are all named.
    """
    said, named, places = words_of(text), set[int](), defaultdict[str, set[int]](set)
    for index, action in enumerate(actions):
        places[words_of(action)].add(index)
    for phrase in sorted(places, key=len, reverse=True):
        if phrase.strip() and phrase in said:
            named |= places[phrase]
            said = said.replace(phrase, " | ")
    return named


def words_of(text: str) -> str:
    """The words of a text between single spaces, without articles and punctuation. Numbers keep their signs."""
    words = re.findall(r"(?:(?<!\w)[-+](?=\d))?[\w']+", text.lower().translate(MINUS))
    return f" {' '.join(word for word in words if word not in ('the', 'a', 'an'))} "
