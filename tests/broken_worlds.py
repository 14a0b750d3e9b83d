"""Worlds that break the contract, each in one way, for the tests of what a user is then told."""

# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from corridor import Corridor
from reflect_rl.envs.simple import SimpleTextEnv
from reflect_rl.records import StopReason


class ExpertOutOfRange(Corridor):
    def expert(self):
        return 99


class ExpertSaysAName(Corridor):
    def expert(self):
        return "left"


class ExpertRaises(Corridor):
    def expert(self):
        return {}["way"]


class ObservationIsNoText(Corridor):
    def _text(self):
        return [0, 1]


class ResetGivesTextAlone(Corridor):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0]


class NoActions(Corridor):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0], {}


class ActionsAreAList(Corridor):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0], {"actions": ["left", "right"]}


class _Ending(Corridor):
    lost = ()

    def step(self, action):
        *rest, info = super().step(action)
        return (*rest, {key: value for key, value in info.items() if key not in self.lost})


class NoStop(_Ending):
    lost = ("stop",)


class NoSuccess(_Ending):
    lost = ("success",)


class StepGivesFour(Corridor):
    def step(self, action):
        return super().step(action)[1:]


class StepRaises(Corridor):
    def step(self, action):
        raise ZeroDivisionError("no fuel")


class RewardIsNotANumber(Corridor):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return (observation, float("nan"), *rest)


class NoTasks(Corridor):
    def tasks(self, split):
        return ()


class NoTestTasks(Corridor):
    def tasks(self, split):
        return () if split == "test" else super().tasks(split)


class FactsAreNoJson(Corridor):
    def describe(self):
        return {**super().describe(), "cells": {1, 2}}


class NeverEnds(Corridor):
    def step(self, action):
        self._steps = -100
        self._place, self._item = 0, 3
        return super().step(0)


class TeacherSaysNothing(Corridor):
    @classmethod
    def teach(cls, facts, style):
        return None


class ManyActions(SimpleTextEnv):
    """60 actions, of which the observation names the right one."""

    task_text = "Do what is asked."
    actions = tuple(f"press {number}" for number in range(60))
    teachers = ("next",)

    def tasks(self, split):
        self.check_split(split)
        start = ("train", "valid", "test").index(split)
        return tuple(str(number) for number in range(start, 60, 3))

    def begin(self, task, stage):
        self.wanted = int(task)

    def observe(self):
        return f"Wanted: {self.wanted}"

    def act(self, choice):
        return (1.0, StopReason.SUCCESS) if choice == self.wanted else (0.0, StopReason.FAILURE)

    def expert(self):
        return self.wanted

    def describe(self):
        return {"wanted": self.wanted}

    @classmethod
    def teach(cls, facts, style):
        return f"Press {facts['wanted']}."
