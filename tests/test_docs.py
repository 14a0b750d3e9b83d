"""What the documents say is true: the example runs, commands parse, files, fields and floors are those there are."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from inspect import signature
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium
import pytest

import reflect_rl
import reflect_rl.selection
from reflect_rl.cli.app import app
from reflect_rl.cli.overrides import split_overrides
from reflect_rl.config import parse_section, parse_settings, read_recipe, recipe_names, with_model
from reflect_rl.envs.check import check
from reflect_rl.envs.registry import load, make
from reflect_rl.pipeline.plan import read_plan
from reflect_rl.players.context import Context
from reflect_rl.players.labels import candidates
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.progress import Progress
from reflect_rl.records import State
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import PromptSettings, Settings, setting_keys
from reflect_rl.settings.server import ServerSettings
from reflect_rl.training.rl import rl
from reflect_rl.training.rollout import play_episodes

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "reflect_rl"
TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = sorted([*TOP, *(ROOT / "docs").rglob("*.md")])
README, METHOD, FILES, ENVIRONMENTS, ARCHITECTURE, RUNNING = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in (
        *("README.md", "docs/method.md", "docs/files.md", "docs/environments.md", "docs/architecture.md"),
        "docs/running.md",
    )
)
WORLD = "examples.my_environment:Corridor"
MOST_LINES = 350


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    """The contents of a page's fenced code blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def block_at(text: str, mark: str) -> str:
    """The code block below a marking comment, with its fence."""
    return re.findall(rf"<!-- {re.escape(mark)} -->\n(```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)[0]


# The example world


def test_the_readme_shows_the_example_as_it_is() -> None:
    source = (ROOT / "examples" / "my_environment.py").read_text(encoding="utf-8")
    (shown,) = blocks(block_at(README, "examples/my_environment.py"), "python")
    assert shown == source[source.index("from reflect_rl") :]
    world, optional, _ = shown.partition("# From here on optional.")
    assert optional
    assert sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in world.splitlines()) <= 35


def test_the_example_keeps_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert [str(finding) for finding in check(lambda: make(WORLD)) if not finding.ok] == []


