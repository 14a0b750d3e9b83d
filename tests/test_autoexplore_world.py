"""AutoExplore keeps its promises: what is shown, what is hidden, what its experts and its teacher know."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_models
from reflect_rl.cli.autoexplore import baselines
from reflect_rl.envs.autoexplore import sources
from reflect_rl.envs.autoexplore.baselines import by_names
from reflect_rl.envs.autoexplore.reading import Page
from reflect_rl.envs.autoexplore.sources import digest
from reflect_rl.envs.autoexplore.tasks import Task, write_tasks
from reflect_rl.envs.autoexplore.world import AutoExplore
from reflect_rl.envs.base import SPLITS
from reflect_rl.envs.check import check
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.lm.pretrained import save_model
from reflect_rl.records import StopReason
from reflect_rl.runs.outputs import OutputFile
from reflect_rl.seeding import stream

QUESTION = "Parse the cookies of a response."
DOCSTRING = '    """Parse the cookies of a response."""\n'
ANSWER = f"def load(response):\n{DOCSTRING}    cookies = response.cookies\n    return parse(cookies)\n"
LEDGER = "def write(ledger):\n    ledger.write()\n    return ledger\n"
SHAPES = "d1F2D2,d2F2D1,natural"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three repositories of five folders; in each, two files answer one question, and one another."""
    root = tmp_path_factory.mktemp("repositories")
    tasks = []
    for split in ("train", "valid", "test"):
        for place in (".", "a", "b", "a/c", "a/d"):
            (root / split / place).mkdir(parents=True, exist_ok=True)
            for name in ("one", "two", "three"):
                (root / split / place / f"{name}.py").write_text(f'"""Parse cookies."""\nvalue = "{place} {name}"\n')
        for target in ("a/c/one.py", "b/two.py"):
            (root / split / target).write_text(ANSWER)
            data = digest(ANSWER.encode())
            tasks.append(Task(f"{split}/{target}", split, str(root / split), target, "load", QUESTION, data))
        (root / split / "a/d/two.py").write_text(LEDGER)
        question, data = "Write the ledger.", digest(LEDGER.encode())
        tasks.append(Task(f"{split}/ledger", split, str(root / split), "a/d/two.py", "write", question, data))
    write_tasks(OutputFile(root / "tasks.jsonl"), tasks)
    return root


def make(folder: Path, **options: Any) -> AutoExplore:
    return AutoExplore(**{"tasks": str(folder / "tasks.jsonl"), "trees": SHAPES, **options})


