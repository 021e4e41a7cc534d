import numpy as np
import pytest
import torch

from hyperact.trainer.config import NetworkConfig, atari, atari_networks, deep_sea, preset
from hyperact.trainer.networks import AtariTorso, MlpTorso, make_torso, min_max
from hyperact.v1.model_pb2 import ModelSpec
from toy_trainer import atari_spec
from toys import toy_spec


def mlp(spec: ModelSpec, hidden_sizes: tuple[int, ...] = (8, 4)) -> MlpTorso:
    return MlpTorso(spec.observation, hidden_sizes, torch.Generator().manual_seed(0))


class TestMlpTorso:
    @pytest.mark.parametrize("shape", [(), (3,), (5, 5)])
    @pytest.mark.parametrize("hidden_sizes", [(), (8,), (8, 4)])
    def test_any_observation_becomes_a_vector_of_features(
        self, shape: tuple[int, ...], hidden_sizes: tuple[int, ...]
    ) -> None:
        """Scalars, vectors and grids are all flattened; no hidden layer means that the features are the observation."""
        torso = mlp(toy_spec(observation_shape=shape), hidden_sizes)

        features = torso(torch.zeros(2, *shape))

        expected = hidden_sizes[-1] if hidden_sizes else int(np.prod(shape))
        assert (2, expected) == features.shape
        assert expected == torso.feature_dim

    def test_wide_bounded_observations_are_scaled_to_one(self) -> None:
        """Bytes from 0 to 255 reach the network as numbers from 0 to 1."""
        spec = toy_spec(observation_shape=(2,), observation_dtype=np.uint8)
        spec.observation.minimum, spec.observation.maximum = 0, 255

        features = mlp(spec, ())(torch.tensor([[0, 255]], dtype=torch.uint8))

        torch.testing.assert_close(torch.tensor([[0.0, 1.0]]), features)

    def test_one_hot_observations_are_taken_as_they_are(self) -> None:
        """DeepSea's zeros and ones are not rescaled."""
        spec = toy_spec(observation_shape=(2,), observation_dtype=np.uint8)
        spec.observation.minimum, spec.observation.maximum = 0, 1

        features = mlp(spec, ())(torch.tensor([[0, 1]], dtype=torch.uint8))

        torch.testing.assert_close(torch.tensor([[0.0, 1.0]]), features)


class TestAtariTorso:
    def test_it_has_the_papers_size(self) -> None:
        """77 984 weights in the convolutions and 803 072 in the layer of 256."""
        torso = AtariTorso(atari_spec().observation, atari.network, torch.Generator())

        assert 77_984 == sum(parameter.numel() for parameter in torso.convolutions.parameters())
        assert 803_072 == sum(parameter.numel() for parameter in torso.layers.parameters())

    @pytest.mark.parametrize(("name", "num_weights"), [("nature", 1_684_128), ("data_efficient", 202_208)])
    def test_other_networks_go_by_name(self, name: str, num_weights: int) -> None:
        """Nature's DQN has 1.68 million weights before its last layer, data-efficient Rainbow's torso a ninth of it."""
        torso = make_torso(atari_spec(), atari_networks[name], torch.Generator())

        assert num_weights == sum(parameter.numel() for parameter in torso.parameters())
        assert (2, atari_networks[name].hidden_sizes[0]) == torso(torch.zeros(2, 4, 84, 84, dtype=torch.uint8)).shape

    def test_features_do_not_depend_on_batch_mates(self) -> None:
        """The min-max normalisation is per observation."""
        torso = make_torso(atari_spec(), atari.network, torch.Generator().manual_seed(0))
        observations = torch.randint(0, 256, (3, 4, 84, 84), generator=torch.Generator().manual_seed(1))

        alone = torso(observations[1:2])
        together = torso(observations)

        torch.testing.assert_close(alone[0], together[1])


def test_a_constant_feature_map_becomes_zeros() -> None:
    """A blank screen must not divide by zero."""
    features = torch.tensor([[3.0, 3.0], [1.0, 3.0]])

    torch.testing.assert_close(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), min_max(features))


def test_the_preset_follows_the_observation() -> None:
    """Stacks of 84 x 84 bytes get the Atari settings, everything else DeepSea's."""
    assert atari == preset(atari_spec())
    assert deep_sea == preset(toy_spec(observation_shape=(10, 10), observation_dtype=np.uint8))


def test_overrides_reach_into_the_network() -> None:
    """One field of the networks can be changed without naming the others, and a misspelled one is refused."""
    changed = deep_sea.with_overrides({"batch_size": 7, "network": {"prior_scale": 3.0}})

    assert (7, 3.0, (64, 64)) == (changed.batch_size, changed.network.prior_scale, changed.network.hidden_sizes)
    assert NetworkConfig() == deep_sea.network
    with pytest.raises(ValueError, match="batchsize"):
        deep_sea.with_overrides({"batchsize": 7})
