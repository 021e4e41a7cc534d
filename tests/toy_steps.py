"""Steps and reports for tests of the log."""

from typing import Any

import numpy as np

from hyperact.v1.decision_pb2 import Outcome, Report, Step, StepId
from hyperact.v1.tensors import to_tensor


def toy_step(
    number: int,
    *,
    model: str = "default",
    session: str = "s",
    action: int = 1,
    seconds: int | None = None,
    evaluation: bool = False,
    observation: Any = None,
) -> Step:
    """Return step `number` of the first episode of a session, at `seconds` (default: its number)."""
    step = Step(
        step_id=StepId(model=model, session=session, run="r", episode=0, number=number),
        observation=to_tensor(np.zeros(3, np.float32) if observation is None else observation),
        action=action,
        version="3",
        deployment=2,
        propensity=0.5,
        evaluation=evaluation,
    )
    step.time.FromSeconds(1_700_000_000 + (number if seconds is None else seconds))
    return step


def toy_report(step: Step, report_id: str = "first", reward: float = 1.0) -> Report:
    """Return a report on a step."""
    return Report(step_id=step.step_id, outcome=Outcome(reward=reward), report_id=report_id, time=step.time)