@pytest.fixture(scope="module")
def corridor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the README's commands make of the example."""
    out = tmp_path_factory.mktemp("runs") / "corridor"
    command = [sys.executable, "-m", "reflect_rl", "run", "examples/my_recipe.yaml", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    return out


def test_the_example_recipe_trains_an_agent(corridor: Path) -> None:
    results = json.loads((corridor / "results.json").read_text())
    assert results["agreement"] > 0.8
    assert results["panels"]["test"]["greedy"]["success"] > 0.6


def python(text: str, number: int, corridor: Path) -> str:
    """A Python block of a page, with the example's agent in the example's world."""
    code = blocks(text, "python")[number].replace('"taxi"', repr(WORLD)).replace('"runs/taxi"', repr(str(corridor)))
    return code.replace("rr.run(" + repr(WORLD) + ")", f"rr.Run(Path({str(corridor)!r}))")


def test_the_python_example_plays_an_episode(
    corridor: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {"Path": Path}
    exec(python(README, -1, corridor), names)  # noqa: S102  our own example
    assert "stop" in names["info"]
    assert "The key is" in capsys.readouterr().out


def test_an_agent_acts_in_vectorised_environments(
    corridor: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    space = re.search(r"observation_space = (gymnasium\.spaces\.Text\(.*?\))`", RUNNING)
    assert space
    declared = eval(space[1], {"gymnasium": gymnasium, "string": string})  # noqa: S307  our own example
    monkeypatch.setattr(load(WORLD), "observation_space", declared, raising=False)
    assert [str(finding) for finding in check(load(WORLD)) if not finding.ok] == []
    exec(python(block_at(RUNNING, "vector"), 0, corridor), {})  # noqa: S102  our own example
    won, played = map(int, re.findall(r"\d+", capsys.readouterr().out))
    assert played >= 20
    assert won / played > 0.4


# Gymnasium


def test_an_adapted_environment_of_the_documents_keeps_every_promise() -> None:
    names: dict[str, Any] = {"__name__": "documents"}
    code = next(code for code in blocks(ENVIRONMENTS, "python") if "Blackjack" in code)
    exec(code, names)  # noqa: S102  our own example
    assert [str(finding) for finding in check(names["Blackjack"]) if not finding.ok] == []


# What a run writes


def keys(data: Any) -> Iterator[str]:
    """Every key of nested JSON, but for counts by reason and settings, which are named elsewhere."""
    if isinstance(data, list):
        for item in data[:3]:
            yield from keys(item)
    elif isinstance(data, dict):
        for key, value in data.items():
            yield key
            if key not in ("stop_reasons", "settings", "facts", "counts", "inputs", "outputs", "versions"):
                yield from keys(value)


def named(text: str) -> set[str]:
    """The words of a page's inline code."""
    code = re.findall(r"`([^`\n]+)`", text)
    return {word for part in code for word in [part, *re.split(r"[.*\[\]/…]+", part)]}


def test_every_file_of_a_run_is_explained(corridor: Path) -> None:
    found = {f"{path.name}/" if path.is_dir() else path.name for path in corridor.iterdir()}
    found |= {path.name for folder in ("policy", "reflector") for path in (corridor / folder).iterdir()}
    found -= {"reflections.sqlite-wal", "reflections.sqlite-shm"}
    assert sorted(found - named(FILES)) == []


@pytest.mark.parametrize(
    "name",
    [
        *("episodes.jsonl", "action_labels.jsonl", "reflections.jsonl", "reflector.json", "metrics.jsonl"),
        *("results.json", "evaluation.jsonl", "manifests/rl.json", "policy/reflect_rl.json"),
    ],
)
def test_every_field_of_a_file_is_explained(corridor: Path, name: str) -> None:
    lines = (corridor / name).read_text(encoding="utf-8")
    data = [json.loads(line) for line in lines.splitlines()] if name.endswith(".jsonl") else json.loads(lines)
    data = {key: data[key] for key in data if key != "labels"} if name == "policy/reflect_rl.json" else data
    assert sorted(set(keys(data)) - named(FILES)) == []


@pytest.mark.parametrize("module", ["pipeline/gather.py", "pipeline/guard.py"])
def test_every_field_that_a_module_writes_is_explained(module: str) -> None:
    tree = ast.parse((SRC / module).read_text(encoding="utf-8"))
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return | ast.Assign) and node.value]
    literals = [node for value in returned for node in ast.walk(value) if isinstance(node, ast.Dict)]
    written = {str(key.value) for node in literals for key in node.keys if isinstance(key, ast.Constant)}
    assert sorted(written - named(FILES) - set(setting_keys())) == []


# Settings and commands


def test_the_table_of_settings_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "write_settings_doc.py"))["settings_page"]()
    shown = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert shown == page, "run: python scripts/write_settings_doc.py"


def test_the_page_of_commands_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "write_cli_doc.py"))["cli_page"]()
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == page, "run: python scripts/write_cli_doc.py"


def test_every_option_of_a_command_has_a_meaning() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    items = re.findall(r"^\* `([^`]+)`:(.*)", page, flags=re.MULTILINE)
    assert len(items) > 50
    assert [name for name, said in items if not re.sub(r"\*+\[.*?\]\*+", "", said).strip()] == []


def test_the_tables_of_results_are_those_of_their_figures() -> None:
    pages = runpy.run_path(str(ROOT / "scripts" / "write_result_tables.py"))["pages"]()
    for path, made in pages.items():
        assert path.read_text(encoding="utf-8") == made, f"{path}: run python scripts/write_result_tables.py"
    assert [made.count("<!-- TABLE") for made in pages.values()] >= [4, 5, 0]


def test_every_setting_has_a_meaning() -> None:
    assert [key for key, info in setting_keys().items() if not info.description] == []


