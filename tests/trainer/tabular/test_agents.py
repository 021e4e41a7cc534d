"""The tabular agents: what they compute is exact, so what is tested is equality."""

import math

import numpy as np
import pytest

from hyperact.trainer.tabular import bellman
from hyperact.trainer.tabular.bellman import Planning, Prior
from hyperact.trainer.tabular.hyperagent import TabularHyperAgent, draw_perturbations
from hyperact.trainer.tabular.mdp import Float64s, Mdp, Visit, random_mdp, the_end
from hyperact.trainer.tabular.psrl import ProcessPrior, Psrl
from hyperact.trainer.tabular.regret import TabularAgent, regrets
from hyperact.trainer.tabular.rlsvi import Rlsvi

num_states, num_actions, index_dim = 5, 3, 4
prior = Prior(np.full((num_states, num_actions), 2.0), deviation=0.5, noise_scale=1.5)


def random_visits(number: int, seed: int = 0) -> list[Visit]:
    rng = np.random.default_rng(seed)
    return [
        Visit(int(rng.integers(num_states)), int(rng.integers(num_actions)), float(rng.normal()), int(after))
        for after in rng.integers(the_end, num_states, size=number)
    ]


def make_agent(seed: int = 0, dim: int = index_dim) -> TabularHyperAgent:
    # 0.9 to the power of 400 is 5e-19.
    return TabularHyperAgent(prior, Planning(400, 0.9), dim, np.random.default_rng(seed), has_state_indices=True)


