"""Adam as plain tensor operations, so that it can be compiled into a learner step.

    m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g^2
    p <- p (1 - learning_rate * decay) - learning_rate * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon)

Letters: p a parameter, g its gradient, m and v its moments, t the number of the step, from 1.
Source: arXiv:1412.6980, and arXiv:1711.05101 for the decay (zero by default); the placing of epsilon is torch's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyperact.trainer.config import LearnerConfig

beta1, beta2 = 0.9, 0.999


class Adam:
    """The optimiser of a list of parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter], config: LearnerConfig) -> None:
        self.parameters = list(parameters)
        self.firsts = [torch.zeros_like(parameter).detach() for parameter in self.parameters]
        self.seconds = [torch.zeros_like(parameter).detach() for parameter in self.parameters]
        self._epsilon = config.adam_epsilon
        self._kept_share = 1 - config.learning_rate * config.weight_decay

    def step(self, gradients: Sequence[Tensor], corrections: Tensor) -> None:
        """Move the parameters. `corrections` are those of the step's number: see `bias_corrections`."""
        step_size, root_scale = corrections.unbind()
        for place, gradient in enumerate(gradients):
            first, second = self.firsts[place], self.seconds[place]
            first.mul_(beta1).add_(gradient, alpha=1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            if self._kept_share != 1:
                self.parameters[place].mul_(self._kept_share)
            self.parameters[place].sub_(step_size * first / (second.sqrt() * root_scale + self._epsilon))


def clipping_factor(squared_norm: Tensor, max_norm: float) -> Tensor:
    """Return what gradients are multiplied by so that their global norm is at most `max_norm`."""
    # The summand is that of torch.nn.utils.clip_grad_norm_.
    return (max_norm / (squared_norm.sqrt() + 1e-6)).clamp(max=1.0)
