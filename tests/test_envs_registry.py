"""Worlds by name: found, made, or refused with one clear message."""

from __future__ import annotations

import subprocess
import sys

import pytest

from reflect_rl.envs import registry
from reflect_rl.envs.taxi.world import DangerousTaxi
from reflect_rl.errors import EnvironmentContractError

OWN = """
from reflect_rl.envs.simple import SimpleTextEnv

class Own(SimpleTextEnv):
    "A world of one's own."
    actions = ("stay",)

    def __init__(self, horizon=20, needed="x", wrong=False):
        super().__init__(horizon)
        if wrong:
            raise ValueError("wrong is not right")

    def tasks(self, split):
        return (split,)

class NeedsMore(Own):
    def __init__(self, size):
        super().__init__()

class NoHorizon(Own):
    def __init__(self):
        super().__init__()

not_a_class = 3
"""


SHIP = ("alfworld", "autoexplore", "babyai", "blackjack", "cliffwalking", "frozenlake", "taxi", "textworld")


@pytest.fixture
def own(tmp_path, monkeypatch, request):
    """A module of the user's own in the current directory; its name."""
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def worlds(monkeypatch):
    monkeypatch.setattr(registry, "_WORLDS", dict(registry._WORLDS))


def test_a_registered_world_is_made_with_its_options():
    env = registry.make("taxi", horizon=7)
    assert isinstance(env, DangerousTaxi)
    assert env.horizon == 7


def test_a_world_of_ones_own_is_found_in_the_current_directory(own):
    path = list(sys.path)
    assert registry.make(f"{own}:Own", horizon=3).horizon == 3
    assert sys.path == path


def test_registering_gives_a_name(own):
    registry.register("own", f"{own}:Own")
    registry.register("mine", DangerousTaxi)
    assert registry.names() == tuple(sorted((*SHIP, "mine", "own")))
    assert type(registry.make("own")).__name__ == "Own"
    registry.register("own", f"{own}:Own")  # the same again does no harm
    with pytest.raises(EnvironmentContractError, match="already"):
        registry.register("own", DangerousTaxi)
    with pytest.raises(EnvironmentContractError, match="colon"):
        registry.register("a:b", DangerousTaxi)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("taxy", {}, "Did you mean 'taxi'"),
        ("no_such_module:Env", {}, "no module 'no_such_module'"),
        ("OWN:Owm", {}, "Did you mean 'Own'"),
        ("OWN:not_a_class", {}, "is not a TextEnv"),
        ("reflect_rl.records:Step", {}, "is not a TextEnv"),
        ("OWN:", {}, "module:Class"),
        ("OWN:Own", {"horizn": 3}, "Did you mean 'horizon'"),
        ("OWN:Own", {"wrong": True}, "wrong is not right"),
        ("OWN:NeedsMore", {}, "size"),
        ("OWN:NoHorizon", {"horizon": 20}, "Every world takes horizon"),
    ],
)
def test_each_mistake_has_one_clear_message(own, name, options, said):
    with pytest.raises(EnvironmentContractError, match=said):
        registry.make(name.replace("OWN", own), **options)


@pytest.mark.parametrize("world", ["alfworld", "autoexplore", "taxi"])
@pytest.mark.parametrize("reward", ["1,5", True, float("nan"), 10**400, None])
def test_what_is_no_reward_is_refused_before_an_episode_pays_it(world, reward):
    with pytest.raises(EnvironmentContractError, match=r"success_reward is .*; it is a finite number"):
        registry.make(world, success_reward=reward)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import does_not_exist", "does_not_exist.*line 1"),
        ("x = (", "SyntaxError"),
        ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError.*line 2"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_place(own, tmp_path, source, said):
    (tmp_path / "broken_module.py").write_text(source, encoding="utf-8")
    with pytest.raises(EnvironmentContractError, match=f"broken_module could not be imported.*{said}"):
        registry.make("broken_module:Env")


def test_the_table_of_worlds(monkeypatch, tmp_path):
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    heading, *rows = registry.describe_all()
    assert heading[0] == "world"
    assert tuple(row[0] for row in rows) == SHIP
    assert rows[0][:2] == ("alfworld", "no data here")
    row = rows[SHIP.index("taxi")]
    assert row[:5] == ("taxi", "200/40/60", "20", "facts, blocked, next, judge", "pick up, drop off")
    assert row[5].startswith("Fetch a passenger")


def test_knowing_the_names_needs_neither_gymnasium_nor_torch():
    script = (
        "import sys, reflect_rl.envs.registry as r; r.names();"
        "sys.exit(any(m in sys.modules for m in ('gymnasium', 'torch', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("name", [int, None, 3])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(EnvironmentContractError, match=r"is not the name of a world.*module:Class"):
        registry.make(name)
