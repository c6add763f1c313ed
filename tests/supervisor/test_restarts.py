from dataclasses import replace

from flowd.supervisor.restarts import Restart, RestartPolicy
from flowd.supervisor.timing import Timing

TIMING = Timing()


def test_the_first_restart_is_at_once_and_the_wait_then_doubles_up_to_its_limit():
    policy = RestartPolicy(TIMING)
    delays = [policy.after_exit(float(now), 0.0).delay_seconds for now in range(10)]
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_a_child_that_lived_long_enough_starts_with_a_clean_record():
    policy = RestartPolicy(TIMING)
    for now in range(5):
        policy.after_exit(float(now), 0.0)
    assert policy.after_exit(100.0, 60.0) == Restart(0.0, is_spent=False)


def test_the_budget_is_spent_by_the_restart_after_the_last_that_it_allows():
    policy = RestartPolicy(TIMING)
    exits = [policy.after_exit(now * 0.1, 0.0).is_spent for now in range(12)]
    assert exits == [False] * 10 + [True] * 2


def test_a_spent_budget_means_one_try_a_minute_until_the_child_is_healthy_again():
    policy = RestartPolicy(replace(TIMING, budget_restarts=1))
    policy.after_exit(0.0, 0.0)
    assert policy.after_exit(1.0, 0.0) == Restart(60.0, is_spent=True)
    assert policy.after_exit(1_000.0, 1.0) == Restart(60.0, is_spent=True)
    assert policy.after_exit(2_000.0, 60.0) == Restart(0.0, is_spent=False)


def test_restarts_that_are_long_past_cost_no_budget():
    policy = RestartPolicy(TIMING)
    exits = [policy.after_exit(now * 10.0, 9.0) for now in range(50)]
    assert not any(restart.is_spent for restart in exits)
    assert exits[-1].delay_seconds == 10.0


def test_a_thousand_restarts_in_a_row_do_not_overflow():
    policy = RestartPolicy(TIMING)
    for now in range(3_000):
        last = policy.after_exit(now * 61.0, 1.0)
    assert last == Restart(10.0, is_spent=False)
