"""Compiling a learner step: one fused kernel per step instead of a hundred small operations.

A compiled step gives the same numbers up to rounding. What is compiled is kept on disk (torch's cache, under
TORCHINDUCTOR_CACHE_DIR), so a second start takes seconds. Where it cannot be done (no C++ compiler), learning goes on
without, and one log line says so.
"""

from collections.abc import Callable
from typing import Literal

import structlog
import torch
from torch import Tensor

from hyperact.trainer.learner_step import StepInputs

Step = Callable[[StepInputs], Tensor]
CompileMode = Literal["auto", "on", "off"]

# Compiling costs about as much as ten thousand steps of a small network save.
auto_first_step = 10_000

most_compiled_steps = 64

logger = structlog.get_logger()


class StepCompiler:
    """Runs a step, compiled where that is wanted and possible."""

    def __init__(self, step: Step, mode: CompileMode) -> None:
        self._step = step
        self._mode = mode
        self._compiled: Step | None = None

    def __call__(self, inputs: StepInputs, num_learner_steps: int) -> Tensor:
        """Make one step. Whether it is compiled depends on `num_learner_steps` alone, so that runs can be repeated."""
        if self._mode == "off" or (self._mode == "auto" and num_learner_steps < auto_first_step):
            return self._step(inputs)
        if self._compiled is None:
            return self._first(inputs)
        return self._compiled(inputs)

    def _first(self, inputs: StepInputs) -> Tensor:
        try:
            compiled = _compile(self._step)
            statistics = compiled(inputs)
        # Compilers fail in many ways, and before the step has changed anything.
        except Exception as error:  # noqa: BLE001
            logger.warning("learner steps are not compiled: going on without", problem=_first_line(error))
            self._mode = "off"
            return self._step(inputs)
        self._compiled = compiled
        return statistics


def _compile(step: Step) -> Step:
    import torch._dynamo.config as dynamo  # slow to import, and only a long run needs it

    # The gradient is part of the step; torch has traced it since 2.11, where it is asked to.
    dynamo.trace_autograd_ops = True
    # A process may learn many things one after the other, as a benchmark's workers do; all their steps count together.
    dynamo.recompile_limit = max(dynamo.recompile_limit, most_compiled_steps)
    return torch.compile(step, fullgraph=True, dynamic=False)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
