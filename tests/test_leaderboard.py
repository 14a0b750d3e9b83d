"""A leaderboard takes anybody's results, ranks them, and refuses to mix what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reflect_rl.__main__ import run_command
from reflect_rl.agents.evaluation import Plan, evaluate_agent
from reflect_rl.envs.optional import tasks_hash
from reflect_rl.errors import AgentError
from reflect_rl.evaluation.leaderboard import LeaderboardError, leaderboard, leaderboard_rows
from reflect_rl.intervals import wilson
from reflect_rl.progress import Progress
from reflect_rl.settings import Settings

GAMES = [f"valid_seen/pick_and_place_simple-Mug-None-Desk-{room}/trial_{room}" for room in range(4)]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file in the short form; its path."""

    def written(name: str, won: int = 2, **changed: Any) -> Path:
        data = {
            "world": "alfworld",
            "agent": name,
            "panel": "valid_seen",
            "grammar": "move",
            "engine": "alfworld 0.4.2",
            "horizon": 50,
            "versions": {"alfworld": "0.4.2"},
            "games": {game: number < won for number, game in enumerate(GAMES)},
        }
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({key: value for key, value in (data | changed).items() if value is not None}))
        return file

    return written


def ranked(*files: Path, **options: Any) -> list[tuple[str, int, int]]:
    entries = leaderboard(options.pop("world", "alfworld"), files, options.pop("panel", None), print)
    return [(entry.agent, entry.wins, entry.episodes) for entry in entries]


def test_the_best_comes_first_whatever_the_order_of_files(write: Write) -> None:
    files = [write("b", 2), write("a", 2), write("best", 4), write("none", 0)]
    best = [("best", 4, 4), ("a", 2, 4), ("b", 2, 4), ("none", 0, 4)]
    assert ranked(*files) == best
    assert ranked(*files[::-1]) == best


def test_a_file_may_begin_with_a_byte_order_mark_and_holds_finite_numbers(write: Write) -> None:
    file = write("a")
    text = file.read_text()
    file.write_text(text, encoding="utf-8-sig")
    assert ranked(file) == [("a", 2, 4)]
    for number in ("NaN", "-Infinity", "1e999"):
        file.write_text(text.replace("50", number))
        with pytest.raises(LeaderboardError, match=f"{number} is no finite number"):
            ranked(file)


def test_games_may_be_named_by_their_paths_and_counted(write: Write) -> None:
    paths = {f"/data/json_2.1.1/{game}/game.tw-pddl": True for game in GAMES}
    counted = {"games": None, "wins": 7, "episodes": 8, "panel_sha256": tasks_hash(GAMES)}
    assert ranked(write("a"), write("paths", games=paths), write("counts", **counted)) == [
        ("paths", 4, 4),
        ("counts", 7, 8),
        ("a", 2, 4),
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"horizon": 30}, "horizon is 50 in .*a.json; 30 in .*other.json"),
        ({"grammar": "put"}, "grammar is move in"),
        ({"goals": "human"}, "goals is template in"),
        ({"games": dict.fromkeys(GAMES[:3], True)}, "panel_sha256 is"),
        ({"world": "taxi"}, "the world 'taxi', not of alfworld"),
        ({"engine": None}, "'engine' is missing"),
        ({"games": {GAMES[0]: 0.5}}, "true or false for each game"),
        ({"games": {GAMES[0]: True, f"/data/{GAMES[0]}/game.tw-pddl": False}}, "trial_0 twice, under two names"),
        ({"games": None, "wins": 5, "episodes": 4, "panel_sha256": "0"}, "5 wins in 4 episodes is not possible"),
        ({"games": None, "wins": 2, "episodes": 4, "panel_sha256": 0}, "panel_sha256 is 0, not the hash"),
    ],
)
def test_what_cannot_be_compared_is_refused(write: Write, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(LeaderboardError, match=said):
        ranked(write("a"), write("other", **changed))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"panels": {}}', "\x00", "{" * 100_000])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(LeaderboardError, match=r"file\.json"):
        ranked(tmp_path / "file.json")
    with pytest.raises(LeaderboardError, match="cannot be read"):
        ranked(tmp_path / "nowhere.json")


def test_no_file_at_all_is_said() -> None:
    with pytest.raises(LeaderboardError, match="Name the files of results"):
        ranked()


