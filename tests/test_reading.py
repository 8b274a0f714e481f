"""Threads that read what is wanted next."""

import threading
import time

import pytest

from fluxkeras import reading
from fluxkeras.reading import Threads


def until(is_so):
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def named(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_tasks_are_run_in_their_order_and_give_what_they_return():
    worker = Threads(1)
    order = []

    futures = [worker.submit(lambda i=i: order.append(i) or i**2) for i in range(5)]

    assert [future.result() for future in futures] == [0, 1, 4, 9, 16]
    assert order == [0, 1, 2, 3, 4]
    worker.close()


def test_an_error_of_a_task_is_its_own():
    worker = Threads(1)
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda: 1 / 0).result()

    assert worker.submit(lambda: 1).result() == 1
    worker.close()


@pytest.mark.parametrize("is_lasting", [False, True])
def test_threads_that_have_nothing_to_do_stay_if_they_are_to_last(is_lasting, monkeypatch):
    monkeypatch.setattr(reading, "IDLE_SECONDS", 0.01)
    name = f"lasting {is_lasting}"
    worker = Threads(1, name, is_lasting)
    first = worker.submit(threading.current_thread).result()
    if is_lasting:
        time.sleep(0.1)
    else:
        until(lambda: not named(name))

    assert (worker.submit(threading.current_thread).result() is first) == is_lasting
    worker.close()
    until(lambda: not named(name))


def test_who_rests_waits_for_what_has_begun_and_begins_no_more():
    worker, has_begun, may_end, done = Threads(1), threading.Event(), threading.Event(), []
    worker.submit(lambda: (has_begun.set(), may_end.wait(10), done.append("first")))
    worker.submit(lambda: done.append("second"))
    has_begun.wait(10)
    threading.Timer(0.05, may_end.set).start()

    assert worker.rest() is True

    assert done == ["first"]
    assert worker.submit(lambda: "again").result() == "again"
    worker.close()
    assert done == ["first"]


def test_who_rests_does_not_wait_without_end(monkeypatch):
    monkeypatch.setattr(reading, "PATIENCE", 0.05)
    worker, has_begun, may_end = Threads(1), threading.Event(), threading.Event()
    worker.submit(lambda: (has_begun.set(), may_end.wait(10)))
    has_begun.wait(10)

    assert worker.rest() is False

    may_end.set()
    worker.close()
