"""Names of steps, and the names that clients may choose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperact.v1.decision_pb2 import StepId
from hyperact.v1.errors import FieldError
from hyperact.v1.steps import (
    RunNames,
    StepKey,
    check_run,
    check_session,
    encode_ids,
    make_run,
    parse_step_id,
    step_digest,
    to_key,
)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(0, 2**64 - 1)
keys = st.builds(StepKey, names, names, names, numbers, numbers)


class TestTextForm:
    @given(keys)
    def test_a_name_comes_back_from_its_text(self, key: StepKey) -> None:
        """What a log or an error shows can be pasted into a command."""
        assert key == parse_step_id(str(key))

    @given(keys)
    def test_the_text_is_one_printable_line(self, key: StepKey) -> None:
        """A hostile name forges no log line and no other name."""
        assert str(key).isascii()
        assert str(key).isprintable()
        assert 4 == str(key).count("/")

    def test_only_what_must_be_is_encoded(self) -> None:
        """Ordinary names stay readable."""
        assert "default/user:17 a@b/R-1/3/41" == str(StepKey("default", "user:17 a@b", "R-1", 3, 41))
        assert "default/a%2Fb%25/Z%C3%BCrich/0/0" == str(StepKey("default", "a/b%", "Zürich", 0, 0))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "default/s/r/0",
            "default/s/r/0/0/0",
            "default/s/r/x/0",
            "default/s/r/-1/0",
            "default/s/r/00/0",
            "default/s/r/٣/0",
            "default/s/r/0/18446744073709551616",
            "default/s/r/0/" + "9" * 5000,
            "default/%ff/r/0/0",
            "default/%41/r/0/0",
            "default/é/r/0/0",
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        """A name has one text, so that texts can be compared."""
        with pytest.raises(FieldError, match="expected model/session/run/episode/number"):
            parse_step_id(text)


class TestMessages:
    @given(keys)
    def test_a_name_comes_back_from_its_message(self, key: StepKey) -> None:
        """Nothing of a name is lost on the wire."""
        assert key == to_key(key.to_message())


class TestEncoding:
    @given(keys, keys)
    def test_two_names_never_share_an_encoding(self, one: StepKey, other: StepKey) -> None:
        """No agent can choose a name that gives it another's randomness."""
        assert (one == other) == (encode_ids(*one) == encode_ids(*other))

    def test_the_layout_is_the_documented_one(self) -> None:
        """Another implementation finds the same bytes."""
        assert b"\x02\x00\x00\x00\xc3\xa9\x05\x00\x00\x00\x00\x00\x00\x00" == encode_ids("é", 5)

    def test_digests_tell_steps_apart(self) -> None:
        """A step's short name stands for all five parts."""
        steps = [
            StepKey("m", f"s{n}", "r", episode, number) for n in range(5) for episode in range(5) for number in range(5)
        ]

        assert len(steps) == len({step_digest(step) for step in steps})
        assert {16} == {len(step_digest(step)) for step in steps}


class TestChosenNames:
    @pytest.mark.parametrize("session", ["a", "x" * 256, "é" * 128, "agent 7/eu%", "東京\u3000駅", "👩\u200d🚒"])
    def test_a_session_may_have_any_readable_name(self, session: str) -> None:
        """People name agents as they like, in any script."""
        check_session(session)

    @pytest.mark.parametrize("session", ["", "x" * 257, "é" * 129, "x" * 10_000, "a\nb", "a\x00", "\x7f", "a\x85"])
    def test_a_session_without_a_usable_name_is_refused(self, session: str) -> None:
        """Nothing that would break a log line or fill a disk becomes a name."""
        with pytest.raises(FieldError) as caught:
            check_session(session)

        assert ("session", "BAD_NAME") == (caught.value.field, caught.value.reason)

    @pytest.mark.parametrize("run", ["0", "a" * 64, "2024-01-01.b_2"])
    def test_a_run_may_be_any_short_word(self, run: str) -> None:
        """A client may use its own start time or job number."""
        check_run(run)

    @pytest.mark.parametrize("run", ["", "a" * 65, "a b", "é", "a/b", "a\n"])
    def test_any_other_run_is_refused(self, run: str) -> None:
        """Runs are compared as text; nothing surprising takes part in that."""
        with pytest.raises(FieldError, match="0-9A-Za-z"):
            check_run(run)

    def test_a_made_run_sorts_after_every_earlier_one(self) -> None:
        """A restarted agent fences its old self, also when the clock gains a digit."""
        times = [0, 1, 0xFFF, 0x1000, 1_700_000_000_000, 0xFFFF_FFFF_FFFF]

        runs = [make_run(time, b"\xff" if position % 2 == 0 else b"\x00") for position, time in enumerate(times)]

        assert sorted(runs) == runs
        for run in runs:
            check_run(run)


@given(keys)
def test_a_run_s_names_are_those_of_its_steps(key: StepKey) -> None:
    """What is encoded once for a run gives each step the name and digest that it has alone."""
    names = RunNames(*key[:3])

    assert key.to_message() == StepId.FromString(names.message(key.episode, key.number))
    assert step_digest(key) == names.digest(key.episode, key.number)
