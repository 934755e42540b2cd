"""Training learns, goes on after a cut to the very same weights, and refuses what would waste a night."""

import csv
import os
import signal

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lsdflow import training
from lsdflow.errors import UserError
from lsdflow.networks import NetworkSettings
from lsdflow.sampling import CropSampler, TrainingVolume
from lsdflow.setups import Setup
from lsdflow.training import (
    LOG_COLUMNS,
    TrainingSettings,
    build_pipeline,
    load_pipeline,
    losses_of,
    seed_everything,
    to_device,
    train,
)
from lsdflow.volumes import Roi, Volume

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
VALID = NetworkSettings("unet", 2, 2, ((2, 2, 2),))
PADDED = NetworkSettings("residual_unet", 4, 2, ((2, 2, 2),))
CPU = torch.device("cpu")
SHAPE = (14, 14, 14)
SETUPS = {
    setup.name: setup
    for setup in [
        Setup("baseline", ("raw",), ("affinities",), PADDED, NEAREST),
        Setup("lsd", ("raw",), ("lsds",), VALID, NEAREST),
        Setup("mtlsd", ("raw",), ("affinities", "lsds"), VALID, NEAREST, {"affinities": "bce"}, {"lsds": 2.0}),
        Setup("acrlsd", ("raw", "lsd.lsds"), ("affinities",), VALID, NEAREST),
        Setup("second", ("acrlsd.affinities",), ("affinities",), PADDED, NEAREST),
    ]
}
SETTINGS = TrainingSettings(iterations=12, learning_rate=1e-3, warmup=3, checkpoint_every=3, log_every=4)


@pytest.fixture(autouse=True)
def one_thread():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def training_volume():
    """Two objects with a dark wall between them; descriptors are made up."""
    labels = np.ones(SHAPE, np.uint64)
    labels[:, 7:], labels[:, 6] = 2, 0
    raw = np.where(labels, 200, 30).astype(np.uint8)
    lsds = np.random.default_rng(0).uniform(0, 1, (10, *SHAPE)).astype(np.float32) * (labels != 0)
    parts = [Volume(data, (10.0,) * 3) for data in (raw, labels, labels, lsds)]
    return TrainingVolume(*parts, Roi.of_shape(SHAPE))


def make(setup="mtlsd", checkpoints=None, crop_shape=(4, 4, 4)):
    """A fresh pipeline and its sampler."""
    torch.manual_seed(5)
    pipeline = build_pipeline(SETUPS[setup], SETUPS, checkpoints or {})
    network = SETUPS[setup].network
    sampler = CropSampler(
        [training_volume()],
        outputs=SETUPS[setup].outputs,
        offsets=NEAREST,
        raw_shape=pipeline.raw_shape(network.input_shape(crop_shape)),
        output_shape=crop_shape,
        batch_size=1,
        seed=0,
    )
    return pipeline, sampler


def run(folder, setup="mtlsd", settings=SETTINGS, fingerprint="a", **options):
    pipeline, sampler = make(setup, **options)
    train(pipeline, sampler, settings, folder, device=CPU, fingerprint=fingerprint, provenance={"code": "1"})
    return pipeline


def weights_in(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["weights"]


def log_in(folder):
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]
    return rows


def assert_same_training(folder, other):
    weights, expected = weights_in(folder), weights_in(other)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert log_in(folder) == log_in(other)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def at_step(monkeypatch):
    """Calls something when the loss of the n-th step of this run is computed."""

    def arrange(step, action):
        calls = []

        def losses(*args):
            calls.append(1)
            result = losses_of(*args)
            return (action(result) or result) if len(calls) == step else result

        monkeypatch.setattr(training, "losses_of", losses)

    return arrange


class CutOff(Exception):
    pass


def cut_off(_):
    raise CutOff


