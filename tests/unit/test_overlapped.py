"""Items arrive in order, a bounded number ahead, and errors in a thread become those of its user."""

import threading
import time

import pytest

from lsdflow.overlapped import WriteBehind, read_ahead


def wait_until(is_so):
    while not is_so():
        time.sleep(0.001)


def test_items_come_in_order():
    assert list(read_ahead(range(50), 3)) == list(range(50))


def test_only_so_many_items_are_made_ahead():
    made = []
    items = read_ahead((made.append(i) or i for i in range(100)), 2)
    assert made == []
    assert next(items) == 0
    # One taken, two waiting, one in hand.
    wait_until(lambda: len(made) == 4)
    items.close()
    assert len(made) <= 5


def test_what_making_an_item_raises_comes_after_the_items_before_it():
    def items():
        yield from (1, 2)
        raise OSError("no such section")

    seen = []
    with pytest.raises(OSError, match="no such section"):
        for item in read_ahead(items(), 5):
            seen.append(item)
    assert seen == [1, 2]


def test_thread_ends_when_nobody_wants_more():
    before = threading.active_count()
    items = read_ahead(iter(int, 1), 2)
    next(items)
    assert threading.active_count() == before + 1
    items.close()
    assert threading.active_count() == before


def test_all_is_written_in_order_before_it_ends():
    written = []
    with WriteBehind(written.append, 2) as writer:
        for item in range(20):
            writer.put(item)
    assert written == list(range(20))


def test_the_writer_takes_its_time_and_the_queue_is_bounded():
    gate, written = threading.Semaphore(0), []

    def write(item):
        gate.acquire()
        written.append(item)

    with WriteBehind(write, 2) as writer:
        thread = threading.Thread(target=lambda: [writer.put(item) for item in range(10)])
        thread.start()
        # One in the writer's hands, two waiting, and the fourth cannot be put.
        wait_until(lambda: writer._waiting.full())
        assert thread.is_alive() and written == []
        for _ in range(10):
            gate.release()
        thread.join()
    assert written == list(range(10))


def test_what_writing_raises_is_raised_and_nothing_is_written_after_it():
    written = []

    def write(item):
        if item == 2:
            raise OSError("no space left")
        written.append(item)

    with pytest.raises(OSError, match="no space left"), WriteBehind(write, 1) as writer:
        for item in range(1000):
            writer.put(item)
    assert written == [0, 1]


def test_an_error_at_the_last_item_is_raised_at_the_end():
    def write(item):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), WriteBehind(write, 5) as writer:
        writer.put(0)


def test_what_was_put_before_an_error_elsewhere_is_written():
    written = []
    with pytest.raises(ZeroDivisionError), WriteBehind(written.append, 5) as writer:
        writer.put(0)
        writer.put(1)
        raise ZeroDivisionError
    assert written == [0, 1]
