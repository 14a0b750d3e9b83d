"""Commands that show something and train nothing: worlds, recipes, settings, prompts, episodes, broken promises."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter, validators

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import InputPath, Overrides, Seed, env_options
from reflect_rl.errors import SettingsError


def play(
    env: str,
    /,
    *,
    agent: InputPath | None = None,
    task: str | None = None,
    seed: Seed = 0,
    overrides: Overrides,
) -> None:
    """Play a world by hand, or watch a trained agent. Options of the world are given as --env.options.NAME.

    For example:

    - `reflect-rl play taxi`
    - `reflect-rl play taxi --agent runs/taxi`
    - `reflect-rl play autoexplore --env.options.root . --env.options.question "Where are cookies parsed?"`

    Parameters
    ----------
    env
        The name of a world (see `reflect-rl envs`), or module:Class for your own.
    agent
        A finished run folder, an exported agent, or one on the Hugging Face hub (user/name): it acts, in the world
        with the horizon and options that it was trained with.
    task
        The task to play; a random one by default.
    seed
        Seed of the random task and of the world's random numbers.
    """
    from reflect_rl.envs.registry import load, make
    from reflect_rl.evaluation.play import play as step_by_step

    options = env_options("play", overrides)
    if agent is None:
        step_by_step(make(env, **options), input, print, task=task, seed=seed)
        return
    from reflect_rl.lm.torch_setup import torch_set_up
    from reflect_rl.players.agent import Agent

    player = Agent.load(agent, Bars())
    own = player.settings.env.name
    if load(env) is not load(own):
        raise SettingsError(f"{agent} was trained in {own}, not in {env}. Try: reflect-rl play {own} --agent {agent}")
    world = make(env, **{**player.settings.env.arguments, **options})
    with torch_set_up(player.settings.compute):  # as in evaluation
        step_by_step(world, input, print, agent=player, task=task, seed=seed)


def prompt(
    recipe: str,
    /,
    *,
    model: str | None = None,
    task: str | None = None,
    steps: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 1,
    overrides: Overrides,
) -> None:
    """Print what each player of a recipe reads, with the control tokens of chat templates by their names.

    For example:

    - `reflect-rl prompt taxi`
    - `reflect-rl prompt taxi-lm --prompt.format plain`
    - `reflect-rl prompt my_recipe.yaml --prompt.reflect @instruction.txt`

    Parameters
    ----------
    recipe
        The name of a recipe, or a YAML file.
    model
        The pretrained model of both players.
    task
        The task to show; by default the first one for training.
    steps
        Steps of the expert before the state that is shown.
    """
    from reflect_rl.cli.tables import prompts_shown
    from reflect_rl.config import load_settings, with_model
    from reflect_rl.players.context import Context
    from reflect_rl.players.show import shown_prompts

    context = Context(load_settings(recipe, with_model(overrides, model)))
    print(prompts_shown(shown_prompts(context, Bars(), task, steps)))


def envs() -> None:
    """List the registered worlds with their tasks, teachers and stages."""
    from reflect_rl.cli.tables import table
    from reflect_rl.envs.registry import describe_all

    print(table(describe_all()))


def recipes() -> None:
    """List the recipes included in the library."""
    from reflect_rl.config import RECIPES, recipe_names

    for name in recipe_names():
        first = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        print(f"{name}  {first.removeprefix('#').strip()}")


def settings() -> None:
    """List every setting with its type, default and meaning."""
    from reflect_rl.cli.tables import settings_table
    from reflect_rl.settings import setting_keys

    print(settings_table(setting_keys()))


def check(env: str, /) -> int:
    """Check that an environment keeps the TextEnv contract, and say what to fix. The exit code is 1 if it does not.

    Example: `reflect-rl check examples.my_environment:Corridor`

    Parameters
    ----------
    env
        module:Class for your own world, or the name of a registered world.
    """
    from reflect_rl.envs.check import PROBES
    from reflect_rl.envs.check import check as find
    from reflect_rl.envs.registry import load, make

    load(env)  # a missing world is a user error, not a broken promise
    findings = find(lambda **options: make(env, **options))
    broken = [finding for finding in findings if not finding.ok]
    for finding in broken:
        print(f"- {finding}")
    for finding in findings:
        if finding.lacks:
            print(f"note: {finding}")
    if not broken:
        print(f"{env} keeps every promise of a TextEnv.")
        return 0
    unjudged = [promise for promise in PROBES if promise not in {finding.promise for finding in findings}]
    behind = f" Not judged before that is mended: {', '.join(unjudged)}." if unjudged else ""
    print(f"{env} breaks {len(broken)} {'promise' if len(broken) == 1 else 'promises'}.{behind}")
    return 1


def register(app: App) -> None:
    """Add these commands to the command line."""
    for command in (play, prompt, envs, recipes, settings, check):
        app.command(command)
