"""Settings on the command line: `--rl.iterations 30`, `--rl.iterations=30`, `--guard`, `--no-guard`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators

from reflect_rl.errors import ReflectRLError, SettingsError
from reflect_rl.paths import expanded

Overrides = Annotated[dict[str, Any], Parameter(parse=False)]
"""Settings given as options, such as --rl.lr 1e-3; `__main__` passes them."""
Seeds = Annotated[str, Parameter(help="Seeds, separated by commas.")]
Seed = Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**31))]
"""A world's seed, limited to 31 bits: the world may pass it to a generator that takes no more."""
Workers = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=1024))]
Count = Annotated[int, Parameter(validator=validators.Number(gte=1))]
InputPath = Annotated[Path, Parameter(converter=lambda kind, tokens: expanded(tokens[0].value))]
"""A path that may begin with ~, which shells leave as it is in --already=~/picks.jsonl and within quotes."""

HELP = {"help", "h", "version"}
TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""The values of a switch; elsewhere `no` is text."""


def split_overrides(tokens: Sequence[str], own: set[str]) -> tuple[list[str], dict[str, Any]]:
    """(the command's own tokens, overrides): every `--option` that is not one of the command's `own` is a setting.

    A switch takes the next token as its value only if that is a boolean ("true", "no"), so `--guard taxi` reads as
    expected. `config.parse_settings` checks whether settings exist and their values are valid.
    """
    if not any(_is_override(token, own) for token in tokens):
        return list(tokens), {}
    from reflect_rl.settings import setting_keys

    kinds = {key: info.annotation for key, info in setting_keys().items()}
    switches = {key for key, kind in kinds.items() if kind is bool}
    rest: list[str] = []
    overrides: dict[str, Any] = {}
    queue = list(tokens)
    while queue:
        token = queue.pop(0)
        if token == "--":
            return [*rest, token, *queue], overrides
        if not _is_override(token, own):
            rest.append(token)
            if token.startswith("--") and "=" not in token and queue and not queue[0].startswith("--"):
                rest.append(queue.pop(0))  # the value of the command's own option
            continue
        name, has_value, text = token[2:].partition("=")
        name = _key(name)
        negated = _key(name.removeprefix("no_"))
        if name in switches:
            value = text if has_value else queue.pop(0) if queue and queue[0].lower() in TRUTHS else "true"
            overrides[name] = TRUTHS.get(value.lower(), value)
        elif has_value:
            overrides[name] = _value(name, text, kinds.get(name))
        elif name.startswith("no_") and negated in switches:
            overrides[negated] = False
        elif queue and not queue[0].startswith("--"):
            overrides[name] = _value(name, queue.pop(0), kinds.get(name))
        else:
            overrides[name] = True  # a switch; the settings refuse it if it is not one
    return rest, overrides


def _is_override(token: str, own: set[str]) -> bool:
    return token.startswith("--") and len(token) > 2 and _key(token[2:].partition("=")[0]) not in own | HELP


def _key(name: str) -> str:
    return name.replace("-", "_")


def _value(name: str, text: str, kind: Any) -> Any:
    """A value as YAML reads it; text that is not YAML stays text. Raises SettingsError.

    kind: the setting's type. Where only text will do, "Answer: A or B?", "123" and "" are text too.
    """
    from reflect_rl.core_yaml import UnusableValueError, YamlError, parse_option

    is_text = kind in (str, str | None)
    try:
        value = parse_option(text)
    except UnusableValueError as error:
        if is_text:
            return text
        raise SettingsError(f"--{name} cannot be used: {error}.") from error
    except YamlError:
        return text
    fits = isinstance(value, str) or (value is None and kind == str | None)
    return text if is_text and not fits else value


def whole_numbers(text: str, option: str = "--seeds", least: int = 0) -> list[int]:
    """Parse the different numbers of an option. Raises ReflectRLError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,18}", part) and int(part) >= least for part in parts):
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise ReflectRLError(
            f"{option} {shown} should be whole numbers from {least} up, separated by commas, such as {least},7,20."
        )
    numbers = [int(part) for part in parts]
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        raise ReflectRLError(f"{option} {text} names {twice[0]} twice; each is measured or run once.")
    return numbers


def names(text: str | None, option: str) -> list[str] | None:
    """Parse the names of an option; None if it is not given. Raises ReflectRLError for an option without a name."""
    if text is None:
        return None
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise ReflectRLError(f"{option} is empty. Give names, separated by commas, or leave {option} out.")
    return found


def env_options(command: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The world's own options, with dotted names nested as in a recipe.

    Raises SettingsError for settings that are not the world's, and for options that are no mapping.
    """
    from reflect_rl.config import set_key

    settings: dict[str, Any] = {}
    for key, value in overrides.items():
        if key not in ("env.horizon", "env.options") and not key.startswith("env.options."):
            raise SettingsError(
                f"{command} has no option --{key}. A world's own options are --env.horizon and --env.options."
            )
        set_key(settings, key, value)
    env = settings.get("env", {})
    options = env.get("options", {})
    if not isinstance(options, dict):
        raise SettingsError(f"--env.options is {options!r}; it is a mapping, such as '{{size: 5}}'.")
    return {**options, **({"horizon": env["horizon"]} if "horizon" in env else {})}
