import pytest

from hyperact.clients.late_rewards import LateRewards


def play(late: LateRewards[int], number: int, reward: float = 1.0) -> dict[int, int]:
    """Return after which decision each reward arrived, for as many decisions."""
    arrived: dict[int, int] = {}
    for decision in range(number):
        arrived |= {one.name: decision for one in late.due()}
        late.add(decision, reward)
    return arrived


class TestLateRewards:
    @pytest.mark.parametrize("max_delay", [1, 7])
    def test_a_reward_arrives_within_its_delay(self, max_delay: int) -> None:
        """One decision later at the soonest, `max_delay` at the latest."""
        arrived = play(LateRewards(max_delay, 0.0, seed=0), 300)

        assert set(range(1, max_delay + 1)) == {decision - name for name, decision in arrived.items()}

    def test_a_share_never_arrives(self) -> None:
        """Of 2000 rewards a tenth is lost, give or take four standard deviations (13 each)."""
        late: LateRewards[int] = LateRewards(5, 0.1, seed=1)
        will_arrive = [late.add(number, 1.0) for number in range(2000)]

        assert abs(will_arrive.count(False) - 200) < 4 * 13.4
        assert [name for name, arrives in enumerate(will_arrive) if arrives] == sorted(one.name for one in late.rest())
        assert [] == late.rest()

    def test_what_was_earned_changes_nothing(self) -> None:
        """Two agents on one stream wait equally long and lose the same decisions' rewards."""
        one, other = (play(LateRewards(50, 0.3, seed=2), 200, reward) for reward in (0.0, 1.0))

        assert one == other
