"""What the server counts, for Prometheus. A registry of its own: two servers in one process do not mix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from statistics import fmean

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from palmette.types import Prediction

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """Everything under `/metrics`."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._queues: list[tuple[Callable[[], float], Callable[[], float]]] = []
        self.responses = Counter("palmette_responses", "Responses.", ["path", "status"], registry=registry)
        self.requests = Counter("palmette_requests", "Answered requests.", ["task"], registry=registry)
        self.texts = Counter("palmette_texts", "Answered texts and pairs.", ["task"], registry=registry)
        self.latency = Histogram(
            "palmette_latency_seconds",
            "From the request's head to its last answer.",
            ["task"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.confidence = Histogram(
            "palmette_confidence",
            "Probability of a text's answer; of tags: the mean over its words.",
            ["task"],
            buckets=_CONFIDENCES,
            registry=registry,
        )
        self.batch_texts = Histogram(
            "palmette_batch_texts", "Texts computed together.", buckets=_COUNTS, registry=registry
        )
        self.batch_requests = Histogram(
            "palmette_batch_requests", "Requests that a batch serves.", buckets=_COUNTS, registry=registry
        )
        self.batch_tokens = Histogram(
            "palmette_batch_tokens", "Subwords of a batch, estimated.", buckets=_TOKENS, registry=registry
        )
        self.queue_wait = Histogram(
            "palmette_queue_wait_seconds",
            "From a request's acceptance until its first text is computed.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_requests = Gauge("palmette_queue_requests", "Requests with texts waiting.", registry=registry)
        self.queue_tokens = Gauge("palmette_queue_tokens", "Subwords waiting, estimated.", registry=registry)
        self.rejected = Counter("palmette_rejected", "Refused requests.", ["reason"], registry=registry)
        self.dropped = Counter(
            "palmette_dropped_texts", "Texts whose caller went away or ran out of time.", registry=registry
        )
        self.unobserved = Counter(
            "palmette_unobserved_texts", "Answers that reviews and watches were too slow to see.", registry=registry
        )
        self.observer_errors = Counter(
            "palmette_observer_errors", "Batches that an observer failed at.", ["observer"], registry=registry
        )
        self.watch_windows = Counter("palmette_watch_windows", "Compared windows.", ["task"], registry=registry)
        signal = ["task", "signal"]
        self.drift_distance = Gauge(
            "palmette_drift_distance", "Latest window's distance from the reference.", signal, registry=registry
        )
        self.drift_p_value = Gauge(
            "palmette_drift_p_value", "How probable such a distance is by chance.", signal, registry=registry
        )
        self.drift_alarm = Gauge("palmette_drift_alarm", "1 while the signal is alarmed.", signal, registry=registry)
        self.estimated_accuracy = Gauge(
            "palmette_estimated_accuracy",
            "Share of right answers in the latest windows, estimated; NaN where no number can be supported.",
            ["task"],
            registry=registry,
        )
        self.estimated_accuracy_low = Gauge(
            "palmette_estimated_accuracy_low", "Lower bound (95 %) of it.", ["task"], registry=registry
        )
        self.estimated_accuracy_high = Gauge(
            "palmette_estimated_accuracy_high", "Upper bound (95 %) of it.", ["task"], registry=registry
        )
        self.reference_accuracy = Gauge(
            "palmette_reference_accuracy", "The same share on dev.", ["task"], registry=registry
        )
        self.estimate_supported = Gauge(
            "palmette_estimate_supported",
            "0 where the estimate's assumption does not hold.",
            ["task"],
            registry=registry,
        )
        self.reloads = Counter("palmette_reloads", "Reloads of the model.", ["result"], registry=registry)

        self._watched = (
            *(self.drift_distance, self.drift_p_value, self.drift_alarm, self.reference_accuracy),
            *(self.estimated_accuracy, self.estimated_accuracy_low, self.estimated_accuracy_high),
            self.estimate_supported,
        )
        self._add_versions(registry)

    def _add_versions(self, registry: CollectorRegistry) -> None:
        """What tells versions side by side apart; a version is the first 12 digits of its digest."""
        self.version_latency = Histogram(
            "palmette_version_latency_seconds",
            "From a request's acceptance to its last answer.",
            ["version"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.version_failed = Counter(
            "palmette_version_failed_requests",
            "Requests that a version could not answer, or not in time.",
            ["version"],
            registry=registry,
        )
        self.version_texts = Counter(
            "palmette_version_texts", "Texts that a version answered callers.", ["version"], registry=registry
        )
        self.roles = Gauge(
            "palmette_version_role", "1: the version has the role.", ["version", "role"], registry=registry
        )
        self.share = Gauge("palmette_candidate_share", "Of the traffic that meets the candidate.", registry=registry)
        self.taken_back = Counter(
            "palmette_candidates_taken_back", "Candidates that this server took back.", ["rule"], registry=registry
        )
        self.rescued = Counter(
            "palmette_rescued_requests",
            "Requests that the candidate failed at and the live version answered.",
            registry=registry,
        )
        self.compared_texts = Counter(
            "palmette_compared_texts", "Texts that both versions answered.", ["task"], registry=registry
        )
        self.differing_texts = Counter(
            "palmette_differing_texts", "Those whose answers differ.", ["task"], registry=registry
        )
        self.difference = Counter(
            "palmette_difference", "Sum of how much they differ, each from 0 to 1.", ["task"], registry=registry
        )
        self.uncompared = Counter(
            "palmette_uncompared_texts", "Texts that the comparison was too slow for.", registry=registry
        )
        self.store_errors = Counter(
            "palmette_store_errors", "Looks at the store, or attempts to follow it, that failed.", registry=registry
        )

    def clear_watched(self) -> None:
        """Take away what was said of a model's windows: another one is live."""
        for gauge in self._watched:
            gauge.clear()

    def show_roles(self, roles: Mapping[str, str], share: float) -> None:
        """{role: digest}, and the candidate's share."""
        self.roles.clear()
        for role, digest in roles.items():
            self.roles.labels(digest[:12], role).set(1)
        self.share.set(share)

    def watch_queue(self, requests: Callable[[], float], tokens: Callable[[], float]) -> None:
        """Ask for a queue's length when somebody reads it, instead of writing it down at each change; queues add up."""
        self._queues.append((requests, tokens))
        self.queue_requests.set_function(lambda: sum(requests() for requests, _ in self._queues))
        self.queue_tokens.set_function(lambda: sum(tokens() for _, tokens in self._queues))

    def predicted(self, task: str, predictions: Sequence[Prediction]) -> None:
        """Count what a batch answered for one task."""
        self.texts.labels(task).inc(len(predictions))
        histogram = self.confidence.labels(task)
        for prediction in predictions:
            found = prediction.confidence
            value = found if isinstance(found, float) else fmean(found) if found else None
            # NaN: the kind has no confidence (regression); no words: there is nothing to be sure of.
            if value is not None and not isnan(value):
                histogram.observe(value)

    def answered(self, tasks: Sequence[str], seconds: float) -> None:
        """Count an answered request."""
        for task in tasks:
            self.requests.labels(task).inc()
            self.latency.labels(task).observe(seconds)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
