"""Export a finished agent into a folder of its own, with a model card, and optionally to the Hugging Face hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from reflect_rl.config import parse_settings
from reflect_rl.core_yaml import dump_yaml
from reflect_rl.evaluation.card import ExportedModel, holds_path, model_card
from reflect_rl.lm import adapters
from reflect_rl.lm.merging import load_merged
from reflect_rl.lm.pretrained import save_model
from reflect_rl.players.hub import CARD, PLAYER_FILES, PLAYERS, RESULTS, check_repository, is_local, public_name, upload
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import CONFIG, RunFolder
from reflect_rl.runs.kept_arm import finished_agent
from reflect_rl.runs.outputs import PublishedFolder, claim_folder, output_folder
from reflect_rl.runs.trained import is_exported, is_measured, measured_settings
from reflect_rl.settings import ModelSettings, Settings


def export_agent(
    folder: Path, to: str | Path, progress: Progress, *, merge: bool = False, push: str | None = None
) -> Path:
    """Copy the finished agent of a run folder into the folder `to`; return that folder.

    An earlier export in it is replaced; what was edited there since is kept as NAME.edited. merge: merge LoRA adapters
    into their bases, in float32. push: also upload the export to this repository (user/name) of the Hugging Face hub.

    Raises RunFolderError (no finished agent, the run is in use, disk full), OutputError (`to` holds something else, or
    the upload failed) and ModelError (the adapters cannot be merged).
    """
    if push is not None:
        check_repository(push)
    out = PublishedFolder(output_folder(to, "--to", [folder]), progress)
    run = RunFolder(folder)
    agent, settings = finished_agent(folder, progress)
    claim_folder(out.path, "exported agent", option="--to")
    with run.lock_to_read(progress), out.lock(progress):
        out.tidy()
        _write(run, agent, settings, out, merge, push or out.path.resolve().name, progress)
    if push is not None:
        progress.say(f"{out.path} was uploaded: {upload(out.path, push)}")
    return out.path


def _write(
    run: RunFolder,
    agent: RunFolder,
    settings: Settings,
    out: PublishedFolder,
    merge: bool,
    name: str,
    progress: Progress,
) -> None:
    """Write everything as drafts, then put it into place, config.yaml last: without it a folder holds no agent."""
    measured = is_measured(run)
    if not measured and (run / RESULTS).is_file():
        progress.warn(f"{run / RESULTS} is not of this agent, or was changed: it is left out. Evaluate the run again.")
    with ExitStack() as drafts:
        config = drafts.enter_context(out.replacing(CONFIG))
        models = {}
        for player in _players(settings):
            draft = drafts.enter_context(out.replacing(player))
            models[player] = _model(agent, player, draft, getattr(settings, player).model, merge, progress)
        text = _card(run, name, settings, models, measured)
        drafts.enter_context(out.replacing(CARD)).write_text(text, encoding="utf-8")
        if measured:
            shutil.copyfile(run / RESULTS, drafts.enter_context(out.replacing(RESULTS)))
        exported = _as_exported(settings, models)
        config.write_text(dump_yaml(exported.model_dump(mode="json")), encoding="utf-8")
        for former in {CONFIG, RESULTS, *PLAYERS} - models.keys():
            out.remove(former)
    _warn_of_paths(settings, models, progress)


def _model(
    agent: RunFolder, player: str, draft: Path, trained: ModelSettings, merge: bool, progress: Progress
) -> ExportedModel:
    """Copy the folder of a player's model, or merge its adapters, if it has any."""
    source, model = agent / player, _exported_model(agent, player, draft, trained, merge)
    left_out = (adapters.CONFIG, adapters.WEIGHTS) if model.state == "merged" else ()
    draft.mkdir()
    for file in (file for pattern in PLAYER_FILES for file in source.glob(pattern)):
        if file.name not in left_out:
            shutil.copyfile(file, draft / file.name)
    if model.state == "merged":
        progress.say(f"{player}: its adapters are merged into their base")
        save_model(*load_merged(source, trained), draft)
    return model


