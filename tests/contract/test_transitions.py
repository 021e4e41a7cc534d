"""Steps and reports in, transitions and episode summaries out: the rules at the top of transitions.py, one by one."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperact.v1.decision_pb2 import Outcome
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.transitions import Assembled, EpisodeSummary, Transition, TransitionAssembler
from toy_entries import (
    continuing,
    episodic,
    in_partitions,
    key,
    model_spec,
    one_shot,
    outcome,
    report,
    start_seconds,
    step,
)

# Two steps, and the reports that end it: by the task, from outside, and from outside without the last observation.
two_steps = [step(0, 0), step(0, 1, outcome(1.0))]
terminated = report(0, 1, outcome(2.0, terminated=True))
truncated = report(0, 1, outcome(2.0, truncated=True, final=2.0))
truncated_blindly = report(0, 1, outcome(2.0, truncated=True))


def assemble(entries: Sequence[LogEntry], spec: ModelSpec | None = None) -> Assembled:
    """Push entries one at a time, as they come from a log."""
    return assemble_with(TransitionAssembler(spec or model_spec()), entries)


def assemble_with(assembler: TransitionAssembler, entries: Sequence[LogEntry]) -> Assembled:
    out = Assembled()
    for entry in entries:
        part = assembler.push([entry])
        out.transitions += part.transitions
        out.episodes += part.episodes
    return out


def brief(transition: Transition) -> tuple[Any, ...]:
    """Return what a test compares: a transition as plain values."""
    return (
        transition.key,
        transition.observation.tolist(),
        transition.action,
        transition.reward,
        transition.next_observation.tolist(),
        transition.terminated,
        transition.truncated,
        transition.version,
    )


class TestEpisodes:
    def test_a_terminated_episode_gives_all_its_transitions(self) -> None:
        """Every step of an episode is learned from, with the reward that followed it."""
        out = assemble([*two_steps, terminated])

        assert [key(0, 0), key(0, 1)] == [transition.key for transition in out.transitions]
        assert [1.0, 2.0] == [transition.reward for transition in out.transitions]
        assert [[0.0], [1.0]] == [transition.observation.tolist() for transition in out.transitions]
        assert [1.0] == out.transitions[0].next_observation.tolist()
        assert [False, True] == [transition.terminated for transition in out.transitions]

    def test_what_the_step_says_is_in_its_transition(self) -> None:
        """The learner sees who decided, how likely that was, and what was allowed before and after."""
        first, second = step(0, 0), step(0, 1, outcome(1.0))
        first.step.action_mask, second.step.action_mask = b"\x01\x01", b"\x00\x01"

        transition = assemble([first, second]).transitions[0]

        assert (0, 0.5, "1", 1) == (
            transition.action,
            transition.propensity,
            transition.version,
            transition.deployment,
        )
        assert (b"\x01\x01", b"\x00\x01") == (transition.action_mask, transition.next_action_mask)

    def test_the_end_may_come_with_the_first_step_of_the_next_episode(self) -> None:
        """An agent that never reports ends its episodes by beginning the next one."""
        following = step(1, 0, outcome(2.0, terminated=True), previous_position=(0, 1))

        out = assemble([*two_steps, following])

        assert [False, True] == [transition.terminated for transition in out.transitions]
        assert [0] == [episode.episode for episode in out.episodes]

    def test_a_truncated_episode_goes_on_from_its_true_last_observation(self) -> None:
        """The value after a cut counts: the learner bootstraps from what the agent saw last, not from the reset."""
        following = step(1, 0, outcome(2.0, truncated=True, final=77.0), previous_position=(0, 1))

        last = assemble([*two_steps, following]).transitions[-1]

        assert [77.0] == last.next_observation.tolist()
        assert (False, True) == (last.terminated, last.truncated)

    def test_a_cut_without_the_last_observation_is_not_learned_from(self) -> None:
        """A wrong bootstrap is worse than none; the episode's return still counts."""
        assembler = TransitionAssembler(model_spec())

        out = assemble_with(assembler, [*two_steps, truncated_blindly])

        assert [key(0, 0)] == [transition.key for transition in out.transitions]
        assert [3.0] == [episode.episode_return for episode in out.episodes]
        assert 1 == assembler.num_unusable

    def test_the_end_of_the_task_outweighs_a_cut(self) -> None:
        """An outcome that says both is an end: its value is zero."""
        last = assemble([*two_steps, report(0, 1, outcome(0.0, terminated=True, truncated=True))]).transitions[-1]

        assert (True, False) == (last.terminated, last.truncated)

    def test_an_episode_of_one_step_is_an_episode(self) -> None:
        """The shortest episode is learned from like any other."""
        out = assemble([step(0, 0), report(0, 0, outcome(5.0, terminated=True))])

        assert [5.0] == [transition.reward for transition in out.transitions]
        assert [(1, 5.0)] == [(episode.num_steps, episode.episode_return) for episode in out.episodes]

    def test_reward_and_end_may_come_apart(self) -> None:
        """The end is known at once and its reward later, or the other way round."""
        parts = [report(0, 1, outcome(terminated=True), "end"), report(0, 1, outcome(2.0), "reward")]

        one_way, other_way = assemble([*two_steps, *parts]), assemble([*two_steps, *reversed(parts)])

        assert list(map(brief, one_way.transitions)) == list(map(brief, other_way.transitions))
        assert 2 == len(one_way.transitions)

    def test_a_summary_tells_return_length_and_deployment(self) -> None:
        """Return per deployment is counted from summaries."""
        (summary,) = assemble([*two_steps, terminated]).episodes

        assert summary == EpisodeSummary(
            session="agent",
            run="run",
            episode=0,
            episode_return=3.0,
            num_steps=2,
            version="1",
            deployment=1,
            is_evaluation=False,
            end_time_seconds=start_seconds + 1.5,
        )

    def test_an_unfinished_episode_teaches_what_it_has(self) -> None:
        """Learning does not wait for the end of a long episode."""
        assembler = TransitionAssembler(model_spec())

        out = assemble_with(assembler, two_steps)

        assert [key(0, 0)] == [transition.key for transition in out.transitions]
        assert [] == out.episodes
        assert 1 == assembler.num_pending


