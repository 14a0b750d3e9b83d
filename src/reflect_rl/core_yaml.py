"""YAML 1.2 with its core schema, restricted to values that JSON can represent.

`2024-01-02`, `12:30`, `NO` and `yes` are text, `1e-3` is a number, and a repeated key is an error. PyYAML itself reads
YAML 1.1, in which these are a date, 750, False, True and text, and the last of two equal keys wins. The merge keys
(`<<`) of YAML 1.1 are supported. Tags never create objects, and the expansion of aliases is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import yaml

YamlError = yaml.YAMLError
CORE = "tag:yaml.org,2002:"
MOST_VALUES = 100_000
"""Maximum number of values in a text, after expanding its aliases."""


class UnusableValueError(YamlError):
    """Valid YAML that cannot be a setting: an object, a number that is too long, or endless aliases."""


def _whole(text: str) -> int:
    try:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    except ValueError as error:  # Python limits the number of digits
        raise UnusableValueError(
            f"a number of {len(text):,} digits is too long; put it in quotes if it is text"
        ) from error


def _real(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", "~nN", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789", _whole),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        _real,
    ),
    "merge": (r"<<", "<", str),
}
"""How plain scalars are read; the first full match counts: (pattern, possible first characters, conversion)."""


class _Loader(yaml.SafeLoader):
    # PyYAML's registries, filled below
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    yaml_constructors: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping as written, checked for repeated keys. Merged keys (<<) may be overridden and are not checked."""
        node = super().compose_mapping_node(anchor)
        given: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                if key.value in given:
                    raise yaml.MarkedYAMLError(None, None, f"'{_short(key.value)}' is given twice", key.start_mark)
                given.add(key.value)
        return node

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text = self.construct_scalar(node)
        pattern, _, value = SCALARS[node.tag.removeprefix(CORE)]
        if not re.fullmatch(pattern, text):
            raise UnusableValueError(
                f"'{_short(text)}' cannot be read as the {node.tag.removeprefix(CORE)} it is said to be"
            )
        return value(text)

    def refuse(self, node: yaml.Node) -> Any:
        raise UnusableValueError(
            f"'{_short(node.tag.replace(CORE, '!!'))}' makes something that no setting can be; leave it out, or put "
            f"the text in quotes"
        )


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or the core schema would read as something else."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, (_pattern, _first, _) in SCALARS.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(CORE + _name, re.compile(rf"(?:{_pattern})$"), [*_first] + [""] * (_name == "null"))
    _Loader.add_constructor(CORE + _name, _Loader.scalar)
for _name in ("str", "seq", "map"):
    _Loader.add_constructor(CORE + _name, yaml.SafeLoader.yaml_constructors[CORE + _name])
_Loader.add_constructor(None, _Loader.refuse)  # type: ignore[arg-type]  every other tag


def parse_yaml(text: str) -> Any:
    """Parse a YAML text. Raises YamlError; UnusableValueError if it is valid YAML, but cannot be a setting."""
    return _read(text)[1]


def parse_option(text: str) -> Any:
    """Parse a value from the command line, where `#` starts no comment: whatever YAML reads as text is kept verbatim.

    Raises YamlError as `parse_yaml` does.
    """
    node, value = _read(text)
    if isinstance(node, yaml.ScalarNode) and text.lstrip().startswith("&"):
        return text  # an anchor, to which nothing can refer
    plain = node is None or (isinstance(node, yaml.ScalarNode) and node.style is None and isinstance(value, str))
    return text if plain and text and not text.lstrip().startswith("!") else value


def dump_yaml(data: Any) -> str:
    """Plain data as YAML, with keys in their order. `parse_yaml` and other YAML readers read it back unchanged."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _read(text: str) -> tuple[yaml.Node | None, Any]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, None
        _size(node, {})
        return node, loader.construct_document(node)
    except RecursionError as error:
        raise UnusableValueError("its lists and mappings are nested too deeply") from error
    finally:
        loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of values in a node, with aliases expanded. Raises UnusableValueError for too many or a cycle."""
    known = sizes.get(id(node))
    if known == 0:
        raise UnusableValueError(
            f"an alias (*) stands inside of what it stands for, in line {node.start_mark.line + 1}"
        )
    if known:
        return known
    sizes[id(node)] = 0  # in progress
    inside = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    size = 1 if isinstance(node, yaml.ScalarNode) else 1 + sum(_size(part, sizes) for part in inside)
    if size > MOST_VALUES:
        raise UnusableValueError(f"its aliases (*) unfold to more than {MOST_VALUES:,} values")
    sizes[id(node)] = size
    return size


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
