"""What the pipeline promises: done stages are skipped, stale ones run again and say why, a killed one continues."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from reflect_rl.config import load_settings, parse_settings
from reflect_rl.errors import ModelError, RunFolderError, SettingsError
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.pipeline.runner import run_stages
from reflect_rl.progress import Progress
from reflect_rl.runs import manifest as manifest_module
from reflect_rl.runs.folder import RunFolder
from reflect_rl.runs.manifest import read_manifest, total_seconds
from reflect_rl.runs.stages import STAGES
from reflect_rl.runs.trained import read_config
from reflect_rl.settings import Settings
from toy_stages import TOYS, Heard, Toy, forgetful, go, killed_in_training


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_the_guard_is_refused_under_a_launcher(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="second arm, which 2 processes cannot share"):
        go(out, guard=True)
    assert not out.exists()


def test_a_finished_run_does_nothing_when_run_again(out: Path) -> None:
    assert go(out) == ["gather", "train", "judge"]
    assert go(out) == []


def test_only_what_a_setting_touches_runs_again_and_says_so(out: Path) -> None:
    go(out)
    heard = Heard()
    assert go(out, heard=heard, rl__lr=0.25) == ["train", "judge"]
    assert "train: runs again (rl.lr: 0.0005 -> 0.25)" in heard.said
    assert "judge: runs again (policy changed)" in heard.said
    assert go(out, heard=heard, rl__lr=0.25, evaluate__shown_episodes=3) == ["judge"]
    assert read_config(RunFolder(out)).evaluate.shown_episodes == 3


def test_a_file_that_the_world_reads_is_an_input(out: Path, tmp_path: Path) -> None:
    stages = [Toy("gather", ("env.options",), outputs=("episodes.jsonl",)), *TOYS[1:]]
    file, other = tmp_path / "tasks.jsonl", tmp_path / "other.jsonl"
    file.write_text("one")
    options = {"tasks": str(file), "trees": "d1F4D3", "odd": "\0", "root": str(tmp_path), "long": "x" * 5000}
    listed = tmp_path / "listed.txt"
    listed.write_text("one")
    options["more"] = [{"files": [5, str(listed)]}]
    heard = Heard()
    assert go(out, stages, heard, env__options=options) == ["gather", "train", "judge"]
    assert go(out, stages, heard, env__options=options) == []
    file.write_text("two")
    assert go(out, stages, heard, env__options=options) == ["gather"]
    assert "gather: runs again (env.options.tasks changed)" in heard.said
    listed.write_text("two")
    assert go(out, stages, heard, env__options=options) == ["gather"]
    assert "gather: runs again (env.options.more.0.files.1 changed)" in heard.said
    heard = Heard()
    file.rename(other)
    assert go(out, stages, heard, env__options=options) == ["gather"]
    assert "gather: runs again (env.options.tasks changed)" in heard.said


def test_an_edited_world_is_told_once_and_what_was_played_is_kept(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [
        Toy(stage.name, (*stage.settings, "env.name"), stage.inputs, stage.outputs, does=stage.does) for stage in TOYS
    ]
    file = tmp_path / "edited_world.py"
    file.write_text("from corridor import Corridor\n\nclass World(Corridor):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    heard = Heard()
    assert go(out, stages, heard, env__name="edited_world:World") == ["gather", "train", "judge"]
    assert go(out, stages, heard, env__name="edited_world:World") == []
    assert "warning" not in heard.text
    file.write_text(file.read_text() + "    task_text = 'Run.'\n")
    assert go(out, stages, heard, env__name="edited_world:World") == []
    assert heard.text.count("warning") == 1
    assert "The file of edited_world:World was edited since gather ran" in heard.text


def test_a_finished_run_needs_its_world_no_more(out: Path) -> None:
    assert go(out, env__name="nowhere:World") == ["gather", "train", "judge"]
    assert go(out, env__name="nowhere:World") == []


def test_who_labels_is_no_reason_to_refuse_a_run(out: Path) -> None:
    """Collecting depends on it where the expert knows no way; it runs again, and mostly gives the same."""
    stages = [Toy("gather", (*TOYS[0].settings, "annotate.actions_by"), outputs=TOYS[0].outputs), *TOYS[1:]]
    go(out, stages)
    teacher = {"annotate__teacher": "openai", "annotate__actions_by": "teacher", "teacher__model": "m"}
    assert go(out, stages, **teacher) == ["gather"]


def test_files_in_lists_that_an_earlier_version_did_not_record_change_nothing(out: Path, tmp_path: Path) -> None:
    stages = [Toy("gather", ("env.options",), outputs=("episodes.jsonl",)), *TOYS[1:]]
    (tmp_path / "listed.txt").write_text("one")
    options = {"files": [str(tmp_path / "listed.txt")]}
    go(out, stages, env__options=options)
    manifest = json.loads((out / "manifests/gather.json").read_text())
    assert manifest["inputs"].pop("env.options.files.0")
    (out / "manifests/gather.json").write_text(json.dumps(manifest | {"key": "of then"}))
    assert go(out, stages, env__options=options) == []


def test_settings_that_an_earlier_version_did_not_record_change_nothing(out: Path) -> None:
    go(out)
    longer = [
        Toy(stage.name, (*stage.settings, "annotate.order"), stage.inputs, stage.outputs, does=stage.does)
        for stage in TOYS
    ]
    assert go(out, longer) == []
    assert go(out, longer, rl__lr=0.25) == ["train", "judge"]
    heard = Heard()
    assert go(out, longer, heard, rl__lr=0.25, annotate__order="states") == ["gather", "train", "judge"]
    assert "gather: runs again (annotate.order: auto -> states)" in heard.said
    assert "train: runs again (annotate.order: auto -> states)" in heard.said


def test_a_stage_that_writes_the_same_again_leaves_the_later_ones_done(out: Path) -> None:
    go(out)
    assert go(out, only=("gather",), force=True) == ["gather"]
    assert go(out) == []


def test_settings_that_leave_nothing_to_keep_are_refused(out: Path) -> None:
    go(out)
    with pytest.raises(RunFolderError, match=r"other settings \(collect\.episodes: 600 -> 7\).*Choose another folder"):
        go(out, collect__episodes=7)
    assert read_config(RunFolder(out)).collect.episodes == 600
    assert go(out) == []
    assert go(out, only=("gather",), collect__episodes=7) == ["gather"]  # but one may ask for it


def test_a_config_of_an_earlier_version_was_not_changed_by_hand(out: Path) -> None:
    """It lacks the settings that came later."""
    go(out)
    lines = (out / "config.yaml").read_text().splitlines(keepends=True)
    (out / "config.yaml").write_text("".join(line for line in lines if not line.startswith("  perturb:")))
    heard = Heard()
    go(out, heard=heard, rl__lr=0.25)
    assert "by hand" not in heard.text
    with (out / "config.yaml").open("a") as file:
        file.write("# mine\n")
    go(out, heard=heard, rl__lr=0.5)
    assert "config.yaml was changed by hand; it is kept as config.yaml.edited" in heard.text


@pytest.mark.parametrize(
    ("player", "source", "until", "said"),
    [
        ("policy", "./no/such/model", "sft_policy", r"There is no model folder \./no/such/model"),
        ("reflector", "package:no_such_package", "sft_reflector", "no package no_such_package is installed"),
    ],
)
def test_a_model_that_is_not_there_is_missed_before_anything_runs(
    out: Path, player: str, source: str, until: str, said: str
) -> None:
    settings = load_settings("taxi", {f"{player}.model.source": source})
    with pytest.raises(ModelError, match=said):
        run_stages(settings, out, Progress(), {}.__getitem__, until=until)
    assert not out.exists()


def test_a_removed_output_is_made_again(out: Path) -> None:
    go(out)
    shutil.rmtree(out / "policy")
    heard = Heard()
    assert go(out, heard=heard) == ["train"]
    assert "train: runs again (policy was changed or removed since)" in heard.said


def test_an_edited_output_is_made_again_and_the_edit_is_kept(out: Path) -> None:
    go(out)
    original = (out / "episodes.jsonl").read_text()
    (out / "episodes.jsonl").write_text("mine\n")
    heard = Heard()
    assert go(out, heard=heard) == ["gather"]
    assert (out / "episodes.jsonl").read_text() == original
    assert (out / "episodes.jsonl.edited").read_text() == "mine\n"
    assert "kept as episodes.jsonl.edited" in heard.text


def test_a_single_stage_uses_the_files_that_are_there(out: Path) -> None:
    go(out)
    (out / "episodes.jsonl").write_text('{"episode": 0}\n')
    assert go(out, only=("train",)) == ["train"]
    assert (out / "episodes.jsonl").read_text() == '{"episode": 0}\n'


def test_a_truncated_file_stops_the_stage_that_reads_it(out: Path) -> None:
    go(out)
    cut = (out / "episodes.jsonl").read_text()[:-4]
    (out / "episodes.jsonl").write_text(cut)
    with pytest.raises(RunFolderError, match=r"episodes\.jsonl is damaged at line 600"):
        go(out, only=("train",))
    assert (out / "episodes.jsonl").read_text() == cut


@pytest.mark.parametrize("content", ["", "{}", '{"stage": "train"}', "[]", '{"unknown": 1}'])
def test_a_damaged_manifest_means_not_done(out: Path, content: str) -> None:
    go(out)
    (out / "manifests/train.json").write_text(content)
    assert go(out) == ["train"]


def test_another_library_version_runs_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(out)
    monkeypatch.setattr(manifest_module, "__version__", "99.0")
    heard = Heard()
    assert go(out, heard=heard) == ["gather", "train", "judge"]
    assert "this is 99.0" in heard.text


def test_a_stage_without_its_input_says_which_file(out: Path) -> None:
    go(out, until="gather")
    with pytest.raises(RunFolderError, match=r"judge needs .*policy, which does not exist"):
        go(out, only=("judge",))


def test_a_stage_that_fails_is_not_done(out: Path) -> None:
    broken = (*TOYS[:2], replace(TOYS[2], does=forgetful))
    with pytest.raises(RunFolderError, match=r"ended without writing .*results\.json"):
        go(out, broken)
    assert go(out) == ["judge"]


def test_settings_that_a_stage_refuses_are_not_kept(out: Path) -> None:
    go(out)
    broken = (TOYS[0], replace(TOYS[1], does=forgetful), TOYS[2])
    with pytest.raises(RunFolderError, match="ended without writing"):
        go(out, broken, rl__lr=0.25)
    assert read_config(RunFolder(out)).rl.lr == parse_settings({}).rl.lr
    assert go(out) == []


def test_settings_that_an_earlier_stage_has_used_stay_when_a_later_one_refuses(out: Path) -> None:
    broken = (*TOYS[:2], replace(TOYS[2], does=forgetful))
    go(out)
    with pytest.raises(RunFolderError, match="ended without writing"):
        go(out, broken, rl__lr=0.25)
    assert read_config(RunFolder(out)).rl.lr == 0.25


def test_an_unknown_stage_is_refused_with_the_known_ones(out: Path) -> None:
    with pytest.raises(RunFolderError, match="no stage 'trian'; the stages are gather, train, judge"):
        go(out, until="trian")


def test_a_folder_with_other_things_is_refused(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match=r"is no run folder: .* thesis\.tex"):
        go(out)
    assert [path.name for path in out.iterdir() if path.name[0] != "."] == ["thesis.tex"]


def test_a_manifest_says_what_was_made_from_what(out: Path) -> None:
    go(out)
    run = RunFolder(out)
    found = read_manifest(run, TOYS[1])
    assert found is not None
    assert found.inputs == {"episodes.jsonl": run.hash("episodes.jsonl")}
    assert found.outputs == {"policy": run.hash("policy")}
    assert found.settings["rl.lr"] == 0.0005
    assert {"python", "torch", "transformers", "reflect_rl"} <= set(found.versions)
    assert set(total_seconds(run)) == {"gather", "train", "judge"}


def test_a_run_killed_in_a_stage_continues_and_ends_the_same(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    go(whole)
    killed_in_training(killed)
    heard = Heard()
    assert go(killed, heard=heard) == ["train", "judge"]
    assert "train: continues" in heard.said
    for name in ("episodes.jsonl", "policy", "results.json"):
        assert RunFolder(killed).hash(name) == RunFolder(whole).hash(name)
    assert not (killed / "checkpoints/train").exists()


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    fresh, killed = tmp_path / "fresh", tmp_path / "killed"
    go(fresh, rl__lr=0.25)
    killed_in_training(killed)
    heard = Heard()
    assert go(killed, heard=heard, rl__lr=0.25) == ["train", "judge"]
    assert "train: continues" not in heard.said
    assert RunFolder(killed).hash("policy") == RunFolder(fresh).hash("policy")


def test_runs_share_the_stages_they_have_in_common(tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert go(tmp_path / "a", store=store) == ["gather", "train", "judge"]
    heard = Heard()
    assert go(tmp_path / "b", heard=heard, store=store, rl__lr=0.25) == ["train", "judge"]
    assert "gather: taken from another run" in heard.said
    go(tmp_path / "c", store=store, rl__lr=0.25)
    assert not (tmp_path / "c/.calls").exists()
    for name in ("episodes.jsonl", "policy", "results.json"):
        assert RunFolder(tmp_path / "c").hash(name) == RunFolder(tmp_path / "b").hash(name)
    assert go(tmp_path / "c", rl__lr=0.25) == []  # what was taken counts as done


def test_a_damaged_store_entry_is_not_used(tmp_path: Path) -> None:
    store = tmp_path / "store"
    go(tmp_path / "a", store=store)
    next(store.glob("gather/*/episodes.jsonl")).write_text("damaged")
    assert go(tmp_path / "b", store=store) == ["gather"]
    assert (next(store.glob("gather/*.damaged")) / "episodes.jsonl").read_text() == "damaged"
    assert go(tmp_path / "c", store=store) == []


def _share(folder: str) -> None:
    go(Path(folder), store=Path(folder).parent / "store")


def test_processes_that_put_the_same_entry_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in "abcd"]
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        list(pool.map(_share, folders))
    assert len({RunFolder(folder).hash("policy") for folder in folders}) == 1
    entries = list((tmp_path / "store/train").iterdir())
    assert len(entries) == 1
    assert entries[0].name[0] != "."


def test_a_store_that_cannot_be_written_is_announced(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file, not a folder")
    heard = Heard()
    assert go(tmp_path / "a", heard=heard, store=tmp_path / "store") == ["gather", "train", "judge"]
    assert "warning: gather could not be shared with other runs" in heard.text


def test_the_real_stages_are_wired_to_each_other() -> None:
    """Every input is an output of an earlier stage, and every setting that a stage names exists."""
    made: set[str] = set()
    known = set(manifest_module.flat(Settings()))
    for stage in STAGES:
        assert set(stage.inputs) <= made
        assert set(stage.optional) <= {*stage.inputs, *stage.outputs}
        for section in stage.settings:
            assert manifest_module.select(dict.fromkeys(known), (section,)), section
        made |= set(stage.outputs)


def test_the_environment_of_the_process_is_left_alone(out: Path) -> None:
    before, folder = dict(os.environ), Path.cwd()
    go(out)
    assert dict(os.environ) == before
    assert Path.cwd() == folder


def test_a_config_written_by_hand_is_never_overwritten(tmp_path: Path) -> None:
    by_hand = "# my notes\nenv: {name: 'corridor:Corridor'}\ncollect: {episodes: 3}\nannotate: {teacher: way}\n"
    (tmp_path / "config.yaml").write_text(by_hand)
    run_pipeline(tmp_path / "config.yaml", tmp_path, until="collect")
    assert (tmp_path / "config.yaml").read_text() == by_hand
    later = load_settings(tmp_path / "config.yaml", {"annotate.actions": 7})
    run_pipeline(later, tmp_path, until="collect")
    assert load_settings(tmp_path / "config.yaml") == later
    assert (tmp_path / "config.yaml.edited").read_text() == by_hand
