"""A sound world, and the same world with one oddity each: some break the contract, some only look as if they did."""

# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false

from __future__ import annotations

import os
import random
import struct
import sys
import tempfile
from decimal import Decimal
from fractions import Fraction

import numpy as np

from reflect_rl.envs.base import SPLITS, TextEnv
from reflect_rl.envs.simple import SimpleTextEnv
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

LONE = "caf\udce9"
"""Latin-1 bytes read as UTF-8 with surrogateescape."""


class Stairs(SimpleTextEnv):
    """Climb to the floor that the task names."""

    task_text = "Climb to the floor you are asked for."
    actions = ("up", "down")
    stages = ("one floor",)
    teachers = ("plain",)

    def tasks(self, split):
        self.check_split(split)
        return tuple(f"{split} floor {number}" for number in (2, 3))

    def begin(self, task, stage):
        self.goal = int(task[-1])
        self.floor = self.goal - 1 if stage else 0

    def observe(self):
        return f"Floor {self.floor}, wanted {self.goal}."

    def act(self, choice):
        self.floor += 1 if choice == 0 else -1
        return (1.0, StopReason.SUCCESS) if self.floor == self.goal else (-0.1, None)

    def expert(self):
        return 0 if self.floor < self.goal else 1

    def describe(self):
        return {"left": self.goal - self.floor}

    @classmethod
    def teach(cls, facts, style):
        return f"{facts['left']} to go." if style in cls.teachers else super().teach(facts, style)


class _Told(Stairs):
    """What step() and reset() give, changed by `give`."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        observation, _, _, _, info = self.give(observation, 0.0, False, False, info)
        return observation, info

    def step(self, action):
        return self.give(*super().step(action))

    def give(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, truncated, info


# Ends the process


class ExitsWhenMade(Stairs):
    def __init__(self, horizon=20):
        sys.exit("no licence")


class ExitsInTasks(Stairs):
    def tasks(self, split):
        sys.exit(0)


class ExitsInPanels(Stairs):
    def panels(self):
        sys.exit(0)


class ExitsInKind(Stairs):
    def kind(self, task):
        sys.exit(0)


class ExitsInBegin(Stairs):
    def begin(self, task, stage):
        sys.exit(0)


class ExitsInStage(Stairs):
    def begin(self, task, stage):
        super().begin(task, stage)
        if stage:
            sys.exit(0)


class ExitsInAct(Stairs):
    def act(self, choice):
        if self.floor == 1:
            sys.exit(0)
        return super().act(choice)


class ExitsInObserve(Stairs):
    def observe(self):
        return sys.exit(0) if self.floor == self.goal else super().observe()


class ExitsInExpert(Stairs):
    def expert(self):
        sys.exit(0)


class ExitsInDescribe(Stairs):
    def describe(self):
        sys.exit(0)


class ExitsInTeach(Stairs):
    @classmethod
    def teach(cls, facts, style):
        sys.exit(0)


class ExitsInClose(Stairs):
    def close(self):
        sys.exit(0)


class _CancelledError(BaseException):
    """As asyncio's: no Exception."""


class Cancelled(Stairs):
    def act(self, choice):
        raise _CancelledError("the loop is closed")


class CannotBeClosed(Stairs):
    def close(self):
        raise OSError("the socket is gone")


# Text that is none


class LoneInObservation(Stairs):
    def observe(self):
        return f"{super().observe()} {LONE}"


class LoneInAction(Stairs):
    actions = ("up", LONE)


class LoneInTask(Stairs):
    def tasks(self, split):
        return tuple(f"{LONE} {task}" for task in super().tasks(split))


class LoneInTaskText(Stairs):
    task_text = LONE


class LoneInStage(Stairs):
    stages = (LONE,)


class LoneInFacts(Stairs):
    def describe(self):
        return {**super().describe(), "seen": [{"name": LONE}]}


class LoneInKey(Stairs):
    def describe(self):
        return {**super().describe(), LONE: 1}


class LoneInTeacher(Stairs):
    @classmethod
    def teach(cls, facts, style):
        return LONE


class LoneInKind(Stairs):
    def kind(self, task):
        return LONE


class ObservationOfBytes(Stairs):
    def observe(self):
        return super().observe().encode()


class EmptyAtTheEnd(Stairs):
    def observe(self):
        return "" if self.floor == self.goal else super().observe()


class TaskTextIsNone(Stairs):
    task_text = None


