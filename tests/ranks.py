"""Several ranks without a launcher: processes of the fork server with the environment variables that launchers set."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

from end_to_end import LIMIT, processes
from ports import free_port


class RankError(Exception):
    """What a rank raised."""


def in_ranks(function: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Any]:
    """What `function(*arguments)` returns on each rank. Skips the test where processes cannot talk to each other."""
    port = free_port()
    ranks = []
    for rank in range(count):
        mine, its = processes.Pipe()
        process = processes.Process(target=_rank, args=(its, rank, count, port, function, arguments))
        process.start()
        its.close()
        ranks.append((process, mine))
    try:
        outcomes = [_received(mine) for _, mine in ranks]
    finally:
        for process, _ in ranks:
            process.kill()
            process.join()
    for failed, value in outcomes:
        if failed and "EADDR" in value:
            pytest.skip("this machine lets no two processes talk to each other")
        if failed:
            raise RankError(value)
    return [value for _, value in outcomes]


def _received(mine: Connection) -> tuple[bool, Any]:
    if not mine.poll(LIMIT):
        return True, f"no answer within {LIMIT} s"
    return mine.recv()


def _rank(
    its: Connection, rank: int, count: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        its.send((False, function(*arguments)))
    except BaseException:  # noqa: BLE001  told to the test
        its.send((True, traceback.format_exc()))
        return
    its.recv_bytes()  # until the parent has every answer: the first rank's store serves the others
