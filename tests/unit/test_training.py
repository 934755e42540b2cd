"""Training learns, goes on after a cut to the very same weights, and refuses what would waste a night."""

import csv
import os
import signal
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lsdflow import training
from lsdflow.checkpoints import build_pipeline, load_network, load_pipeline, save_torch, to_device, what_made
from lsdflow.errors import UserError
from lsdflow.networks import NetworkSettings
from lsdflow.sampling import CropSampler, TrainingVolume
from lsdflow.setups import MalisSettings, Setup, SetupNetwork
from lsdflow.training import TrainingSettings, losses_of, seed_everything, train
from lsdflow.training_log import LOG_COLUMNS, VALIDATION_COLUMNS
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
        Setup("malis", ("raw",), ("affinities",), PADDED, NEAREST, {"affinities": "malis"}, malis=MalisSettings(6)),
    ]
}
SETTINGS = TrainingSettings(
    iterations=12, learning_rate=1e-3, warmup=3, checkpoint_every=3, log_every=4, clip=1.0, average=0.9
)


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


def make(setup="mtlsd", checkpoints=None, crop_shape=(4, 4, 4), batch_size=1):
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
        batch_size=batch_size,
        seed=0,
    )
    return pipeline, sampler


def run(folder, setup="mtlsd", settings=SETTINGS, fingerprint="a", validator=None, **options):
    pipeline, sampler = make(setup, **options)
    train(
        pipeline,
        sampler,
        settings,
        folder,
        device=CPU,
        fingerprint=fingerprint,
        validator=validator,
        provenance={"code": "1"},
    )
    return pipeline


