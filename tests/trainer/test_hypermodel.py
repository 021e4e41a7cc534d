import math

import numpy as np
import pytest
import torch

from hyperact.trainer.config import NetworkConfig, atari
from hyperact.trainer.heads.last_layer import Part
from hyperact.trainer.heads.summand import Summand
from hyperact.trainer.hypermodel import Hypermodel
from hyperact.v1.indices import GAUSSIAN
from toy_trainer import atari_spec, learner_with_replay
from toys import toy_spec

small = NetworkConfig(hidden_sizes=(8, 4), posterior_scale=0.7, prior_scale=3.0)


def last_layer(summand: Summand) -> Part:
    assert isinstance(summand, Part)
    return summand


def generated_value(part: Part, scale: float, observation: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return s <A_a z + b_a, phi(o)> for each action, by generating the last layer's weights as the paper writes it."""
    features = part.torso(observation[None])[0]
    mean, loadings = part.head.weight[:, 0], part.head.weight[:, 1:]
    weights = torch.einsum("amh,m->ah", loadings, index) + mean
    value: torch.Tensor = scale * weights @ features
    return value


class TestHypermodel:
    @pytest.mark.parametrize("index_dim", [0, 1, 4])
    @pytest.mark.parametrize("num_actions", [1, 2, 5])
    def test_every_action_has_a_mean_and_loadings(self, num_actions: int, index_dim: int) -> None:
        """The answer is [B, A, M + 1], also for a model without an index."""
        model = Hypermodel(toy_spec(num_actions=num_actions, index_dim=index_dim), small, 0)

        assert (7, num_actions, index_dim + 1) == model(torch.zeros(7, 3)).shape

    def test_coefficients_give_the_value_that_generated_weights_give(self) -> None:
        """The sum m + v.z is the hypermodel evaluated directly, with weights generated from the index."""
        model = Hypermodel(toy_spec(num_actions=3), small, 0)
        observation, index = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.5, -2.0, 1.0, 0.1])

        direct = generated_value(last_layer(model.learnable), 0.7, observation, index) + generated_value(
            last_layer(model.prior), 3.0, observation, index
        )
        affine = model(observation[None], index[None, None])[0, 0]

        torch.testing.assert_close(direct, affine)

    def test_the_prior_gets_no_gradient(self) -> None:
        """Nothing of the frozen part is ever asked to change."""
        model = Hypermodel(toy_spec(), small, 0)

        model(torch.ones(2, 3)).sum().backward()

        assert all(parameter.grad is None for parameter in model.prior.parameters())
        assert all(parameter.grad is not None for parameter in model.learnable.parameters())

    def test_the_prior_never_changes(self) -> None:
        """Learning leaves the prior's coefficients as they were, bit for bit."""
        learner, replay = learner_with_replay()
        observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
        before = learner.prior_answers(observations)

        for _ in range(20):
            learner.update(replay)

        np.testing.assert_array_equal(before, learner.prior_answers(observations))

    def test_the_prior_has_features_of_its_own(self) -> None:
        """Its networks are drawn apart from the learnable ones."""
        model = Hypermodel(toy_spec(), small, 0)

        learnable, prior = (part.state_dict()["torso.layers.0.weight"] for part in (model.learnable, model.prior))

        assert not torch.equal(learnable, prior)

    def test_the_seed_decides_the_weights(self) -> None:
        """Equal seeds give equal models, other seeds others."""
        first, same, other = (Hypermodel(toy_spec(), small, seed) for seed in (1, 1, 2))

        weights = [last_layer(model.prior).head.weight for model in (first, same, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    def test_initial_scales_are_the_papers(self) -> None:
        """DeepSea: loading rows of the prior have norm 1, and all mean weights together too."""
        model = Hypermodel(toy_spec(num_actions=2), NetworkConfig(), 0)

        rows = last_layer(model.prior).head.weight[:, 1:].norm(dim=1)
        means = [last_layer(part).head.weight[:, 0].norm() for part in (model.prior, model.learnable)]

        torch.testing.assert_close(torch.ones_like(rows), rows)
        torch.testing.assert_close(torch.ones(2), torch.stack(means))

    def test_the_atari_model_has_the_papers_size(self) -> None:
        """888 736 learnable weights with six actions; as many again in the frozen prior."""
        model = Hypermodel(atari_spec(6), atari.network, 0)

        assert 888_736 == sum(parameter.numel() for parameter in model.learnable.parameters())
        assert 888_736 == sum(parameter.numel() for parameter in model.prior.parameters())

    def test_the_prior_is_wide_enough_to_explore_deep_sea(self) -> None:
        """Its standard deviation over indices in DeepSea-10 is of the order of ten times sqrt(32 / 164), over one."""
        spec = toy_spec(observation_shape=(10, 10), observation_dtype=np.uint8, reference_distribution=GAUSSIAN)
        model = Hypermodel(spec, NetworkConfig(), 0)
        observations = torch.eye(100).reshape(100, 10, 10)

        loadings = model.prior(observations)[..., 1:].detach()
        deviation = float(loadings.norm(dim=-1).square().mean().sqrt())

        # E|phi_0|^2 is about 32 / (N^2 + 64); a factor of two either way is a matter of the seed.
        expected = 10 * math.sqrt(32 / 164)
        assert expected / 2 < deviation < expected * 2
