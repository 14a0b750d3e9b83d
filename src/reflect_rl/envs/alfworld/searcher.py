"""The searching expert: it knows the texts, the admissible commands and the task, and nothing else.

Its choice depends on a `Memory` alone, so any state can be labelled afterwards, whoever played so far. Where several
commands are equally good, it names all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from reflect_rl.envs.alfworld.facts import APPLIANCES, PUT_VERBS, Memory, class_of, read_command
from reflect_rl.envs.alfworld.prior import NO_PRIOR, Prior


@dataclass(frozen=True, slots=True)
class Searcher:
    """Look where it is likeliest for the cost, take, treat, put.

    prior: how likely an object is in a receptacle of some class; without one, all places are alike.
    """

    prior: Prior = NO_PRIOR

    def best_actions(self, memory: Memory, actions: tuple[str, ...]) -> tuple[str, ...]:
        """The equally good commands among the admissible `actions`, in their order; at least one.

        Where nothing helps any more (`is_lost`), or all has been searched in vain, that is going anywhere.
        """
        found = set() if is_lost(memory) else set(self._best(memory, _Choices(actions)))
        best = tuple(action for action in actions if action in found)
        return best or tuple(action for action in actions if read_command(action)[0] == "go to") or actions

    def _best(self, memory: Memory, choices: _Choices) -> Iterable[str]:
        held = memory.holding
        if held is None:
            return self._fetch(memory, choices)
        if not memory.is_wanted(held):
            return self._put_down(memory, choices, held)
        if memory.goal.lamp:
            return self._light(memory, choices)
        treatment = memory.goal.treatment
        if treatment is not None and not memory.is_ready(held):
            places = [name for name in memory.receptacles if class_of(name) == APPLIANCES[treatment]]
            return choices.of(treatment, held) or self._go(memory, choices, places)
        gathered, _ = memory.gathered()
        targets = (gathered,) if gathered else memory.targets()
        return choices.put(targets) or self._reach(memory, choices, targets)

    def _fetch(self, memory: Memory, choices: _Choices) -> Iterable[str]:
        """Empty hands: take what is wanted, go where it was seen, or search for it."""
        wanted = memory.wanted()
        if within_reach := choices.among(f"take {name} from {receptacle}" for name, receptacle in wanted):
            return within_reach
        if wanted:
            return self._reach(memory, choices, {receptacle for _, receptacle in wanted})
        return self._search(memory, choices, memory.goal.object)

    def _light(self, memory: Memory, choices: _Choices) -> Iterable[str]:
        """The wanted object in hand: turn a lamp on, go where one is (closed or not), or search for one."""
        usable = [command for command in choices.of("use") if class_of(read_command(command)[1]) == memory.goal.lamp]
        if usable:
            return [command for command in usable if read_command(command)[1] not in memory.lit] or usable
        places = memory.lamp_places()
        return self._go(memory, choices, places) if places else self._search(memory, choices, memory.goal.lamp)

    def _put_down(self, memory: Memory, choices: _Choices, held: str) -> Iterable[str]:
        """Something useless in hand: put it down here, where it came from, or where it is not known to be refused."""
        if puts := choices.put(memory.here):
            return puts
        kind = class_of(held)
        places = [name for name in memory.receptacles if (kind, class_of(name)) not in memory.refuses]
        origin = memory.origin.get(held)
        return self._reach(memory, choices, [origin] if origin in places else places)

    def _search(self, memory: Memory, choices: _Choices, kind: str) -> Iterable[str]:
        """Look into the places that are likeliest for what looking costs."""
        goal = memory.goal
        # Were it in a target already, a goal of one untreated object would have been reached.
        is_settled = goal.count == 1 and goal.treatment is None and kind == goal.object
        scores: dict[str, float] = {}
        for place in memory.unseen():
            likely = self.prior.likely(kind, class_of(place))
            if is_settled and class_of(place) == goal.target:
                likely = 0.0
            if place not in memory.here:
                command = f"go to {place}"
            else:
                command = f"{'open' if place in memory.closed else 'examine'} {place}"
            scores[command] = likely / self._cost(memory, place)
        best = max(scores.values(), default=0.0)
        return [command for command, score in scores.items() if score == best]

    def _reach(self, memory: Memory, choices: _Choices, places: Collection[str]) -> Iterable[str]:
        """Get at the inside of one of these: open one that is here, or go to the cheapest."""
        opening = [f"open {place}" for place in places if place in memory.here and place in memory.closed]
        return choices.among(opening) or self._go(memory, choices, places)

    def _go(self, memory: Memory, choices: _Choices, places: Collection[str]) -> Iterable[str]:
        costs = {f"go to {place}": self._cost(memory, place) for place in places}
        possible = choices.among(costs)
        least = min((costs[command] for command in possible), default=0)
        return [command for command in possible if costs[command] == least]

    def _cost(self, memory: Memory, place: str) -> float:
        """Steps until its inside is open to view: going there, and opening it if it is, or may be, closed."""
        going = place not in memory.here
        if place in memory.closed:
            return going + 1
        return 1 if place in memory.visited else going + self.prior.closed(class_of(place))


def is_lost(memory: Memory) -> bool:
    """Whether the game is known to be lost: something useless is in hand and can be put down nowhere.

    Some objects can be taken, but no receptacle of their scene takes them back.
    """
    held = memory.holding
    if held is None or memory.is_wanted(held):
        return False
    kind = class_of(held)
    return all((kind, class_of(place)) in memory.refuses for place in memory.receptacles)


class _Choices:
    """The admissible commands, to be picked from."""

    def __init__(self, actions: tuple[str, ...]) -> None:
        self.actions = actions
        self._set = frozenset(actions)

    def among(self, commands: Iterable[str]) -> list[str]:
        """Those of the commands that are admissible."""
        return [command for command in commands if command in self._set]

    def of(self, verb: str, name: str | None = None) -> list[str]:
        """The commands with this verb, and with this object if one is given."""
        parts = ((command, read_command(command)) for command in self.actions)
        return [command for command, part in parts if part[0] == verb and (name is None or part[1] == name)]

    def put(self, receptacles: Collection[str]) -> list[str]:
        """The commands that put the held object into one of these."""
        parts = ((command, read_command(command)) for command in self.actions)
        return [command for command, (verb, _, other) in parts if verb in PUT_VERBS and other in receptacles]


class Reader:
    """Follows a transcript lazily: texts are parsed when something is asked."""

    def __init__(self, searcher: Searcher, feedback: str, actions: tuple[str, ...]) -> None:
        """feedback: the first text of a game; actions: the admissible commands with it."""
        self.searcher = searcher
        self._first, self._actions = feedback, actions
        self._heard: list[tuple[str, str, tuple[str, ...]]] = []
        self._memory: Memory | None = None
        self._best: tuple[str, ...] | None = None
        self._helped: bool | None = None

    def hear(self, command: str, feedback: str, actions: tuple[str, ...]) -> None:
        """Add a command, the text that answered it, and the commands admissible after it."""
        self._heard.append((command, feedback, actions))

    def memory(self) -> Memory:
        """What is known now. Raises EnvironmentContractError for a task sentence that is none of the templates."""
        if self._memory is None:
            self._memory = Memory(self._first, self._actions)
        heard, self._heard = self._heard, []
        for left, (command, feedback, actions) in zip(range(len(heard) - 1, -1, -1), heard, strict=True):
            if left == 0:  # only the last command is judged
                self._helped = command in self._best_now(self._memory)
            self._memory.update(command, feedback, actions)
            self._actions, self._best = actions, None
        return self._memory

    def best(self) -> tuple[str, ...]:
        """The searcher's equally good commands, at least one."""
        return self._best_now(self.memory())

    def helped(self) -> bool | None:
        """Whether the searcher would have done what was done last; None at the start."""
        self.memory()
        return self._helped

    def _best_now(self, memory: Memory) -> tuple[str, ...]:
        if self._best is None:
            self._best = self.searcher.best_actions(memory, self._actions)
        return self._best