class TestEvaluation:
    def test_evaluation_steps_are_measured_and_not_learned_from(self) -> None:
        """What is played for measuring never changes the model."""
        entries = [step(0, 0, evaluation=True), step(0, 1, outcome(1.0), evaluation=True), terminated]

        out = assemble(entries)

        assert [] == out.transitions
        assert [(True, 3.0)] == [(episode.is_evaluation, episode.episode_return) for episode in out.episodes]


class TestDuplicatesAndOrder:
    def test_a_repeated_entry_changes_nothing(self) -> None:
        """A retry that was logged twice is learned from once."""
        entries = [*two_steps, terminated]
        assembler = TransitionAssembler(model_spec())

        out = assemble_with(assembler, [entry for entry in entries for _ in range(3)] + entries)

        assert [key(0, 0), key(0, 1)] == [transition.key for transition in out.transitions]
        assert [3.0] == [episode.episode_return for episode in out.episodes]
        assert 6 == assembler.num_duplicates
        assert 0 == assembler.num_pending

    def test_steps_of_an_episode_come_out_in_order(self) -> None:
        """n-step returns can be made on the way."""
        entries = [step(0, 0), *(step(0, number, outcome(1.0)) for number in range(1, 20))]

        numbers = [transition.key.number for transition in assemble(entries).transitions]

        assert list(range(19)) == numbers

    def test_an_episode_whose_middle_comes_last_is_whole(self) -> None:
        """The step that arrives last, after all rewards and the end, is not lost and loses no neighbour."""
        entries = [
            report(0, 1, outcome(1.0)),
            step(0, 0),
            report(0, 0, outcome(1.0)),
            step(0, 2),
            report(0, 2, outcome(1.0, terminated=True)),
            step(0, 1),
        ]

        out = assemble(entries)

        assert {key(0, 0), key(0, 1), key(0, 2)} == {transition.key for transition in out.transitions}
        assert [(3, 3.0, "1")] == [(one.num_steps, one.episode_return, one.version) for one in out.episodes]

    def test_two_workers_logs_may_be_read_in_either_order(self) -> None:
        """A session that moved between workers stands in two partitions, and nothing is lost."""
        entries = [
            step(0, 0),
            step(0, 1, outcome(1.0)),
            step(0, 2, outcome(1.0)),
            report(0, 2, outcome(1.0, terminated=True)),
        ]
        placed = in_partitions(entries, [0, 1, 0, 1])
        first = [entry for entry in placed if entry.partition.endswith("0")]
        second = [entry for entry in placed if entry.partition.endswith("1")]

        one_way, other_way = assemble(first + second), assemble(second + first)

        assert sorted(map(brief, one_way.transitions)) == sorted(map(brief, other_way.transitions))
        assert 3 == len(one_way.transitions)
        assert one_way.episodes == other_way.episodes

    def test_sessions_do_not_mix(self) -> None:
        """Two agents at the same episode and step are two agents."""
        other = [step(0, 0, session="b"), step(0, 1, outcome(10.0), session="b")]

        out = assemble([two_steps[0], other[0], other[1], two_steps[1]])

        assert {("agent", 1.0), ("b", 10.0)} == {(one.key.session, one.reward) for one in out.transitions}

    def test_an_outcome_for_a_complete_step_is_counted_and_passed_over(self) -> None:
        """A reward that comes too late is visible in a number instead of changing what was learned."""
        assembler = TransitionAssembler(model_spec())

        out = assemble_with(assembler, [*two_steps, report(0, 0, outcome(50.0), "late")])

        assert [1.0] == [transition.reward for transition in out.transitions]
        assert 1 == assembler.num_late_outcomes


