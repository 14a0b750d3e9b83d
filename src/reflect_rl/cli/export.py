"""`reflect-rl export`: a trained agent as a folder of its own, or on the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from reflect_rl.bars import Bars
from reflect_rl.cli.overrides import InputPath


def export(
    run: InputPath,
    /,
    *,
    to: str,
    merge: Annotated[bool, Parameter(negative="")] = False,
    push: str | None = None,
) -> None:
    """Copy the agent of a finished run into a folder of its own, with a model card.

    The folder holds what `Agent.load` needs, and no data, checkpoints or logs. An earlier export in it is replaced.

    For example:

    - `reflect-rl export runs/taxi --to my-agent`
    - `reflect-rl export runs/taxi --to my-agent --merge --push user/name`

    Parameters
    ----------
    run
        A finished run folder.
    to
        The new folder.
    merge
        Merge LoRA adapters into their bases, in float32: the folder then needs no other model.
    push
        Also upload the folder to this repository of the Hugging Face hub. If it does not exist, it is created as a
        public one. The token is that of `hf auth login`, or HF_TOKEN.
    """
    from reflect_rl.api import Run

    print(Run(run).export(to, merge=merge, push=push, progress=Bars()))
