"""Recipes: YAML files with the sections of `settings`. Every key has a default.

`load_settings` merges a recipe with overrides. Mistakes raise one SettingsError, which names each wrong key and
suggests the nearest valid one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reflect_rl.core_yaml import YamlError, parse_yaml
from reflect_rl.errors import SettingsError
from reflect_rl.paths import expanded
from reflect_rl.settings import Settings, setting_keys
from reflect_rl.settings.base import Section

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """The names of the recipes included in the library."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_settings(recipe: str | Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Load the settings of a recipe.

    Args:
        recipe: the name of an included recipe, or a YAML file.
        overrides: settings by dotted name, such as `{"rl.lr": 1e-3}`.

    Raises:
        SettingsError: no such recipe, invalid YAML, an unknown key, a wrong type, or an invalid combination.
    """
    return parse_settings(read_recipe(recipe), overrides, source=str(recipe))


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The content of a recipe as a nested dict. With `extends: OTHER`, it is merged over that of the other recipe."""
    data = _read_file(recipe)
    seen = [str(recipe)]
    while base := data.pop("extends", None):
        if str(base) in seen:
            circle = " -> ".join([*seen, str(base)])
            raise SettingsError(f"The recipe {seen[0]} extends itself in a circle: {circle}. Leave out one `extends`.")
        seen.append(str(base))
        beside = Path(recipe).parent / str(base)
        try:
            data = _over(_read_file(beside if _is_file(beside) else str(base)), data)
        except SettingsError as error:
            raise SettingsError(f"{seen[-2]} extends {base}. {error}") from error
    return data


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested dicts; values of `above` win."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _over(merged[key], value) if both else value
    return merged


def _is_file(path: Path) -> bool:
    """As `Path.is_file`, but False for impossible names, such as ones that are too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read_file(recipe: str | Path) -> dict[str, Any]:
    path = RECIPES / f"{recipe}.yaml" if str(recipe) in recipe_names() else expanded(recipe)
    if not _is_file(path):
        near = difflib.get_close_matches(str(recipe), recipe_names(), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise SettingsError(
            f"There is no recipe '{recipe!s:.200}': it is neither a file nor one of {', '.join(recipe_names())}.{hint}"
        )
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except (YamlError, UnicodeDecodeError) as error:
        shown = str(error).replace(' in "<unicode string>",', " at")
        raise SettingsError(f"{path} is not a readable YAML file: {shown}") from error
    if data is None:
        raise SettingsError(f"{path} is empty. Write settings into it, at least the world: env: {{name: taxi}}.")
    if not isinstance(data, dict):
        raise SettingsError(f"{path} should hold settings such as 'seed: 0', not a {type(data).__name__}.")
    _read_texts(data, path.parent)
    return data


def parse_settings(data: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, source: str = "") -> Settings:
    """Settings from a nested dict and dotted overrides. Raises SettingsError."""
    merged = _deep_copy(data)
    for dotted, value in (overrides or {}).items():
        set_key(merged, dotted, value)
    _read_texts(merged, Path())
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error, source)) from error
    if source and "name" not in merged.get("env", {}):
        raise SettingsError(
            f"No world is named in {source}. Add env: {{name: taxi}}, or module:Class for your own; or give --env.name."
        )
    return settings


def parse_section(kind: type[Section], values: Mapping[str, Any], name: str) -> Any:
    """A section of settings that no recipe holds, such as a command's own. Raises SettingsError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, "", f"{name}.", kind)) from error


TEXTS = {"prompt": ("task", "reflect", "act"), "teacher": ("reflect", "act")}
"""Settings, by section, whose value @FILE stands for a file's content."""


def _read_texts(data: dict[str, Any], folder: Path) -> None:
    """Replace @FILE by the file's content; paths are relative to `folder`. Raises SettingsError."""
    for section, names in TEXTS.items():
        values = data.get(section)
        if not isinstance(values, dict):
            continue
        for name in names:
            value = values.get(name)
            if isinstance(value, str) and value.startswith("@"):
                values[name] = _file_text(f"{section}.{name}", value, folder)


def _file_text(key: str, value: str, folder: Path) -> str:
    file = folder / expanded(value[1:])
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{key}: {value} names a file that cannot be read as text: {error}.") from error
    if not text:
        raise SettingsError(f"{key}: {file} is empty. Write the text into it, or leave the setting out.")
    return text


def with_model(overrides: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """Overrides in which both players start from `model`, unless they say otherwise."""
    both = {} if model is None else {"reflector.model.source": model, "policy.model.source": model}
    return {**both, **overrides}


def _deep_copy(data: Any) -> Any:
    return {key: _deep_copy(value) for key, value in data.items()} if isinstance(data, Mapping) else data


def set_key(data: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a value of a nested dict by its dotted name. Raises SettingsError if a part of the name holds a value."""
    *sections, last = dotted.split(".")
    for name in sections:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise SettingsError(f"--{dotted} cannot be set: '{name}' is a value, not a section.")
    data[last] = value


RENAMED = {"policy.hedge": "policy.gated_mixture", "rl.anchor": "rl.reference_kl", "rl.slots": "rl.num_envs"}
"""Settings of earlier versions with their new names."""
GONE = ("compute.cache_mb", "compute.rows", "reflector_sft.attempts", "reflector_sft.retry_below")
"""Settings of earlier versions that were removed."""


def with_new_names(data: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version may have written, as this version reads them."""
    read = _deep_copy(data)
    for former in (*RENAMED, *GONE):
        section, _, name = former.partition(".")
        if isinstance(read.get(section), dict) and name in read[section]:
            value = read[section].pop(name)
            if former in RENAMED:
                set_key(read, RENAMED[former], value)
    if isinstance(read.get("prompt"), dict):
        read["prompt"].setdefault("format", "plain")  # the only one before there was a choice
    return read


def _hint(key: str, loc: Sequence[int | str], known: Sequence[str]) -> str:
    if key in RENAMED:
        return f" It is called '{RENAMED[key]}' now."
    if key in GONE:
        return " It is gone: leave it out."
    if key in known and len(loc) == 1:  # a dotted key in a recipe
        section, _, name = key.partition(".")
        return f" In a recipe it lies in its section: {section}: {{{name}: ...}}."
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    leaf = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    return f" Did you mean '{(near or leaf)[0]}'?" if near or leaf else ""


def _explain(error: ValidationError, source: str, prefix: str = "", kind: type[Section] = Settings) -> str:
    """One message with a line for each error that pydantic found."""
    lines: list[str] = []
    known = [f"{prefix}{key}" for key in setting_keys(kind)]
    for item in error.errors():
        key = prefix + ".".join(str(part) for part in item["loc"]) or "settings"
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown setting '{key}'.{_hint(key, item['loc'], known)}")
        elif item["type"] == "value_error":
            lines.append(f"{key}: {item.get('ctx', {}).get('error')}.")
        elif item["type"] in ("model_type", "dict_type", "model_attributes_type"):
            lines.append(f"{key} is {_short(item['input'])}, not a section of settings, such as {key}: {{...}}.")
        else:
            hint = " Write true or false." if item["type"] == "bool_type" else ""
            lines.append(f"{key} is {_short(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}.{hint}")
    where = f" in {source}" if source else ""
    return "\n".join([f"The settings{where} cannot be used:", *(f"  - {line}" for line in lines)])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text):,} characters)"
