"""YAML by the core schema of YAML 1.2, in which every value is one that JSON has as well.

`2024-01-02`, `12:30`, `NO` and `yes` are text; `1e-3` is a number; a key given twice is an error. What PyYAML reads by
itself is YAML 1.1, in which they are a date, 750, False and True, 1e-3 is text, and the second of two keys counts.
Merged keys (`<<`) of 1.1 stay. No tag makes an object, and what aliases unfold to is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import yaml

YamlError = yaml.YAMLError
CORE = "tag:yaml.org,2002:"
MOST_VALUES = 100_000
"""Of a text, with its aliases unfolded."""


class UnusableValueError(YamlError):
    """YAML that says something which no setting can be: an object, a number that is too long, endless aliases."""


def _whole(text: str) -> int:
    try:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    except ValueError as error:  # Python's own limit
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
"""What a plain scalar is, by the first pattern that fits all of it: (pattern, first characters, its value)."""


class _Loader(yaml.SafeLoader):
    # PyYAML's registers, filled below
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    yaml_constructors: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping as it is written: merged keys (<<), which may be given anew, are not in it yet."""
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
    """Quotes what either YAML 1.1 or the core schema would take for something else than text."""

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
    """The value of a YAML text. Raises YamlError, of which UnusableValueError says that it is YAML, but no setting."""
    return _read(text)[1]


def parse_option(text: str) -> Any:
    """The value of a text on the command line, where no comment is meant: what YAML takes for text is that very text.

    Raises YamlError like `parse_yaml`.
    """
    node, value = _read(text)
    plain = node is None or (isinstance(node, yaml.ScalarNode) and node.style is None and isinstance(value, str))
    return text if plain and text and text.lstrip()[:1] not in ("!", "&") else value


def dump_yaml(data: Any) -> str:
    """Plain data as YAML, with the keys in their order. `parse_yaml` gives it back, and so does any other reader."""
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
    """Values in a node with its aliases unfolded. Raises UnusableValueError for too many, and for a loop."""
    known = sizes.get(id(node))
    if known == 0:
        raise UnusableValueError(
            f"an alias (*) stands inside of what it stands for, in line {node.start_mark.line + 1}"
        )
    if known:
        return known
    sizes[id(node)] = 0  # under way
    inside = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    size = 1 if isinstance(node, yaml.ScalarNode) else 1 + sum(_size(part, sizes) for part in inside)
    if size > MOST_VALUES:
        raise UnusableValueError(f"its aliases (*) unfold to more than {MOST_VALUES:,} values")
    sizes[id(node)] = size
    return size


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
