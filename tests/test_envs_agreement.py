"""`check` and `run` share one contract: what one refuses the other does, with the same sentence."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY
from reflect_rl.config import parse_settings
from reflect_rl.envs import promises as p
from reflect_rl.envs.check import Finding, check
from reflect_rl.envs.registry import make
from reflect_rl.errors import EnvironmentContractError
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings

SMALLEST: dict[str, Any] = TINY | {
    "env.options": {},
    "collect.episodes": 8,
    "collect.perturb": 0.3,
    "annotate.teacher": "plain",
    "annotate.actions": 20,
    "annotate.reflections": 20,
    "prompt.max_tokens": 512,
    "reflector.max_new_tokens": 4,
    "reflector_sft.steps": 1,
    "policy_sft.steps": 1,
    "rl.iterations": 1,
    "rl.episodes": 8,
    "rl.curriculum": "mix",
    "evaluate.sampled_episodes": 1,
    **{f"{who}.model.width": 8 for who in ("reflector", "policy")},
    **{f"{who}.model.{size}": 1 for who in ("reflector", "policy") for size in ("layers", "heads")},
}


def settings(name: str, **overrides: Any) -> Settings:
    return parse_settings({}, SMALLEST | {"env.name": f"odd_worlds:{name}"} | overrides)


def findings(name: str) -> list[Finding]:
    return [finding for finding in check(lambda **options: make(f"odd_worlds:{name}", **options)) if not finding.ok]


REFUSED = [
    ("ExitsWhenMade", p.MADE, "SystemExit: no licence (odd_worlds.py, line "),
    ("ExitsInTasks", p.TASKS, "SystemExit: 0 (odd_worlds.py, line "),
    ("ExitsInPanels", p.PANELS, "panels() raised SystemExit: 0 (odd_worlds.py, line "),
    ("ExitsInKind", p.PANELS, "raised SystemExit: 0 (odd_worlds.py, line "),
    ("ExitsInBegin", p.MADE, "raised SystemExit: 0 (odd_worlds.py, line "),
    ("ExitsInStage", p.STAGES, "raised SystemExit: 0 (odd_worlds.py, line "),
    ("ExitsInAct", p.STEPS, "raised SystemExit: 0 (odd_worlds.py, line "),
    ("ExitsInObserve", p.STEPS, "raised SystemExit: 0 (odd_worlds.py, line "),
    ("ExitsInExpert", p.EXPERT, "expert() raised SystemExit: 0 (odd_worlds.py, line "),
    ("ExitsInDescribe", p.TEACHER, "describe() raised SystemExit: 0 (odd_worlds.py, line "),
    ("ExitsInTeach", p.TEACHER, "'plain') raised SystemExit: 0 (odd_worlds.py, line "),
    ("ExitsInClose", p.CLOSES, "close() raised SystemExit: 0 (odd_worlds.py, line "),
    ("Cancelled", p.STEPS, "raised _CancelledError: the loop is closed"),
    ("CannotBeClosed", p.CLOSES, "close() raised OSError: the socket is gone"),
    ("LoneInObservation", p.OBSERVATIONS, "no Unicode text (a lone surrogate at character "),
    ("LoneInAction", p.ACTIONS, "the action 'caf\\udce9', which is no Unicode text (a lone surrogate at character 3)"),
    ("LoneInTask", p.TASKS, "no Unicode text"),
    ("LoneInTaskText", p.DECLARED, "task_text is 'caf\\udce9', which is no Unicode text"),
    ("LoneInStage", p.DECLARED, "stages is"),
    ("LoneInFacts", p.TEACHER, "surrogates not allowed"),
    ("LoneInKey", p.TEACHER, "surrogates not allowed"),
    ("LoneInTeacher", p.TEACHER, "'plain') gave 'caf\\udce9', which is no Unicode text"),
    ("LoneInKind", p.PANELS, "gave 'caf\\udce9', which is no Unicode text"),
    ("ObservationOfBytes", p.OBSERVATIONS, "gave the observation b'Floor 0, wanted "),
    ("EmptyAtTheEnd", p.OBSERVATIONS, "gave the observation '', which is empty"),
    ("TaskTextIsNone", p.DECLARED, "task_text is None, not text"),
    ("NoActionThere", p.ACTIONS, 'info["actions"] as (), not a non-empty tuple of strings'),
    ("ActionTwice", p.ACTIONS, "('up', 'up'), which repeats itself"),
    ("ActionEmpty", p.ACTIONS, "('up', ''), not a non-empty tuple of strings, none of them empty"),
    ("ActionsInAList", p.ACTIONS, "['up', 'down'], not a non-empty tuple"),
    ("ActionIsNoText", p.ACTIONS, "('up', 1), not a non-empty tuple of strings"),
    ("InfoIsNone", p.ACTIONS, 'no info["actions"]'),
    ("PaysText", p.REWARDS, "the reward '0.5', not a finite number"),
    ("PaysAnArray", p.REWARDS, "the reward array(["),
    ("PaysNan", p.REWARDS, "the reward nan, not a finite number"),
    ("PaysBeyondFloats", p.REWARDS, "not a finite number"),
    ("PaysNothing", p.REWARDS, "the reward None, not a finite number"),
    ("BothEnds", p.ENDINGS, "terminated True, truncated True"),
    ("FlagsAreNone", p.ENDINGS, "not two bools"),
    ("SuccessIsANumber", p.ENDINGS, 'info["success"] 1, not with a StopReason and a bool'),
    ("StopIsAText", p.ENDINGS, "info[\"stop\"] 'success' and"),
    ("TeachersIsAText", p.DECLARED, "teachers is 'plain', not a tuple of names"),
    ("StagesIsAText", p.DECLARED, "stages is 'one floor', not a tuple of names"),
    ("TeacherTwice", p.DECLARED, "names 'plain' twice"),
    ("HorizonIsAFloat", p.DECLARED, "not a number of steps"),
    ("HorizonRaises", p.DECLARED, "ZeroDivisionError: no steps"),
    ("HorizonOfItsOwn", p.HORIZON, "but its horizon is 20"),
    ("HorizonGrows", p.HORIZON, "became "),
    ("NoHorizon", p.HORIZON, "no option 'horizon'"),
    ("TaskInTwoSplits", p.TASKS, "the task 'floor 2' is in train and again in valid"),
    ("TaskIsANumber", p.TASKS, "tasks('train') gave (1, 2) with 1, not text"),
    ("TasksIsAText", p.TASKS, "tasks('train') gave 'floor 2', not a tuple of at least one name"),
    ("OtherTask", p.OPTIONS, "reset() says 'another'"),
    ("PanelsInAList", p.PANELS, 'has no panel "test"'),
    ("NoValidPanel", p.PANELS, 'has no panel "valid"'),
    ("EmptyPanel", p.PANELS, "'hard' as (), not a tuple of at least one name"),
    ("PanelOfAnUnknownTask", p.PANELS, "no task 'floor 9'"),
    ("KindIsNone", p.PANELS, "gave None, not text"),
    ("KindRaises", p.PANELS, "raised KeyError: "),
    ("ExpertInAnArray", p.EXPERT, "expert() gave array([0]), not an index from 0 to 1"),
    ("ExpertIsATruth", p.EXPERT, "expert() gave np.False_, not an index from 0 to 1"),
    ("ExpertIsAFloat", p.EXPERT, "expert() gave 0.0, not an index from 0 to 1"),
    ("ExpertStops", p.EXPERT, "expert() raised StopIteration: "),
    ("ExpertSetIsANumber", p.EXPERT, "expert_set() gave 0, not a set of indices from 0 to 1"),
    ("ExpertSetBeyond", p.EXPERT, "expert_set() gave frozenset({0, 2}), not a set of indices from 0 to 1"),
    ("ExpertOnlySometimes", p.EXPERT, "at the start of"),
    ("FactsAreAList", p.TEACHER, "describe() gave [1], not a mapping"),
    ("FactsAreNan", p.TEACHER, "which is no JSON (Out of range float values"),
    ("FactsInCircles", p.TEACHER, "which is no JSON (Circular reference"),
    ("FactsInASet", p.TEACHER, "which is no JSON (it holds a set"),
    ("FactsByNumber", p.TEACHER, "raised KeyError: 1"),
    ("TeacherIsSilent", p.TEACHER, "which says nothing"),
    ("TeacherOfBytes", p.TEACHER, "gave b'Up.', not text"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "promise", "said"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_what_check_finds_a_run_refuses_with_the_same_sentence(
    name: str, promise: str, said: str, tmp_path: Path
) -> None:
    found = findings(name)
    assert [finding.promise for finding in found] == [promise], [str(finding) for finding in found]
    assert said in found[0].detail
    assert found[0].mend == p.MENDS[promise]
    with pytest.raises(EnvironmentContractError) as refused:
        run_pipeline(settings(name), tmp_path / "run")
    assert said in str(refused.value)


SOUND = (
    "Stairs", "Numpy", "PaysDecimals", "PaysFractions", "PaysTruths", "PaysArrayOfNoAxes", "TeacherWithSpace",
    "TupleFacts",
    "OldSeeds", "GlobalSeeds", "Bare",
)  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_what_check_passes_a_run_plays(name: str, tmp_path: Path) -> None:
    assert [str(finding) for finding in findings(name)] == []
    run = run_pipeline(settings(name), tmp_path / "run")
    results = run.read_json("results.json")
    assert results["panels"]["test"]["greedy"]["episodes"] == len(make(f"odd_worlds:{name}").tasks("test"))


def test_numpys_types_are_written_as_if_they_were_pythons(tmp_path: Path) -> None:
    odd, plain = (run_pipeline(settings(name), tmp_path / name, until="annotate") for name in ("Numpy", "Stairs"))
    for name in ("episodes.jsonl", "reflections.jsonl"):
        rewards = {"-0.10000000149011612": "-0.1"}  # float32
        text = (odd / name).read_text().replace(', "there": false, "all": [0, 1]', "")
        for given, meant in rewards.items():
            text = text.replace(given, meant)
        assert text == (plain / name).read_text()


def test_a_teachers_text_is_taken_without_the_white_space_around_it(tmp_path: Path) -> None:
    spaced, plain = (
        run_pipeline(settings(name), tmp_path / name, until="annotate") for name in ("TeacherWithSpace", "Stairs")
    )
    assert (spaced / "reflections.jsonl").read_bytes() == (plain / "reflections.jsonl").read_bytes()


@pytest.mark.parametrize("kind", ["local", "scripted"])
def test_a_teacher_sees_the_same_facts_when_it_labels_and_when_it_acts(kind: str, tmp_path: Path) -> None:
    run = run_pipeline(settings("TupleFacts", **{"reflector.kind": kind}), tmp_path / "run")
    texts = [json.loads(line)["text"] for line in (run / "reflections.jsonl").read_text().splitlines()]
    assert {text.split()[0] for text in texts} == {"list"}
    if kind == "scripted":
        for line in (run / "evaluation.jsonl").read_text().splitlines():
            assert {step["reflection"].split()[0] for step in json.loads(line)["steps"]} == {"list"}


def test_a_world_that_changes_the_folder_is_played_and_the_files_land_where_they_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"changed the current folder, which was set back"):
        run = run_pipeline(settings("ChangesFolder"), "run", store="store")
    assert Path.cwd() == tmp_path
    assert (tmp_path / "run" / "results.json").is_file()
    assert run.path == Path("run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert findings("ChangesFolder") == []


def test_a_module_that_ends_the_process_when_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script_world.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentContractError, match=r"script_world could not be imported: SystemExit: 3 .*line 2"):
        make("script_world:World")
    assert "script_world" not in sys.modules


def test_an_interrupt_in_a_world_is_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import odd_worlds

    def interrupted(self: object, choice: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(odd_worlds.Stairs, "act", interrupted)
    with pytest.raises(KeyboardInterrupt):
        findings("Stairs")
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(settings("Stairs"), tmp_path / "run")


def test_broken_promises_survive_the_way_between_processes() -> None:
    with pytest.raises(p.BrokenPromiseError) as caught:
        make("odd_worlds:TaskTextIsNone")
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (str(error), error.promise, error.seen) == (str(caught.value), caught.value.promise, caught.value.seen)


def test_the_run_folder_of_a_refused_world_can_go_on_when_it_is_mended(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentContractError):
        run_pipeline(settings("ExitsInTeach"), tmp_path / "run")
    assert (RunFolder(tmp_path / "run") / "episodes.jsonl").is_file()
