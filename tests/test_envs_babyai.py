"""BabyAI as text: what is seen is what minigrid shows, and its bot is told what was really done."""

from __future__ import annotations

import subprocess
import sys
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from reflect_rl.envs.babyai.levels import reset_level
from reflect_rl.envs.babyai.view import place, read_view, tell, thing_name
from reflect_rl.envs.babyai.world import BabyAI
from reflect_rl.envs.base import SPLITS
from reflect_rl.envs.check import check
from reflect_rl.envs.checked import facts_of, taught
from reflect_rl.envs.registry import make
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

LEVELS = ("GoToLocal", "PickupLoc", "UnlockLocal")


@pytest.fixture(scope="module", autouse=True)
def _minigrid():
    pytest.importorskip("minigrid", reason="minigrid is not installed (pip install 'reflect-rl[babyai]')")


def begin(level="GoToLocal", task="seed-0", **options):
    env = make("babyai", level=level, **options)
    text, _ = env.reset(seed=0, options={"task": task})
    return env, text


def test_the_contract_is_kept(capsys):
    assert [str(found) for found in check(lambda **more: make("babyai", **more)) if not found.ok] == []
    assert capsys.readouterr() == ("", ""), "minigrid prints layouts that it rejects"


def test_resets_that_overlap_leave_stdout_as_it_was():
    class Halting:
        """Resets once another one has begun, or after a while."""

        def __init__(self):
            self.begun, self.may = threading.Event(), threading.Event()

        def reset(self, seed):
            self.begun.set()
            self.may.wait(0.3)
            return "seen", {}

    real, first, second = sys.stdout, Halting(), Halting()
    threads = [threading.Thread(target=reset_level, args=(env, 0)) for env in (first, second)]
    threads[0].start()
    assert first.begun.wait(30)
    threads[1].start()
    second.begun.wait(0.1)
    first.may.set()
    threads[0].join()
    second.may.set()
    threads[1].join()
    assert sys.stdout is real


@pytest.mark.filterwarnings("error")
def test_gymnasiums_own_checker_passes():
    import reflect_rl.envs.gym  # noqa: F401

    check_env(gymnasium.make("reflect_rl/BabyAI-v0").unwrapped)


@pytest.mark.parametrize("level", LEVELS)
def test_the_bot_solves_what_it_is_asked(level):
    env = make("babyai", level=level)
    for task in env.tasks("valid")[:5]:
        env.reset(seed=0, options={"task": task})
        ended, info, reward = False, {}, 0.0
        while not ended:
            _, reward, terminated, truncated, info = env.step(env.expert())
            ended = terminated or truncated
        assert (info["stop"], reward > 0.1) == (StopReason.SUCCESS, True)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1999), plan=st.lists(st.integers(0, 4), max_size=25), asked=st.lists(st.booleans(), min_size=25)
)
def test_the_experts_advice_does_not_depend_on_when_it_was_asked(seed, plan, asked):
    """Off its own way, asked at some states only or at all of them, twice or once: the same bot, the same advice."""
    often, _ = begin("UnlockLocal", f"seed-{seed}", horizon=99)
    seldom, _ = begin("UnlockLocal", f"seed-{seed}", horizon=99)
    for choice, ask in zip(plan, asked, strict=False):
        assert often.expert() == often.expert()
        if ask:
            assert seldom.describe() == often.describe()
        assert seldom.step(choice)[:4] == often.step(choice)[:4]
    assert seldom.describe() == often.describe()


def test_the_dynamics_are_minigrids():
    random = np.random.default_rng(0)
    for seed in range(6):
        env, text = begin("PickupLoc", f"seed-{seed}")
        original = gymnasium.make("BabyAI-PickupLoc-v0").unwrapped
        seen, _ = original.reset(seed=seed)
        original.max_steps = env.horizon
        for _ in range(30):
            assert text == tell(seen["mission"], read_view(seen["image"]))
            choice = int(random.integers(6))
            seen, reward, terminated, _, _ = original.step(choice)
            text, paid, ended, _, info = env.step(choice)
            assert (paid, ended) == (reward, terminated)
            if ended:
                assert info["success"] == (reward > 0)
                break


def test_what_is_seen_is_told_from_the_agents_place():
    image = np.zeros((7, 7, 3), dtype=np.uint8)
    image[:, :, 0] = 1
    image[3, 4] = (6, 0, 0)  # a red ball, 2 forward
    image[2, 5] = (4, 1, 2)  # a locked green door, 1 forward 1 left
    image[:, 1, 0] = 2  # a wall, 5 forward
    image[5, 6, 0] = 2  # a wall, 2 right
    image[3, 6] = (5, 4, 0)  # the agent holds a yellow key
    view = read_view(image)
    assert tell("open the door", view) == (
        "Mission: open the door.\nYou see:\nlocked green door 1 forward 1 left\nred ball 2 forward\n"
        "Walls: 5 forward, 2 right.\nYou carry: yellow key."
    )
    assert view.ahead == "nothing"
    assert "\nYou see: nothing.\n" in tell("go", view._replace(things=()))
    image[3, 5] = (7, 2, 0)
    assert read_view(image).ahead == "blue box"
    image[3, 5] = (2, 5, 0)
    assert read_view(image).ahead == "wall"


def test_names_and_places():
    assert thing_name(4, 5, 0) == "open grey door"
    assert thing_name(9, 0, 0) == "lava"
    assert [place(2, 1), place(0, -3), place(-1, 0), place(0, 0)] == ["2 forward 1 left", "3 right", "1 back", "here"]


def test_the_teacher_tells_what_the_bot_is_about():
    env, _ = begin(task="seed-2100")
    note = taught(BabyAI, facts_of(env), "note")
    assert note.endswith("Carry: nothing.")
    assert taught(BabyAI, facts_of(env), "next") == f"{note} Next: {env.actions[env.expert()]}."
    lost = facts_of(env) | {"verb": "", "next_action": None}
    assert taught(BabyAI, lost, "next").startswith("No way is known.")


def test_the_splits_are_seeds_apart():
    tasks = [make("babyai").tasks(split) for split in SPLITS]
    assert [len(each) for each in tasks] == [2000, 100, 200]
    assert len(set().union(*tasks)) == 2300
    assert tasks[2][0] == "seed-2100"


@pytest.mark.parametrize(
    ("options", "said"), [({"level": "GoToLocall"}, "Did you mean 'GoToLocal'"), ({"level": 3}, "name of a level")]
)
def test_an_unknown_level_is_refused(options, said):
    with pytest.raises(EnvironmentContractError, match=said):
        make("babyai", **options).reset(seed=0)


def test_without_minigrid_the_message_says_what_to_install():
    script = (
        "import sys; sys.modules['minigrid'] = None\n"
        "from reflect_rl.envs.registry import make\n"
        "env = make('babyai'); env.tasks('test')\n"
        "try: env.reset(seed=0)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("EnvironmentContractError BabyAI needs minigrid, which is not installed: pip install")