def walk(env: AutoExplore, task: str, seed: int, **options: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """An episode of random moves: what is seen, and what can be done."""
    draw = stream(seed, "walk")
    observation, info = env.reset(seed=seed, options={"task": task, **options})
    while "stop" not in info:
        yield observation, info["actions"]
        observation, *_, info = env.step(int(draw.integers(len(info["actions"]))))
    yield observation, info["actions"]


def play(env: AutoExplore, task: str, **options: Any) -> tuple[StopReason, int]:
    """An episode of the expert."""
    _, info = env.reset(seed=0, options={"task": task, **options})
    steps = 0
    while "stop" not in info:
        *_, info = env.step(env.expert())
        steps += 1
    return info["stop"], steps


def do(env: AutoExplore, *actions: str) -> str:
    """The observation after some actions, by name."""
    observation = ""
    for action in actions:
        observation, *_ = env.step(env.admissible().index(action))
    return observation


def test_the_contract_holds(folder):
    findings = check(lambda **options: make(folder, **options))
    assert [finding for finding in findings if not finding.ok] == []


def test_what_is_seen_reads_as_promised(folder):
    env = make(folder, trees="natural", shown="page")
    observation, info = env.reset(seed=0, options={"task": "test/b/two.py@natural"})
    assert observation == (
        "Question: Parse the cookies of a response.\nStep 1 of 15.\nFolder: .\nFolders: a, b\n"
        "Files: one.py, three.py, two.py\nRead: none"
    )
    assert info["actions"][:4] == ("cd a", "cd b", "cat one.py", "cat three.py")
    assert do(env, "cd b", "cat two.py") == (
        "Question: Parse the cookies of a response.\nStep 3 of 15.\nFolder: b\nFolders: none\n"
        "Files: one.py, three.py, two.py\nRead: b/two.py\n"
        "b/two.py:\ndef load(response):\n    cookies = response.cookies\n    return parse(cookies)"
    )
    observation, reward, terminated, _, info = env.step(env.admissible().index("id two.py"))
    assert observation.endswith("\nAnswer: b/two.py. That is right.")
    assert (reward, terminated, info["stop"]) == (1.0, True, StopReason.SUCCESS)


def test_a_wrong_answer_ends_the_episode(folder):
    env = make(folder, trees="natural", wrong_reward=-0.5)
    env.reset(options={"task": "test/b/two.py@natural"})
    observation, reward, terminated, _, info = env.step(env.admissible().index("id two.py"))
    assert observation.endswith("\nAnswer: two.py. That is wrong.")
    assert (reward, terminated, info["stop"], info["success"]) == (-0.5, True, StopReason.FAILURE, False)


def test_matches_are_the_lines_that_share_most_words(folder):
    env = make(folder, trees="natural", lines=2)
    env.reset(options={"task": "test/b/two.py@natural"})
    assert do(env, "cd b", "cat two.py").endswith(
        "b/two.py, 3 of 3 words:\ncookies = response.cookies\nreturn parse(cookies)"
    )
    assert do(env, "cat one.py").endswith("b/one.py, 0 of 3 words:")


def test_a_word_that_no_page_had_before_is_found():
    page = Page("one\ntwo zyxwvut\n\nzyxwvut", 1, 1)
    assert page.lines_with("zyxwvut") == [1, 3]
    assert Page("one", 1, 1).lines_with("qponmlk") == []


def test_a_second_cat_shows_the_next_page_and_then_the_first_again(folder):
    env = make(folder, trees="natural", shown="page", page=50)
    env.reset(options={"task": "test/b/two.py@natural"})
    do(env, "cd b")
    pages = [do(env, "cat two.py").partition("two.py, page ")[2] for _ in range(4)]
    assert [page[:7] for page in pages] == ["1 of 3:", "2 of 3:", "3 of 3:", "1 of 3:"]
    assert "".join(page[8:].strip() for page in pages[:3]).startswith("def load(response):cookies = response.cookies")
    assert env.describe()["notes"][env.admissible().index("cat two.py")] == "8 best"


@pytest.mark.parametrize("listing", [1, 2, 3, 50])
def test_a_searcher_that_has_read_something_answers_in_time(folder, listing):
    """Also where the answer stands on a later page of a listing, to which only `ls` leads."""
    own = {"root": str(folder / "test"), "question": "Who keeps the ledger of all unicorns?", "target": "a/d/two.py"}
    for horizon in range(2, 60):
        env = make(folder, trees="natural", listing=listing, horizon=horizon, **own)
        stop, _ = play(env, env.tasks("test")[0])
        assert stop is not StopReason.HORIZON or not env._memory.read


def test_a_folder_whose_listing_was_not_seen_to_its_end_is_not_done(folder):
    env = make(folder, trees="natural", listing=2)
    env.reset(options={"task": "test/b/two.py@natural"})
    do(env, "cd b", "cat one.py", "cat three.py", "cd ..")
    notes = dict(zip(env.admissible(), env.describe()["notes"], strict=True))
    assert notes["cd b"].startswith("1 unread")
    do(env, "cd b", "ls", "cat two.py", "cd ..")
    notes = dict(zip(env.admissible(), env.describe()["notes"], strict=True))
    assert notes["cd b"] == "done best"


@pytest.mark.parametrize("listing", [1, 2, 3, 4, 50])
def test_ls_goes_through_all_of_a_listing(folder, listing):
    env = make(folder, trees="natural", listing=listing)
    _, info = env.reset(options={"task": "test/b/two.py@natural"})
    seen, count = set(info["actions"]), -(-5 // listing)
    for _ in range(count - 1):
        do(env, "ls")
        seen |= {*env.admissible()}
    entries = {f"cd {name}" for name in "ab"} | {
        f"{verb} {n}.py" for verb in ("cat", "id") for n in ("one", "two", "three")
    }
    assert seen - {"ls"} == entries
    assert ("ls" in seen) == (count > 1)
    if count > 1:
        do(env, "ls")
        assert env.admissible() == info["actions"]


@given(st.data(), st.integers(0, 3), st.sampled_from([None, "depth 1"]))
@settings(max_examples=60, deadline=None)
def test_equal_seeds_give_equal_episodes(folder, data, seed, stage):
    env = make(folder, leave_out=0.5, train_trees=3)
    task = data.draw(st.sampled_from([task for split in ("train", "test") for task in env.tasks(split)]))
    options = {"stage": stage} if stage else {}
    first = list(walk(env, task, seed, **options))
    list(walk(env, env.tasks("train")[0], 9))
    assert list(walk(env, task, seed, **options)) == first
    assert list(walk(make(folder, leave_out=0.5, train_trees=3), task, seed, **options)) == first


@pytest.mark.parametrize("expert", ["searcher", "leaf-searcher", "shortest"])
def test_the_experts_find_what_is_there(folder, expert):
    env = make(folder, expert=expert, leave_out=0.5, train_trees=4, test_trees=4, horizon=60)
    for task in (task for split in ("train", "test") for task in env.tasks(split) if "ledger" in task):
        assert play(env, task)[0] is StopReason.SUCCESS
        assert play(env, task, stage="depth 1")[0] is StopReason.SUCCESS


@pytest.mark.parametrize("trees", ["d1F2D2,d2F2D1", "d1F3D1,d2F3D1", "d0F3D1,d1F3D1"])
@pytest.mark.parametrize("stage", [{}, {"stage": "depth 1"}])
def test_the_leaf_searcher_reads_files_of_the_targets_depth_alone(folder, trees, stage):
    """Which kind of tree it is, it sees: by the caps, or because nothing lies deeper."""
    env = make(folder, trees=trees, test_trees=4, horizon=60)
    for task in env.tasks("test"):
        depth = min(int(env.kind(task)[1]), 1 if stage else 9)
        _, info = env.reset(seed=0, options={"task": task, **stage})
        while "stop" not in info:
            folder_now = env.observe().split("Folder: ")[1].split("\n")[0]
            choice = env.expert()
            if info["actions"][choice].startswith("cat"):
                assert (0 if folder_now == "." else 1 + folder_now.count("/")) == depth
            *_, info = env.step(choice)
        assert "ledger" not in task or info["stop"] is StopReason.SUCCESS


def test_the_shortest_way_is_as_long_as_the_tree_is_deep(folder):
    env = make(folder, expert="shortest")
    for task in env.tasks("test"):
        depth = {"d1F2D2": 1, "d2F2D1": 2, "natural": 1 if "/b/" in task else 2}[env.kind(task)]
        assert play(env, task)[1] == depth + 2
        assert play(env, task, stage="depth 1")[1] == 3


def test_a_searcher_answers_before_time_is_up(folder):
    for horizon in range(2, 9):
        env = make(folder, horizon=horizon, expert="searcher")
        stops = [play(env, task)[0] for task in env.tasks("test")]
        assert StopReason.HORIZON not in stops or horizon < 3


def test_a_capped_tree_shows_no_more_than_its_caps(folder):
    env = make(folder, test_trees=5)
    for task in env.tasks("test"):
        if env.kind(task) != "natural":
            files, folders = (int(env.kind(task)[3]), int(env.kind(task)[5]))
            for _, actions in walk(env, task, 1):
                assert sum(action.startswith("cat ") for action in actions) <= files
                assert sum(action.startswith("cd ") and action != "cd .." for action in actions) <= folders


def test_trees_differ_by_number_and_only_train_trees_by_seed(folder):
    env = make(folder, test_trees=6, leave_out=0.5)
    drawn = {env.reset(options={"task": task})[0] for task in env.tasks("test") if task.startswith("test/b/two.py@d1")}
    assert len(drawn) > 1
    for task, varies in (("train/b/two.py@natural", True), ("test/b/two.py@natural", False)):
        assert (len({env.reset(seed=seed, options={"task": task})[0] for seed in range(20)}) > 1) == varies


def test_kinds_of_trees_are_equally_frequent_in_train_only(folder):
    """Three tasks lie one folder deep, two of them two folders deep."""
    env = make(folder, trees="d1F4D3,d2F3D2,natural", train_trees=4, test_trees=4)
    counts = {split: Counter(map(env.kind, env.tasks(split))) for split in SPLITS}
    assert counts["train"] == {"d1F4D3": 12, "d2F3D2": 12, "natural": 3}
    assert counts["valid"] == counts["test"] == {"d1F4D3": 12, "d2F3D2": 8, "natural": 3}


def test_nothing_that_is_told_depends_on_the_target(folder):
    """Two tasks of one tree and question: the same moves give the same texts, facts and experts, until the end."""
    env, other = make(folder, trees="natural"), make(folder, trees="natural")
    told = [[], []]
    for texts, world, target in ((told[0], env, "a/c/one.py"), (told[1], other, "b/two.py")):
        for observation, actions in walk(world, f"test/{target}@natural", 5):
            if world._playing:
                texts.append((observation, actions, world.describe(), world.expert_set()))
    assert told[0] == told[1] != []


def test_the_teacher_says_what_was_seen(folder):
    env = make(folder, trees="natural")
    env.reset(options={"task": "test/b/two.py@natural"})
    do(env, "cd b", "cat one.py", "cat two.py")
    facts = json.loads(json.dumps(env.describe()))
    assert env.teach(facts, "facts") == (
        "Read: b/one.py 0, b/two.py 8. Best: b/two.py. Unread here: three.py. Open folders: above."
    )
    assert env.teach(facts, "note") == "b/two.py 8, best. Next: id two.py."
    assert env.teach(facts, "next").endswith("above. Next: id two.py.")
    assert dict(zip(env.admissible(), facts["notes"], strict=True)) == {
        "cd ..": "4 unread",
        "cat one.py": "0",
        "cat three.py": "unread",
        "cat two.py": "8 best",
        "id one.py": "0",
        "id three.py": "unread",
        "id two.py": "8 best",
    }


def test_a_question_of_ones_own_is_the_only_test_task(folder):
    env = make(folder, root=str(folder / "test"), question="Where are cookies parsed?", target="b/two.py")
    (own,) = env.tasks("test")
    assert len(env.tasks("train")) > 1
    env.reset(options={"task": own})
    assert "cat one.py" in env.admissible()
    assert do(env, "cat one.py").endswith('one.py, 2 of 2 words:\n"""Parse cookies."""')  # docstrings are shown
    assert play(env, own)[0] in (StopReason.SUCCESS, StopReason.FAILURE)


def test_a_question_about_a_folder_that_has_changed_is_another_task(folder, tmp_path):
    shutil.copytree(folder / "test", tmp_path / "tree")

    def asked():
        for cached in (sources.repository_tree, sources.tree_digest):
            cached.cache_clear()  # as in another process
        return make(folder, root=f"{tmp_path}/tree", question="Where are cookies?", target="b/two.py").tasks("test")

    before = asked()
    assert asked() == before
    other = tmp_path / "tree/b/one.py"
    other.write_text(other.read_text().replace("cookies", "crumbs"))
    assert asked() != before


def test_ones_own_answer_may_lie_at_any_depth(folder):
    where = str(folder / "test")
    env = make(folder, trees="d1F2D2", root=where, question="Write the ledger.", target="a/d/two.py", horizon=30)
    assert play(env, env.tasks("test")[0])[0] is StopReason.SUCCESS


def test_nothing_is_rendered_before_reset(folder):
    env = make(folder, render_mode="ansi")
    with pytest.raises(EnvironmentContractError, match=r"render\(\) was called before reset"):
        env.render()
    observation, _ = env.reset(seed=0)
    assert env.render() == observation


def test_without_a_known_answer_none_is_called_right(folder):
    env = make(folder, root=str(folder / "test"), question="Where are cookies parsed?")
    env.reset(options={"task": "question@natural"})
    assert do(env, "id one.py").endswith("\nAnswer: one.py. Whether that is right was not told: no target is given.")
    with pytest.raises(EnvironmentContractError, match="cannot be measured without its answer"):
        env.panels()


@pytest.mark.parametrize(
    ("question", "seen"),
    [
        ("Où sont lus les cookies\u202f?", "Où sont lus les cookies ?"),
        ("کوکی\u200cها کجا خوانده می\u200cشوند؟", "کوکی ها کجا خوانده می شوند؟"),
        ("クッキーはどこ", "クッキーはどこ"),
        ("two\n lines", "two lines"),
    ],
)
def test_a_question_in_any_script_is_one_line(folder, question, seen):
    env = make(folder, root=str(folder / "test"), question=question)
    assert env.reset(seed=0)[0].startswith(f"Question: {seen}\n")


def test_a_folder_without_files_is_refused(folder, tmp_path):
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    (tmp_path / "empty" / ".git" / "HEAD").touch()
    with pytest.raises(EnvironmentContractError, match="There is no file to be found in"):
        make(folder, root=str(tmp_path), question="Where?")


def test_a_file_of_one_split_can_be_played(folder):
    lines = (folder / "tasks.jsonl").read_text().splitlines(keepends=True)
    only = folder / "only.jsonl"
    only.write_text("".join(line for line in lines if json.loads(line)["split"] == "test"))
    env = make(folder, tasks=str(only))
    assert play(env, env.tasks("test")[0])[0] in (StopReason.SUCCESS, StopReason.FAILURE)
    with pytest.raises(EnvironmentContractError, match="There are no train tasks"):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trees": "d1F0D3"}, "capped like 'd1F4D3'"),
        ({"trees": "d5F1D1"}, "none lies deep enough"),
        ({"expert": "oracle"}, "no expert 'oracle'"),
        ({"page": 0}, "page is 0"),
        ({"leave_out": 1.0}, "leave_out is 1.0"),
        ({"question": "Where?"}, "belong together"),
        ({"root": "nowhere", "question": "Where?"}, "nowhere"),
        ({"root": "~nobody-here", "question": "Where?"}, "no folder .*~nobody-here"),
        ({"root": ".", "question": {"Where": "is it"}}, "in quotes of its own"),
        ({"root": ".", "question": 404}, "question is 404; it is text"),
        ({"root": ".", "question": "\n"}, "can be shown"),
        ({"root": ".", "question": "Where?", "target": "no.py"}, "has no such file"),
        ({"tasks": "no.jsonl"}, "no.jsonl"),
    ],
)
def test_bad_options_are_one_message(folder, options, said):
    with pytest.raises(EnvironmentContractError, match=said) as raised:
        make(folder, **options).tasks("train")
    assert "\n" not in str(raised.value)


