"""The searching expert reads what a player reads, wins every game, and can label any state afterwards."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alfworld_games import folder_data, needs_data
from reflect_rl.envs.alfworld.data import TASK_TYPES
from reflect_rl.envs.alfworld.experts import drawn_games, expert_walks, experts_table
from reflect_rl.envs.alfworld.facts import Goal, Memory, read_command, read_goal, split_intro
from reflect_rl.envs.alfworld.prior import NO_PRIOR, Prior, train_prior
from reflect_rl.envs.alfworld.searcher import Reader, Searcher, is_lost
from reflect_rl.envs.alfworld.teacher import describe, notes
from reflect_rl.envs.alfworld.world import Alfworld
from reflect_rl.errors import EnvironmentContractError, TeacherError
from reflect_rl.seeding import stream

COUNTING = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "write_alfworld_prior.py"))
INTRO = (
    "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see a "
    "cabinet 2, a cabinet 1, a fridge 1, a microwave 1, and a shelf 1.\n\nYour task is to: {}."
)
START = ("go to cabinet 1", "go to cabinet 2", "go to fridge 1", "go to microwave 1", "go to shelf 1", "look")
SEARCHER = Searcher(train_prior())


def begin(task: str = "put a hot mug in shelf") -> Memory:
    return Memory(INTRO.format(task), START)


def at(place: str, *local: str) -> tuple[str, ...]:
    """What is admissible at a place of the room above."""
    return tuple(sorted({*START, f"examine {place}", *local} - {f"go to {place}"}))


@pytest.mark.parametrize(
    ("sentence", "goal"),
    [
        ("put a mug in shelf", Goal("mug", "shelf")),
        ("put some mug on shelf", Goal("mug", "shelf")),
        ("put a clean mug in shelf", Goal("mug", "shelf", "clean")),
        ("clean some mug and put it in shelf", Goal("mug", "shelf", "clean")),
        ("put a hot mug in shelf", Goal("mug", "shelf", "heat")),
        ("heat some mug and put it in shelf", Goal("mug", "shelf", "heat")),
        ("put a cool mug in shelf", Goal("mug", "shelf", "cool")),
        ("cool some mug and put it in shelf", Goal("mug", "shelf", "cool")),
        ("put two mug in shelf", Goal("mug", "shelf", count=2)),
        ("find two mug and put them in shelf", Goal("mug", "shelf", count=2)),
        ("look at mug under the desklamp", Goal("mug", lamp="desklamp")),
        ("examine the mug with the desklamp", Goal("mug", lamp="desklamp")),
    ],
)
def test_every_wording_of_a_task_is_understood(sentence, goal):
    assert read_goal(sentence) == read_goal(f"Your task is to: {sentence}.") == goal
    assert begin(sentence).goal == goal


@pytest.mark.parametrize(
    "sentence", ["Place the two newsletters in a tv drawer", "", "put a mug", "put two hot mug in"]
)
def test_a_sentence_by_a_person_is_refused_with_its_words(sentence):
    with pytest.raises(EnvironmentContractError, match="templates") as raised:
        read_goal(sentence)
    assert sentence in str(raised.value)


def test_the_intro_is_split_into_view_and_task():
    assert split_intro(INTRO.format("put a mug in shelf")) == (
        "You are in the middle of a room. Looking quickly around you, you see a cabinet 2, a cabinet 1, a fridge 1, "
        "a microwave 1, and a shelf 1.",
        "Your task is to: put a mug in shelf.",
    )


def test_commands_of_both_grammars_are_taken_apart():
    assert read_command("go to cabinet 10") == ("go to", "cabinet 10", "")
    assert read_command("move cd 1 to desk 1") == ("move", "cd 1", "desk 1")
    assert read_command("put cd 1 in/on desk 1") == ("put", "cd 1", "desk 1")
    assert read_command("inventory") == ("inventory", "", "")


@pytest.mark.parametrize(
    ("arrive", "put", "command"),
    [
        ("cabinet 1", "You move the mug 1 to the shelf 1.", "move"),
        ("loc 7", "You put the mug 1 in/on the shelf 1.", "put"),
    ],
    ids=["new grammar", "old grammar"],
)
def test_a_memory_follows_the_mug(arrive, put, command):
    memory = begin()
    memory.update(
        "go to cabinet 1", f"You arrive at {arrive}. The cabinet 1 is closed.", at("cabinet 1", "open cabinet 1")
    )
    assert memory.here == ("cabinet 1",)
    assert memory.closed == {"cabinet 1"}
    assert "cabinet 1" in memory.unseen()
    seen = at("cabinet 1", "close cabinet 1", "take mug 1 from cabinet 1")
    memory.update("open cabinet 1", "You open the cabinet 1. The cabinet 1 is open. In it, you see a mug 1.", seen)
    assert memory.wanted() == (("mug 1", "cabinet 1"),)
    assert SEARCHER.best_actions(memory, seen) == ("take mug 1 from cabinet 1",)
    memory.update("take mug 1 from cabinet 1", "You pick up the mug 1 from the cabinet 1.", at("cabinet 1"))
    assert (memory.holding, memory.wanted()) == ("mug 1", ())
    heating = at("microwave 1", "heat mug 1 with microwave 1", "open microwave 1")
    memory.update("go to microwave 1", f"You arrive at {arrive}. The microwave 1 is closed.", heating)
    assert SEARCHER.best_actions(memory, heating) == ("heat mug 1 with microwave 1",)
    memory.update("heat mug 1 with microwave 1", "You heat the mug 1 using the microwave 1.", heating)
    assert memory.is_ready("mug 1")
    memory.update("cool mug 1 with fridge 1", "You cool the mug 1 using the fridge 1.", at("fridge 1"))
    assert not memory.is_ready("mug 1")
    shelf = at("shelf 1", f"{command} mug 1 {'to' if command == 'move' else 'in/on'} shelf 1")
    memory.update("go to shelf 1", f"You arrive at {arrive}. On the shelf 1, you see nothing.", shelf)
    memory.update("put it", put, at("shelf 1", "take mug 1 from shelf 1"))
    assert memory.holding is None
    assert memory.contents["shelf 1"] == ("mug 1",)


def test_looking_again_is_idle_and_a_step_ahead_is_not():
    memory = begin()
    actions = at("cabinet 1", "open cabinet 1")
    memory.update("go to cabinet 1", "You arrive at cabinet 1. The cabinet 1 is closed.", actions)
    assert not memory.idle
    memory.update("look", "You are facing the cabinet 1. Next to it, you see nothing.", actions)
    assert memory.idle


def test_what_can_be_put_down_nowhere_is_known_to_be_lost():
    memory = begin()
    memory.update("take", "You pick up the teddybear 1 from the shelf 1.", at("shelf 1"))
    assert not is_lost(memory)
    for place in ("cabinet 1", "fridge 1", "microwave 1"):
        memory.update(f"go to {place}", f"You arrive at {place}. On the {place}, you see nothing.", at(place))
    assert is_lost(memory)
    assert SEARCHER.best_actions(memory, at("shelf 1")) == tuple(a for a in at("shelf 1") if a.startswith("go to"))


def test_a_prior_counts_receptacles_that_hold_an_object():
    rooms = [
        ({"shelf 1": ["mug 1", "mug 2"], "shelf 2": [], "fridge 1": []}, ["fridge 1"]),
        ({"shelf 1": ["cd 1"]}, []),
    ]
    prior = COUNTING["count_prior"](rooms)
    assert prior.objects["mug"] == {"shelf": (1, 2), "fridge": (0, 1)}
    assert prior.likely("mug", "shelf") > prior.likely("mug", "fridge") > 0
    assert (prior.closed("fridge"), prior.closed("shelf")) == (1.0, 0.0)


def test_the_prior_that_ships_is_as_it_was_written():
    assert COUNTING["TARGET"].read_text() == COUNTING["written"](train_prior())


def test_the_prior_that_ships_knows_kitchens():
    prior = train_prior()
    assert prior.likely("tomato", "fridge") > 10 * prior.likely("tomato", "cabinet")
    assert prior.closed("microwave") == 1.0
    assert all(0 < prior.likely(kind, place) <= 1 for kind, places in prior.objects.items() for place in places)
    assert NO_PRIOR.likely("tomato", "fridge") == NO_PRIOR.likely("tomato", "cabinet") == 1.0


def play(env: Alfworld, task: str, noise: float = 0.0) -> bool:
    """Play an episode as the searcher (or, at times, chance) would: whether it was won."""
    random = stream(0, f"test {task}")
    _, info = env.reset(seed=0, options={"task": task})
    ended = False
    while not ended:
        choice = env.expert()
        if noise and random.random() < noise:
            choice = int(random.integers(len(info["actions"])))
        _, _, terminated, truncated, info = env.step(choice)
        ended = terminated or truncated
    return bool(info["success"])


@pytest.mark.parametrize("kind", TASK_TYPES)
@pytest.mark.parametrize("grammar", ["move", "put"])
def test_the_searcher_wins_generated_games_of_every_type(kind, grammar, rules_for):
    rules_for(grammar)
    env = Alfworld(data="generated", task_types=kind, grammar=grammar, horizon=100)
    for task in env.tasks("test"):
        assert play(env, task), task


@pytest.fixture
def rules_for():
    """Skip where the engine has no rules for a generated game in this grammar."""

    def check(grammar: str) -> None:
        from reflect_rl.errors import ReflectRLError

        try:
            Alfworld(data="generated", grammar=grammar).reset(seed=0)
        except ReflectRLError as error:
            pytest.skip(f"no rules for generated games: {error}")

    return check


@needs_data
@pytest.mark.parametrize("prior", [True, False], ids=["with prior", "without prior"])
def test_the_searcher_wins_official_games_within_100_steps(prior):
    env = Alfworld(data=str(folder_data().path), horizon=100, prior=prior)
    tasks = env.tasks("test")
    steps = []
    for task in tasks[:: max(1, len(tasks) // 40)]:
        assert play(env, task), task
        steps.append(len(env.transcript) - 1)
    if prior:
        assert sum(steps) / len(steps) < 10


@needs_data
def test_reading_late_is_reading_along():
    """A memory rebuilt from the transcript knows what one kept up to date knows, at every step."""
    env = Alfworld(data=str(folder_data().path), horizon=30)
    for task in env.tasks("valid")[::40]:
        play(env, task, noise=0.5)
        transcript = env.transcript
        reader = Reader(env.searcher, *transcript[0][1:])
        for end, heard in enumerate(transcript[1:], start=2):
            reader.hear(*heard)
            again = Memory(*transcript[0][1:])
            for command, text, admissible in transcript[1:end]:
                again.update(command, text, admissible)
            assert vars(reader.memory()) == vars(again)
            assert reader.best() == env.searcher.best_actions(again, heard[2])


@given(st.integers(0, 10_000), st.sampled_from(list(TASK_TYPES)))
def test_every_state_has_a_best_action_that_is_admissible(seed, kind):
    env = Alfworld(data="generated", task_types=kind, horizon=25)
    _, info = env.reset(seed=seed)
    random = stream(seed, "test walk")
    ended = False
    while not ended:
        best = env.best_actions()
        assert best
        assert set(best) <= set(info["actions"])
        assert env.expert() in env.expert_set()
        _, _, terminated, truncated, info = env.step(int(random.integers(len(info["actions"]))))
        ended = terminated or truncated


@needs_data
def test_the_searcher_recovers_from_random_play():
    env = Alfworld(data=str(folder_data().path), horizon=130)
    tasks = env.tasks("valid")
    for task in tasks[:: max(1, len(tasks) // 20)]:
        _, info = env.reset(seed=1, options={"task": task})
        random = stream(1, f"test {task}")
        ended = lost = False
        for step in range(130):
            lost = env.describe()["lost"]
            choice = int(random.integers(len(info["actions"]))) if step < 30 else env.expert()
            _, _, ended, truncated, info = env.step(choice)
            if ended or truncated or lost:
                break
        assert ended or lost, task


def test_the_teacher_says_only_what_was_seen():
    memory = begin("put a mug in shelf")
    actions = at("cabinet 1", "take cup 1 from cabinet 1", "take mug 1 from cabinet 1")
    memory.update(
        "go to cabinet 1", "You arrive at cabinet 1. On the cabinet 1, you see a cup 1, and a mug 1.", actions
    )
    facts = describe(memory, actions, SEARCHER.best_actions(memory, actions), True)
    assert Alfworld.teach(facts, "facts") == (
        "Holding: nothing. Seen: mug 1 at cabinet 1. Checked: cabinet 1. Done: none. Left: take mug, put mug in shelf."
    )
    assert Alfworld.teach(facts, "progress").startswith("Last: go to cabinet 1, helped. Holding: nothing.")
    assert Alfworld.teach(facts, "next").endswith("Next: take mug 1 from cabinet 1.")
    noted = dict(zip(actions, notes(memory, actions), strict=True))
    assert noted["take mug 1 from cabinet 1"] == "wanted"
    assert noted["take cup 1 from cabinet 1"] == "other"
    assert noted["go to shelf 1"] == "unseen target"


def test_a_teacher_refuses_other_styles_and_other_facts():
    with pytest.raises(TeacherError, match="blocked"):
        Alfworld.teach({}, "blocked")
    with pytest.raises(TeacherError, match="seen"):
        Alfworld.teach({"holding": None}, "facts")


def test_a_prior_of_nothing_and_one_of_games_can_both_be_given():
    memory = begin("put a mug in cabinet")
    prior = Prior({"mug": {"shelf": (9, 10), "fridge": (0, 10)}}, {"fridge": 1.0})
    assert Searcher(prior).best_actions(memory, START) == ("go to shelf 1",)
    assert set(Searcher().best_actions(memory, START)) == {"go to fridge 1", "go to microwave 1", "go to shelf 1"}


@needs_data
def test_the_shipped_prior_counts_at_least_the_train_games_that_are_here():
    data = folder_data()
    counted = COUNTING["count_prior"](COUNTING["furniture"](data.load(game).problem) for game in data.games("train"))
    for kind, places in counted.objects.items():
        for place, (held, total) in places.items():
            shipped = train_prior().objects[kind][place]
            assert held <= shipped[0]
            assert total <= shipped[1]


@needs_data
def test_the_experts_table_counts_every_walk_once():
    games = drawn_games(folder_data(), "valid_seen", 6, seed=0)
    walks = list(expert_walks(games, horizon=100, seed=0, data=str(folder_data().path)))
    assert [walk.game for walk in walks if walk.expert == "planner"] == games
    assert all(walk.won for walk in walks)
    heading, *rows = experts_table(walks, within=[15])
    assert heading == ("expert", "type", "games", "won", "in 15", "mean steps", "most")
    for expert in ("searcher", "planner"):
        *parts, whole = [row for row in rows if row[0] == expert]
        assert sum(int(row[2]) for row in parts) == int(whole[2]) == 6


@needs_data
def test_an_expert_that_runs_out_of_steps_has_lost():
    games = drawn_games(folder_data(), "valid_seen", 2, seed=0)
    walks = list(expert_walks(games, horizon=2, seed=0, data=str(folder_data().path)))
    assert [(walk.won, walk.steps) for walk in walks] == [(False, 2)] * 4
    assert experts_table(walks, within=[])[-1][3:] == ("0", "-", "-")
