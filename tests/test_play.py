"""Playing in the terminal: by hand and watching."""

from __future__ import annotations

from dataclasses import dataclass

from reflect_rl.envs.simple import SimpleTextEnv
from reflect_rl.envs.taxi.world import DangerousTaxi
from reflect_rl.evaluation.play import play
from reflect_rl.records import StopReason


def transcript(env, answers, **options) -> str:
    """What was shown, with what was asked and answered in its place."""
    shown: list[str] = []
    waiting = iter(answers)

    def read(prompt: str) -> str:
        try:
            answer = next(waiting)
        except StopIteration:
            raise EOFError from None
        shown.append(prompt + answer)
        return answer

    play(env, read, shown.append, **options)
    return "\n".join(shown)


def test_actions_are_accepted_by_number_name_and_unambiguous_beginning():
    shown = transcript(DangerousTaxi(), ["pick up", "2", "1", "DROP"], task="taxi-r2c0-R-Y")
    assert "Ended: dangerous after 1 steps" in shown
    shown = transcript(DangerousTaxi(), ["2", "North", " pick ", "east", "6"], task="taxi-r2c0-R-Y")
    assert "1 south  2 north  3 east  4 west  5 pick up  6 drop off" in shown
    assert "pick up: reward +0.48" in shown
    assert "Ended: dangerous after 5 steps, return -0.60." in shown


def test_success_is_told_with_its_last_grid():
    answers = ["pick up", *["south"] * 4, "drop off"]
    shown = transcript(DangerousTaxi(), answers, task="taxi-r0c0-R-Y")
    assert shown.startswith("Drive the taxi T")
    assert "Task taxi-r0c0-R-Y." in shown
    assert shown.endswith("Passenger at Y.\nDestination Y.\n\nEnded: success after 6 steps, return 1.38.")


def test_help_hint_and_nonsense_do_not_act():
    shown = transcript(DangerousTaxi(), ["?", "h", "fly", "7", "0", "", "²", "q"], task="taxi-r2c0-R-Y")
    assert "h hint from the expert" in shown
    assert "The expert would choose: north." in shown
    assert "'fly' is no action here." in shown
    assert "'7' is no action here." in shown
    assert shown.endswith("Left after 0 steps, return 0.00.")


def test_the_end_of_input_leaves_the_game():
    assert transcript(DangerousTaxi(), [], task="taxi-r2c0-R-Y").endswith("Left after 0 steps, return 0.00.")


def test_the_seed_draws_the_start():
    first = transcript(DangerousTaxi(), [], seed=4)
    assert first == transcript(DangerousTaxi(), [], seed=4)
    assert len({transcript(DangerousTaxi(), [], seed=seed) for seed in range(8)}) > 1


def test_an_action_named_like_a_command_and_a_world_without_expert():
    class Letters(SimpleTextEnv):
        actions = ("q", "h")

        def tasks(self, split):
            return (split,)

        def begin(self, task, stage):
            pass

        def observe(self):
            return "?"

        def act(self, choice):
            return 1.0, StopReason.SUCCESS if choice == 0 else None

    shown = transcript(Letters(), ["H", "q"])
    assert "This world has no expert." in shown
    assert "Ended: success after 1 steps" in shown


@dataclass
class Decision:
    choice: int
    action: str
    reflection: str | None
    probabilities: tuple[float, ...]


class ExpertAgent:
    """Acts like the expert, from the facts that it is given."""

    def __init__(self, reflection: str | None) -> None:
        self.reflection = reflection
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def act(self, observation, actions, facts=None):
        choice = actions.index(facts["next_action"])
        probabilities = tuple(0.75 if i == choice else 0.05 for i in range(len(actions)))
        return Decision(choice, actions[choice], self.reflection, probabilities)


def test_an_agent_is_watched_with_its_reflection_and_probabilities():
    agent = ExpertAgent("Go north.")
    shown = transcript(DangerousTaxi(), [""] * 20, agent=agent, task="taxi-r1c0-R-Y")
    assert agent.resets == 1
    assert "Reflection: Go north." in shown
    assert f"> north     {'█' * 18:<24}   75.0%" in shown
    assert f"  south     {'█':<24}    5.0%" in shown
    assert shown.endswith("Ended: success after 7 steps, return 1.36.")


def test_watching_can_be_left_and_a_missing_reflection_is_not_shown():
    shown = transcript(DangerousTaxi(), ["", "q"], agent=ExpertAgent(None), task="taxi-r1c0-R-Y")
    assert "Reflection" not in shown
    assert shown.endswith("Left after 1 steps, return -0.02.")