followed = [*two_steps, terminated]


def unanswered() -> LogEntry:
    """Return what a replica logged that died before it could answer."""
    other = step(0, 0)
    other.step.version, other.step.deployment, other.step.action = "9", 9, 1
    return other


class TestTwoDecisions:
    """Two replicas decided one step by different versions; an agent followed one of them."""

    @pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
    def test_the_one_stands_with_which_the_episode_goes_on(self, order: tuple[int, ...]) -> None:
        """In whatever order they come, as long as the other one is not the only one to be seen in time."""
        entries = [*followed, unanswered()]

        out = assemble([entries[place] for place in order])

        assert [("1", 0), ("1", 1)] == sorted((one.version, one.action) for one in out.transitions)
        assert [("1", 1)] == [(episode.version, episode.deployment) for episode in out.episodes]

    def test_a_decision_that_nobody_followed_is_not_learned_from(self) -> None:
        """The episode went on by another version: its own first step is still to come."""
        out = assemble([unanswered(), *followed[1:]])

        assert [key(0, 1)] == [one.key for one in out.transitions]
        assert [] == out.episodes

    def test_a_step_that_was_moved_to_another_version_says_so(self) -> None:
        """Then the step before it was decided by the version that it names."""
        moved = step(0, 1, outcome(1.0))
        moved.step.version, moved.step.repinned = "9", True

        out = assemble([step(0, 0), moved, terminated])

        assert ["1", "9"] == [one.version for one in out.transitions]

    def test_where_nothing_follows_the_first_stands(self) -> None:
        """An episode of one step tells nothing of who was followed."""
        out = assemble([step(0, 0), unanswered(), report(0, 0, outcome(1.0, terminated=True))])

        assert ["1"] == [one.version for one in out.transitions]


class TestOneShot:
    spec = model_spec(one_shot)

    def test_each_step_ends_with_its_reward(self) -> None:
        """A recommendation that was clicked is a whole episode, whatever came in between."""
        entries = [step(0, 0), step(1, 0), report(1, 0, outcome(0.0)), report(0, 0, outcome(1.0))]

        out = assemble(entries, self.spec)

        assert [(1, 0.0, True), (0, 1.0, True)] == [
            (one.key.episode, one.reward, one.terminated) for one in out.transitions
        ]
        assert [(1, 1), (0, 1)] == [(one.episode, one.num_steps) for one in out.episodes]

    def test_a_step_without_a_reward_waits(self) -> None:
        """No reward is not a reward of zero."""
        assembler = TransitionAssembler(self.spec)

        out = assemble_with(assembler, [step(0, 0), step(1, 0)])

        assert [] == out.transitions
        assert 2 == assembler.num_pending