class TestNoiseHead:
    def test_the_incremental_form_is_the_batch_form(self) -> None:
        """A visit costs O(M), and nothing is lost by not summing over all of them again."""
        agent, visits = make_agent(), random_visits(200)
        perturbations = draw_perturbations(np.random.default_rng(1), 200, index_dim)

        for begin in range(0, 200, 7):
            agent.learn(visits[begin : begin + 7], perturbations[begin : begin + 7])

        np.testing.assert_allclose(agent.batch_noise_head(visits, perturbations), agent.noise_head, rtol=1e-12)

    def test_before_any_visit_it_is_the_priors(self) -> None:
        """Its norm is the prior's deviation, whose square is sigma squared over beta."""
        norms = np.linalg.norm(make_agent().noise_head, axis=2)

        np.testing.assert_allclose(prior.deviation, norms)
        assert prior.deviation**2 == pytest.approx(prior.noise_scale**2 / prior.weight)

    def test_one_visit_mixes_its_perturbation_with_the_priors(self) -> None:
        """M = (sigma xi + beta sigma_0 xi_0) / (1 + beta), and other cells stay as they are."""
        agent, perturbation = make_agent(), draw_perturbations(np.random.default_rng(2), 1, index_dim)
        before = agent.noise_head.copy()
        beta, sigma = prior.weight, prior.noise_scale

        agent.learn([Visit(1, 2, 0.3, 0)], perturbation)

        expected = (sigma * perturbation[0] + beta * before[1, 2]) / (1 + beta)
        np.testing.assert_allclose(expected, agent.noise_head[1, 2], rtol=1e-14)
        assert 1 == (agent.noise_head != before).any(axis=2).sum()

    def test_its_variance_is_the_posteriors(self) -> None:
        """E |m|^2 = sigma^2 / (N + beta), whatever M is."""
        num_agents = 4000
        for num_visits in (0, 1, 10):
            squares = []
            for seed in range(num_agents // (num_states * num_actions)):
                agent = make_agent(seed)
                rng = np.random.default_rng((seed, num_visits))
                for state in range(num_states):
                    for action in range(num_actions):
                        visits = [Visit(state, action, 0.0, the_end)] * num_visits
                        agent.learn(visits, draw_perturbations(rng, num_visits, index_dim))
                squares.append((agent.noise_head**2).sum(axis=2).ravel())
            found = np.concatenate(squares)

            expected = prior.noise_scale**2 / (num_visits + prior.weight)
            # Five standard errors; the relative deviation of |m|^2 is at most sqrt(2 / M).
            error = expected * np.sqrt(2 / index_dim / found.size)
            assert expected == pytest.approx(found.mean(), abs=5 * error + 1e-12)

    def test_with_many_dimensions_it_is_there_at_all_times(self) -> None:
        """Lemma 5.1: jointly over states, actions and times |m|^2 stays within half of sigma^2 / (N + beta).

        With M = 1024 its relative standard deviation is at most 0.045, so that half is more than ten of them.
        """
        agent = make_agent(dim=1024)
        rng = np.random.default_rng(3)
        for visit in random_visits(300, seed=4):
            agent.observe([visit], rng)

            expected = prior.noise_scale**2 / (agent.evidence.num_visits + prior.weight)
            ratio = (agent.noise_head**2).sum(axis=2) / expected
            assert 0.5 < ratio.min()
            assert ratio.max() < 1.5

    def test_one_dimension_is_too_few(self) -> None:
        """The lemma's lower bound on M is one: with M = 1 the same ratio strays far."""
        agent = make_agent(dim=1)
        rng = np.random.default_rng(3)
        smallest = np.inf
        for visit in random_visits(300, seed=4):
            agent.observe([visit], rng)
            expected = prior.noise_scale**2 / (agent.evidence.num_visits + prior.weight)
            smallest = min(smallest, float(((agent.noise_head**2).sum(axis=2) / expected).min()))

        assert smallest < 0.1


class TestOperator:
    def test_it_is_a_contraction(self) -> None:
        """|F Q1 - F Q2| <= gamma |Q1 - Q2| in the largest absolute value, so iteration ends at one point."""
        agent, rng = make_agent(), np.random.default_rng(5)
        agent.learn(random_visits(60), draw_perturbations(rng, 60, index_dim))
        noise = rng.normal(size=(num_states, num_actions))
        for _ in range(100):
            first, second = rng.normal(size=(2, num_states, num_actions)) * rng.exponential(10)
            after = [bellman.apply(values, agent.evidence, prior, noise, 0.9) for values in (first, second)]

            assert np.abs(after[0] - after[1]).max() <= 0.9 * np.abs(first - second).max() + 1e-12

    def test_values_are_its_fixed_point(self) -> None:
        """What is acted on solves equation 7."""
        agent, rng = make_agent(), np.random.default_rng(6)
        agent.learn(random_visits(60), draw_perturbations(rng, 60, index_dim))
        indices = rng.normal(size=(num_states, index_dim))

        values = agent.values(indices)

        noise = np.einsum("sam,sm->sa", agent.noise_head, indices)
        again = bellman.apply(values, agent.evidence, prior, noise, 0.9)
        np.testing.assert_allclose(values, again, rtol=1e-10)

    def test_what_was_never_tried_is_worth_its_prior(self) -> None:
        """Nothing is bootstrapped where nothing was seen: mu_0 and the prior's noise."""
        agent = make_agent()

        values = agent.values(np.ones((1, index_dim)))

        np.testing.assert_allclose(prior.mean + agent.noise_head.sum(axis=2), values)

    def test_a_fixed_horizon_needs_as_many_sweeps(self) -> None:
        """Without discounting one more changes nothing."""
        mdp = random_mdp(np.random.default_rng(0), horizon=4, width=3)
        here = Prior(np.zeros((mdp.num_states, mdp.num_actions)), 1.0, 1.0)
        rng = np.random.default_rng(1)
        agent = TabularHyperAgent(here, Planning(4), index_dim, rng, has_state_indices=False)
        for _ in range(20):
            agent.observe(mdp.play(rng.integers(3, size=mdp.num_states), rng), rng)
        noise = rng.normal(size=here.mean.shape)

        values = bellman.solve(agent.evidence, here, noise, Planning(4))

        np.testing.assert_array_equal(values, bellman.apply(values, agent.evidence, here, noise, 1.0))

    def test_coefficients_give_the_values_under_the_targets_index(self) -> None:
        """The deep agent's form is the same function there, and affine around it."""
        agent, rng = make_agent(), np.random.default_rng(8)
        agent.learn(random_visits(40), draw_perturbations(rng, 40, index_dim))
        index = rng.normal(size=(1, index_dim))

        coefficients = agent.coefficients(index)

        np.testing.assert_allclose(
            agent.values(index), coefficients[..., 0] + coefficients[..., 1:] @ index[0], rtol=1e-10
        )


class TestReferences:
    def test_rlsvi_s_noise_has_hyperagent_s_variance(self) -> None:
        """Over draws of the noise: before any visit the values spread by the prior's deviation."""
        rng = np.random.default_rng(0)
        values = np.stack([Rlsvi(prior, Planning(1)).plan(rng) for _ in range(4000)])

        # Five standard errors of a standard deviation from 4000 draws.
        np.testing.assert_allclose(prior.deviation, values.std(axis=0), rtol=5 / np.sqrt(2 * 4000))

    def test_psrl_draws_processes_that_can_be(self) -> None:
        """Rows sum to one, or to zero after the last layer, and nothing goes where nothing can."""
        mdp = random_mdp(np.random.default_rng(0))
        agent = Psrl(ProcessPrior(mdp.moves > 0), Planning(6))
        rng = np.random.default_rng(1)
        agent.observe(mdp.play(np.zeros(mdp.num_states, np.intp), rng), rng)

        moves = agent._draw_moves(rng)

        np.testing.assert_allclose((mdp.moves.sum(axis=2) > 0).astype(float), moves.sum(axis=2))
        assert (moves[mdp.moves == 0.0] == 0.0).all()

    def test_psrl_finds_what_it_saw_often(self) -> None:
        """With much evidence the posterior is narrow around the truth."""
        mdp = random_mdp(np.random.default_rng(2), horizon=2, width=2, num_actions=2)
        agent = Psrl(ProcessPrior(mdp.moves > 0), Planning(2))
        rng = np.random.default_rng(3)
        for _ in range(4000):
            agent.observe(mdp.play(rng.integers(2, size=mdp.num_states), rng), rng)

        assert np.abs(agent._draw_moves(rng) - mdp.moves).max() < 0.1
        assert np.abs(agent._draw_rewards(rng) - mdp.rewards).max() < 0.1


def total_regret(name: str, mdp: Mdp, seed: int, num_episodes: int = 200) -> float:
    rng = np.random.default_rng(seed)
    left = np.repeat(np.arange(mdp.horizon, 0, -1.0), mdp.num_states // mdp.horizon)
    believed = Prior(np.tile(left[:, np.newaxis], (1, mdp.num_actions)), deviation=0.5, noise_scale=0.5)
    planning = Planning(mdp.horizon)
    agents: dict[str, TabularAgent] = {
        "hyperagent": TabularHyperAgent(believed, planning, 8, rng, has_state_indices=True),
        "rlsvi": Rlsvi(believed, planning),
        "psrl": Psrl(ProcessPrior(mdp.moves > 0), planning),
    }
    return math.fsum(regrets(agents[name], mdp, num_episodes, rng))


class TestRegret:
    def test_the_best_policy_has_none(self) -> None:
        """Its exact value is the best return."""
        mdp = random_mdp(np.random.default_rng(0))
        values: Float64s = np.zeros_like(mdp.rewards)
        for _ in range(mdp.horizon):
            values = mdp.rewards + mdp.moves @ values.max(axis=1)

        assert mdp.best_return() == pytest.approx(mdp.expected_return(values.argmax(axis=1)))

    @pytest.mark.parametrize("name", ["hyperagent", "rlsvi", "psrl"])
    def test_every_agent_learns(self, name: str) -> None:
        """Over 200 episodes each loses less than half of what uniformly random policies do."""
        mdp = random_mdp(np.random.default_rng(10), horizon=4, width=3)
        rng = np.random.default_rng(11)
        policies = rng.integers(mdp.num_actions, size=(200, mdp.num_states))
        at_random = sum(mdp.best_return() - mdp.expected_return(policy) for policy in policies)

        assert total_regret(name, mdp, seed=12) < 0.5 * at_random
