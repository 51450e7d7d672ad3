"""`/metrics` in Prometheus' format, read from the service when asked, so that counting costs a request little.

Worker processes count by themselves, in prometheus_client's multi-process files; the application adds them up.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from tilecascade.app.service import Service
from tilecascade.app.tiles.imagery_generator import ImageryGenerator

SECONDS = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)


class ServiceCollector(Collector):
    """The state of a service at the moment of asking."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        service, engine = self._service, self._service.engine
        hits = CounterMetricFamily("tilecascade_store_hits", "Tiles found, by cache.", labels=["tier"])
        for tier, count in service.caches.store.hits.items():
            hits.add_metric([tier], count)
        yield hits
        yield CounterMetricFamily("tilecascade_store_misses", "Tiles found in no cache.", service.caches.store.misses)
        unavailable = GaugeMetricFamily(
            "tilecascade_store_unavailable", "1 for a cache whose last call failed.", labels=["tier"]
        )
        for store in service.caches.store.tiers:
            unavailable.add_metric([store.name], float(store.name in service.caches.store.unavailable))
        yield unavailable
        blocks = CounterMetricFamily(
            "tilecascade_blocks_generated", "Blocks generated and stored.", labels=["layer", "zoom"]
        )
        encode = SummaryMetricFamily(
            "tilecascade_encode_seconds", "Drawing, encoding and storing a block.", labels=["layer"]
        )
        for name, generator in ((name, r.generator) for name, r in service.resolvers.items()):
            for zoom, count in sorted(generator.generated.items()):
                blocks.add_metric([name, str(zoom)], count)
            encode.add_metric([name], generator.blocks_generated, generator.encode_seconds)
        yield blocks
        yield encode
        yield from painted_blocks(service)
        if engine is None:
            return
        state = engine.state()
        waiting = GaugeMetricFamily("tilecascade_queue", "Blocks not yet begun, by priority.", labels=["priority"])
        for priority, count in state.waiting.items():
            waiting.add_metric([priority], count)
        yield waiting
        batches = CounterMetricFamily(
            "tilecascade_batches", "Batches generated, by the blocks in them.", labels=["size"]
        )
        for size, count in sorted(state.batch_sizes.items()):
            batches.add_metric([str(size)], count)
        yield batches
        yield CounterMetricFamily(
            "tilecascade_blocks_dropped", "Blocks whose last waiter left before they were begun.", state.dropped
        )
        batch_count = sum(state.batch_sizes.values())
        yield SummaryMetricFamily(
            "tilecascade_generate_seconds", "The device, per batch.", batch_count, state.generate_seconds
        )
        yield SummaryMetricFamily(
            "tilecascade_conditions_seconds", "Reading a block's conditions.", state.prepared, state.prepare_seconds
        )
        if state.replicas is not None:
            yield GaugeMetricFamily("tilecascade_replicas", "Replicas that generate.", state.replicas)
            yield CounterMetricFamily(
                "tilecascade_replica_retries", "Batches that a replica did not answer.", state.retries
            )
        if service.model is not None and service.model.device.startswith("cuda"):
            import torch

            used = torch.cuda.memory_allocated(service.model.device)
            yield GaugeMetricFamily("tilecascade_device_memory_bytes", "Allocated on the device.", used)


def painted_blocks(service: Service) -> Iterator[Metric]:
    """How often blocks of imagery were painted, and which no attempt brought into the gate's range."""
    painted = CounterMetricFamily(
        "tilecascade_painted_blocks", "Blocks of imagery painted, by attempts.", labels=["layer", "attempts"]
    )
    unaccepted = CounterMetricFamily(
        "tilecascade_painted_blocks_unaccepted", "Blocks of imagery out of range at last.", labels=["layer"]
    )
    for name, resolver in service.resolvers.items():
        generator = resolver.generator
        if isinstance(generator, ImageryGenerator):
            for attempts, count in sorted(generator.attempts.items()):
                painted.add_metric([name, str(attempts)], count)
            unaccepted.add_metric([name], generator.unaccepted)
    yield painted
    yield unaccepted


class ServiceMetrics:
    """Everything that the app's process counts; `text` is the answer of `/metrics`."""

    def __init__(self, service: Service, workers: Path | None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(ServiceCollector(service))
        ProcessCollector(registry=self._registry)
        self._answers = Histogram(
            "tilecascade_answer_seconds",
            "Tile requests, by state.",
            ["state"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._by_state: dict[str, Histogram] = {}
        self._workers: CollectorRegistry | None = None
        if workers is not None:
            self._workers = CollectorRegistry()
            MultiProcessCollector(self._workers, str(workers))

    def answered(self, state: str, seconds: float) -> None:
        """A tile request has ended: cached, generated, placeholder, later, or the status of an error."""
        if state not in self._by_state:
            self._by_state[state] = self._answers.labels(state)
        self._by_state[state].observe(seconds)

    def text(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return generate_latest(self._registry) + (generate_latest(self._workers) if self._workers else b"")