# Actions


class NoActionThere(Stairs):
    actions = ()

    def admissible(self):
        return () if self.floor == 1 else ("up", "down")


class ActionTwice(Stairs):
    actions = ("up", "up")


class ActionEmpty(Stairs):
    actions = ("up", "")


class ActionsInAList(Stairs):
    def admissible(self):
        return list(self.actions)


class ActionIsNoText(Stairs):
    actions = ("up", 1)


class InfoIsNone(_Told):
    def give(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, truncated, info if self.floor == 0 else None


# Rewards and endings


class _Paid(_Told):
    def give(self, observation, reward, terminated, truncated, info):
        return observation, self.pay(reward), terminated, truncated, info

    def pay(self, reward):
        raise NotImplementedError


class PaysText(_Paid):
    def pay(self, reward):
        return "0.5"


class PaysAnArray(_Paid):
    def pay(self, reward):
        return np.array([reward])


class PaysNan(_Paid):
    def pay(self, reward):
        return float("nan") if self.floor == 1 else reward


class PaysBeyondFloats(_Paid):
    def pay(self, reward):
        return 10**400


class PaysNothing(_Paid):
    def pay(self, reward):
        return None


class BothEnds(_Told):
    def give(self, observation, reward, terminated, truncated, info):
        ended = terminated or truncated
        return observation, reward, ended, ended, info


class FlagsAreNone(_Told):
    def give(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated or None, truncated or None, info


class SuccessIsANumber(_Told):
    def give(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, truncated, info | ({"success": 1} if terminated else {})


class StopIsAText(_Told):
    def give(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, truncated, info | ({"stop": "success"} if terminated else {})


# What is declared


class TeachersIsAText(Stairs):
    teachers = "plain"


class StagesIsAText(Stairs):
    stages = "one floor"


class TeacherTwice(Stairs):
    teachers = ("plain", "plain")


class HorizonIsAFloat(Stairs):
    def __init__(self, horizon=20):
        super().__init__(horizon)
        self.horizon = float(horizon)


class HorizonRaises(Stairs):
    @property
    def horizon(self):
        raise ZeroDivisionError("no steps")

    @horizon.setter
    def horizon(self, steps):
        pass


class HorizonOfItsOwn(Stairs):
    def __init__(self, horizon=20):
        super().__init__(20)


class NoHorizon(Stairs):
    def __init__(self):
        super().__init__(20)


# Tasks, panels, kinds


class TaskInTwoSplits(Stairs):
    def tasks(self, split):
        return ("floor 2", f"{split} floor 3")


class TaskIsANumber(Stairs):
    def tasks(self, split):
        return (1, 2)


class TasksIsAText(Stairs):
    def tasks(self, split):
        return "floor 2"


class OtherTask(_Told):
    def give(self, observation, reward, terminated, truncated, info):
        return observation, reward, terminated, truncated, info | {"task": "another"}


class PanelsInAList(Stairs):
    def panels(self):
        return [("test", self.tasks("test")), ("valid", self.tasks("valid"))]


class NoValidPanel(Stairs):
    def panels(self):
        return {"test": self.tasks("test")}


class EmptyPanel(Stairs):
    def panels(self):
        return super().panels() | {"hard": ()}


class PanelOfAnUnknownTask(Stairs):
    def panels(self):
        return super().panels() | {"hard": ("floor 9",)}


class KindIsNone(Stairs):
    def kind(self, task):
        return None


class KindRaises(Stairs):
    def kind(self, task):
        return {}[task]


# Expert and teacher


class ExpertInAnArray(Stairs):
    def expert(self):
        return np.array([0])


class ExpertIsATruth(Stairs):
    def expert(self):
        return np.bool_(False)


class ExpertIsAFloat(Stairs):
    def expert(self):
        return 0.0


class ExpertStops(Stairs):
    def expert(self):
        return next(iter(()))


class ExpertSetIsANumber(Stairs):
    def expert_set(self):
        return 0


class ExpertSetBeyond(Stairs):
    def expert_set(self):
        return frozenset({0, 2})


class ExpertOnlySometimes(Stairs):
    def expert(self):
        return None if self.goal == 3 else super().expert()


class FactsAreAList(Stairs):
    def describe(self):
        return [1]


class FactsAreNan(Stairs):
    def describe(self):
        return {**super().describe(), "far": float("nan")}


class FactsInCircles(Stairs):
    def describe(self):
        facts = {**super().describe()}
        facts["self"] = facts
        return facts


class FactsInASet(Stairs):
    def describe(self):
        return {"left": {self.goal - self.floor}}


class FactsByNumber(Stairs):
    def describe(self):
        return {1: self.goal - self.floor}

    @classmethod
    def teach(cls, facts, style):
        return f"{facts[1]} to go."


class TeacherIsSilent(Stairs):
    @classmethod
    def teach(cls, facts, style):
        return " \n"


class TeacherOfBytes(Stairs):
    @classmethod
    def teach(cls, facts, style):
        return b"Up."


# Sound, however odd


class Numpy(_Told):
    task_text = np.str_("Climb.")
    actions = (np.str_("up"), np.str_("down"))
    stages = [np.str_("one floor")]  # noqa: RUF012
    teachers = [np.str_("plain")]  # noqa: RUF012

    def tasks(self, split):
        return list(np.array(super().tasks(split)))

    def give(self, observation, reward, terminated, truncated, info):
        if "success" in info:
            info["success"] = np.bool_(info["success"])
        return np.str_(observation), np.float32(reward), np.bool_(terminated), np.bool_(truncated), info

    def kind(self, task):
        return np.str_(task[-1])

    def expert(self):
        return np.int64(super().expert())

    def expert_set(self):
        return np.array([super().expert()])

    def describe(self):
        return {"left": np.int64(self.goal - self.floor), "there": np.bool_(False), "all": np.arange(2)}

    @classmethod
    def teach(cls, facts, style):
        assert (facts["there"], facts["all"]) == (False, [0, 1])
        return np.str_(f"{facts['left']} to go.")


class PaysDecimals(_Paid):
    def pay(self, reward):
        return Decimal(str(reward))


class PaysFractions(_Paid):
    def pay(self, reward):
        return Fraction(reward)


class PaysTruths(_Paid):
    def pay(self, reward):
        return reward > 0


class PaysArrayOfNoAxes(_Paid):
    def pay(self, reward):
        return np.array(reward)


class TeacherWithSpace(Stairs):
    @classmethod
    def teach(cls, facts, style):
        return f"\n{facts['left']} to go. \n"


class TupleFacts(Stairs):
    def describe(self):
        return {"at": (self.floor, self.goal)}

    @classmethod
    def teach(cls, facts, style):
        return f"{type(facts['at']).__name__} {facts['at'][1]}"


class ChangesFolder(Stairs):
    def __init__(self, horizon=20):
        super().__init__(horizon)
        os.chdir(tempfile.mkdtemp())

    def act(self, choice):
        os.chdir(tempfile.gettempdir())
        return super().act(choice)


class OldSeeds(Stairs):
    """Its generators take what numpy's old one and C do."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            np.random.RandomState(seed)
            struct.pack("<i", seed)
        return super().reset(seed=seed, options=options)


class GlobalSeeds(Stairs):
    def begin(self, task, stage):
        random.seed(0)
        np.random.seed(0)
        super().begin(task, stage)


class HorizonGrows(Stairs):
    """Says in the middle of an episode that there is more time."""

    def begin(self, task, stage):
        self.asked = getattr(self, "asked", self.horizon)
        self.horizon = self.asked
        super().begin(task, stage)

    def step(self, action):
        told = super().step(action)
        if self._steps == 1 and self._playing:
            self.horizon = self.asked + 5
        return told


class NoExpert(Stairs):
    def expert(self):
        return None


class Bare(TextEnv):
    """Written straight on TextEnv: one step, to be gone."""

    task_text = ""
    teachers = ("plain",)

    def __init__(self, horizon=20):
        self.horizon, self.playing = horizon, False

    def tasks(self, split):
        self.check_split(split)
        return (split,)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        given = options or {}
        if set(given) - {"task"} or given.get("task", "test") not in SPLITS:
            raise EnvironmentContractError("There is no such option or task.")
        self.playing = True
        return "A door.", {"actions": ("go", "stay")}

    def step(self, action):
        if not self.playing:
            raise EnvironmentContractError("It is over.")
        gone = self.check_choice(action, ("go", "stay")) == 0
        self.playing = False
        stop = StopReason.SUCCESS if gone else StopReason.FAILURE
        return "The end.", int(gone), True, False, {"actions": ("go",), "stop": stop, "success": gone}

    def expert(self):
        return 0

    @classmethod
    def teach(cls, facts, style):
        return "Go."
