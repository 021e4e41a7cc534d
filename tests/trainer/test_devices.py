"""Learning on a device: the same learner wherever it computes. A machine with CUDA runs each case on both."""

import numpy as np
import pytest
import torch

from hyperact.trainer.config import DeviceName, NetworkConfig, atari_networks
from hyperact.trainer.devices import cpu, find_device, on_device
from hyperact.trainer.learner import Learner
from hyperact.trainer.row_table import Rows
from hyperact.trainer.variants import variant_config, variant_spec
from toy_trainer import n_step_transition, small
from toys import toy_spec

has_cuda = torch.cuda.is_available()
device_names: list[DeviceName] = ["cpu", "cuda"] if has_cuda else ["cpu"]
variants = ["hyperagent", "hyperagent_ois", "enn_dqn", "ensemble_plus", "ddqn"]


def make_learner(variant: str, device: torch.device) -> Learner:
    return Learner(variant_spec(variant, toy_spec()), variant_config(variant, small), seed=0, device=device)


def learn(learner: Learner, num_updates: int = 5) -> None:
    """Make some updates from a buffer of the same transitions."""
    replay = learner.make_replay()
    replay.add([n_step_transition(number % 4, discount=0.9) for number in range(40)])
    for _ in range(num_updates):
        learner.update(replay)


class TestFindDevice:
    @pytest.mark.skipif(has_cuda, reason="needs a machine without CUDA")
    def test_a_device_that_is_not_there_is_named(self) -> None:
        """With what to say instead."""
        with pytest.raises(ValueError, match="torch finds no CUDA device; say cpu, or auto"):
            find_device("cuda", NetworkConfig())

    @pytest.mark.parametrize("name", ["auto", "cpu"])
    def test_small_networks_stay_on_the_cpu(self, name: DeviceName) -> None:
        """Elsewhere they are all overhead."""
        assert cpu == find_device(name, NetworkConfig())

    def test_frames_go_where_there_is_room(self) -> None:
        """To CUDA if there is such a device and nobody says otherwise."""
        assert device_names[-1] == find_device("auto", atari_networks["atari"]).type


def test_named_tuples_move_whole() -> None:
    """Their type, and what is no tensor, stay."""
    rows = Rows(torch.zeros(1), torch.ones(2), torch.ones(3))

    moved, flag = on_device((rows, True), cpu)

    assert isinstance(moved, Rows)
    assert flag is True
    assert rows.firsts is moved.firsts


@pytest.mark.parametrize("device_name", device_names)
class TestLearner:
    @pytest.mark.parametrize("variant", variants)
    def test_it_learns_the_same_wherever_it_is(self, variant: str, device_name: str) -> None:
        """Up to rounding, which a few updates do not blow up."""
        here, there = make_learner(variant, cpu), make_learner(variant, torch.device(device_name))

        learn(here)
        learn(there)

        expected, actual = here.get_state(), there.get_state()
        for key in expected:
            np.testing.assert_allclose(expected[key], actual[key], rtol=1e-3, atol=1e-4, err_msg=key)

    def test_its_state_may_go_elsewhere(self, device_name: str) -> None:
        """A checkpoint does not say where it was made."""
        there = make_learner("hyperagent", torch.device(device_name))
        learn(there)

        here = make_learner("hyperagent", cpu)
        here.set_state(there.get_state())

        observations = np.random.default_rng(0).normal(size=(3, *there.spec.observation.shape)).astype(np.float32)
        np.testing.assert_allclose(here.coefficients(observations), there.coefficients(observations), atol=1e-4)

    def test_what_is_exported_is_on_the_cpu(self, device_name: str) -> None:
        """And is what was learned."""
        there = make_learner("hyperagent", torch.device(device_name))
        learn(there)

        exported = there.hypermodel_on_cpu()

        assert {"cpu"} == {parameter.device.type for parameter in exported.parameters()}
        for name, value in there.hypermodel.state_dict().items():
            assert torch.equal(exported.state_dict()[name], value.cpu())
