"""What several replicas count, as one page for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry


class _Merged(Collector):
    def __init__(self, pages: Iterable[tuple[str, bytes]]) -> None:
        self._families: dict[str, Metric] = {}
        for replica, page in pages:
            for family in text_string_to_metric_families(page.decode()):
                kept = self._families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    kept.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))

    def collect(self) -> Iterator[Metric]:
        """Every family, with the samples of all replicas."""
        yield from self._families.values()


def merge(pages: Sequence[tuple[str, bytes]]) -> bytes:
    """One page of several, each a replica's name and what it counts: every sample gets a label `replica`.

    They are not added up: a replica that ends would make sums fall, which Prometheus takes for a restart of all.
    """
    registry = CollectorRegistry()
    registry.register(_Merged(sorted(pages)))
    return generate_latest(registry)