def commands() -> list[str]:
    """Every reflect-rl command line that a page shows, in a block or in a sentence."""
    found: list[str] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = [
            line for language in ("sh", "console") for block in blocks(text, language) for line in block.splitlines()
        ]
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        shown += re.findall(r"`([^`\n]+)`", prose)
        for line in shown:
            command = re.match(r"(?:\$ )?(?:\S*bin/)?(?:.* -m reflect_rl|reflect-rl) (.+)", line)
            if command:
                found.append(command[1])
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", commands())
def test_a_command_that_is_shown_can_be_given(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, *tokens = shlex.split(line, comments=True)
    group, path = app, [name]
    if name in ("alfworld", "autoexplore"):
        if not tokens:
            return
        group, path = app[name], [name, tokens.pop(0)]
    function = group[path[-1]].default_command
    assert function is not None
    if not tokens:
        return  # the command is only spoken of
    own = {parameter.rstrip("_") for parameter in signature(function).parameters}
    overrides: dict[str, Any] = {}
    if "overrides" in own:
        tokens, overrides = split_overrides(tokens, own)
    _, bound, _ = app.parse_args([*path, *tokens], exit_on_error=False, print_error=False)
    server = {key: overrides.pop(key) for key in list(overrides) if key.startswith("server.")}
    parse_section(ServerSettings, {key.removeprefix("server."): value for key, value in server.items()}, "server")
    recipe = str(bound.arguments.get("recipe", ""))
    known = recipe in recipe_names() or Path(recipe).is_file()
    model = bound.arguments.get("model") if name in ("run", "prompt") else None
    there = {key: value for key, value in overrides.items() if not str(value).startswith("@")}  # the user's own files
    parse_settings(read_recipe(recipe) if known else {}, with_model(there, model))
    if name == "compare":
        given = [bound.arguments.get(key) for key in ("regimes", "arms")]
        regimes, arms = (value.split(",") if value else None for value in given)
        read_plan(recipe, regimes, arms, bound.arguments.get("plan", "compare"))
    if name == "run" and (until := bound.arguments.get("until")):
        from reflect_rl.runs.stages import STAGES

        assert until in [stage.name for stage in STAGES]


def test_every_command_is_shown() -> None:
    shown = {line.split()[0] for line in commands()}
    assert {name for name in app if not name.startswith("-")} <= shown


def test_the_prompt_that_is_shown_is_the_prompt() -> None:
    env = make("taxi")
    before, info = env.reset(seed=0, options={"task": "taxi-r2c1-G-B"})
    observation, *_ = env.step(1)
    state = State(observation, info["actions"], ((before, info["actions"][1]),), env.describe())
    builder = PromptBuilder(env.task_text, PromptSettings(), list(islice(candidates(), 9)))
    text = builder.policy_prompt(state, env.teach(env.describe(), "blocked")).text
    assert f"{text}\n" in blocks(METHOD, "text")


# Pages


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in local if target and not (page.parent / target).exists()] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page not in PAGES:
            continue
        reached.add(page)
        text = page.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)\s#]+\.md)", text)
        for tree in re.findall(r"```{toctree}\n(.*?)```", text, flags=re.DOTALL):
            links += [f"{name}.md" for name in re.findall(r"^[\w/-]+$", tree, flags=re.MULTILINE)]
        waiting += [(page.parent / link).resolve() for link in links]
    site_only = {ROOT / "docs" / "index.md", ROOT / "docs" / "contributing.md"}
    assert sorted(map(page_id, {*PAGES} - reached - site_only)) == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_everything_public_is_on_a_page_of_the_api() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = re.findall(r"^\.\. auto\w+:: (\S+)$", pages, flags=re.MULTILINE)
    public = [f"reflect_rl.{name}" for name in reflect_rl.__all__]
    public += [f"reflect_rl.selection.{name}" for name in reflect_rl.selection.__all__]
    assert sorted(set(public) - set(shown)) == []
    assert len(shown) == len(set(shown))


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for library in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(library, reason=f"{library} is not installed: make install")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "made")]
    done = subprocess.run([*command, ROOT / "docs", tmp_path / "site"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "runs-and-agents.html").read_text(encoding="utf-8")
    assert "act_batch" in page
    assert "the admissible actions of each" in page


@pytest.mark.parametrize("folder", ["docs", "examples", "scripts", "src"])
def test_no_path_of_some_machine_is_in_a_text(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in {".md", ".py", ".yaml", ".js", ".json"}]
    machine = re.compile(r"(?<![\w.~])/(?:work|root|home|tmp|Users|mnt)/|\b[A-Z]:\\")
    texts = [*TOP, *files]
    assert [page_id(path) for path in texts if machine.search(path.read_text(encoding="utf-8"))] == []


# The house


def test_the_list_of_modules_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "write_modules_doc.py"))["architecture_page"]()
    assert page == ARCHITECTURE, "run: python scripts/write_modules_doc.py"


