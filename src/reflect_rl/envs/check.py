"""Check an environment against the TextEnv contract: what it breaks, and how to fix it.

Every probe plays the environment a little, through the functions that runs use. A broken promise is one finding,
whichever probe saw it; what that probe would have looked at next is not judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature

from reflect_rl.envs.check_probes import LACKS, PROBES, MakeEnv, SeenError
from reflect_rl.envs.checked import opened
from reflect_rl.envs.promises import HORIZON, MADE, MENDS, BrokenPromiseError, where
from reflect_rl.errors import EnvironmentContractError


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise of the contract.

    Attributes:
        ok: whether the promise is kept.
        promise: its name.
        detail: what was seen.
        mend: what to do if it is not kept.
    """

    ok: bool
    promise: str
    detail: str
    mend: str = ""

    @property
    def lacks(self) -> bool:
        """Whether something optional is missing, which a run may need."""
        return self.ok and self.detail.startswith(LACKS)

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}" + (f" {self.mend}" if not self.ok else "")


def check(make_env: MakeEnv) -> list[Finding]:
    """Probe an environment. Errors that its code raises become findings.

    Args:
        make_env: makes a new instance at each call. Whether the world takes a horizon is checked if this function does.

    Returns:
        A finding for each promise that could be judged.
    """
    found: dict[str, Finding] = {}
    for promise, probe in PROBES.items():
        if promise in found or (promise == HORIZON and not _takes_horizon(make_env)):
            continue
        finding = _judge(make_env, promise, probe)
        if finding.promise not in found or found[finding.promise].ok:
            found[finding.promise] = finding
        if promise == MADE and not finding.ok:
            break
    return [found[promise] for promise in MENDS if promise in found]


def _takes_horizon(make_env: MakeEnv) -> bool:
    """Whether to ask for one: a class has to take it, a function need not."""
    try:
        signature(make_env).bind_partial(horizon=1)
    except TypeError:
        return isinstance(make_env, type)
    return True


def _judge(make_env: MakeEnv, promise: str, probe: Callable[[MakeEnv], str]) -> Finding:
    try:
        with opened(make_env) as make:
            return Finding(True, promise, probe(make))
    except BrokenPromiseError as broken:
        promise, seen = broken.promise, broken.seen
    except (SeenError, EnvironmentContractError) as error:
        seen = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  the environment's own code, which may raise anything
        seen = f"It raised {where(error)}."
    return Finding(False, promise, seen, MENDS[promise])
