"""One-shot decisions through a service: an observation out, an action in, the reward reported later by step id."""

from collections.abc import Iterator
from dataclasses import dataclass

from hyperact.clients.labels import Labels
from hyperact.clients.late_rewards import LateReward, LateRewards
from hyperact.clients.sessions import Session
from hyperact.v1.steps import StepKey


@dataclass(frozen=True, slots=True)
class BanditStep:
    """One decision and its reward, whether or not that ever arrives. It is an `EndedEpisode` of one step."""

    deployment: int
    version: str
    episode_return: float
    propensity: float
    num_steps: int = 1
    is_evaluation: bool = False


def play_bandit(
    rows: Labels, session: Session, late_rewards: LateRewards[StepKey], seed: int, num_decisions: int
) -> Iterator[BanditStep]:
    """Yield decision after decision; ClientError.

    Before each, the rewards that arrive by then are reported; after the last, all that are still under way. Each is its
    step's only one, and says so (`terminated`), so that it need not wait for the step's reward window.
    """
    for number in range(num_decisions):
        _report(session, late_rewards.due())
        observation, _ = rows.reset(seed=seed if number == 0 else None)
        decision = session.act(observation)
        _, reward, _, _, _ = rows.step(decision.action)
        late_rewards.add(decision.step_id, reward)
        yield BanditStep(decision.deployment, decision.version, reward, decision.propensity)
    _report(session, late_rewards.rest())


def _report(session: Session, arrived: list[LateReward[StepKey]]) -> None:
    for one in arrived:
        session.report(one.reward, terminated=True, step_id=one.name)
