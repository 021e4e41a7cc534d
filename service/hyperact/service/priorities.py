"""Who goes first where the cores are busy: the event loop, before what loads, warms up and scores beside it."""

import logging
import os
import sys
import threading

logger = logging.getLogger(__name__)
background_niceness = 10
most_nice = 19
switch_interval_seconds = 0.0005


def lower_priority() -> None:
    """Let serving go before this thread. Linux has a priority for each thread; elsewhere nothing changes."""
    try:
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + background_niceness
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, most_nice))
    except (AttributeError, OSError):
        logger.debug("the thread %s has the priority of all others", threading.current_thread().name)


def hand_over_quickly() -> None:
    """Let the event loop wait for the interpreter at most half a millisecond behind another thread.

    Python's default is 5 ms, several times a decision's latency, and the registry's client computes for longer in its
    threads at every look.
    """
    sys.setswitchinterval(switch_interval_seconds)