def test_a_target_that_has_changed_is_told(folder, tmp_path):
    text = (folder / "tasks.jsonl").read_text().replace(digest(ANSWER.encode()), "0" * 16)
    changed = folder / "changed.jsonl"
    changed.write_text(text)
    with pytest.raises(EnvironmentContractError, match="has changed"):
        env = make(folder, tasks=str(changed))
        env.reset(options={"task": env.tasks("test")[0]})


def test_of_equally_good_moves_a_rank_of_names_decides(folder):
    env, asked = make(folder, trees="d1F2D2"), []
    env.reset(seed=0, options={"task": env.tasks("test")[0]})
    moves = sorted(env.expert_set())
    assert len(moves) > 1

    def last(question: str, paths: Sequence[str]) -> np.ndarray:
        asked.append((question, list(paths)))
        return np.arange(len(paths))

    assert by_names(last)(env, env.admissible(), stream(0, "none")) == moves[-1]
    names = [env.admissible()[move].removeprefix("cd ").split("/")[0] for move in moves]
    assert asked == [(QUESTION, names)]


def test_a_model_ranks_names_on_the_command_line(folder, tmp_path, capsys):
    save_model(tiny_models.llama(), tiny_models.tokenizer(), tmp_path / "model")
    given = {"tasks": str(folder / "tasks.jsonl"), "trees": "d1F2D2", "horizons": "5"}
    baselines(**given, names_model=str(tmp_path / "model"))
    shown = capsys.readouterr().out
    assert "a model's view of names, whole tree in view" in shown
    assert "leaf-searcher, ties by a model's view of names" in shown
