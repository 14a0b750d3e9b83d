"""TextWorld: games made once and kept, the plan not told, recipes of test unseen, an expert that reads first."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from reflect_rl.envs.check import check
from reflect_rl.envs.checked import facts_of, taught
from reflect_rl.envs.registry import make
from reflect_rl.envs.textworld import games
from reflect_rl.envs.textworld.games import KINDS
from reflect_rl.envs.textworld.notes import Notes
from reflect_rl.envs.textworld.world import TextWorld
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.records import StopReason

FEW = {"train": 1, "valid": 1, "test": 1}
COIN = {"game": "coin", "settings": {"level": 3}, **FEW}
COOKING = {"game": "cooking", **FEW}


@pytest.fixture(scope="module", autouse=True)
def _games(tmp_path_factory):
    """The games of this file are made once, in a cache of their own."""
    pytest.importorskip("textworld", reason="textworld is not installed (pip install 'reflect-rl[textworld]')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.filterwarnings("error")
def test_the_contract_is_kept():
    def short(**options):
        return make("textworld", **COIN, **{"horizon": 4, **options})

    assert [str(found) for found in check(short) if not found.ok] == []


@pytest.mark.filterwarnings("error")
def test_gymnasiums_own_checker_passes():
    import reflect_rl.envs.gym  # noqa: F401

    check_env(gymnasium.make("reflect_rl/TextWorld-v0", **COIN).unwrapped)


def played(options, task):
    """The expert's episode: observations, actions, notes, total reward and stop."""
    env = make("textworld", **options)
    text, _ = env.reset(seed=0, options={"task": task})
    texts, done, notes, total, stop = [text], [], [], 0.0, None
    while stop is None:
        notes.append(taught(TextWorld, facts_of(env), "next"))
        text, reward, _, _, info = env.step(env.expert())
        texts.append(text)
        done.append(env.last_action)
        total, stop = total + float(reward), info.get("stop")
    env.close()
    return texts, done, notes, total, stop


def test_a_coin_is_found_and_the_way_is_not_told():
    texts, done, notes, total, stop = played(COIN, "test-0")
    assert (stop, total, done[-1]) == (StopReason.SUCCESS, 1.0, "take coin")
    assert texts[0].startswith("-= ")
    assert "task for today" not in texts[0]
    assert "\n>" not in "".join(texts)
    assert all(f"Next: {action}." in note for action, note in zip(done, notes, strict=True))
    assert notes[0].startswith("Room ")
    assert "Back: none" in notes[0]
    assert "Recipe" not in notes[0]


def test_the_cook_reads_before_cooking_and_notes_only_what_was_read():
    texts, done, notes, total, stop = played(COOKING, "test-0")
    assert stop is StopReason.SUCCESS
    assert total >= 4
    read = done.index("examine cookbook")
    assert all("Recipe: unread." in note for note in notes[: read + 1])
    assert all("Recipe: read." in note for note in notes[read + 1 :])
    assert all("\nRecipe: " not in text for text in texts[: read + 1])
    assert all("\nRecipe: " in text for text in texts[read + 1 :])
    assert "To do: none" in notes[-1]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_foods_and_preparations_are_those_of_no_train_recipe(split):
    from textworld.challenges.tw_cooking.cooking import FOOD_PREPARATIONS_SPLITS, TYPES_OF_COOKING_VERBS
    from textworld.challenges.tw_cooking.cooking import TYPES_OF_CUTTING_VERBS as CUTTING

    done_by = {verb: done for done, verb in {**TYPES_OF_COOKING_VERBS, **CUTTING}.items()}
    texts, *_ = played(COOKING, f"{split}-0")
    steps = texts[-1].rpartition("Recipe: ")[2].removesuffix(".").split("; ")
    [(cut, food), (cooked, same)] = [step.split(" the ") for step in steps[:2]]
    assert food == same
    assert (done_by[cooked], done_by[cut]) not in FOOD_PREPARATIONS_SPLITS["train"].get(food, [])


def test_games_are_made_once(monkeypatch):
    settings = KINDS["coin"].settings

    def write(_, kind, settings, seed, folder):
        folder.mkdir()
        (folder / "game.z8").write_text(str(len(written)))
        written.append(seed)

    written: list[int] = []
    monkeypatch.setattr(games, "_make", write)
    with ThreadPoolExecutor(4) as pool:
        [path] = set(pool.map(lambda _: games.game_file("coin", settings, 5), range(4)))
    assert written == [5]

    def write_late(*given):
        write(*given[:-1], path.parent.parent / "6")  # another process was faster
        write(*given)

    monkeypatch.setattr(games, "_make", write_late)
    assert games.game_file("coin", settings, 6).read_text() == "1"
    assert sorted(each.name for each in path.parent.parent.iterdir()) == ["5", "6"], "no draft is left"
    assert games.cache_folder() in path.parents


def test_a_cache_that_cannot_be_written_is_one_message(monkeypatch, tmp_path):
    (tmp_path / "reflect-rl").write_text("a file in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EnvironmentContractError, match="set XDG_CACHE_HOME"):
        make("textworld", **COIN).reset(seed=0)


def test_notes_remember_exits_and_the_recipe():
    notes = Notes()
    notes.hear("", "-= Kitchen =-\nA kitchen.")
    notes.hear("go east", "-= Hall =-\nA hall.")
    exits = ("go east", "go west", "look")
    assert notes.facts(exits, ["go west"])["new_exits"] == ["east"]
    assert notes.facts(exits, [])["back"] == "west"
    notes.hear("go west", "-= Kitchen =-\nA kitchen.")
    assert notes.facts(exits, [])["new_exits"] == ["west"]
    notes.hear("examine cookbook", "Ingredients:\ncarrot\nDirections:\ndice the carrot\nfry the carrot\nprepare meal")
    facts = notes.facts(exits, ["take carrot from fridge", "cook carrot with stove", "prepare meal"])
    assert (facts["missing"], facts["to_do"]) == (["carrot"], ["fry the carrot", "prepare meal"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"game": "cook"}, "Did you mean 'cooking'"),
        ({"train": 0}, "train is 0"),
        ({"settings": {"levl": 3}}, "Did you mean 'level'"),
        ({"settings": [3]}, "it is a mapping"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(EnvironmentContractError, match=said):
        make("textworld", **options)


def test_what_textworld_refuses_is_one_message():
    with pytest.raises(EnvironmentContractError, match=r"cannot make a coin game with .*'level': 1000"):
        make("textworld", settings={"level": 1000}).reset(seed=0)


def test_without_textworld_the_message_says_what_to_install():
    script = (
        "import sys; sys.modules['textworld'] = None\n"
        "from reflect_rl.envs.registry import make\n"
        "env = make('textworld'); env.tasks('test')\n"
        "try: env.reset(seed=0)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(
        "EnvironmentContractError TextWorld needs textworld, which is not installed: pip inst"
    )
