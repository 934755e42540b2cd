"""Blocks tile a region, jobs share them evenly, and work that was cut off goes on where it stopped."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsdflow.blocks import BlockGrid, DoneBlocks, run_blocks
from lsdflow.errors import UserError
from lsdflow.progress import LOG_INTERVAL_S, Progress, progress
from lsdflow.volumes import Roi

ROI = Roi((1, 2, 3), (8, 7, 13))


@given(
    begin=st.tuples(*[st.integers(-3, 5)] * 3),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    block_shape=st.tuples(*[st.integers(1, 12)] * 3),
)
def test_every_voxel_lies_in_exactly_one_block(begin, shape, block_shape):
    roi = Roi.of_shape(shape).shift(begin)
    hits = np.zeros(shape, int)
    grid = BlockGrid(roi, block_shape)
    for block in grid:
        assert roi.contains(block) and all(n <= b for n, b in zip(block.shape, block_shape, strict=True))
        hits[block.shift([-b for b in begin]).slices] += 1
    assert (hits == 1).all()
    assert len(list(grid)) == len(grid)


def test_blocks_come_in_c_order_and_the_last_are_cut():
    grid = BlockGrid(Roi((0, 0, 0), (4, 4, 10)), (4, 2, 4))
    assert [block.begin for block in grid] == [(0, 0, 0), (0, 0, 4), (0, 0, 8), (0, 2, 0), (0, 2, 4), (0, 2, 8)]
    assert grid[5].shape == (4, 2, 2)
    assert grid.voxels_per_block == 32


def test_an_index_outside_the_grid_is_refused():
    grid = BlockGrid(ROI, (4, 4, 4))
    for index in (-1, len(grid)):
        with pytest.raises(IndexError, match=f"block {index} is not one of the {len(grid)}"):
            grid[index]


@given(chunks=st.integers(1, 40))
def test_jobs_share_the_blocks_evenly_and_in_order(chunks):
    grid = BlockGrid(ROI, (3, 3, 3))
    ranges = [grid.chunk_range(chunk, chunks) for chunk in range(chunks)]
    assert [i for r in ranges for i in r] == list(range(len(grid)))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_a_job_that_is_not_one_of_all_is_refused():
    with pytest.raises(ValueError, match="0–2, not 3"):
        BlockGrid(ROI, (3, 3, 3)).chunk_range(3, 3)


@pytest.mark.parametrize("block_shape", [(0, 4, 4), (4, 4), (4, -1, 4)])
def test_a_block_shape_that_cannot_be_is_refused(block_shape):
    with pytest.raises(UserError, match="three positive lengths"):
        BlockGrid(ROI, block_shape)


def test_an_empty_region_is_refused():
    with pytest.raises(UserError, match="empty"):
        BlockGrid(Roi((0, 0, 0), (4, 0, 4)), (4, 4, 4))


def test_only_a_marker_with_the_same_fingerprint_counts(tmp_path):
    done = DoneBlocks(tmp_path / "done", "abc")
    assert not done.is_done(3)
    done.mark(3)
    assert done.is_done(3) and not done.is_done(4)
    assert done.remaining(range(2, 6)) == [2, 4, 5]
    other = DoneBlocks(tmp_path / "done", "abd")
    assert not other.is_done(3)
    other.mark(3)
    assert other.is_done(3) and not done.is_done(3)


@pytest.mark.parametrize("content", [b"", b"ab", b"\xff\xfe"])
def test_a_torn_marker_does_not_count(tmp_path, content):
    (tmp_path / "0.done").write_bytes(content)
    assert not DoneBlocks(tmp_path, "abc").is_done(0)


def test_marking_leaves_nothing_but_the_marker(tmp_path):
    DoneBlocks(tmp_path, "abc").mark(0)
    assert [p.name for p in tmp_path.iterdir()] == ["0.done"]


def test_an_empty_fingerprint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fingerprint"):
        DoneBlocks(tmp_path, "")


def test_every_block_is_processed_once_and_never_again(tmp_path):
    grid, done = BlockGrid(ROI, (4, 4, 4)), DoneBlocks(tmp_path, "abc")
    seen = []

    def process(index, block):
        assert block == grid[index]
        assert not done.is_done(index)
        seen.append(index)

    assert run_blocks(process, grid, range(len(grid)), done, name="test") == len(grid)
    assert sorted(seen) == list(range(len(grid)))
    assert run_blocks(process, grid, range(len(grid)), done, name="test") == 0
    assert len(seen) == len(grid)


def test_after_an_error_only_the_missing_blocks_are_processed(tmp_path):
    grid, done = BlockGrid(ROI, (4, 4, 4)), DoneBlocks(tmp_path, "abc")
    seen = []

    def fail_at_5(index, block):
        if index == 5:
            raise OSError("disk full")
        seen.append(index)

    with pytest.raises(OSError, match="disk full"):
        run_blocks(fail_at_5, grid, range(len(grid)), done, name="test")
    assert seen == [0, 1, 2, 3, 4]
    assert done.remaining(range(len(grid))) == [i for i in range(len(grid)) if i not in seen]
    run_blocks(lambda index, block: seen.append(index), grid, range(len(grid)), done, name="test")
    assert sorted(seen) == list(range(len(grid)))


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_log_gets_few_lines_with_rate_time_left_and_values():
    stream, clock = io.StringIO(), Clock()
    with Progress(100, "training", "step", stream=stream, clock=clock) as steps:
        for _ in range(100):
            clock.now += LOG_INTERVAL_S / 40
            steps.update(loss=0.123456, lr=1e-4)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training: 40/100 steps (40 %), 4 steps/s, 15 s left, loss 0.1235, lr 0.0001"
    assert lines[-1] == "training: 100/100 steps (100 %), 4 steps/s, 25 s in all, loss 0.1235, lr 0.0001"
    assert len(lines) == 3


def test_the_rate_counts_only_what_this_run_did():
    stream, clock = io.StringIO(), Clock()
    with Progress(1000, "fragments", "block", initial=900, stream=stream, clock=clock) as blocks:
        clock.now = 200.0
        blocks.update(50)
    assert stream.getvalue().splitlines()[0] == "fragments: 950/1000 blocks (95 %), 4 s per block, 3 min 20 s left"


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Progress(2, "training", "step", stream=stream) as steps:
        steps.update(2, loss=0.5)
    assert "training: 100%" in stream.getvalue() and "loss 0.5" in stream.getvalue()


def test_progress_passes_the_items_on(capsys):
    assert list(progress("abc", "reading", "letter")) == ["a", "b", "c"]
    assert "reading: 3/3 letters (100 %)" in capsys.readouterr().err
