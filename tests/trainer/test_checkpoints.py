import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hyperact.trainer.births import Birth, make_learner, new_state, spec_of_state
from hyperact.trainer.checkpoints import CheckpointError, Checkpoints, RoundRecord, TrainerState
from toys import toy_spec

_hold_lock = """
import sys, time
from pathlib import Path
from hyperact.trainer.checkpoints import Checkpoints
with Checkpoints(Path(sys.argv[1]), "default").locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def toy_state() -> TrainerState:
    state = new_state(Birth("default", toy_spec(), 3, "life", "Toy-v0", "7"), {"batch_size": 5})
    state.rounds.append(RoundRecord(ends={"a": 9}, time_seconds=1.5, num_training_steps=8, num_transitions=7))
    state.num_updates_due = 11
    return state


class TestCheckpoints:
    def test_what_is_saved_is_loaded(self, tmp_path: Path) -> None:
        """State and arrays come back as they were, and with them an equal learner."""
        checkpoints, state = Checkpoints(tmp_path, "default"), toy_state()
        learner = make_learner(state)

        checkpoints.save(state, learner.get_state())
        loaded = checkpoints.load()

        assert loaded is not None
        assert state == loaded[0]
        assert toy_spec() == spec_of_state(loaded[0])
        restored = make_learner(*loaded)
        observations = np.ones((2, 3), np.float32)
        np.testing.assert_array_equal(learner.coefficients(observations), restored.coefficients(observations))

    def test_models_have_checkpoints_of_their_own(self, tmp_path: Path) -> None:
        """A slash in a model's name is no folder, and nobody's file is written over."""
        Checkpoints(tmp_path, "a/b").save(toy_state(), {})

        assert Checkpoints(tmp_path, "a").load() is None
        assert Checkpoints(tmp_path, "a/b").load() is not None

    def test_there_may_be_none(self, tmp_path: Path) -> None:
        """A new trainer begins without."""
        assert Checkpoints(tmp_path, "default").load() is None

    def test_a_broken_file_is_named(self, tmp_path: Path) -> None:
        """The message says which file to move away."""
        checkpoints = Checkpoints(tmp_path, "default")
        checkpoints.save(toy_state(), {})
        checkpoints.path.write_bytes(b"PK not an archive")

        with pytest.raises(CheckpointError, match=str(checkpoints.path)):
            checkpoints.load()

    def test_two_trainers_do_not_share_a_checkpoint(self, tmp_path: Path) -> None:
        """The second one is told so; when the first is killed, the lock goes with it."""
        first = subprocess.Popen([sys.executable, "-c", _hold_lock, str(tmp_path)], stdout=subprocess.PIPE)
        assert first.stdout is not None
        with first, first.stdout:
            assert first.stdout.readline() == b"locked\n"
            with pytest.raises(CheckpointError, match="another trainer"), Checkpoints(tmp_path, "default").locked():
                pass
            first.kill()

        with Checkpoints(tmp_path, "default").locked():
            pass


class TestNeededFrom:
    @pytest.mark.parametrize(
        ("num_transitions", "expected"),
        [((), {}), ((5000,), {}), ((400, 400), {}), ((5000, 1000), {}), ((1, 2, 600, 600), {"p": 10}), ((9, 9, 9), {})],
    )
    def test_reading_begins_a_round_before_the_replay_buffer(
        self, num_transitions: tuple[int, ...], expected: dict[str, int]
    ) -> None:
        """A buffer of 1000 is filled by the newest rounds; the one before them held steps that waited for rewards."""
        state = toy_state()
        state.config = state.config.model_copy(update={"replay_capacity": 1000})
        state.rounds = [
            RoundRecord(ends={"p": 10 * (place + 1)}, time_seconds=0.0, num_training_steps=0, num_transitions=count)
            for place, count in enumerate(num_transitions)
        ]

        assert expected == state.needed_from()
