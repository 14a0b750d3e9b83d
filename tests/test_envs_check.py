"""`check` finds what an environment breaks, says what to mend, and never fails itself."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from reflect_rl.envs.base import TextEnv
from reflect_rl.envs.check import PROBES, check
from reflect_rl.envs.promises import MADE, MENDS
from reflect_rl.envs.registry import make
from reflect_rl.envs.simple import SimpleTextEnv
from reflect_rl.envs.taxi.world import DangerousTaxi
from reflect_rl.records import StopReason

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples.my_environment import Corridor


class Sound(SimpleTextEnv):
    """Count to three; keeps every promise, and each broken world below differs from it in one thing."""

    actions = ("more", "less")
    teachers = ("brief",)
    stages = ("short",)

    def tasks(self, split):
        self.check_split(split)
        return (f"{split}-0", f"{split}-1")

    def begin(self, task, stage):
        self.count = 2 if stage else int(task[-1])
        self.noise = int(self.np_random.integers(10))

    def observe(self):
        return f"count {self.count}, noise {self.noise}"

    def act(self, choice):
        self.count += 1 if choice == 0 else -1
        return -0.1, StopReason.SUCCESS if self.count == 3 else None

    def expert(self):
        return 0

    def describe(self):
        return {"count": self.count}

    @classmethod
    def teach(cls, facts, style):
        return f"Count is {facts['count']}."


class EmptyObservation(Sound):
    def observe(self):
        return ""


class OutsideItsSpace(Sound):
    def __init__(self, horizon=20):
        from gymnasium.spaces import Text

        super().__init__(horizon)
        self.observation_space = Text(4)


class ListOfActions(Sound):
    def admissible(self):
        return list(self.actions)


class RepeatedActions(Sound):
    actions = ("more", "more")


class AnyChoice(Sound):
    def check_choice(self, choice, actions):
        return min(max(int(choice), 0), 1)


class PythonIndexing(Sound):
    """Crashes with its own error for what is too large."""

    def check_choice(self, choice, actions):
        actions[choice]
        return choice


class GlobalRandom(Sound):
    def begin(self, task, stage):
        super().begin(task, stage)
        self.noise = random.random()


class SharedState(Sound):
    shared = [0]  # noqa: RUF012

    def begin(self, task, stage):
        super().begin(task, stage)
        self.shared[0] = 0

    def act(self, choice):
        self.shared[0] += 1
        self.noise = self.shared[0]
        return super().act(choice)


class Endless(Sound):
    def step(self, action):
        self._steps = 0
        return super().step(action)

    def act(self, choice):
        super().act(choice)
        return 0.0, None


class NoStop(Sound):
    def step(self, action):
        *rest, info = super().step(action)
        info.pop("stop", None)
        return (*rest, info)


class Contradiction(Sound):
    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return (
            observation,
            reward,
            terminated or truncated,
            False,
            info | ({"success": False} if "stop" in info else {}),
        )


class GoesOnAfterTheEnd(Sound):
    def require_playing(self, what):
        pass


class NotANumber(Sound):
    def act(self, choice):
        return float("nan"), super().act(choice)[1]


class NoTestTasks(Sound):
    def tasks(self, split):
        return () if split == "test" else super().tasks(split)


class SharedTasks(Sound):
    def tasks(self, split):
        return ("all-0", "all-1")


class IgnoresTheTask(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options={})


class NoSuchStage(Sound):
    def begin(self, task, stage):
        if stage:
            raise KeyError(stage)
        super().begin(task, stage)


class WrongExpert(Sound):
    def expert(self):
        return 2


class UselessExpert(Sound):
    def expert(self):
        return 1


class CrashingExpert(Sound):
    def expert(self):
        return 1 // 0


class NoJson(Sound):
    def describe(self):
        return {"count": {1, 2}}


class SilentTeacher(Sound):
    @classmethod
    def teach(cls, facts, style):
        return ""


class Crashes(Sound):
    def act(self, choice):
        raise RuntimeError("out of order")


class CannotBegin(Sound):
    def begin(self, task, stage):
        raise RuntimeError("no power")


class ActsForNothing(Sound):
    def act(self, choice):
        pass


class MoreThanItDeclares(Sound):
    def admissible(self):
        return ("more", "less", "as much")


class ManyThings(Sound):
    def step(self, action):
        return super().step(action)[:4]


def broken(world) -> dict[str, str]:
    return {finding.promise: str(finding) for finding in check(world) if not finding.ok}


@pytest.mark.parametrize("world", [Sound, DangerousTaxi, Corridor])
def test_a_sound_world_keeps_every_promise(world):
    assert broken(world) == {}
    assert [finding.promise for finding in check(world)] == list(PROBES)


@pytest.mark.parametrize(
    ("world", "promise", "said"),
    [
        (EmptyObservation, "observations", "observation '', which is empty"),
        (ActsForNothing, "endings", "ActsForNothing.act() returned None, not a reward"),
        (MoreThanItDeclares, "actions", "list them all there, or set `actions = None`"),
        (OutsideItsSpace, "observations", "whose charset lacks ' ,'"),
        (ListOfActions, "actions", "as ['more', 'less'], not a non-empty tuple"),
        (RepeatedActions, "actions", "repeats itself"),
        (AnyChoice, "wrong choices", "step(2), too large, was accepted"),
        (PythonIndexing, "wrong choices", "IndexError"),
        (GlobalRandom, "same seed, same bytes", "step 0 gave"),
        (SharedState, "instances are independent", "beside others"),
        (Endless, "endings", "went on after its horizon of 20 steps"),
        (NoStop, "endings", 'info["stop"] None'),
        (Contradiction, "endings", "contradict"),
        (GoesOnAfterTheEnd, "after the end", "was accepted"),
        (NotANumber, "rewards", "nan"),
        (NoTestTasks, "tasks", "tasks('test') gave ()"),
        (SharedTasks, "tasks", "'all-0' is in train and again in valid"),
        (IgnoresTheTask, "reset options", "reset() says"),
        (NoSuchStage, "stages", "KeyError"),
        (WrongExpert, "expert", "gave 2, not an index from 0 to 1"),
        (UselessExpert, "expert", "solves none of 6 tasks"),
        (CrashingExpert, "expert", "ZeroDivisionError"),
        (NoJson, "facts and teacher", "no JSON"),
        (SilentTeacher, "facts and teacher", "'brief'"),
        (Crashes, "steps", "RuntimeError: out of order (test_envs_check.py"),
        (CannotBegin, MADE, "no power"),
        (ManyThings, "steps", "not (observation, reward, terminated, truncated, info)"),
    ],
)
def test_a_broken_promise_is_found_and_its_mending_named(world, promise, said):
    found = broken(world)
    assert promise in found
    assert said in found[promise]
    assert found[promise].endswith(MENDS[promise])


def test_what_is_broken_in_one_thing_is_not_blamed_for_others():
    assert list(broken(CrashingExpert)) == ["expert"]
    assert list(broken(WrongExpert)) == ["expert"]
    assert list(broken(NotANumber)) == ["rewards"]
    assert list(broken(SilentTeacher)) == ["facts and teacher"]


def test_something_that_is_no_environment_is_one_finding():
    findings = check(lambda: "an environment")  # type: ignore[arg-type,return-value]
    assert [finding.ok for finding in findings] == [False]
    assert "does not derive from TextEnv" in findings[0].detail


def test_a_world_without_its_methods_is_reported():
    class Nothing(TextEnv):
        pass

    assert [finding.ok for finding in check(Nothing)] == [False]
    assert "tasks('train') raised NotImplementedError" in check(Nothing)[0].detail

    class Unfinished(SimpleTextEnv):
        pass

    assert "NotImplementedError" in check(Unfinished)[0].detail


def test_the_experts_share_is_reported():
    finding = next(finding for finding in check(DangerousTaxi) if finding.promise == "expert")
    assert "75 of 75" in finding.detail


def test_the_example_is_found_by_name_from_its_folder(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1] / "examples")
    env = make("my_environment:Corridor", horizon=12)
    observation, info = env.reset(options={"task": "you2-key0-door5"})
    assert observation == "K.Y..D.. no key"
    said = [env.teach(env.describe(), "next")]
    for _ in range(9):
        observation, _, _, _, info = env.step(env.expert())
        if "stop" not in info:
            said.append(env.teach(env.describe(), "next"))
    assert info["stop"] is StopReason.SUCCESS
    assert said[0] == "The key is left."
    assert said[-1] == "The door is here."
    assert observation == ".....Y.. with key"
