"""The model card of an exported agent: README.md in the layout of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from reflect_rl import __version__
from reflect_rl.core_yaml import dump_yaml
from reflect_rl.evaluation.tables import ABSENT, markdown_table
from reflect_rl.paths import expanded
from reflect_rl.players.hub import CONFIG, is_hub_name, is_local, public_name
from reflect_rl.runs.manifest import flat, leaves
from reflect_rl.settings import EnvSettings, ModelSettings, Settings

LIBRARY = "reflect-rl"
TAGS = (LIBRARY, "reinforcement-learning", "text-environments")
NOT_TOLD = ("seed", "guard", "track", "collect.file", "compute.", "evaluate.")
"""Settings that the card's table leaves out: they do not shape the agent, or the text names them."""
PLAYING = """\
observation, info = env.reset(seed=0)
agent.reset()
ended = False
while not ended:
    decision = agent.act({arguments})
    observation, reward, terminated, truncated, info = env.step(decision.choice)
    ended = terminated or truncated
print(info["stop"])"""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """The model of a player as it is exported.

    base: what its training started from: "scratch", a name, or the path of a folder or file. state: "adapters" (LoRA
    adapters alone), "merged" (adapters merged into their base) or "full" (all weights were trained).
    """

    folder: Path
    base: str
    state: str
    trained: ModelSettings

    def __str__(self) -> str:
        if self.base == "scratch":
            return "trained from scratch"
        bits = f" in {self.trained.bits} bits" if self.trained.bits in (4, 8) else ""
        rank = f"LoRA adapters of rank {self.trained.lora_rank}"
        base = f"{public_name(self.base)}{bits}"
        if self.state == "adapters":
            return f"{rank} for {base}"
        return f"{base}, {f'with {rank} merged' if self.state == 'merged' else 'all weights trained'}"


def model_card(
    name: str,
    settings: Settings,
    models: Mapping[str, ExportedModel],
    results: Mapping[str, Any] | None = None,
    measured_in: EnvSettings | None = None,
) -> str:
    """The card of the agent called `name` (a folder, or a repository of the hub), as Markdown with a YAML head.

    settings: those of training. models: by player. results: the content of results.json.
    measured_in: the world of these results.
    """
    blocks = [
        f"---\n{dump_yaml(_head(models))}---",
        f"# {name}: an agent for {settings.env.name}",
        _summary(settings, models),
        "## Use",
        *_use(name, settings, models),
        "## Results",
        *(_results(settings, results, measured_in or settings.env) if results else ["The agent was not evaluated."]),
        "## Settings",
        f"Settings that differ from the defaults of reflect-rl {__version__}; `{CONFIG}` has all of them.",
        markdown_table([("setting", "value"), *_told(settings)]),
        "## Sizes",
        markdown_table([*_sizes(models, results)]),
        "## Not measured",
        "\n".join(f"- {text}" for text in _not_measured(settings, models, results)),
    ]
    return "\n\n".join(blocks) + "\n"


def _head(models: Mapping[str, ExportedModel]) -> dict[str, Any]:
    bases = [base for base in dict.fromkeys(model.base for model in models.values()) if is_hub_name(base)]
    bases = [base for base in bases if base != "scratch"]
    head: dict[str, Any] = {"library_name": LIBRARY, "tags": list(TAGS)}
    if bases:
        adapters = any(model.state == "adapters" for model in models.values())
        head["base_model"] = bases[0] if len(bases) == 1 else bases
        head["base_model_relation"] = "adapter" if adapters else "finetune"
    return head


def _summary(settings: Settings, models: Mapping[str, ExportedModel]) -> str:
    asked = settings.reflector.server.model or public_name(settings.reflector.model.source)
    notes = {
        "none": "It has no reflector: the policy reads the observation and the admissible actions",
        "scripted": "The world's scripted teacher writes a note about each state; the policy reads it with the "
        "observation and the admissible actions",
        "local": f"A reflector ({models.get('reflector')}) writes a note about each state; the policy reads it with "
        f"the observation and the admissible actions",
        "served": f"A model behind a server ({asked}) writes a note about each state; the policy reads it with the "
        f"observation and the admissible actions",
        "prompted": f"A model that was not trained for this ({asked}) is asked for a note about each state; the policy "
        f"reads it with the observation and the admissible actions",
    }
    return (
        f"This agent acts in the text environment `{settings.env.name}`. {notes[settings.reflector.kind]}, and chooses "
        f"an action with one forward pass. The policy: {models['policy']}. Made with {LIBRARY} {__version__}."
    )


