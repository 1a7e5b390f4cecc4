"""When Redis is asked and when it is left alone."""

import pytest

from repositories.cache.circuit import Circuit, CircuitState


class Clock:
    """Seconds that move when told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_first_failure_opens_the_circuit_and_only_the_first(clock: Clock) -> None:
    circuit = Circuit(clock=clock)

    states = [circuit.state]
    assert circuit.fail() is True
    assert circuit.fail() is False
    states.append(circuit.state)

    assert states == [CircuitState.CLOSED, CircuitState.OPEN]


def test_pauses_between_probes_double_up_to_five_seconds(clock: Clock) -> None:
    circuit = Circuit(clock=clock)
    circuit.fail()
    pauses = []
    for _ in range(9):
        pauses.append(round(circuit.seconds_until_probe(), 3))
        clock.now += circuit.seconds_until_probe()
        assert circuit.seconds_until_probe() == 0.0
        assert circuit.begin_probe() is True
        circuit.probe_failed()

    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_a_closed_circuit_begins_its_next_outage_with_short_pauses(clock: Clock) -> None:
    circuit = Circuit(clock=clock)
    circuit.fail()
    circuit.begin_probe()
    circuit.probe_failed()
    circuit.begin_probe()
    clock.now += 30

    assert circuit.close() == 30
    assert circuit.state is CircuitState.CLOSED

    clock.now += 100
    circuit.fail()
    assert circuit.seconds_until_probe() == pytest.approx(0.1)
    clock.now += 1
    assert circuit.close() == pytest.approx(1)


def test_a_probe_begins_only_in_an_open_circuit(clock: Clock) -> None:
    circuit = Circuit(clock=clock)
    assert circuit.begin_probe() is False
    circuit.fail()
    assert circuit.begin_probe() is True
    assert circuit.begin_probe() is False  # one at a time


def test_a_late_failure_does_not_end_a_probe(clock: Clock) -> None:
    circuit = Circuit(clock=clock)
    circuit.fail()
    circuit.begin_probe()
    clock.now += 7

    assert circuit.fail() is False

    assert circuit.state is CircuitState.HALF_OPEN
    assert circuit.seconds_since_failure() == 0.0
    clock.now += 3
    assert circuit.seconds_since_failure() == 3.0


@pytest.mark.parametrize(("first", "longest"), [(0, 5), (2, 1)])
def test_pauses_that_make_no_sense_are_refused(first: float, longest: float) -> None:
    with pytest.raises(ValueError, match="probes need"):
        Circuit(first_probe_seconds=first, longest_probe_seconds=longest)
