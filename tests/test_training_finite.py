"""Numbers that are no longer finite stop training with one message; nothing of them is written or acted on."""

from __future__ import annotations

import ast
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny_models
from conftest import TINY, Heard
from corridor import Corridor, Scaled
from end_to_end import reflect_rl
from reflect_rl import Agent, NonFiniteError
from reflect_rl.config import parse_settings
from reflect_rl.envs.check import check
from reflect_rl.envs.checked import advance, begin
from reflect_rl.errors import EnvironmentContractError, ReflectRLError
from reflect_rl.pipeline.run import run_pipeline
from reflect_rl.players.context import Context
from reflect_rl.players.policy import Policy
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import Settings
from reflect_rl.settings.training import SftSettings
from reflect_rl.training import fit as fit_module
from reflect_rl.training import rl as rl_module
from reflect_rl.training.checkpoint import Checkpointer
from reflect_rl.training.fit import fit
from reflect_rl.training.optimizer import clip_and_step, make_optimizer
from reflect_rl.training.rl import rl
from reflect_rl.training.sft import sft_policy, sft_reflector
from test_training_sft import files

Tiny = Callable[..., Settings]


def strict(text: str) -> Any:
    """JSON as the standard has it."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


def all_is_finite(folder: Path) -> bool:
    """Every JSON file is JSON, and every tensor in a folder is finite."""
    from safetensors.torch import load_file

    for path in folder.rglob("*.json*"):
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            strict(text)
    tensors = [tensor for path in folder.rglob("*.safetensors") for tensor in load_file(path).values()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


# The warm-up


class Weights(nn.Module):
    """Four weights, whose loss can be made to fail at a step."""

    def __init__(self, fault: Callable[[nn.Parameter], Tensor] | None = None, at: int = 0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(4))
        self.fault, self.at, self.calls = fault, at, 0

    def loss(self, indices: Sequence[int]) -> torch.Tensor:
        self.calls += 1
        return self.fault(self.w) if self.fault and self.calls == self.at else (self.w**2).sum()


Tensor = torch.Tensor
FAULTS: dict[str, tuple[Callable[[nn.Parameter], Tensor], str]] = {
    "nan loss": (lambda w: w.sum() * torch.nan, "the loss is nan"),
    "infinite loss": (lambda w: w.sum() + torch.inf, "the loss is inf"),
    "infinite gradient": (lambda w: (0 * w).sqrt().sum() + (w - w.detach()).abs().sqrt().sum(), "gradient norm is"),
    "norm beyond float32": (lambda w: 1e30 * w.sum(), "the gradient norm is inf"),
}


def warm_up(run: RunFolder, module: Weights, steps: int = 7, lr: float = 0.1) -> list[float]:
    return fit(
        lambda batch, _: [module.loss(batch)],
        5,
        module,
        SftSettings(steps=steps, batch=2, lr=lr),
        run,
        0,
        "policy",
        Progress(),
    )


@pytest.mark.parametrize("at", [1, 4, 7])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_warm_up_stops_at_the_step_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, at: int
) -> None:
    monkeypatch.setattr(fit_module, "SAVE_EVERY", 3)
    make, what = FAULTS[fault]
    with pytest.raises(NonFiniteError) as caught:
        warm_up(RunFolder(tmp_path), Weights(make, at))
    message = str(caught.value)
    assert message.startswith(f"Training stopped in sft_policy, step {at}: ")
    assert what in message
    assert "Lower policy_sft.lr (it is 0.1)" in message
    saved = {1: 0, 4: 3, 7: 6}[at]
    folder = tmp_path / "checkpoints/sft-policy"
    if not saved:
        assert "there is no checkpoint yet" in message
        assert not folder.exists()
    else:
        assert f"after step {saved}, is finite ({folder})" in message
        assert strict((folder / "state.json").read_text())["done"] == saved
        assert all_is_finite(folder)


@pytest.mark.parametrize(
    ("lr", "what"),
    [
        (1e30, "the loss after the last step is inf"),
        (3e37, "the loss after the last step is inf"),
        (1e39, r"a step at the learning rate 1e\+39 is not finite"),
        (1e300, r"a step at the learning rate 1e\+300 is not finite"),
    ],
)
def test_the_weights_after_the_last_step_are_looked_at(tmp_path: Path, lr: float, what: str) -> None:
    with pytest.raises(NonFiniteError, match=rf"sft_policy, step 1: {what}"):
        warm_up(RunFolder(tmp_path), Weights(), steps=1, lr=lr)


def test_a_warm_up_that_diverges_to_finite_numbers_is_no_error(tmp_path: Path) -> None:
    module = Weights()
    losses = warm_up(RunFolder(tmp_path), module, steps=1, lr=1e15)
    assert losses == [4]
    assert 1e14 < float(module.w.detach().abs().max()) < math.inf


def test_a_step_that_is_not_finite_is_not_taken() -> None:
    module = Weights()
    optimizer = make_optimizer(module, 0.1, 0.0)
    (module.w.sum() * torch.nan).backward()
    with pytest.raises(NonFiniteError, match=r"The gradient norm is nan\."):
        clip_and_step(optimizer, module.parameters(), 1.0)
    assert bool((module.w == 1).all())


@pytest.mark.parametrize("broken", ["weight", "moment"])
def test_a_checkpoint_is_never_replaced_by_one_that_is_not_finite(tmp_path: Path, broken: str) -> None:
    module = Weights()
    optimizer = make_optimizer(module, 0.1, 0.0)
    checkpoint = Checkpointer(RunFolder(tmp_path), "c", module, optimizer)
    module.loss([]).backward()
    clip_and_step(optimizer, module.parameters(), 1.0)
    checkpoint.save(1)
    before = files(tmp_path)
    with torch.no_grad():
        (module.w if broken == "weight" else optimizer.state[module.w]["exp_avg_sq"])[2] = torch.inf
    with pytest.raises(NonFiniteError, match="not finite"):
        checkpoint.save(2)
    assert files(tmp_path) == before


@pytest.mark.parametrize("who", ["policy", "reflector"])
def test_a_stage_that_diverges_leaves_what_it_had_made_before(warmed: RunFolder, tiny: Tiny, who: str) -> None:
    before = files(warmed.path)
    stage = {"policy": sft_policy, "reflector": sft_reflector}[who]
    with pytest.raises(NonFiniteError, match=rf"sft_{who}, step \d+: .*Lower {who}_sft\.lr \(it is 1e\+30\)"):
        stage(warmed, Context(tiny({f"{who}_sft.lr": 1e30})), Progress())
    assert {name: data for name, data in files(warmed.path).items() if "sqlite" not in name} == {
        name: data for name, data in before.items() if "sqlite" not in name
    }


def test_a_lower_rate_begins_the_stage_anew(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint of the rate that failed holds plays no part in it."""
    monkeypatch.setattr(fit_module, "SAVE_EVERY", 1)
    quick = {"reflector_sft.steps": 2, "policy_sft.steps": 6}
    with pytest.raises(NonFiniteError, match=r"the last checkpoint, after step \d, is finite"):
        run_pipeline(tiny(quick | {"policy_sft.lr": 1e8}), tmp_path / "run", until="sft_policy")
    assert (tmp_path / "run/checkpoints/sft-policy").is_dir()
    assert not (tmp_path / "run/policy-sft").exists()
    for name in ("run", "other"):
        run_pipeline(tiny(quick), tmp_path / name, until="sft_policy")
    assert files(tmp_path / "run/policy-sft") == files(tmp_path / "other/policy-sft")
    assert not (tmp_path / "run/checkpoints/sft-policy").exists()