def _use(name: str, settings: Settings, models: Mapping[str, ExportedModel]) -> Iterator[str]:
    adapted = [model for model in models.values() if model.state == "adapters"]
    extra = "quantize" if any(model.trained.bits in (4, 8) for model in adapted) else "lora" if adapted else ""
    wanted = f'"{LIBRARY}[{extra}]"' if extra else LIBRARY
    yield f"```sh\npip install {wanted}\n```"
    world = settings.env.arguments
    options = ", ".join(f"{key}={_literal(value)}" for key, value in world.items() if not holds_path(value))
    told = settings.reflector.kind == "scripted" or settings.prompt.notes
    act = 'observation, info["actions"]' + (", env.describe()" if told else "")
    made = f"agent = rr.Agent.load({_literal(name)})\nenv = rr.make({_literal(settings.env.name)}, {options})"
    yield f"```python\nimport reflect_rl as rr\n\n{made}\n{PLAYING.format(arguments=act)}\n```"
    if ":" in settings.env.name:
        module = settings.env.name.partition(":")[0]
        yield f"The world is a class of the module `{module}`, which has to be importable where the agent is loaded."
    if local := dict.fromkeys(public_name(model.base) for model in adapted if is_local(model.base)):
        yield (
            f"The adapters need their base, {', '.join(local)}, which is not part of this folder: put it where "
            f"`base_model_name_or_path` in `adapter_config.json` says, or write there where you have it."
        )
    if models["policy"].state != "adapters" and settings.policy.head == "labels":
        yield (
            "`policy/` is a causal language model for `transformers`; `labels` in `policy/reflect_rl.json` are the "
            "tokens of the actions."
        )


def _literal(value: Any) -> str:
    """A value as it is written in Python, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(each)}" for key, each in value.items()) + "}"
    return "[" + ", ".join(map(_literal, value)) + "]" if isinstance(value, list) else repr(value)


def _results(settings: Settings, results: Mapping[str, Any], world: EnvSettings) -> Iterator[str]:
    labels, agreement = results["labels"], results["agreement"]
    other = f", measured with seed {results['seed']}" if results["seed"] != settings.seed else ""
    yield (
        f"Horizon {results['horizon']} steps. Label budgets: {labels['actions']:,} actions "
        f"({labels['actions_distinct']:,} distinct states) and {labels['reflections']:,} reflections "
        f"({labels['reflections_distinct']:,} distinct states). One training run with seed {settings.seed}{other}. "
        f"Intervals are 95 % Wilson intervals over episodes, not over training runs."
    )
    if world.options != settings.env.options:
        yield f"Measured with other options of the world than trained with: `{_shown(world.options)}`."
    rows = [("tasks", "success %", "95 % interval", "episodes", "actions", "mean steps", "mean return")]
    for panel, modes in results["panels"].items():
        for mode, figures in modes.items():
            mean = f"{figures['steps_mean']:.1f}", f"{figures['return_mean']:.2f}"
            rows.append((panel, *_success(figures), str(figures["episodes"]), mode, *mean))
            for steps, part in figures.get("within", {}).items():
                rows.append((panel, *_success(part), str(figures["episodes"]), f"{mode}, {steps} steps", "", ""))
    yield markdown_table(rows)
    if settings.reflector.kind == "local":
        share = ABSENT if agreement is None else f"{100 * agreement:.1f} %"
        met = results["panels"].get("test", {}).get("greedy", {}).get("agreement")
        more = f"; of the {met['states']:,} states met in the test tasks: {100 * met['share']:.1f} %" if met else ""
        yield f"Held-out states for which the reflector writes its teacher's text, word for word: {share}{more}."
    if guard := results.get("guard"):
        yield f"Trained with and without reflection; on the valid tasks, the arm {guard['kept']} was better and kept."


def _success(figures: Mapping[str, Any]) -> tuple[str, str]:
    low, high = figures["interval"]
    return f"{100 * figures['success']:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"


def _told(settings: Settings) -> Iterator[tuple[str, str]]:
    standard = flat(Settings())
    for key, value in flat(settings).items():
        if value != standard[key] and not key.startswith(NOT_TOLD):
            yield f"`{key}`", f"`{_shown(value)}`"


def _shown(value: Any) -> str:
    """A setting without what is, or holds, a path."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(each)}" for key, each in value.items() if not holds_path(each)) or "none"
    return str(value)


def holds_path(value: Any) -> bool:
    """Whether a setting, or something in its lists and mappings, is a path of this machine."""
    return any(isinstance(each, str) and expanded(each).is_absolute() for _, each in leaves(value))


def _sizes(models: Mapping[str, ExportedModel], results: Mapping[str, Any] | None) -> Iterator[Sequence[str]]:
    yield ("folder", "weights in it", "MB", "weights with the base", "what it is")
    for player, model in models.items():
        files = sorted(model.folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files) / 1e6
        weights = sum(map(_weights, files))
        whole = results["parameters"][player] if results and model.state == "adapters" else weights
        known = ABSENT if model.state == "adapters" and not results else f"{whole:,}"
        yield (f"{player}/", f"{weights:,}", f"{size:.3g}", known, str(model))


def _weights(file: Path) -> int:
    """Number of weights in a safetensors file, from its header."""
    from safetensors import safe_open

    with safe_open(file, "np") as opened:
        return sum(prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118  not a dict


def _not_measured(
    settings: Settings, models: Mapping[str, ExportedModel], results: Mapping[str, Any] | None
) -> Iterator[str]:
    if not results:
        yield "Any success rate."
    if merged := [player for player, model in models.items() if model.state == "merged"]:
        yield f"The merged {' and '.join(merged)}: the results above are of the adapters on their base."
    if quantised := [player for player in merged if models[player].trained.bits in (4, 8)]:
        yield (
            f"How much the choices differ where {' and '.join(quantised)} computed in 4 or 8 bits: the adapters were "
            f"merged into the dequantised base, in float32."
        )
    yield "Other training runs: a second seed can give another success rate."
    yield "Other worlds, tasks, horizons and wordings than those of the results."
    yield f"Other devices than {settings.compute.device}."