def test_a_folder_stands_for_its_results(write: Write, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write("a").rename(tmp_path / "run/results.json")
    assert ranked(tmp_path / "run") == [("a", 2, 4)]
    with pytest.raises(LeaderboardError, match=r"results\.json cannot be read"):
        ranked(tmp_path)


def test_a_forgotten_world_is_named(write: Write) -> None:
    with pytest.raises(LeaderboardError, match=r"b\.json is a file\. Name the world before the files, such as"):
        ranked(write("a"), world=str(write("b")))


def test_files_about_other_panels_are_left_out_and_named(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert ranked(write("a"), write("unseen", panel="valid_unseen")) == [("a", 2, 4)]
    assert "unseen.json has no results on the panel valid_seen" in capsys.readouterr().out
    with pytest.raises(LeaderboardError, match="No file has results on the panel valid_unseen"):
        ranked(write("a"), panel="valid_unseen")


def test_results_of_an_evaluated_agent_are_taken_as_they_are(tiny: Callable[..., Settings], tmp_path: Path) -> None:
    runs = [
        evaluate_agent(Plan(tiny({"env.options": {}}), agent), tmp_path / agent, Progress())
        for agent in ("random", "expert")
    ]
    world, files = tiny().env.name, [run / "results.json" for run in runs]
    (first, wins, episodes), (second, _, _) = ranked(*files, world=world)
    assert (first, second, wins) == ("expert", "random", episodes)
    heading, best, _ = leaderboard_rows(leaderboard(world, files, None, print))
    figures = json.loads(files[1].read_text())["panels"]["test"]["played"]
    shown = dict(zip(heading, best, strict=True))
    assert (shown["agent"], shown["steps"]) == ("expert", f"{figures['steps_mean']:.1f}")
    assert shown["seconds"] == f"{figures['seconds'] / figures['episodes']:.2f}"
    assert "tokens" not in heading
    part = evaluate_agent(Plan(tiny({"env.options": {}}), "random", episodes=1), tmp_path / "part", Progress())
    with pytest.raises(LeaderboardError, match="Only the whole panel"):
        ranked(part / "results.json", world=world)
    other = evaluate_agent(Plan(tiny({"env.options": {"slip": 0.5}}), "random"), tmp_path / "other", Progress())
    with pytest.raises(LeaderboardError, match=r"slip is 0\.0 in"):
        ranked(*files, other / "results.json", world=world)


def test_an_option_that_names_a_file_stands_for_what_the_file_holds(
    tiny: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "world_with_file.py").write_text(
        "from corridor import Corridor\n\nclass World(Corridor):\n"
        "    def __init__(self, horizon=8, items='', more=()):\n        super().__init__(horizon)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (("a", "keys"), ("b", "keys"), ("c", "coins")):
        (tmp_path / name).write_text(text)
    world = "world_with_file:World"

    def results(name: str, out: str) -> Path:
        file = str(tmp_path / name)
        settings = tiny({"env.name": world, "env.options": {"items": file, "more": [{"of": file}]}})
        return evaluate_agent(Plan(settings, "random"), tmp_path / out, Progress()) / "results.json"

    same = results("a", "one"), results("b", "two")
    assert len(ranked(*same, world=world)) == 2
    with pytest.raises(LeaderboardError, match="items is a file with sha256"):
        ranked(*same, results("c", "three"), world=world)
    (tmp_path / "a").write_text("coins")
    with pytest.raises(
        AgentError, match=r"another agent or world \(a file that an option of the world names was edited\)"
    ):
        results("a", "one")


def test_the_splits_of_alfworld_are_found_under_our_panels_names(write: Write, tmp_path: Path) -> None:
    tasks = {"tasks": 4, "sha256": tasks_hash(GAMES)}
    played = {"episodes": 4, "success": 0.75}
    ours = {
        "world": "alfworld",
        "horizon": 50,
        "options": {
            "grammar": "move",
            "goals": "template",
            "shuffle": False,
            "test_split": "valid_seen",
            "engine": "fast",
        },
        "versions": {"reflect_rl": "1"},
        "panels": {"test": {"greedy": played}, "unseen": {"greedy": played}},
        "panel_tasks": {"test": tasks, "unseen": tasks},
    }
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "results.json"
    file.write_text(json.dumps(ours))
    assert ranked(write("a"), file) == [("run", 3, 4), ("a", 2, 4)]
    assert ranked(file, panel="valid_unseen") == [("run", 3, 4)]
    for changed, said in (({"success": 75.0}, "300 wins in 4 episodes is not possible"), ({"success": -1}, "-4 wins")):
        file.write_text(json.dumps(ours | {"panels": {"test": {"greedy": played | changed}}}))
        with pytest.raises(LeaderboardError, match=said):
            ranked(file)
    del ours["panel_tasks"]
    file.write_text(json.dumps(ours))
    with pytest.raises(LeaderboardError, match="Evaluate again"):
        ranked(file)


def test_the_command_prints_a_table_markdown_or_json(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(write("one", 1)), str(write("three", 3))]
    assert run_command(["leaderboard", "alfworld", *files]) == 0
    shown = capsys.readouterr().out
    assert shown.index("three") < shown.index("one")
    assert f"panel valid_seen (sha256 {tasks_hash(GAMES)[:16]}), horizon 50, grammar move" in shown
    assert run_command(["leaderboard", "alfworld", *files, "--markdown"]) == 0
    assert "| three | 75.0 |" in capsys.readouterr().out
    assert run_command(["leaderboard", "alfworld", *files, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)[0]
    assert (best["agent"], best["success"], tuple(best["interval"])) == ("three", 0.75, wilson(3, 4))
    assert run_command(["leaderboard", "alfworld", str(write("b", horizon=10)), *files]) == 2
