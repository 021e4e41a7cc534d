"""A policy for a plain Gymnasium loop: `policy(observation)` gives the action, `policy.observe` tells what followed.

environment = gymnasium.make("hyperact.clients.deep_sea:hyperact/DeepSea-v0", size=10)
with connect("127.0.0.1:50051", session="diver-1") as policy:
    for episode in range(100):
        observation, _ = environment.reset()
        is_over = False
        while not is_over:
            observation, reward, terminated, truncated, _ = environment.step(policy(observation))
            is_over = policy.observe(observation, reward, terminated, truncated)
        print(episode, policy.deployment, policy.episode_return)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import SupportsFloat

import grpc
from numpy.typing import ArrayLike

from hyperact.clients.connection import Connection, default_address
from hyperact.clients.retries import Retries
from hyperact.clients.session_memory import Decision
from hyperact.clients.sessions import Session


class Policy:
    """One agent's policy, served.

    Attributes:
        decision: the last one, with its version, deployment, propensity and step id; None before the first.
        episode_return: the sum of rewards of the episode that runs or has just ended.
        num_episode_steps: its steps.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.decision: Decision | None = None
        self.episode_return = 0.0
        self.num_episode_steps = 0
        self._is_over = True

    @property
    def version(self) -> str:
        """The version that decided last; empty before the first decision and for the uniform fallback."""
        return self.decision.version if self.decision else ""

    @property
    def deployment(self) -> int:
        """The deployment that decided last; 0 before the first decision and for the uniform fallback."""
        return self.decision.deployment if self.decision else 0

    def __call__(self, observation: ArrayLike, action_mask: ArrayLike | None = None) -> int:
        """Return the action for an observation; ClientError."""
        self.decision = self.session.act(observation, action_mask=action_mask)
        if self._is_over:
            self.episode_return, self.num_episode_steps, self._is_over = 0.0, 0, False
        return self.decision.action

    def observe(
        self,
        observation: ArrayLike,
        reward: SupportsFloat,
        terminated: bool,
        truncated: bool,
    ) -> bool:
        """Take in what `environment.step` returned and tell whether the episode has ended.

        An ended episode is reported at once, so that
        it is in the log even if no other follows; ClientError.
        """
        self.session.observe(float(reward), terminated, truncated, observation)
        self.episode_return += float(reward)
        self.num_episode_steps += 1
        self._is_over = bool(terminated or truncated)
        if self._is_over:
            self.session.close_episode()
        return self._is_over


@contextmanager
def connect(
    address: str = default_address,
    *,
    session: str,
    model: str = "",
    evaluation: bool = False,
    retries: Retries | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> Iterator[Policy]:
    """Give a policy over a connection of its own; UnavailableError if the service cannot be reached within 10 s.

    Args:
        session: the agent's name; a restart of the agent keeps it.
        model: the registered model; empty for the service's default.
        evaluation: whether its steps are only for measuring.
        credentials: for TLS and tokens (`channel_credentials` makes them); None for none.
    """
    with Connection(address, credentials=credentials) as connection:
        connection.wait_until_reachable()
        with Session(connection, session, model=model, evaluation=evaluation, retries=retries) as agent:
            yield Policy(agent)