def test_the_command_line_says_it_in_one_message(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "corridor.py", tmp_path)
    options = [f"--{key}={json.dumps(value)}" for key, value in (TINY | {"policy_sft.lr": 1e30}).items()]
    (tmp_path / "empty.yaml").write_text("{}\n")
    ended = reflect_rl("run", "empty.yaml", "--out", "run", *options, cwd=tmp_path)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: Training stopped in sft_policy, step ")
    assert "Lower policy_sft.lr (it is 1e+30)" in last
    assert all_is_finite(tmp_path / "run")
    assert not (tmp_path / "run/policy-sft").exists()


# RL


def poisoned(monkeypatch: pytest.MonkeyPatch, iteration: int, spoil: Callable[[Policy], None]) -> None:
    """Let the weights be spoiled by the last optimizer step of an iteration."""
    replayed = rl_module.replay_update

    def spoiling(learner: Any, replay: Any, number: int) -> None:
        replayed(learner, replay, number)
        if number == iteration:
            with torch.no_grad():
                spoil(learner.policy)

    monkeypatch.setattr(rl_module, "replay_update", spoiling)


SPOILS: dict[str, Callable[[Policy], Any]] = {
    "all": lambda policy: [weight.fill_(torch.nan) for weight in policy.parameters()],
    "what no prompt reads": lambda policy: policy.model.transformer.wpe.weight[-1].fill_(torch.inf),
    "finite, but too large": lambda policy: [weight.fill_(1e30) for weight in policy.parameters()],
}


