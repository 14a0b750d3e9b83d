"""Decoding after prompts of different lengths: logits are those of each text alone, in every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import tiny_models
from corridor import Corridor
from reflect_rl.lm.backbone import Backbone, Passes
from reflect_rl.lm.decoding import PaddedSteps, TrieSteps, decoding_steps, mixes_lengths
from reflect_rl.memo import Memo
from reflect_rl.players.labels import candidates
from reflect_rl.players.prompt import PromptBuilder
from reflect_rl.players.reflector import LocalReflector
from reflect_rl.settings import PromptSettings, ReflectorSettings
from test_lm_packed import KINDS, made

PROMPTS = [[2, 3, 4, 5, 6, 7, 8, 9], [2, 3, 4, 5, 9], [2, 3, 4, 5, 6, 7, 11], [12, 13], [2, 3, 4, 5, 9]]
WRITTEN = [[20, 21, 22], [23, 24, 25], [26, 27, 28], [29, 30, 31], [32, 33, 34]]
NEAR = {"rtol": 1e-4, "atol": 2e-5}


@torch.no_grad()
def alone(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits[0, -1].float()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_each_text_alone(kind: str, packed: bool) -> None:
    model = made(kind)
    backbone = Backbone(model, Passes(packed, tokens=9))  # more than one pack
    if not packed and (backbone.fast or not mixes_lengths(backbone)):
        pytest.skip("reads prompts of one length at a time")
    steps = decoding_steps(backbone, PROMPTS, 8, 16)
    assert isinstance(steps, TrieSteps if packed else PaddedSteps)
    logits_BV = steps.first()
    for step in range(4):
        texts = [[*prompt, *written[:step]] for prompt, written in zip(PROMPTS, WRITTEN, strict=True)]
        wanted_BV = torch.stack([alone(model, ids) for ids in texts])
        torch.testing.assert_close(logits_BV, wanted_BV, **NEAR)
        if step < 3:
            logits_BV = steps(torch.tensor([[written[step]] for written in WRITTEN]))


@pytest.mark.parametrize("decoding", ["greedy", "sample"])
def test_packed_texts_are_those_of_the_exact_mode(decoding: str, tmp_path: Path) -> None:
    tokenizer, states = tiny_models.tokenizer(), tiny_models.states()

    def reflector(packed: bool, chunk: int) -> LocalReflector:
        labels = [label for label, _ in zip(candidates(), range(3), strict=False)]
        prompts = PromptBuilder(Corridor.task_text, PromptSettings(), labels)
        part = ReflectorSettings(max_new_tokens=12, decoding=decoding)  # type: ignore[arg-type]
        memo = Memo(None, "test")
        model = tiny_models.llama()
        return LocalReflector(model, tokenizer, prompts, part, memo, 0, chunk, not packed, Passes(packed, 300))

    exact = reflector(False, 4).reflect(states)
    assert reflector(True, 16).reflect(states) == exact
    assert reflector(True, 3).reflect(states[::-1]) == exact[::-1]


def test_a_model_stops_at_every_end_token_of_its_own() -> None:
    tokenizer, model = tiny_models.tokenizer(), tiny_models.llama()
    prompts = PromptBuilder(Corridor.task_text, PromptSettings(), [" A", " B", " C"])
    part = ReflectorSettings(max_new_tokens=12)

    def written(*ends: int) -> list[int]:
        model.generation_config.eos_token_id = [1, *ends]  # type: ignore[union-attr]
        made = LocalReflector(model, tokenizer, prompts, part, Memo(None, "test"), passes=Passes(True), exact=False)
        (ids,) = made._decode([[2, 3, 4]], [0])
        return ids

    whole = written()
    assert len(set(whole)) > 1
    place = next(place for place, token in enumerate(whole) if token != whole[0])
    assert written(whole[place]) == whole[:place]
