"""The circuit of an engine: opened by failures in a row, shared by workers, closed by one that tries."""

import asyncio

import pytest
import structlog
from arq.connections import ArqRedis

from tests.waiting import until
from worker.engines.base import DocumentRejectedError, EngineUnavailableError
from worker.engines.circuit import Circuit
from worker.queue import connect


class Server:
    """Something that is up or down, and counts who tries it."""

    def __init__(self) -> None:
        self.is_up, self.probes, self.calls = True, 0, 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def probe(self) -> None:
        self.probes += 1
        await self.go_on.wait()
        self._answer()

    def _answer(self) -> None:
        if not self.is_up:
            raise EngineUnavailableError("engine_unavailable", "the server is down")

    async def call(self, circuit: Circuit, part: str = "documents") -> None:
        async with circuit.guarding(part):
            self.calls += 1
            self._answer()


@pytest.fixture
def server() -> Server:
    return Server()


def circuit_of(server: Server, redis: ArqRedis, **bounds: float) -> Circuit:
    usual = {"cooling_seconds": 0.2, "longest_cooling_seconds": 0.5}
    return Circuit(redis, "shop", server.probe, failures=3, **(usual | bounds))


async def fail(server: Server, circuit: Circuit, times: int, part: str = "documents") -> None:
    for _ in range(times):
        with pytest.raises(EngineUnavailableError):
            await server.call(circuit, part)


async def test_failures_in_a_row_open_it_for_every_worker(server: Server, redis: ArqRedis) -> None:
    one, other = (circuit_of(server, redis, cooling_seconds=30, longest_cooling_seconds=60) for _ in range(2))
    server.is_up = False
    await fail(server, one, 2)
    await fail(server, other, 1)
    assert server.calls == 3
    with pytest.raises(EngineUnavailableError, match="the server is down; it is tried again in") as caught:
        await server.call(one)
    assert (server.calls, server.probes) == (3, 0)
    assert caught.value.retry_after == pytest.approx(33.75, abs=3.9)  # 30 s, and up to a quarter of jitter
    state = await other.state()
    assert state is not None
    assert (state.is_open, state.reason, state.failures) == (True, "the server is down", 3)
    assert state.retry_after_seconds > 25


async def test_an_answer_in_between_begins_the_count_anew(server: Server, redis: ArqRedis) -> None:
    circuit = circuit_of(server, redis)
    for _ in range(3):
        server.is_up = False
        await fail(server, circuit, 2)
        server.is_up = True
        await server.call(circuit)
    state = await circuit.state()
    assert state is not None
    assert (state.is_open, state.failures) == (False, 0)


async def test_a_part_that_answers_does_not_hide_one_that_does_not(server: Server, redis: ArqRedis) -> None:
    circuit = circuit_of(server, redis, cooling_seconds=30, longest_cooling_seconds=60)
    for _ in range(3):
        server.is_up = False
        await fail(server, circuit, 1, part="embedding")
        server.is_up = True
        if server.calls < 5:
            await server.call(circuit, part="documents")
    state = await circuit.state()
    assert state is not None
    assert state.is_open


async def test_an_error_of_a_document_is_an_answer(server: Server, redis: ArqRedis) -> None:
    circuit = circuit_of(server, redis)
    server.is_up = False
    await fail(server, circuit, 2)
    with pytest.raises(DocumentRejectedError):
        async with circuit.guarding("documents"):
            raise DocumentRejectedError("corrupt", "hours.pdf cannot be read")
    await fail(server, circuit, 2)
    state = await circuit.state()
    assert state is not None
    assert not state.is_open


async def test_what_is_no_error_of_the_engine_counts_as_nothing(server: Server, redis: ArqRedis) -> None:
    circuit = circuit_of(server, redis)
    server.is_up = False
    await fail(server, circuit, 2)
    with pytest.raises(KeyError):
        async with circuit.guarding("documents"):
            raise KeyError
    await fail(server, circuit, 1)
    state = await circuit.state()
    assert state is not None
    assert state.is_open


async def test_after_the_cooling_one_worker_tries_and_the_others_wait(server: Server, redis: ArqRedis) -> None:
    circuits = [circuit_of(server, redis) for _ in range(4)]
    server.is_up = False
    await fail(server, circuits[0], 3)
    server.is_up = True
    server.go_on.clear()

    async def is_due() -> bool:
        state = await circuits[0].state()
        return state is not None and state.retry_after_seconds == 0

    await until(is_due)
    calls = [asyncio.create_task(server.call(each)) for each in circuits]
    refused, trying = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=5)

    async def all_but_one() -> bool:
        return sum(call.done() for call in calls) == 3

    await until(all_but_one)
    server.go_on.set()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert server.probes == 1
    assert sum(isinstance(each, EngineUnavailableError) for each in ended) == 3
    assert len(refused) + len(trying) == 4
    await server.call(circuits[3])  # closed for all
    state = await circuits[1].state()
    assert state is not None
    assert (state.is_open, state.failures, state.reason) == (False, 0, "")


async def test_a_try_that_fails_opens_it_for_twice_as_long_up_to_the_bound(server: Server, redis: ArqRedis) -> None:
    circuit = circuit_of(server, redis)
    server.is_up = False
    with structlog.testing.capture_logs() as logged:
        await fail(server, circuit, 3)

        async def opened_often() -> bool:
            with pytest.raises(EngineUnavailableError):
                await server.call(circuit)
            return len(logged) == 4

        await until(opened_often)
    waits = [line["seconds"] for line in logged]
    assert all(line["event"] == "circuit.opened" for line in logged)
    for waited, cooling in zip(waits, (0.2, 0.4, 0.5, 0.5), strict=True):
        assert cooling <= waited <= cooling * 1.25 + 0.001
    assert server.calls == 3  # every other one was a try, or refused


async def test_without_redis_every_call_is_let_through(server: Server) -> None:
    away = connect("redis://127.0.0.1:1/0")
    circuit = circuit_of(server, away)
    server.is_up = False
    async with asyncio.timeout(5):
        await fail(server, circuit, 10)
    assert server.calls == 10
    assert await circuit.state() is None
    await away.aclose(close_connection_pool=True)


@pytest.mark.parametrize(("failures", "cooling", "longest"), [(0, 1.0, 2.0), (1, 0.0, 2.0), (1, 3.0, 2.0)])
async def test_a_circuit_beyond_the_bounds_is_an_error_of_the_caller(
    server: Server, redis: ArqRedis, failures: int, cooling: float, longest: float
) -> None:
    with pytest.raises(ValueError, match="circuit shop"):
        Circuit(
            redis, "shop", server.probe, failures=failures, cooling_seconds=cooling, longest_cooling_seconds=longest
        )