def _exported_model(
    agent: RunFolder, player: str, folder: Path, trained: ModelSettings, merge: bool = False
) -> ExportedModel:
    """What `folder` holds of a player's model, or will hold."""
    adapted = (agent / player / adapters.CONFIG).is_file()
    base = agent.read_json(f"{player}/{adapters.CONFIG}", _base) if adapted else trained.source
    return ExportedModel(folder, base, "full" if not adapted else "merged" if merge else "adapters", trained)


def _players(settings: Settings) -> tuple[str, ...]:
    """The players with a model."""
    return PLAYERS if settings.reflector.kind == "local" else PLAYERS[:1]


def _card(run: RunFolder, name: str, settings: Settings, models: Mapping[str, ExportedModel], measured: bool) -> str:
    world = measured_settings(run, Progress()).env if measured else settings.env
    trained = _without_folders(settings)

    def card(results: Any) -> str:
        return model_card(name, trained, models, results, world)

    return run.read_json(RESULTS, card) if measured else card(None)


def agent_card(folder: Path) -> str:
    """The model card of the finished agent in a run folder, or of an exported one. Raises RunFolderError."""
    run = RunFolder(folder)
    if is_exported(run) and (run / CARD).is_file():
        return (run / CARD).read_text(encoding="utf-8")
    agent, settings = finished_agent(folder, Progress())
    models = {
        player: _exported_model(agent, player, agent / player, getattr(settings, player).model)
        for player in _players(settings)
    }
    return _card(run, folder.resolve().name, settings, models, is_measured(run))


def _base(adapter_config: Any) -> str:
    return adapter_config["base_model_name_or_path"]


def _without_folders(settings: Settings) -> Settings:
    """The settings without the files of this machine: models by their names, no own episodes, no file of prices."""
    sources = {f"{player}.model.source": getattr(settings, player).model.source for player in PLAYERS}
    names = {key: public_name(source) for key, source in sources.items()}
    paid = {f"{who}.{key}": None for who in ("teacher", "reflector.server") for key in ("prices", "budget_usd")}
    return parse_settings(settings.model_dump(), names | paid | {"collect.file": ""})


def _as_exported(settings: Settings, models: Mapping[str, ExportedModel]) -> Settings:
    """The settings for config.yaml: those of training, except that merged models have no adapters and 32 bits.

    Models in the folder are named without the folders of this machine. A reflector that was not trained is not in it.
    """
    merged = [player for player, model in models.items() if model.state == "merged"]
    changed = {f"{player}.model.{key}": value for player in merged for key, value in (("lora_rank", 0), ("bits", 32))}
    kept = {} if "reflector" in models else {"reflector.model.source": settings.reflector.model.source}
    return parse_settings(_without_folders(settings).model_dump(), changed | kept)


def _warn_of_paths(settings: Settings, models: Mapping[str, ExportedModel], progress: Progress) -> None:
    """Warn of paths that another machine lacks."""
    adapted = {player: model.base for player, model in models.items() if model.state == "adapters"}
    if local := {player: base for player, base in adapted.items() if is_local(base)}:
        progress.warn(
            f"The {' and the '.join(local)} are LoRA adapters, which need their base in the folder "
            f"{' and '.join(dict.fromkeys(local.values()))} on every machine. For an agent that needs no base, export "
            f"with --merge; or train from a name on the hub."
        )
    asked = settings.reflector.model.source
    if settings.reflector.kind == "prompted" and not settings.reflector.is_served and is_local(asked):
        progress.warn(f"{CONFIG} names a folder of this machine as the reflector's model, {asked}: it has to be there.")
    if paths := [key for key, value in settings.env.options.items() if holds_path(value)]:
        progress.warn(f"{CONFIG} names a path of this machine as env.options.{paths[0]}: change it on another one.")