class TestRewardWindow:
    spec = model_spec(one_shot, window_seconds=10, default_reward=-1.0)

    def closed(self, entries: Sequence[LogEntry], now: float, spec: ModelSpec | None = None) -> Assembled:
        """Return what comes out when the clock stands `now` seconds after the first step."""
        assembler = TransitionAssembler(spec or self.spec)
        assert Assembled() == assembler.push(entries)
        return assembler.advance(start_seconds + now)

    def test_rewards_within_the_window_add_up(self) -> None:
        """A click and a purchase both count for the recommendation that led to them."""
        entries = [
            step(0, 0),
            report(0, 0, outcome(1.0), "click", seconds=1),
            report(0, 0, outcome(5.0), "purchase", seconds=10),
            report(0, 0, outcome(5.0), "purchase", seconds=10),
        ]

        assert [6.0] == [transition.reward for transition in self.closed(entries, now=11).transitions]

    def test_nothing_is_settled_while_the_window_is_open(self) -> None:
        """A reward at the last moment still counts."""
        assert Assembled() == self.closed([step(0, 0), report(0, 0, outcome(1.0))], now=10)

    def test_the_default_stands_when_no_reward_came(self) -> None:
        """No click within the window means what the model says it means."""
        assert [-1.0] == [transition.reward for transition in self.closed([step(0, 0)], now=10.5).transitions]

    def test_a_reward_after_the_window_does_not_count(self) -> None:
        """Even when it is read before its step, as from another worker's partition."""
        late = report(0, 0, outcome(9.0), "late", seconds=10.5)

        for entries in ([step(0, 0), late], [late, step(0, 0)]):
            assert [-1.0] == [transition.reward for transition in self.closed(entries, now=11).transitions]

    def test_without_a_default_such_a_step_is_not_learned_from(self) -> None:
        """What is not known is not guessed."""
        out = self.closed([step(0, 0)], now=11, spec=model_spec(one_shot, window_seconds=10))

        assert [] == out.transitions
        assert [0] == [episode.episode for episode in out.episodes]

    def test_a_last_reward_closes_the_window(self) -> None:
        """Who knows that nothing more will come says so, and what was learned is not kept waiting for the clock."""
        click, last = report(0, 0, outcome(1.0), "click", seconds=1), outcome(5.0, terminated=True)
        purchase = report(0, 0, last, "purchase", seconds=2)

        for entries in ([step(0, 0), click, purchase], [click, purchase, step(0, 0)]):
            assert [6.0] == [one.reward for one in assemble(entries, self.spec).transitions]

    def test_the_end_alone_closes_the_window_too(self) -> None:
        """Nothing came and nothing will: the default stands at once."""
        entries = [step(0, 0), report(0, 0, outcome(terminated=True), seconds=1)]

        assert [-1.0] == [one.reward for one in assemble(entries, self.spec).transitions]

    def test_a_last_reward_after_the_window_changes_nothing(self) -> None:
        """A window that the clock has closed stays closed."""
        late = report(0, 0, outcome(9.0, terminated=True), "late", seconds=10.5)

        for entries in ([step(0, 0), late], [late, step(0, 0)]):
            assert [-1.0] == [one.reward for one in self.closed(entries, now=11).transitions]

    def test_a_newer_step_in_one_partition_does_not_close_a_window_in_another(self) -> None:
        """Reading one worker's log to its end before another's loses no reward."""
        entries = [step(0, 0, seconds=0), step(9, 0, seconds=500), report(0, 0, outcome(1.0), seconds=2)]
        assembler = TransitionAssembler(self.spec)
        assert [] == assemble_with(assembler, entries).transitions

        assert [1.0] == [one.reward for one in assembler.advance(start_seconds + 501).transitions]

    def test_episodes_wait_for_their_windows_too(self) -> None:
        """A reward window is no privilege of one-shot agents."""
        spec = model_spec(episodic, window_seconds=10, default_reward=0.0)
        entries = [*two_steps, report(0, 0, outcome(4.0), "late", seconds=9), terminated]

        out = self.closed(entries, now=30, spec=spec)

        assert [5.0, 2.0] == [transition.reward for transition in out.transitions]
        assert [7.0] == [episode.episode_return for episode in out.episodes]


class TestContinuing:
    def test_a_task_without_an_end_gives_transitions_for_ever(self) -> None:
        """Nothing waits for an episode to end."""
        assembler = TransitionAssembler(model_spec(continuing))
        entries = [step(0, 0), *(step(0, number, outcome(1.0)) for number in range(1, 500))]

        out = assemble_with(assembler, entries)

        assert 499 == len(out.transitions)
        assert 1 == assembler.num_pending


rewards = st.integers(-8, 8).map(float)  # whole numbers, so that sums do not depend on the order


Ending = tuple[Outcome, tuple[int, int]]  # how an episode ended, and at which step


def draw_ending(draw: st.DrawFn, position: tuple[int, int]) -> Ending:
    """Draw how an episode ends at a step: by the task, or cut with or without its last observation."""
    reward = draw(rewards)
    endings = [
        outcome(reward, terminated=True),
        outcome(reward, truncated=True, final=55.0),
        outcome(reward, truncated=True),
    ]
    return draw(st.sampled_from(endings)), position