@pytest.mark.parametrize("iteration", [0, 2])
@pytest.mark.parametrize("spoil", SPOILS)
def test_rl_stops_in_the_iteration_whose_update_is_not_finite(
    warmed: RunFolder, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, spoil: str, iteration: int
) -> None:
    poisoned(monkeypatch, iteration, SPOILS[spoil])
    with pytest.raises(NonFiniteError, match=rf"^Training stopped in rl, iteration {iteration + 1}: ") as caught:
        rl(warmed, Context(tiny()), Progress())
    assert not (warmed / "policy").exists()
    assert all_is_finite(warmed.path)
    if iteration:
        assert f"after iteration {iteration}, is finite ({warmed / 'checkpoints/rl'})" in str(caught.value)
        assert warmed.read_json("checkpoints/rl/state.json")["done"] == iteration
        assert len(warmed.read_jsonl("metrics.jsonl", dict)) == iteration
    else:
        assert not (warmed / "metrics.jsonl").exists()


@pytest.mark.parametrize("baseline", ["state", "value"])
def test_a_rate_that_is_too_high_is_named(warmed: RunFolder, tiny: Tiny, baseline: str) -> None:
    settings = tiny({"rl.lr": 1e37, "rl.baseline": baseline, "rl.iterations": 1})
    sft_policy(warmed, Context(settings), Progress())
    with pytest.raises(NonFiniteError, match=r"rl, iteration 1: .*there is no checkpoint yet\. .*rl\.lr"):
        rl(warmed, Context(settings), Progress())
    assert not (warmed / "policy").exists()


def large(scale: float, baseline: str, **more: Any) -> dict[str, Any]:
    options = {"scale": scale, "slip": 0.1}
    return {"env.name": "corridor:Scaled", "env.options": options, "rl.baseline": baseline, "rl.iterations": 1} | more


@pytest.mark.parametrize("scale", [1e22, 1e30, 1e90])
def test_returns_that_no_value_can_be_learned_of_say_so(warmed: RunFolder, tiny: Tiny, scale: float) -> None:
    settings = tiny(large(scale, "value"))
    sft_policy(warmed, Context(settings), Progress())
    with pytest.raises(NonFiniteError, match=r"rl, iteration 1: the sum of the squared returns.*Scale the world's"):
        rl(warmed, Context(settings), Progress())
    assert not (warmed / "policy").exists()
    assert all_is_finite(warmed.path)


@pytest.mark.parametrize("baseline", ["none", "state", "task"])
def test_large_rewards_are_learned_from_as_small_ones_without_a_value(
    warmed: RunFolder, tiny: Tiny, tmp_path: Path, baseline: str
) -> None:
    rows = []
    for scale in (1.0, 2.0**300):
        run = RunFolder(shutil.copytree(warmed.path, tmp_path / str(scale)))
        rl(run, Context(tiny(large(scale, baseline))), Progress())
        assert all_is_finite(run.path)
        rows += run.read_jsonl("metrics.jsonl", dict)
    assert rows[1]["grad_norm"] == pytest.approx(rows[0]["grad_norm"])
    assert rows[1]["return_mean"] == pytest.approx(rows[0]["return_mean"] * 2.0**300)


def test_a_success_that_cannot_be_replayed_stops_rl(warmed: RunFolder, tiny: Tiny) -> None:
    settings = tiny(large(1e80, "state", **{"rl.replay": 5, "rl.episodes": 64}))
    with pytest.raises(
        NonFiniteError, match=r"the loss of a replayed success is -?(inf|nan).*scale the world's rewards"
    ):
        rl(warmed, Context(settings), Progress())
    assert not (warmed / "policy").exists()


@pytest.mark.parametrize("scale", [1e103, 1e308, -1e308])
def test_rewards_whose_sums_overflow_are_refused_by_check_and_run(scale: float) -> None:
    env = Scaled(scale=scale)
    begin(env, 0, {"task": "0-1"})
    with pytest.raises(EnvironmentContractError, match=r"the reward .*e\+.*, not a finite number up to 1e\+100"):
        advance(env, 0)
    assert "rewards" in [found.promise for found in check(lambda: Scaled(scale=scale)) if not found.ok]
    assert all(found.ok for found in check(lambda: Scaled(scale=1e90)) if found.promise == "rewards")


