"""Small random models, tokenizers and states of the tiny world, for tests of the players."""

from __future__ import annotations

from functools import cache
from itertools import islice

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from corridor import Corridor
from reflect_rl.lm.backbone import Passes
from reflect_rl.lm.scratch import scratch_model, train_tokenizer
from reflect_rl.players.labels import candidates, find_labels
from reflect_rl.players.policy import Policy
from reflect_rl.players.prompt import Prompt, PromptBuilder
from reflect_rl.records import State
from reflect_rl.settings import ModelSettings, PromptSettings

CONTEXT = 192


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    labels = list(islice(candidates(), 6))
    builder = PromptBuilder(Corridor.task_text, PromptSettings(), labels)
    texts = [builder.policy_prompt(state, "Item 3 away. Go left.").text for state in states()]
    return train_tokenizer([*texts, *labels, "Item 0 away. Go take. Go right."])


@cache
def frozen_gpt2(layers: int) -> PreTrainedModel:
    """One model for many examples, which must not change it."""
    return gpt2(layers=layers)


def gpt2(seed: int = 0, width: int = 16, layers: int = 2, context: int = CONTEXT) -> PreTrainedModel:
    part = ModelSettings(width=width, layers=layers, heads=2)
    return scratch_model(part, len(tokenizer()), context, seed, tokenizer().eos_token_id).eval()


def lookup(seed: int = 0) -> PreTrainedModel:
    part = ModelSettings(architecture="lookup", width=16, heads=2, kernel=3)
    return scratch_model(part, len(tokenizer()), CONTEXT, seed, tokenizer().eos_token_id).eval()


def llama(kind: str = "llama", width: int = 16, spread: float = 0.02) -> PreTrainedModel:
    """spread: standard deviation of the weights."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](
        vocab_size=len(tokenizer()),
        hidden_size=width,
        intermediate_size=width * 3 // 2,
        initializer_range=spread,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    torch.manual_seed(5)
    return AutoModelForCausalLM.from_config(config).eval()


def of_kind(kind: str) -> PreTrainedModel:
    return {"gpt2": gpt2, "lookup": lookup}[kind]() if kind in ("gpt2", "lookup") else llama(kind)


def policy(
    head: str = "labels", value: bool = False, passes: Passes | None = None, model: PreTrainedModel | None = None
) -> Policy:
    labels = find_labels(tokenizer(), most=6) if head != "pointer" else None
    trust = 0.6 if head == "hedged" else None
    made = Policy(model if model is not None else gpt2(), tokenizer(), labels, value, passes, trust)
    if made.value is not None:
        torch.nn.init.normal_(made.value.weight, generator=torch.Generator().manual_seed(1))
    if made.gate is not None:
        torch.nn.init.normal_(made.gate.weight, generator=torch.Generator().manual_seed(3))
    if made.pointer is not None:
        torch.nn.init.normal_(made.pointer.weight, generator=torch.Generator().manual_seed(2))
    return made.eval()


def little_memory(most: int) -> RemovableHandle:
    """From now on, a pass of more than `most` tokens runs out of memory, as on a GPU. Also a context."""

    def check(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Embedding) and given[0].numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return register_module_forward_pre_hook(check)


@cache
def states() -> tuple[State, ...]:
    """All 36 states of the corridor, some with a past step, with 2 or 3 actions."""
    env, found = Corridor(), []
    for split in ("train", "valid", "test"):
        for number, task in enumerate(env.tasks(split)):
            observation, info = env.reset(seed=0, options={"task": task})
            history = (("seen", "left"),) if number % 2 else ()
            found.append(State(observation, info["actions"], history, env.describe()))
    return tuple(found)


def prompts(made: Policy) -> list[Prompt]:
    """Prompts of several lengths, prefixes and numbers of actions."""
    labels, hedged = made.labels and list(made.labels), made.gate is not None
    builder = PromptBuilder(Corridor.task_text, PromptSettings(), labels, made.count, gated=hedged)
    said = ("Take." if hedged else None, "Go left.", "Item 3 away. Go right. " * 4)
    told = [(state, said[number % 3]) for number, state in enumerate(states())]
    return [builder.policy_prompt(state, text) for state, text in [*told, (states()[0], said[1])]]