def draw_episode(draw: st.DrawFn, session: str, episode: int, previous: Ending | None) -> list[LogEntry]:
    """Draw the steps of an episode, with rewards by the next step or by a report. `previous` ended the last one."""
    evaluation = draw(st.booleans())
    told, position = previous or (None, None)
    entries = [step(episode, 0, told, previous_position=position, session=session, evaluation=evaluation)]
    for number in range(1, draw(st.integers(1, 4))):
        reward = outcome(draw(rewards))
        if draw(st.booleans()):
            entries.append(step(episode, number, session=session, evaluation=evaluation))
            entries.append(report(episode, number - 1, reward, session=session))
        else:
            entries.append(step(episode, number, reward, session=session, evaluation=evaluation))
    return entries


@st.composite
def histories(draw: st.DrawFn) -> list[LogEntry]:
    """Draw what one or two sessions wrote in the order in which it happened: whole, cut and unfinished episodes."""
    entries: list[LogEntry] = []
    for session in draw(st.sampled_from([["a"], ["a", "b"]])):
        previous: Ending | None = None
        for episode in range(draw(st.integers(1, 3))):
            played = draw_episode(draw, session, episode, previous)
            last_number = sum(entry.HasField("step") for entry in played) - 1
            previous = draw_ending(draw, (episode, last_number))
            entries += played
            if draw(st.booleans()):
                entries.append(report(episode, last_number, previous[0], session=session))
                previous = None
    return entries


@st.composite
def shuffled(draw: st.DrawFn) -> tuple[list[LogEntry], list[LogEntry]]:
    """Draw a history, and the same with every entry at least once, in any order."""
    entries = draw(histories())
    again = draw(st.lists(st.sampled_from(entries), max_size=len(entries)))
    return entries, draw(st.permutations([*entries, *again]))


def as_sets(out: Assembled) -> tuple[list[tuple[Any, ...]], list[EpisodeSummary]]:
    return sorted(map(brief, out.transitions)), sorted(out.episodes, key=lambda one: (one.session, one.episode))


class TestAnyOrder:
    @given(shuffled())
    def test_order_and_repetition_do_not_matter(self, case: tuple[list[LogEntry], list[LogEntry]]) -> None:
        """However the partitions are read, and whatever is read twice, the same is learned and the same is counted."""
        in_order, in_disorder = case

        expected, found = assemble(in_order), assemble(in_disorder)

        assert as_sets(expected) == as_sets(found)

    @given(shuffled(), st.booleans())
    def test_order_does_not_matter_for_a_reward_window_either(
        self, case: tuple[list[LogEntry], list[LogEntry]], has_default: bool
    ) -> None:
        """The sums are those of the times at which rewards came, not of the order in which they are read."""
        spec = model_spec(window_seconds=3, default_reward=0.5 if has_default else None)
        outs = []
        for entries in case:
            assembler = TransitionAssembler(spec)
            assembler.push(entries)
            outs.append(as_sets(assembler.advance(start_seconds + 10_000)))

        assert outs[0] == outs[1]

    @given(histories())
    def test_ended_episodes_leave_nothing_behind(self, entries: list[LogEntry]) -> None:
        """A trainer that reads for months does not grow: only unfinished episodes wait."""
        assembler = TransitionAssembler(model_spec())

        out = assemble_with(assembler, entries)

        ended = {(one.session, one.episode) for one in out.episodes}
        steps = [entry.step.step_id for entry in entries if entry.HasField("step")]
        assert assembler.num_pending <= sum((one.session, one.episode) not in ended for one in steps)


@pytest.mark.parametrize("terminal", [True, False])
def test_an_observation_is_not_a_copy_that_can_be_changed(terminal: bool) -> None:
    """Nobody downstream corrupts what was logged by writing into an array."""
    end = terminated if terminal else truncated

    transition = assemble([*two_steps, end]).transitions[0]

    with pytest.raises(ValueError, match="read-only"):
        transition.observation[0] = 1.0
    assert np.float32 == transition.observation.dtype


def test_what_waits_is_bounded() -> None:
    """Sessions that vanish in mid-episode cannot fill the reader's memory: the step that waited longest is given up."""
    assembler = TransitionAssembler(model_spec(), max_pending=2)

    assembler.push(step(0, 0, session=f"agent-{number}") for number in range(5))
    late = assembler.push([report(0, 0, outcome(1.0, terminated=True), session="agent-0")])

    assert (2, 3) == (assembler.num_pending, assembler.num_abandoned)
    assert [] == late.transitions
    assert 1 == assembler.num_late_outcomes