# Playing


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["labels", "hedged", "pointer", "value"])
def test_a_policy_whose_probabilities_are_not_finite_does_not_act(kind: str, number: float) -> None:
    policy = tiny_models.policy("labels" if kind == "value" else kind, value=kind == "value")
    prompts = tiny_models.prompts(policy)
    policy.evaluate(prompts)
    with torch.no_grad():
        (policy.value.bias if policy.value else policy.model.transformer.ln_f.bias).fill_(number)
    with pytest.raises(NonFiniteError, match=r"^The policy's probabilities are not finite\. .*train it again"):
        policy.evaluate(prompts[:3])


def test_an_agent_whose_probabilities_are_not_finite_does_not_act(run: Path) -> None:
    agent = Agent.load(run)
    observation, info = agent.world.reset(seed=0)
    agent.act(observation, info["actions"], agent.world.describe())
    with torch.no_grad():
        agent._decisions.policy.model.transformer.ln_f.bias.fill_(math.nan)  # type: ignore[union-attr]
    with pytest.raises(ReflectRLError, match="probabilities are not finite"):
        agent.act(observation, info["actions"], agent.world.describe())


# JSON


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_json_is_not_written(tmp_path: Path, number: float) -> None:
    run = RunFolder(tmp_path)
    run.write_json("a.json", {"x": 1})
    run.write_jsonl("a.jsonl", [{"x": 1}])
    before = files(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        run.write_json("a.json", {"x": [number]})
    with pytest.raises(ValueError, match="JSON"):
        run.write_jsonl("a.jsonl", [{"x": 1}, {"x": number}])
    assert files(tmp_path) == before


def test_facts_that_are_no_json_break_the_contract(warmed_path: Path) -> None:
    class Vague(Corridor):
        def describe(self) -> dict[str, Any]:
            return {**super().describe(), "share": math.nan}

    from reflect_rl.envs.checked import facts_of

    env = Vague()
    begin(env, 0, {"task": "0-1"})
    with pytest.raises(EnvironmentContractError, match="no JSON"):
        facts_of(env)


def test_everything_that_makes_json_refuses_what_json_lacks() -> None:
    loose = []
    for path in sorted((Path(__file__).parents[1] / "src").rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        measured = {id(node.args[0]) for node in calls if ast.unparse(node.func) == "len"}
        for node in calls:
            if ast.unparse(node.func) in ("json.dumps", "json.dump") and id(node) not in measured:
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if given.get("allow_nan") != "False":
                    loose.append(f"{path.name}:{node.lineno}")
    assert loose == []


# Settings without effect


def test_a_curriculum_without_stages_is_announced(warmed: RunFolder, tiny: Tiny, heard: Heard) -> None:
    rl(warmed, Context(tiny({"env.name": "corridor:Flat", "rl.curriculum": "mix", "rl.iterations": 1})), heard)
    assert any("rl.curriculum: mix changes nothing" in text for text in heard.warned)


@pytest.mark.parametrize(("iterations", "announced"), [(1, True), (2, False)])
def test_a_curriculum_that_never_comes_to_the_full_task_is_announced(
    warmed: RunFolder, tiny: Tiny, heard: Heard, iterations: int, announced: bool
) -> None:
    rl(warmed, Context(tiny({"rl.curriculum": "switch", "rl.iterations": iterations})), heard)
    assert any("never comes to the full task" in text for text in heard.warned) is announced


@pytest.mark.parametrize(("group", "announced"), [(1, True), (4, False)])
def test_a_baseline_that_leaves_nothing_to_learn_is_announced(
    warmed: RunFolder, tiny: Tiny, heard: Heard, group: int, announced: bool
) -> None:
    rl(warmed, Context(tiny({"rl.baseline": "task", "rl.group": group, "rl.iterations": 1})), heard)
    assert any("nothing is learned from these returns" in text for text in heard.warned) is announced


@pytest.mark.parametrize(("baseline", "announced"), [("none", True), ("value", True), ("state", False)])
def test_returns_that_lie_far_from_0_are_announced(
    warmed: RunFolder, tiny: Tiny, heard: Heard, baseline: str, announced: bool
) -> None:
    """Where each action brings about 100, none looks better than another to a baseline that does not know the 100."""
    paid = {"env.name": "corridor:Paid", "rl.gamma": 1.0, "rl.gae_lambda": 1.0, "rl.iterations": 1}
    rl(warmed, Context(tiny(paid | {"rl.baseline": baseline})), heard)
    assert any("times their standard deviation" in text for text in heard.warned) is announced


def test_a_group_larger_than_an_iteration_is_refused() -> None:
    with pytest.raises(ReflectRLError, match=r"group: 8 is more than the 4 episodes of an iteration"):
        parse_settings({}, {"rl.group": 8, "rl.episodes": 4})
