"""How much more, or less, probable an episode's actions were under the target than under what decided them.

    w_t = P_target(a_0 .. a_t) / P_logged(a_0 .. a_t)

The rules:

1. Both probabilities are of sequences: steps that share an index are taken together, over the same bank
   (`hyperact.v1.joint_probabilities`). Products of propensities stand only where every step has an index of its own.
2. What decided is recomputed from its version's graph. Where that is not to be had, its logged propensities do if every
   step had its own index; the uniform fallback's always do.
3. Where several versions decided, P_logged is that of their mixture, each by its share of the episodes (the balance
   heuristic: Veach & Guibas 1995). Then what one of them would do often has no large weight, whoever did it. If some
   version's probabilities of the others' episodes cannot be known, each episode is weighed by what decided it alone.
4. An episode that the target itself decided has weight 1, if nothing else decided.
5. What cannot be weighed is left out and counted with its reason, which never depends on what the actions were.
"""

from collections import Counter
from collections.abc import Sequence as List
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hyperact.trainer.off_policy.components import index_persistence
from hyperact.trainer.off_policy.episodes import Episode, Situations
from hyperact.trainer.off_policy.policies import Policies, Policy
from hyperact.trainer.off_policy.trajectories import Float64s
from hyperact.v1.joint_probabilities import Sequence

# A logged propensity that is further from the recomputed one was not computed by this version. Rounding may let a few
# of 1024 indices fall on the other side of a tie.
propensity_tolerance = 5 / 1025


@dataclass(frozen=True)
class WeighedEpisodes:
    """Episodes that have weights.

    Attributes:
        rows: of each, its steps in the arrays of all steps.
        target_segments: of each, the target's segment of every step.
        log_target: of each, log P_target of every prefix: [T, 1 + G], the bank's groups left out one by one after the
            first column.
        log_logged: the same of what decided.
        is_mixture: whether that is the mixture of all versions that did.
        left_out: how many others there are, by reason.
        unexplained: the share of recomputed steps whose logged propensity is another one.
    """

    rows: list[slice]
    target_segments: list[NDArray[np.int64]]
    log_target: list[Float64s]
    log_logged: list[Float64s]
    left_out: dict[str, int]
    unexplained: float
    is_mixture: bool = False

    @property
    def weights(self) -> Float64s:
        """The prefix weights of all their steps: [S, 1 + G]."""
        return np.concatenate(
            [np.exp(target - logged) for target, logged in zip(self.log_target, self.log_logged, strict=True)]
        )


def weigh(
    episodes: List[Episode], situations: Situations, target: Policy, policies: Policies, num_groups: int
) -> WeighedEpisodes:
    """Weigh the episodes whose steps lie one after the other in `situations`."""
    scale = _Scale(situations, target, policies, num_groups)
    kept: list[tuple[Episode, slice]] = []
    log_target, log_logged = [], []
    start = 0
    for episode in episodes:
        rows = slice(start, start + len(episode.steps))
        start = rows.stop
        reason = scale.why_not(episode)
        if not reason:
            both = scale.weigh(episode, rows)
            reason = "" if np.isfinite(both[1]).all() else "their version cannot have chosen their actions"
        if reason:
            scale.left_out[reason] += 1
            continue
        kept.append((episode, rows))
        log_target.append(both[0])
        log_logged.append(both[1])
    weighed = WeighedEpisodes(
        rows=[rows for _, rows in kept],
        target_segments=[scale.segments(target, episode) for episode, _ in kept],
        log_target=log_target,
        log_logged=log_logged,
        left_out=dict(scale.left_out),
        unexplained=scale.unexplained,
    )
    return _mix(weighed, kept, scale) if scale.can_mix(kept) else weighed


def _mix(weighed: WeighedEpisodes, kept: List[tuple[Episode, slice]], scale: "_Scale") -> WeighedEpisodes:
    """Replace what decided each episode by the mixture of all that decided."""
    counts = Counter(episode.version for episode, _ in kept)
    mixed = []
    for (episode, rows), own in zip(kept, weighed.log_logged, strict=True):
        logs = [
            np.log(count / len(kept)) + (own if version == episode.version else scale.log_other(version, episode, rows))
            for version, count in counts.items()
        ]
        mixed.append(np.logaddexp.reduce(logs))
    return replace(weighed, log_logged=mixed, is_mixture=True)


