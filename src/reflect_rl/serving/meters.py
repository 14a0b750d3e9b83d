"""What `GET /metrics` tells, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Meters"]

PASSES = (1, 2, 4, 8, 16, 32, 64)


class Meters:
    """The meters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "reflect_rl_requests", "Requests that were answered.", ("path", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "reflect_rl_request_seconds", "Time to answer a request.", ("path",), registry=self._registry
        )
        self.states = Histogram(
            "reflect_rl_pass_states", "States in one pass of the agent.", buckets=PASSES, registry=self._registry
        )

    def gauge(self, name: str, meaning: str, value: Callable[[], int]) -> None:
        """Add a value that is asked for when the meters are read."""
        Gauge(f"reflect_rl_{name}", meaning, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All meters."""
        return generate_latest(self._registry)
