"""The process in which ALFWorld's own engine runs. Argument: --patched.

Requests: {"do": "load", "folder", "installed", "seed", "shuffle", "expert"}, {"do": "reset"}, or {"do": "step",
"command"}; with alfworld's batched environment {"do": "init_env", "config", "train_eval", "batch_size", "seed"},
{"do": "reset all"}, {"do": "step all", "commands"}. A reply is the state (of a batch, see `shown`), or {"error": what,
"message": why}.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from reflect_rl.envs.alfworld.rules import UNKNOWN_GOAL
from reflect_rl.envs.worker_process import serve


class Session:
    """One game at a time, through the wrappers that alfworld itself puts around it."""

    def __init__(self) -> None:
        self.env: Any = None
        self.expert = False

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request. Whatever the engine raises is reported, SystemExit of its parser included."""
        try:
            match request["do"]:
                case "load":
                    return self.load(request)
                case "reset":
                    return self.state(self.env.reset())
                case "init_env":
                    return self.init_env(request)
                case "reset all":
                    return shown(*self.env.reset())
                case "step all":
                    observations, scores, dones, infos = self.env.step(request["commands"])
                    return shown(observations, infos, scores, dones)
                case _:
                    return self.step(request["command"])
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a foreign engine: its every failure is told to the parent
            return {"error": type(error).__name__, "message": str(error)}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load folder/game.tw-pddl (its trajectory beside it) as alfworld does, drawing from the generator it uses."""
        import textworld  # pyright: ignore[reportMissingImports]
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler  # pyright: ignore[reportMissingImports]

        self.close()
        folder = Path(request["folder"])
        random.seed(request["seed"])
        path = prepare(folder, installed=request["installed"])
        infos = textworld.EnvInfos(won=True, admissible_commands=True)
        wrappers: list[Any] = [AlfredDemangler(shuffle=request["shuffle"])]
        if request["expert"]:
            from reflect_rl.envs.alfworld.handcoded import expert_wrapper

            infos.facts = True
            wrappers.append(expert_wrapper(request["expert"]))
        self.expert = bool(request["expert"])
        self.env = textworld.start(str(path), infos, wrappers=wrappers)
        return {}

    def init_env(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make alfworld's own batched environment, and seed it and the generator that its engine draws names from."""
        from alfworld.agents.environment import get_environment  # pyright: ignore[reportMissingImports]

        self.close()
        config = request["config"]
        games: Any = get_environment(config["env"]["type"])(config, train_eval=request["train_eval"])
        self.env = games.init_env(batch_size=request["batch_size"])
        self.env.seed(request["seed"])
        random.seed(request["seed"])
        return {"games": games.game_files}

    def step(self, command: str) -> dict[str, Any]:
        """One step. An expert that gives up raises after the engine has made the step: the state is then still told."""
        if not self.expert:
            return self.state(self.env.step(command)[0])
        from alfworld.agents.expert import HandCodedAgentFailed  # pyright: ignore[reportMissingImports]

        try:
            return self.state(self.env.step(command)[0])
        except Exception as error:
            if not (isinstance(error, HandCodedAgentFailed) or str(error) == "Timeout"):
                raise
            given_up = "timeout" if str(error) == "Timeout" else "out of subgoals"
            return self.state(self.env.unwrapped.state) | {"gave_up": given_up, "expert": None}

    def state(self, state: Any) -> dict[str, Any]:
        """What a TextGame shows of the engine's state. Before the first step the engine states no score: it is 0."""
        won = bool(state["won"])
        reply = {
            "feedback": state["feedback"],
            "admissible": state["admissible_commands"],
            "won": won,
            "score": int(state.get("score") or 0),
            "done": bool(state.get("done") or False),
        }
        if self.expert:
            reply["expert"] = state.get("extra.expert_plan", [None])[0]
        return reply

    def close(self) -> None:
        """Let go of the game and of its native library."""
        env, self.env = self.env, None
        if env is not None:
            env.close()


def shown(observations: Any, infos: dict[str, Any], scores: Any = None, dones: Any = None) -> dict[str, str]:
    """What a batched environment gave, as text in which values of other types differ."""
    given = {"observations": observations, "scores": scores, "dones": dones}
    return {name: repr(value) for name, value in sorted((given | infos).items())}


def prepare(folder: Path, *, installed: bool) -> Path:
    """Write the rules of the installed package (if `installed`) and a task sentence into the game; the game's path.

    Only a grammar without a task sentence gets one: then two numbers are drawn from the global generator.
    """
    from alfworld.agents.utils.misc import add_task_to_grammar  # pyright: ignore[reportMissingImports]
    from alfworld.info import ALFRED_PDDL_PATH, ALFRED_TWL2_PATH  # pyright: ignore[reportMissingImports]

    path = folder / "game.tw-pddl"
    game = json.loads(path.read_text(encoding="utf-8"))
    if installed:
        game["pddl_domain"] = Path(ALFRED_PDDL_PATH).read_text(encoding="utf-8")
        game["grammar"] = Path(ALFRED_TWL2_PATH).read_text(encoding="utf-8")
    if UNKNOWN_GOAL in game["grammar"]:
        trajectory = json.loads((folder / "traj_data.json").read_text(encoding="utf-8"))
        game["grammar"] = add_task_to_grammar(game["grammar"], trajectory)
    path.write_text(json.dumps(game, allow_nan=False), encoding="utf-8")
    return path


def begin() -> Session:
    """A session without a game."""
    if "--patched" in sys.argv[1:]:
        from reflect_rl.envs.alfworld.real_patches import patch

        patch()
    return Session()


def main() -> None:
    """Answer until the requests end."""
    serve(begin)
