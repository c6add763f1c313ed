import pytest

from flowd.api.in_flight import ByteBudget, QueryBudget
from flowd.errors import Overloaded, TooLarge


def test_what_a_request_held_comes_back_whatever_happens() -> None:
    budget = ByteBudget(100)

    def fail() -> None:
        with budget.hold() as hold:
            hold.grow(60)
            hold.grow(40)
            hold.shrink(10)
            assert budget.held == 90
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert budget.held == 0


def test_no_room_now_is_not_the_same_as_never() -> None:
    budget = ByteBudget(100)

    with budget.hold() as first, budget.hold() as second:
        first.grow(60)
        with pytest.raises(Overloaded) as raised:
            second.grow(41)
        with pytest.raises(TooLarge):
            second.grow(101)
        with pytest.raises(TooLarge):
            first.grow(41)
        second.grow(40)
        assert budget.held == 100

    assert raised.value.reason == "in_flight"
    assert "60 of 100 bytes" in str(raised.value)


def test_an_answer_over_the_limit_takes_no_place() -> None:
    budget = QueryBudget(1)

    with budget:
        with pytest.raises(Overloaded), budget:
            pass
        assert budget.held == 1

    assert budget.held == 0
