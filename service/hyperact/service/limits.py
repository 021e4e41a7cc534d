"""What bounds the decision path."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the decision path; the settings say what each means. `inference_threads` 0: on the event loop.

    `fallback_num_actions` 0: what a request's mask tells, if it has one.
    """

    max_batch: int = 256
    max_queued: int = 4096
    max_wait_seconds: float = 5.0
    batch_wait_seconds: float = 0.001
    inference_threads: int = 0
    is_fallback_allowed: bool = True
    fallback_num_actions: int = 0
    session_ttl_seconds: float = 3600.0
    max_sessions: int = 100_000
