"""The prior that is equally unsure of everything, and the other settings of the preset `fast`."""

import numpy as np
import pytest
import torch

from hyperact.trainer.config import LearnerConfig, NetworkConfig
from hyperact.trainer.environments import make_environment, spec_of
from hyperact.trainer.hypermodel import Hypermodel
from hyperact.trainer.variants import variant_config, variant_spec
from hyperact.v1.model_pb2 import ModelSpec
from toys import toy_spec


def sea_spec(size: int) -> ModelSpec:
    return spec_of(make_environment("hyperact/DeepSea-v0", {"size": size}))


def sea_cells(size: int) -> torch.Tensor:
    """Return every cell of a sea and the blank observation after its end."""
    return torch.cat([torch.eye(size * size), torch.zeros(1, size * size)]).reshape(-1, size, size)


class TestUniformPrior:
    @pytest.mark.parametrize("size", [5, 20])
    def test_it_has_one_spread_on_seas_of_all_sizes(self, size: int) -> None:
        """Every cell and action has the deviation that the setting says, and no mean; the end has nothing."""
        model = Hypermodel(sea_spec(size), NetworkConfig(prior_form="uniform", prior_scale=0.5), seed=3)

        coefficients = model.prior(sea_cells(size))

        torch.testing.assert_close(coefficients[:-1, :, 1:].norm(dim=-1), torch.full((size * size, 2), 0.5))
        assert 0 == coefficients[..., 0].abs().max()
        assert 0 == coefficients[-1].abs().max()

    def test_its_directions_differ_by_cell_and_action(self) -> None:
        """An index that likes one cell does not like them all."""
        loadings = Hypermodel(sea_spec(6), NetworkConfig(prior_form="uniform"), seed=3).prior(sea_cells(6))[:-1, :, 1:]

        values = loadings @ torch.tensor([1.0, 0.0, 0.0, 0.0])

        assert float(values.std()) > 0.2 * float(values.abs().max())

    def test_the_published_prior_falls_with_the_size(self) -> None:
        """Which is why the uniform one exists: the published spread at 20 is more than twice that at 60."""
        spread = {
            size: Hypermodel(sea_spec(size), NetworkConfig(), seed=3).prior(sea_cells(size))[:-1, :, 1:].norm(dim=-1)
            for size in (20, 60)
        }

        assert spread[20].mean() > 2 * spread[60].mean()


class TestInitialWeights:
    def test_deviations_are_as_set(self) -> None:
        """10,000 first and 1,000 last weights: a deviation is known to 0.7% and 2.3%; five times that is allowed."""
        config = NetworkConfig(hidden_sizes=(100,), has_biases=False, first_layer_deviation=0.01, head_deviation=0.2)
        model = Hypermodel(toy_spec(observation_shape=(100,)), config, seed=1)

        names = dict(model.learnable.named_parameters())

        assert ["head.weight", "torso.layers.0.weight"] == sorted(names)
        np.testing.assert_allclose(0.01, float(names["torso.layers.0.weight"].detach().std()), rtol=0.05)
        np.testing.assert_allclose(0.2, float(names["head.weight"].detach().std()), rtol=0.12)


class TestFast:
    def test_it_is_one_setting_for_all_sizes(self) -> None:
        """Nothing in it is a function of the sea."""
        specs = [variant_spec("fast", sea_spec(size)) for size in (20, 100)]

        assert [0.97, 0.97] == [spec.discount for spec in specs]
        assert variant_config("fast", LearnerConfig()).network.prior_form == "uniform"
