"""How many rows a forward pass has is a setting; on a CPU the default is what it always was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_models
from reflect_rl.lm.backbone import Backbone, TokenBatch
from reflect_rl.players import reflector as reflector_module
from reflect_rl.players.context import Context
from reflect_rl.players.load import forward_rows, load_policy, load_reflector, policy_prompts
from reflect_rl.players.memo import Memo
from reflect_rl.players.reflector import LocalReflector
from reflect_rl.progress import Progress
from reflect_rl.runs.folder import RunFolder
from reflect_rl.settings import ComputeSettings, Settings
from reflect_rl.training.rl import rl

Tiny = Callable[..., Settings]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every forward pass of a policy or a reflector from now on."""
    rows: list[int] = []
    hidden, read, decoding = Backbone.hidden, Backbone.read, reflector_module.decoding_steps

    def counted_hidden(self: Backbone, batch: TokenBatch, before: Any = ()) -> Tensor:
        rows.append(len(batch.ids_BL))
        return hidden(self, batch, before)

    def counted_read(self: Backbone, ids_BL: Tensor, before: Sequence[Any] = ()) -> Any:
        rows.append(len(ids_BL))
        return read(self, ids_BL, before)

    def counted_decoding(backbone: Backbone, count: int, *more: Any) -> Any:
        rows.append(count)
        return decoding(backbone, count, *more)

    monkeypatch.setattr(Backbone, "hidden", counted_hidden)
    monkeypatch.setattr(Backbone, "read", counted_read)
    monkeypatch.setattr(reflector_module, "decoding_steps", counted_decoding)
    return rows


@pytest.mark.parametrize("rows", [1, 3])
def test_no_forward_pass_of_rl_has_more_rows_than_asked_for(
    rows: int, warmed: RunFolder, tiny: Tiny, seen: list[int]
) -> None:
    settings = tiny({"compute.rows": rows, "rl.replay": 4, "rl.iterations": 2, "rl.anchor": 0.1})
    policy = load_policy(warmed / "policy-sft", settings)
    reflector = load_reflector(warmed, Context(settings))
    assert (policy.chunk, reflector.chunk if isinstance(reflector, LocalReflector) else 0) == (rows, rows)
    seen.clear()
    rl(warmed, Context(settings), Progress())
    limit = max(rows, 2)  # a model that is loaded is tried on two texts
    assert max(seen) == limit
    if rows > 2:
        assert seen.count(rows) > len(seen) // 2


def test_fewer_rows_decide_alike(warmed: RunFolder, tiny: Tiny) -> None:
    made = [load_policy(warmed / "policy-sft", tiny({"compute.rows": rows})) for rows in (0, 1, 5)]
    builder = policy_prompts(made[0], Context(tiny()))
    prompts = [builder.policy_prompt(state, "Go left.") for state in tiny_models.states()]
    for other in made[1:]:
        torch.testing.assert_close(other.log_probs(prompts), made[0].log_probs(prompts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "rows", "fast", "plain"),
    [("cpu", 0, 16, 8), ("mps", 0, 128, 64), ("cuda", 0, 512, 256), ("cuda", 5, 5, 5)],
)
def test_by_default_the_device_decides(device: Any, rows: int, fast: int, plain: int) -> None:
    compute = ComputeSettings(device=device, rows=rows)
    assert forward_rows(compute, tiny_models.gpt2()) == fast
    assert forward_rows(compute, tiny_models.llama()) == plain


def test_a_memo_on_disk_holds_a_bounded_number_of_texts_in_memory(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflect_rl.players.memo.MOST_HELD", 10)
    memo, unbounded = Memo(tmp_path / "memo.sqlite", "x"), Memo(None, "x")
    for number in range(50):
        for each in (memo, unbounded):
            each.put({(f"prompt {number}", 0): f"text {number}"})
            assert each.get([(f"prompt {number}", 0)])
        assert len(memo._texts) <= 12
    wanted = [(f"prompt {number}", 0) for number in range(50)]
    assert memo.get(wanted) == unbounded.get(wanted)
    assert len(unbounded.get(wanted)) == 50