def test_loss_falls_on_a_tiny_problem(tmp_path):
    settings = TrainingSettings(iterations=100, learning_rate=3e-2, log_every=10)
    run(tmp_path, "baseline", settings, crop_shape=(8, 8, 8))
    losses = [float(row["loss"]) for row in log_in(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]


def test_same_seed_gives_the_same_weights(tmp_path, uninterrupted):
    run(tmp_path)
    assert_same_training(tmp_path, uninterrupted)


@pytest.mark.parametrize("step", [2, 7, 9, 12])
def test_cut_off_training_resumes_to_the_same_weights_and_log(tmp_path, uninterrupted, at_step, capsys, step):
    at_step(step, cut_off)
    with pytest.raises(CutOff):
        run(tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()
    assert (tmp_path / "state.pt").exists() == (step > 3)
    at_step(0, None)
    run(tmp_path)
    assert ("going on from iteration" in capsys.readouterr().err) == (step > 3)
    assert_same_training(tmp_path, uninterrupted)
    assert not (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("step", [1, 5])
def test_signal_to_end_saves_the_step_in_hand_and_the_next_run_goes_on_from_it(tmp_path, uninterrupted, at_step, step):
    handler = signal.getsignal(signal.SIGTERM)
    at_step(step, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(UserError, match=f"stopped by a signal at iteration {step}; run again"):
        run(tmp_path)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert torch.load(tmp_path / "state.pt", weights_only=True)["iteration"] == step
    at_step(0, None)
    run(tmp_path)
    assert_same_training(tmp_path, uninterrupted)


def test_signal_in_the_last_step_does_not_waste_the_training(tmp_path, uninterrupted, at_step):
    at_step(SETTINGS.iterations, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    run(tmp_path)
    assert_same_training(tmp_path, uninterrupted)


def test_state_of_another_fingerprint_is_ignored(tmp_path, uninterrupted, at_step, capsys):
    at_step(8, cut_off)
    with pytest.raises(CutOff):
        run(tmp_path, settings=TrainingSettings(iterations=20, learning_rate=0.1, checkpoint_every=3), fingerprint="b")
    at_step(0, None)
    run(tmp_path)
    assert "another configuration: starting anew" in capsys.readouterr().err
    assert_same_training(tmp_path, uninterrupted)


def test_torn_state_is_ignored(tmp_path, uninterrupted, at_step, capsys):
    at_step(8, cut_off)
    with pytest.raises(CutOff):
        run(tmp_path)
    state = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(state[: len(state) // 2])
    at_step(0, None)
    run(tmp_path)
    assert "cannot be read" in capsys.readouterr().err
    assert_same_training(tmp_path, uninterrupted)


def test_loss_that_is_not_a_number_is_refused_and_the_state_before_it_kept(tmp_path, at_step):
    at_step(6, lambda losses: {**losses, "lsds": torch.tensor(float("nan"))})
    with pytest.raises(UserError, match="loss of setup 'mtlsd' is nan at iteration 5: lower training.learning_rate"):
        run(tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["iteration"] == 3
    assert not (tmp_path / "checkpoint.pt").exists()


def test_log_has_a_row_per_interval_with_means_and_rates(uninterrupted):
    with open(uninterrupted / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == LOG_COLUMNS
    assert [int(row["iteration"]) for row in rows] == [4, 8, 12]
    for row in rows:
        parts = float(row["affinities"]) + 2 * float(row["lsds"])
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-5)
        assert float(row["learning_rate"]) == pytest.approx(SETTINGS.rate(int(row["iteration"]) - 1))
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)


def test_log_means_are_those_of_their_steps(tmp_path):
    run(tmp_path / "coarse", settings=TrainingSettings(iterations=6, learning_rate=1e-3, log_every=4))
    run(tmp_path / "fine", settings=TrainingSettings(iterations=6, learning_rate=1e-3, log_every=1))
    fine = [float(row["loss"]) for row in log_in(tmp_path / "fine")]
    coarse = [float(row["loss"]) for row in log_in(tmp_path / "coarse")]
    assert coarse == pytest.approx([np.mean(fine[:4]), np.mean(fine[4:])])


def test_log_has_no_column_for_what_is_not_learned(tmp_path):
    run(tmp_path, "lsd")
    assert "affinities" not in log_in(tmp_path)[0]


def test_tensorboard_shows_the_log(uninterrupted):
    events = EventAccumulator(str(uninterrupted / "events")).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("train/loss")]
    expected = [(int(row["iteration"]), pytest.approx(float(row["loss"]))) for row in log_in(uninterrupted)]
    assert shown == expected


def test_events_of_a_cut_off_run_are_not_lost(tmp_path, at_step):
    at_step(6, cut_off)
    with pytest.raises(CutOff):
        run(tmp_path)
    assert len(EventAccumulator(str(tmp_path / "events")).Reload().Scalars("train/loss")) == 1


def test_checkpoint_tells_what_it_is(uninterrupted):
    content = torch.load(uninterrupted / "checkpoint.pt", weights_only=True)
    assert content["setup"] == "mtlsd" and content["provenance"] == {"code": "1"}
    assert NetworkSettings(**content["network"]) == VALID
    assert TrainingSettings(**content["settings"]) == SETTINGS


def test_loaded_pipeline_is_the_trained_one_and_frozen(tmp_path):
    trained = run(tmp_path, "lsd")
    loaded = load_pipeline(SETUPS["lsd"], SETUPS, {"lsd": tmp_path / "checkpoint.pt"})
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    x = torch.randn(1, 1, 18, 18, 18)
    torch.testing.assert_close(loaded.network(x)["lsds"], trained.network(x)["lsds"].detach())


def test_checkpoint_of_another_network_is_refused(uninterrupted):
    other = Setup("mtlsd", ("raw",), ("affinities", "lsds"), PADDED, NEAREST)
    with pytest.raises(UserError, match=r"checkpoint.pt holds the network .*'unet'.* asks for .*'residual_unet'"):
        load_pipeline(other, {"mtlsd": other}, {"mtlsd": uninterrupted / "checkpoint.pt"})


@pytest.mark.parametrize(("outputs", "offsets"), [(("affinities", "lsds"), NEAREST * 2), (("lsds",), NEAREST)])
def test_checkpoint_of_other_outputs_is_refused(uninterrupted, outputs, offsets):
    other = Setup("mtlsd", ("raw",), outputs, VALID, offsets)
    with pytest.raises(UserError, match="holds other inputs or outputs than setup 'mtlsd' has"):
        load_pipeline(other, {"mtlsd": other}, {"mtlsd": uninterrupted / "checkpoint.pt"})


def test_auto_context_trains_its_own_network_and_leaves_the_frozen_ones(tmp_path):
    settings = TrainingSettings(iterations=3, learning_rate=1e-2)
    checkpoints = {name: tmp_path / name / "checkpoint.pt" for name in SETUPS}
    for name in ("lsd", "acrlsd"):
        run(tmp_path / name, name, settings, checkpoints=checkpoints)
    before = {name: weights_in(tmp_path / name) for name in ("lsd", "acrlsd")}
    # A net that sees a net that sees a net.
    pipeline = run(tmp_path / "second", "second", settings, checkpoints=checkpoints)
    frozen = {"acrlsd": pipeline.frozen["acrlsd"], "lsd": pipeline.frozen["acrlsd"].frozen["lsd"]}
    for name, other in frozen.items():
        assert all(torch.equal(value, before[name][key]) for key, value in other.network.state_dict().items())
        assert all(p.grad is None for p in other.network.parameters())
    torch.manual_seed(5)
    fresh = build_pipeline(SETUPS["second"], SETUPS, checkpoints).network.state_dict()
    assert any(not torch.equal(value, fresh[key]) for key, value in weights_in(tmp_path / "second").items())


def test_networks_move_to_the_device_together(tmp_path):
    run(tmp_path, "lsd", TrainingSettings(iterations=1, learning_rate=1e-2))
    pipeline = build_pipeline(SETUPS["acrlsd"], SETUPS, {"lsd": tmp_path / "checkpoint.pt"})
    assert to_device(pipeline, torch.device("meta")) is pipeline
    for part in (pipeline, pipeline.frozen["lsd"]):
        assert all(p.device.type == "meta" for p in part.network.parameters())


def test_constant_schedule_rises_over_the_warm_up_and_stays():
    settings = TrainingSettings(iterations=100, learning_rate=2.0, schedule="constant", warmup=4)
    assert [settings.rate(i) for i in (0, 1, 2, 3, 4, 99)] == [0.5, 1, 1.5, 2, 2, 2]


def test_cosine_schedule_falls_to_a_hundredth():
    settings = TrainingSettings(iterations=104, learning_rate=2.0, warmup=4)
    rates = [settings.rate(i) for i in range(105)]
    assert rates[3] == rates[4] == 2
    assert rates[54] == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert rates[104] == pytest.approx(0.02)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_seed_decides_the_initial_weights():
    def weights(seed):
        seed_everything(seed)
        return torch.cat([p.flatten() for p in build_pipeline(SETUPS["lsd"], SETUPS, {}).network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