class _Scale:
    """Computes the probabilities of one episode after the other."""

    def __init__(self, situations: Situations, target: Policy, policies: Policies, num_groups: int) -> None:
        self._situations = situations
        self._target = target
        self._policies = policies
        self._num_groups = num_groups
        self._num_compared = self._num_differing = 0
        self.left_out: Counter[str] = Counter()

    @property
    def unexplained(self) -> float:
        """The share of compared steps whose logged propensity differs."""
        return self._num_differing / self._num_compared if self._num_compared else 0.0

    def why_not(self, episode: Episode) -> str:
        """Return why an episode cannot be weighed; empty if it can."""
        if len(episode.versions) > 1:
            return "they changed their version"
        version = episode.version
        if version and version not in self._policies and not episode.is_drawn_at_every_step:
            return f"version {version}, which decided them, is not to be had"
        if not self._knows_segments(self._target, version):
            return "the log does not tell when the target would have drawn its indices"
        return ""

    def can_mix(self, kept: List[tuple[Episode, slice]]) -> bool:
        """Tell whether several versions decided, and every one's probabilities of the others' episodes are known."""
        versions = {episode.version for episode, _ in kept}
        return len(versions) > 1 and all(
            not version or (version in self._policies and self._knows_segments(self._policies[version], other))
            for version in versions
            for other in versions
        )

    def weigh(self, episode: Episode, rows: slice) -> tuple[Float64s, Float64s]:
        """Return the log probabilities of the target and of what decided: [T, 1 + G] each."""
        is_own = episode.version == self._target.version
        log_target = self._log(self._target, episode, rows, is_observed=is_own)
        policy = self._policies.get(episode.version)
        if policy is None:
            logged = np.cumsum(np.log(episode.propensities))[:, np.newaxis]
            return log_target, np.repeat(logged, 1 + self._num_groups, axis=1)
        self._compare(policy, episode, rows)
        return log_target, log_target if is_own else self._log(policy, episode, rows, is_observed=True)

    def log_other(self, version: str, episode: Episode, rows: slice) -> Float64s:
        """Return the log probability of an episode under a version that did not decide it: [T, 1 + G]."""
        if version:
            return self._log(self._policies[version], episode, rows, is_observed=False)
        logs = -np.cumsum(np.log(self._num_allowed(rows)))[:, np.newaxis]
        return np.repeat(logs, 1 + self._num_groups, axis=1)

    def segments(self, policy: Policy, episode: Episode) -> NDArray[np.int64]:
        """Return at which step a policy's index was, or would have been, drawn: [T]."""
        persistence = index_persistence(policy.spec)
        if persistence == 1.0:
            return np.zeros(len(episode.steps), np.int64)
        return np.arange(len(episode.steps)) if persistence == 0.0 else episode.segments

    def _knows_segments(self, policy: Policy, version: str) -> bool:
        """Tell whether a policy's segments are known in episodes of a version.

        Always, unless chance decides when an index is drawn: that is in the log if the version drew by the same chance.
        """
        persistence = index_persistence(policy.spec)
        if persistence in (0.0, 1.0):
            return True
        decided = self._policies.get(version)
        return decided is not None and index_persistence(decided.spec) == persistence

    def _log(self, policy: Policy, episode: Episode, rows: slice, *, is_observed: bool) -> Float64s:
        sequence = self._sequence(policy, episode, rows)
        return policy.log_prefixes(sequence, is_observed=is_observed, num_groups=self._num_groups)

    def _sequence(self, policy: Policy, episode: Episode, rows: slice) -> Sequence:
        here = self._situations.here[rows]
        masks = None if self._situations.masks is None else self._situations.masks[here]
        coefficients = policy.coefficients(self._situations.observations, here)
        return Sequence(coefficients, masks, episode.actions, self.segments(policy, episode))

    def _num_allowed(self, rows: slice) -> NDArray[np.int64]:
        if self._situations.masks is None:
            return np.full(rows.stop - rows.start, self._target.spec.action.discrete.num_actions)
        num_allowed: NDArray[np.int64] = self._situations.masks[self._situations.here[rows]].sum(axis=1)
        return num_allowed

    def _compare(self, policy: Policy, episode: Episode, rows: slice) -> None:
        differences = np.abs(policy.propensities(self._sequence(policy, episode, rows)) - episode.propensities)
        self._num_compared += len(differences)
        self._num_differing += int((differences > propensity_tolerance).sum())