def test_the_way_of_a_prompt_is_the_one_described(warmed: RunFolder, tiny: Callable[..., Settings]) -> None:
    walk = re.findall(r"^\d\. `([\w/.]+)`", ARCHITECTURE, flags=re.MULTILINE)
    assert len(walk) == len(set(walk)) == 7
    files = {str(SRC / name): name for name in walk}
    entered: dict[str, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and playing and (name := files.get(frame.f_code.co_filename)):
            entered.setdefault(name)

    def play(*given: Any, **more: Any) -> Any:
        playing.append(True)
        return play_episodes(*given, **more)

    playing: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reflect_rl.training.rollout.play_episodes", play)
        sys.setprofile(note)
        try:
            rl(warmed, Context(tiny({"rl.iterations": 1, "rl.episodes": 4})), Progress())
        finally:
            sys.setprofile(None)
    assert list(entered) == walk


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=page_id)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or not path.read_text(encoding="utf-8")


def floors() -> dict[str, int]:
    """Floor of each top-level module and package, from the table in docs/architecture.md."""
    table = ARCHITECTURE.partition("<!-- FLOORS -->")[2].partition("<!-- /FLOORS -->")[0]
    found = {}
    for line in table.splitlines():
        if row := re.match(r"\| (\d+) \| ([^|]+) \|", line):
            found |= {name: int(row[1]) for name in re.findall(r"`(\w+)`", row[2])}
    return found


def modules() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unit(path: Path) -> str:
    """The top-level module or package that a file belongs to."""
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def test_every_module_has_a_floor() -> None:
    assert sorted({unit(path) for path in modules()} ^ {*floors(), "__init__"}) == []


@pytest.mark.parametrize("path", modules(), ids=page_id)
def test_imports_go_down(path: Path) -> None:
    if (own := unit(path)) == "__init__":
        return
    table = floors()
    upward = []
    for name in imported(path):
        package, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if package != "reflect_rl" or other in (own, "__version__"):
            continue
        if table[other] >= table[own]:
            upward.append(name)
    assert upward == []


def test_worlds_know_nothing_of_models() -> None:
    heavy = {"torch", "transformers", "tokenizers", "accelerate", "peft", "safetensors"}
    found = {(page_id(p), n) for p in modules() if unit(p) == "envs" for n in imported(p) if n.split(".")[0] in heavy}
    assert found == set()
    code = """
import sys, reflect_rl.envs.bridges.gymnasium, reflect_rl.envs.check, reflect_rl.envs.checked
from reflect_rl import make
make("taxi").reset(seed=0)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_only_the_command_line_prints() -> None:
    allowed = {"cli", "bars", "__main__"}
    printing = {
        page_id(path)
        for path in modules()
        if unit(path) not in allowed
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Name) and node.id == "print")
        or (isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr") and ast.unparse(node.value) == "sys")
    }
    assert printing == set()


def test_no_module_is_long() -> None:
    lengths = {page_id(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}