def weights_in(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["weights"]


def log_in(folder):
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"], row["waited"]
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
    assert torch.load(tmp_path / "state.pt", weights_only=True)["done"] == step
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
    error = capsys.readouterr().err
    assert "another configuration" in error and "iterations 20 there, 12 here" in error and "starting anew" in error
    assert_same_training(tmp_path, uninterrupted)
    assert (tmp_path / "state-of-another-configuration.pt").exists()


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
    with pytest.raises(
        UserError, match="loss of setup 'mtlsd' is not a number at iteration 5: lower training.learning_rate"
    ):
        run(tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["done"] == 3
    assert not (tmp_path / "checkpoint.pt").exists()
    _, sampler = make()
    with np.load(tmp_path / "failed_batch.npz") as saved:
        np.testing.assert_array_equal(saved["raw"], sampler.batch(5).raw)
        np.testing.assert_array_equal(saved["targets_lsds"], sampler.batch(5).targets["lsds"])


@pytest.mark.parametrize("loss", ["mse", "bce", "malis"])
def test_weights_that_are_not_numbers_are_refused(tmp_path, monkeypatch, loss):
    setup = Setup("broken", ("raw",), ("affinities",), PADDED, NEAREST, {"affinities": loss}, malis=MalisSettings(0))
    monkeypatch.setitem(SETUPS, "broken", setup)
    pipeline, sampler = make("broken", crop_shape=(8, 8, 8))
    with torch.no_grad():
        pipeline.network.heads["affinities"].bias[0] = float("nan")
    with pytest.raises(UserError, match="the loss of setup 'broken' is not a number at iteration 0"):
        train(pipeline, sampler, SETTINGS, tmp_path, device=CPU, fingerprint="a")
    assert (tmp_path / "failed_batch.npz").exists()


def test_gradient_that_is_not_a_number_is_no_step(tmp_path, at_step):
    def spoil(losses):
        losses["lsds"].register_hook(lambda gradient: gradient * float("inf"))

    at_step(6, spoil)
    with pytest.raises(UserError, match="the gradient of setup 'mtlsd' is not a number at iteration 5"):
        run(tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["done"] == 3 and all(torch.isfinite(value).all() for value in state["weights"].values())
    assert (tmp_path / "failed_batch.npz").exists()


@pytest.mark.parametrize(
    ("accumulate", "batch_size", "remedy"),
    [(1, 4, "set training.accumulate to 4"), (4, 4, r"try training.crop_shape \[8, 8, 8\]"), (1, 1, "crop_shape")],
)
def test_too_little_memory_is_answered_with_what_to_try(tmp_path, at_step, accumulate, batch_size, remedy):
    def exhaust(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    at_step(1, exhaust)
    settings = TrainingSettings(iterations=2, learning_rate=1e-3, accumulate=accumulate)
    with pytest.raises(UserError, match=f"out of memory with .* crop.*{remedy}"):
        run(tmp_path, "mtlsd", settings, batch_size=batch_size, crop_shape=(10, 10, 10))


def test_log_has_a_row_per_interval_with_means_and_rates(uninterrupted):
    with open(uninterrupted / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == LOG_COLUMNS
    assert [int(row["iteration"]) for row in rows] == [4, 8, 12]
    assert all(0 <= float(row["waited"]) <= 1 and float(row["gradient"]) > 0 for row in rows)
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


def test_events_of_a_resumed_run_are_those_of_its_log(tmp_path, at_step):
    settings = TrainingSettings(iterations=9, learning_rate=1e-3, checkpoint_every=3, log_every=3)
    at_step(7, cut_off)
    with pytest.raises(CutOff):
        run(tmp_path, settings=settings)
    at_step(0, None)
    run(tmp_path, settings=settings)
    assert [int(row["iteration"]) for row in log_in(tmp_path)] == [3, 6, 9]
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [3, 6, 9]


def test_checkpoint_tells_what_it_is(uninterrupted):
    content = torch.load(uninterrupted / "checkpoint.pt", weights_only=True)
    assert content["setup"] == "mtlsd" and content["provenance"] == {"code": "1"}
    assert NetworkSettings(**content["network"]) == VALID
    assert TrainingSettings(**content["settings"]) == SETTINGS


def test_loaded_pipeline_is_the_trained_one_and_frozen(tmp_path):
    trained = run(tmp_path, "lsd", replace(SETTINGS, average=0.0))
    loaded = load_pipeline(SETUPS["lsd"], SETUPS, {"lsd": tmp_path / "checkpoint.pt"})
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    x = torch.randn(1, 1, 18, 18, 18)
    torch.testing.assert_close(loaded.network(x)["lsds"], trained.network(x)["lsds"].detach())


def test_checkpoint_of_another_network_is_refused(uninterrupted):
    other = Setup("mtlsd", ("raw",), ("affinities", "lsds"), PADDED, NEAREST)
    with pytest.raises(UserError, match=r"checkpoint.pt holds another network .*unet there, residual_unet here"):
        load_pipeline(other, {"mtlsd": other}, {"mtlsd": uninterrupted / "checkpoint.pt"})


@pytest.mark.parametrize(("outputs", "offsets"), [(("affinities", "lsds"), NEAREST * 2), (("lsds",), NEAREST)])
def test_checkpoint_of_other_outputs_is_refused(uninterrupted, outputs, offsets):
    other = Setup("mtlsd", ("raw",), outputs, VALID, offsets)
    with pytest.raises(UserError, match=r"another network than setup .* asks for \(.*(outputs|offsets) .* there"):
        load_pipeline(other, {"mtlsd": other}, {"mtlsd": uninterrupted / "checkpoint.pt"})


def test_checkpoint_that_saw_fewer_channels_is_refused(tmp_path):
    second = Setup("second", ("first.affinities",), ("affinities",), PADDED, NEAREST)
    first = {n: Setup("first", ("raw",), ("affinities",), PADDED, NEAREST * n) for n in (1, 2)}
    network = SetupNetwork(second, 3)
    torch.save({**what_made(second), "weights": network.state_dict()}, tmp_path / "checkpoint.pt")
    assert load_network(second, {"first": first[1]}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"other inputs or outputs than setup 'second' has \(.*there, .* here\)"):
        load_network(second, {"first": first[2]}, tmp_path / "checkpoint.pt")


def test_network_alone_is_that_of_the_pipeline(tmp_path):
    checkpoints = {name: tmp_path / name / "checkpoint.pt" for name in ("lsd", "acrlsd")}
    for name in checkpoints:
        run(tmp_path / name, name, TrainingSettings(iterations=1, learning_rate=1e-2), checkpoints=checkpoints)
    alone = load_network(SETUPS["acrlsd"], SETUPS, checkpoints["acrlsd"])
    together = load_pipeline(SETUPS["acrlsd"], SETUPS, checkpoints).network
    assert not alone.training and not any(p.requires_grad for p in alone.parameters())
    assert all(torch.equal(value, together.state_dict()[name]) for name, value in alone.state_dict().items())


def test_checkpoint_of_other_affinities_is_refused(tmp_path):
    run(tmp_path, "baseline", TrainingSettings(iterations=1, learning_rate=1e-3))
    far = replace(SETUPS["baseline"], offsets=((-1, 0, 0), (0, -1, 0), (0, 0, -5)))
    with pytest.raises(UserError, match=r"another network .*offsets .*-1\]\] there, .*-5\]\] here"):
        load_pipeline(far, {"baseline": far}, {"baseline": tmp_path / "checkpoint.pt"})


def test_torn_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read .* delete it, and train setup 'lsd' again"):
        load_pipeline(SETUPS["lsd"], SETUPS, {"lsd": path})


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
        seed_everything(seed, CPU)
        return torch.cat([p.flatten() for p in build_pipeline(SETUPS["lsd"], SETUPS, {}).network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_kept_weights_are_the_running_mean(tmp_path, monkeypatch):
    seen = []
    update = training.AveragedModel.update_parameters

    def watched(average, network):
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        update(average, network)

    monkeypatch.setattr(training.AveragedModel, "update_parameters", watched)
    run(tmp_path)
    mean = seen[0]
    for count, weights in enumerate(seen[1:], start=1):
        decay = min(0.9, (1 + count) / (10 + count))
        mean = {name: decay * mean[name] + (1 - decay) * value for name, value in weights.items()}
    for name, value in weights_in(tmp_path).items():
        torch.testing.assert_close(value, mean[name])


def test_without_a_mean_the_last_weights_are_kept(tmp_path):
    pipeline = run(tmp_path, settings=TrainingSettings(iterations=3, learning_rate=1e-2))
    assert all(torch.equal(value, pipeline.network.state_dict()[n]) for n, value in weights_in(tmp_path).items())


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_gradients_are_shortened_to_the_limit(tmp_path, clip):
    pipeline = run(tmp_path, settings=TrainingSettings(iterations=1, learning_rate=1e-2, log_every=1, clip=clip))
    length = torch.cat([p.grad.flatten() for p in pipeline.network.parameters()]).norm().item()
    before = float(log_in(tmp_path)[0]["gradient"])
    assert before > 1e-3
    assert length == pytest.approx(clip or before, rel=1e-4)


@pytest.mark.parametrize("parts", [2, 4, 9])
def test_batch_in_parts_gives_the_gradient_of_the_whole(tmp_path, parts):
    gradients = []
    for count in (1, parts):
        settings = TrainingSettings(iterations=1, learning_rate=1e-2, log_every=1, accumulate=count)
        pipeline = run(tmp_path / str(count), settings=settings, batch_size=4)
        gradients.append(torch.cat([p.grad.flatten() for p in pipeline.network.parameters()]))
    torch.testing.assert_close(*gradients)
    whole, in_parts = (log_in(tmp_path / str(count))[0] for count in (1, parts))
    assert float(whole["loss"]) == pytest.approx(float(in_parts["loss"]))


def test_loss_of_malis_begins_when_it_should(tmp_path):
    pipeline, sampler = make("malis", crop_shape=(8, 8, 8))
    setup, batch = pipeline.setup, sampler.batch(0)
    predictions = pipeline.network(torch.from_numpy(batch.raw))
    early, late = (losses_of(setup, predictions, batch, iteration)["affinities"] for iteration in (5, 6))
    plain = losses_of(SETUPS["baseline"], predictions, batch, 100)["affinities"]
    assert early == plain != late
    known = batch.weights["affinities"] != 0
    expected = training.malis_loss(predictions["affinities"], batch.labels, known, NEAREST)
    assert late == expected
    run(tmp_path, "malis", crop_shape=(8, 8, 8))
    assert len(log_in(tmp_path)) == 3


def test_malis_sees_the_centre_of_large_crops(monkeypatch):
    pipeline, sampler = make("malis", crop_shape=(12, 8, 8))
    setup = replace(pipeline.setup, malis=MalisSettings(0, (6, 8, 20)))
    batch = sampler.batch(0)
    predictions = pipeline.network(torch.from_numpy(batch.raw))
    seen = []
    monkeypatch.setattr(training, "malis_loss", lambda *args, **_: seen.append(args) or torch.zeros(()))
    losses_of(setup, predictions, batch, 0)
    prediction, labels, known, _ = seen[0]
    assert torch.equal(prediction, predictions["affinities"][:, :, 3:9])
    np.testing.assert_array_equal(labels, batch.labels[:, 3:9])
    np.testing.assert_array_equal(known, batch.weights["affinities"][:, :, 3:9] != 0)


def test_low_precision_learns_nearly_the_same(tmp_path):
    losses = []
    for precision in ("float32", "bfloat16"):
        settings = TrainingSettings(iterations=5, learning_rate=1e-3, log_every=5, precision=precision)
        run(tmp_path / precision, settings=settings)
        losses.append(float(log_in(tmp_path / precision)[0]["loss"]))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert all(weight.dtype == torch.float32 for weight in weights_in(tmp_path / "bfloat16").values())


class Judge:
    """A validator whose scores are given, and which remembers what it was shown."""

    def __init__(self, scores):
        self.scores, self.shown = list(scores), []

    def __call__(self, network, device):
        self.shown.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"loss": 1.0, "voi_sum": self.scores[len(self.shown) - 1]}


def test_best_validated_network_is_kept(tmp_path):
    judge = Judge([3.0, 1.0, 1.0, 2.0])
    settings = TrainingSettings(iterations=11, learning_rate=1e-2, validate_every=3, average=0.9)
    run(tmp_path, settings=settings, validator=judge)
    with open(tmp_path / "validation.csv", newline="") as file:
        rows = [(int(row["iteration"]), float(row["voi_sum"])) for row in csv.DictReader(file)]
    # The last one too is scored.
    assert rows == [(3, 3.0), (6, 1.0), (9, 1.0), (11, 2.0)]
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert content["iteration"] == 6
    assert all(torch.equal(value, judge.shown[1][name]) for name, value in content["weights"].items())


def test_validations_survive_a_cut(tmp_path, at_step):
    settings = TrainingSettings(iterations=10, learning_rate=1e-2, validate_every=2, checkpoint_every=4)
    run(tmp_path / "whole", settings=settings, validator=Judge([5.0, 1.0, 4.0, 3.0, 2.0]))
    at_step(6, cut_off)
    with pytest.raises(CutOff):
        run(tmp_path / "cut", settings=settings, validator=Judge([5.0, 1.0]))
    at_step(0, None)
    run(tmp_path / "cut", settings=settings, validator=Judge([4.0, 3.0, 2.0]))
    assert_same_training(tmp_path / "cut", tmp_path / "whole")
    assert torch.load(tmp_path / "cut/checkpoint.pt", weights_only=True)["iteration"] == 4


def test_training_without_a_validation_writes_an_empty_table_of_them(uninterrupted):
    assert (uninterrupted / "validation.csv").read_text() == ",".join(VALIDATION_COLUMNS) + "\n"


def test_tables_are_there_after_a_kill_between_the_last_step_and_the_checkpoint(tmp_path, monkeypatch):
    settings = TrainingSettings(iterations=4, learning_rate=1e-2, validate_every=2, checkpoint_every=2, log_every=2)

    def save(path, content):
        if path.name == "checkpoint.pt":
            raise CutOff
        save_torch(path, content)

    with monkeypatch.context() as patch, pytest.raises(CutOff):
        patch.setattr(training, "save_torch", save)
        run(tmp_path, settings=settings, validator=Judge([2.0, 1.0]))
    tables = [tmp_path / name for name in ("log.csv", "validation.csv")]
    expected = [table.read_text() for table in tables]
    for table in tables:  # as a workflow does before it runs a job again
        table.unlink()
    run(tmp_path, settings=settings, validator=Judge([]))
    assert [table.read_text() for table in tables] == expected


def test_pictures_of_batches(tmp_path):
    settings = TrainingSettings(iterations=5, learning_rate=1e-2, snapshot_every=2, accumulate=2)
    run(tmp_path, settings=settings, batch_size=2)
    assert [path.name for path in sorted((tmp_path / "snapshots").iterdir())] == ["0000002.png", "0000004.png"]
    assert iio.imread(tmp_path / "snapshots/0000002.png").ndim == 3
    assert len(EventAccumulator(str(tmp_path / "events")).Reload().Images("batch")) == 2


def test_batch_that_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(training, "_world", lambda: 2)
    with pytest.raises(UserError, match="batch_size 3 must be a multiple of training.processes, 2"):
        training._places(3)
