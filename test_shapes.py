"""Shapes, invariants, and the command line end to end, all at sizes of seconds:

    python -m pytest

The same command runs the tests in tests/: numbers recorded from the released modules, corpus and
settings, every task of sample.py, real files, several processes, GPUs, and what engine/ makes fast.
"""
import json

import numpy as np
import pytest
import torch

import train
from autoencoders import MotionAutoencoder, pictures_to_tensor, tensor_to_pictures
from engine.checkpoints import load_checkpoint
from engine.optimizers import optimizers
from heads import FlowHead, draw_rows
from model import IGNORE, HeadInput, attention, initialise, stop_labels
from tests.helpers import (check_clip, command, error, generate, random_batch, randomise,
                           record_places, tiny_talker)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# -------------------------------------------------------------------------------- language model
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [9, 1])
@pytest.mark.parametrize("padded", [False, True])
def test_both_attention_paths_agree(causal, queries, padded):
    q = torch.randn(2, 4, queries, 8)
    k, v = torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[1, :4] = False
    valid = valid if padded else None
    plain = attention(q, k, v, causal, valid, fused=False)
    assert plain.shape == q.shape
    assert error(plain, attention(q, k, v, causal, valid, fused=True)) < 1e-5
    if causal:                            # the last query sees everything, causal or not
        everything = attention(q, k, v, False, valid)
        assert error(everything[:, :, -1], plain[:, :, -1]) < 1e-5


@pytest.mark.parametrize("delay", [0, 1])
def test_talker_is_causal(delay):
    """A change in patch i moves no hidden state before position i + 1, and does move that one."""
    talker, config = tiny_talker(motion_delay=delay)
    batch = random_batch(config)
    before, inputs, positions = talker.teacher_forced(**batch)
    assert before.shape == (3, 5 + delay, config.width)
    assert positions.tolist() == [5 + delay, 3 + delay, 5 + delay]
    assert inputs["motion"].target.shape == (3, 5 + delay, config.patch, config.motion_size)
    for name, shift in (("audio", 0), ("motion", delay)):
        changed = {key: x.clone() for key, x in batch["latents"].items()}
        changed[name][0, 2 * config.patch:3 * config.patch] += 1                     # patch 2
        after = talker.teacher_forced(**(batch | {"latents": changed}))[0]
        moved = (after - before).abs().amax(-1)[0] > 1e-6
        assert moved.tolist() == [j > 2 + shift for j in range(5 + delay)]


@pytest.mark.parametrize("delay", [0, 2])
def test_padding_changes_nothing(delay):
    talker, config = tiny_talker(motion_delay=delay)
    batch = random_batch(config)
    hidden = talker.teacher_forced(**batch)[0]

    def second(x):
        return {k: second(v) for k, v in x.items()} if isinstance(x, dict) else x[1:2]

    alone = second(batch)
    alone["text"], alone["text_mask"] = alone["text"][:, 3:], alone["text_mask"][:, 3:]
    alone["latents"] = {k: v[:, :3 * config.patch] for k, v in alone["latents"].items()}
    alone["spoken"] = alone["spoken"][:, :3 * config.patch]
    assert error(talker.teacher_forced(**alone)[0], hidden[1:2, :3 + delay]) < 1e-5


def test_speech_only_ignores_motion():
    talker, config = tiny_talker()
    batch = random_batch(config) | {"present": {"motion": torch.tensor([True, False, True])}}
    hidden, inputs, _ = talker.teacher_forced(**batch)
    assert not inputs["motion"].mask[1].any() and inputs["audio"].mask[1].sum() == 3
    batch["latents"]["motion"][1] += 1
    assert torch.equal(talker.teacher_forced(**batch)[0][1], hidden[1])


@pytest.mark.parametrize("delay, patch", [(0, 4), (1, 4), (2, 2)])
def test_cached_generation_equals_the_full_pass(delay, patch):
    """Generate, then feed what came out through the training pass: its hidden states must lead to
    the same patches. With a delay this holds since generation encodes absence as training does."""
    talker, config = tiny_talker(motion_delay=delay, patch=patch)
    batch = random_batch(config)
    draws = []

    def noise(shape):
        draws.append(torch.randn(shape))
        return draws[-1]

    # Where in the text each patch is, as generation finds it, for the full pass to be told.
    places = record_places(talker)
    steps = talker.generate(batch["text"], batch["text_mask"], batch["conditions"], noise, 6,
                            steps=3, stop_hits=99)
    steps = [patches for patches, _ in steps]
    spoken = torch.cat(places[1:], 1).repeat_interleave(patch, 1)
    made = {name: torch.cat([p[name] for p in steps if name in p], 1)
            for name in talker.modalities}
    assert made["audio"].shape == (3, 6 * patch, config.audio_latent)
    assert made["motion"].shape == (3, (6 - delay) * patch, config.motion_size)
    frames = {name: torch.full((3,), x.shape[1]) for name, x in made.items()}
    _, inputs, _ = talker.teacher_forced(
        **(batch | {"latents": made, "frames": frames, "spoken": spoken}))

    again = iter(draws)
    for i in range(6):
        for name, x in inputs.items():
            if i < talker.modalities[name].delay:
                continue
            row = HeadInput(x.hidden[:, i:i + 1], x.history[:, i:i + 1], x.condition)
            sampled = talker.heads.sample({name: row}, lambda shape: next(again), steps=3)
            assert error(sampled[name][:, 0], x.target[:, i]) < 1e-4


def test_generation_without_encoded_absence_differs():
    """What the released code does before a delayed stream begins is not what it trained."""
    talker, config = tiny_talker(motion_delay=1)
    batch = random_batch(config)
    made = generate(talker, batch, 4)
    talker.encode_absence = False
    other = generate(talker, batch, 4)
    P = config.patch
    assert error(other["audio"][:, :P], made["audio"][:, :P]) < 1e-6
    assert error(other["audio"][:, P:], made["audio"][:, P:]) > 1e-3


def test_generation_stops_by_the_stop_predictor():
    talker, config = tiny_talker()
    batch = random_batch(config)

    def run(**options):
        return list(talker.generate(batch["text"], batch["text_mask"], batch["conditions"],
                                    torch.randn, 8, steps=2, **options))

    with torch.no_grad():
        talker.stop.out.weight.zero_()    # the logit is 0 everywhere: a probability of one half
    assert [finished.all().item() for _, finished in run()] == [True] * 8
    hits = [finished.any().item() for _, finished in run(stop_hits=3)]
    assert hits == [False, False] + [True] * 6
    assert len(run(stop_hits=3, stop_keeps=False, shortest=1)) == 3
    assert not any(finished.any() for _, finished in run(threshold=0.6))
    assert set(run(streams=("audio",))[0][0]) == {"audio"}


def test_stop_labels():
    start, length = torch.tensor([1, 0, 2, 0]), torch.tensor([6, 2, 9, 0])
    labels, zeros = stop_labels(start, length, 8, patch=4)
    x = IGNORE
    assert labels.tolist() == [[x, 0, 0, 0, x, x, 1, x], [x, 1, x, x, x, x, x, x],
                               [x, x, 0, 0, 0, 0, 0, 0], [x] * 8]
    assert zeros == 1.5                   # the mean of 3 and 0; samples without an end don't count


@pytest.mark.parametrize("patch, whole, cut", [(4, 187, 188), (2, 375, 376)])
def test_samples_of_30_seconds_have_no_end(patch, whole, cut):
    """They were cut by the data; how many patches that is depends on the size of a patch."""
    labels, _ = stop_labels(torch.tensor([0, 0]), torch.tensor([whole, cut]), 400, patch)
    assert (labels == 1).sum(1).tolist() == [1, 0]


def test_a_batch_of_speech_alone_has_a_loss():
    talker, config = tiny_talker()
    nobody = {"motion": torch.zeros(3, dtype=torch.bool)}
    loss, log = talker(**random_batch(config), present=nobody)
    loss.backward()
    assert torch.isfinite(loss) and log["motion"] == 0


def test_talker_learns():
    """Loss, its parts, and the first steps of the real optimizers."""
    talker, config = tiny_talker()
    initialise(talker)
    batch = random_batch(config)
    both = optimizers(talker, config, torch.float32)
    losses = []
    for _ in range(30):
        loss, log = talker(**batch, generator=torch.Generator().manual_seed(1))
        loss.backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert {"audio", "motion", "stop", "audio_by_time", "motion_by_time",
            "audio_regression"} <= set(log)
    assert log["audio_by_time"].shape == (10,)


# ----------------------------------------------------------------------------------------- heads
def test_flow_matching_recovers_a_gaussian():
    """Loss and sampler together: a head trained on N(mean, 0.5^2) of its condition samples that
    distribution."""
    head = FlowHead(1, 1, 32, 32, 1, 2, drop_hidden=0, drop_history=0)
    initialise(head)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)

    def rows(n):
        mean = torch.randint(0, 2, (n, 1), generator=generator) * 4.0 - 2
        x = torch.randn(n, 1, 1, generator=generator) * 0.5 + mean[..., None]
        return x, torch.zeros(n, 32), torch.zeros(n, 1, 1), mean

    for step in range(600):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 600)
        loss, _ = head.loss(*rows(512), torch.ones(512), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _, hidden, history, mean = rows(4000)
    with torch.no_grad():
        made = head.sample(torch.randn(4000, 1, 1), hidden, history, mean, steps=40, guidance=1,
                           temperature=1, zero_star=False)
    for m in (-2.0, 2.0):
        found = made[mean[:, 0] == m]
        assert abs(found.mean() - m) < 0.1 and abs(found.std() - 0.5) < 0.1


@pytest.mark.parametrize("repeats, rows", [(2.0, 26), (1.0, 13), (0.5, 7)])
def test_rows_to_learn_from(repeats, rows):
    mask = (torch.arange(36) % 14 % 3 == 1).view(4, 9)                               # 13 of 36
    at, counts = draw_rows(mask, repeats)
    assert len(at) == len(counts) == -(-rows // 16) * 16 and counts.sum() == rows
    used = at[counts > 0].bincount(minlength=36)
    assert not used[~mask.flatten()].any() and used.max() == max(1, repeats)
    assert repeats < 1 or (used[mask.flatten()] == repeats).all()


@pytest.mark.parametrize("zero_star", [False, True])
def test_guidance_one_equals_none(zero_star):
    """The path that never computes the unconditional velocity equals the limit of the one that
    does."""
    head = randomise(FlowHead(6, 5, 32, 32, 2, 2))
    row = torch.randn(3, 4, 6), torch.randn(3, 32), torch.randn(3, 4, 6), torch.randn(3, 5)
    with torch.no_grad():
        none, almost, strong = (
            head.sample(*row, steps=5, guidance=w, zero_star=zero_star) for w in (1, 1 + 1e-7, 3))
    assert error(almost, none) < 1e-4 < error(strong, none)


def test_a_head_without_history_does_not_see_it():
    z, hidden, condition = torch.randn(3, 4, 6), torch.randn(3, 32), torch.randn(3, 5)
    for share, depends in ((0.05, True), (1, False)):
        head = randomise(FlowHead(6, 5, 32, 32, 2, 2, drop_history=share))
        with torch.no_grad():
            one, other = (head.sample(z, hidden, torch.randn(3, 4, 6), condition)
                          for _ in range(2))
        assert (error(one, other) > 1e-4) == depends


# ---------------------------------------------------------------------------------- autoencoders
def tiny(stage):
    return train.build(stage, train.parse_config(["--config", "tiny"])).eval()


@pytest.mark.parametrize("samples, frames", [(640, 1), (641, 2), (6400, 10), (12799, 20)])
def test_audio_lengths(samples, frames):
    model = tiny("audio")
    latents = model.encode(torch.randn(2, samples) * 0.1)
    assert latents.shape == (2, frames, 32)
    assert model.decode(latents, torch.randn(2, 8)).shape == (2, frames * 640)


def test_audio_refuses_nothing():
    with pytest.raises(ValueError, match="n > 0"):
        tiny("audio").encode(torch.zeros(2, 0))


def test_audio_loss_and_padding():
    model = tiny("audio")
    wave, frames = torch.randn(2, 30 * 640) * 0.1, torch.tensor([30, 26])
    wave[1, 26 * 640:] = 0
    text = torch.tensor([[3, 4, 5], [0, 6, 7]])
    loss, log = model.loss(wave, frames, text, torch.randn(2, 8))
    loss.backward()
    assert set(log) == {"spectral", "kl", "semantic", "ctc"} and torch.isfinite(loss)
    randomise(model)
    with torch.no_grad():
        padded = model.semantics(wave, frames)[1, :50]
        alone = model.semantics(wave[1:, :26 * 640])[0, :50]
    # The last convolution of the stem looks one frame ahead: not the last two.
    assert error(padded, alone) < 1e-3


def test_latents_are_standardised_by_the_corpus():
    model = tiny("motion")
    pictures = torch.rand(50, 3, 64, 64) * 2 - 1
    before = model.pose(pictures)
    for _ in range(2):                        # a second fit changes nothing
        model.standardize.fit_statistics(before)
    after = model.pose(pictures)
    assert after.mean().abs() < 1e-3 and abs(after.std(0) - 1).max() < 1e-2
    assert error(model.standardize.inverse(after), before) < 1e-4


def test_motion_shapes_and_directions():
    model = randomise(tiny("motion"))
    source, target = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 3, 64, 64)
    motion = torch.stack([model.encode(clip) for clip in target])
    assert motion.shape == (2, 3, 6) and not motion[:, 0].any()
    assert model.decode(source, motion).shape == target.shape
    basis = torch.linalg.qr(model.directions)[0]
    assert error(basis.T @ basis, torch.eye(6)) < 1e-5
    assert torch.isfinite(model.loss(source, target)[0])
    with pytest.raises(ValueError, match="multiple of 16"):
        MotionAutoencoder(size=50)


def test_only_the_change_of_motion_is_rendered():
    model = tiny("motion")
    torch.nn.init.normal_(model.out.weight, std=0.1)
    clips = torch.rand(5, 8, 3, 64, 64)
    before = model.encode(clips[0])
    made = model.decode(clips[0, :1], before[None])
    with torch.inference_mode():
        for _ in range(2):                    # a second fit changes nothing
            model.fit_statistics(clips)
        motions = torch.cat([model.encode(clip) for clip in clips])
        assert motions.mean(0).abs().max() < 1e-3
        assert error(motions.std(0), torch.ones(6)) < 1e-3
        model.magnitudes[-1].bias.add_(torch.randn(6))
        motion = model.encode(clips[0])
        assert error(motion, before) > 0.1
        assert error(model.decode(clips[0, :1], motion[None]), made) < 1e-4


def test_pictures_survive_conversion():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert np.array_equal(tensor_to_pictures(pictures_to_tensor(pictures)), pictures)


def test_speaker_embeddings():
    model = tiny("speaker")
    wave = torch.randn(3, 30 * 640) * 0.1
    assert model(wave).shape == (3, 8)
    assert error(model(wave).norm(dim=1), torch.ones(3)) < 1e-5
    loss, log = model.loss(wave, torch.tensor([30, 20, 25]))
    assert torch.isfinite(loss) and 0 <= log["found"] <= 1
    with pytest.raises(ValueError, match="at least 10 frames"):
        model.loss(wave, torch.tensor([30, 9, 25]))


# ---------------------------------------------------------------------------------- command line
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert "Finished" in command("train.py", "--config", "tiny", "--out_dir", out)
    return out


def test_train_everything(run):
    check_clip(run / "sample.mp4")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in log} == {"audio", "speaker", "motion", "talker"}
    assert len(log[-1]["audio_by_time"]) == 10
    assert all(np.isfinite(line["loss"]) for line in log)


def test_sample_a_sentence(run, tmp_path):
    sample = ["sample.py", "--ckpt", run, "--text", "bin blue at f two now"]
    said = command(*sample, "--speaker", 3, "--out", tmp_path / "a.mp4")
    check_clip(tmp_path / "a.mp4", float(said.split("a.mp4: ")[1].split(" s of")[0]))
    command(*sample, "--ref", tmp_path / "a.mp4", "--out", tmp_path / "b.mp4", "--seed", 1)
    check_clip(tmp_path / "b.mp4")
    assert "who speaks?" in command(*sample, "--out", tmp_path / "c.mp4", fails=True)
    assert "must end in .mp4" in command(
        *sample, "--speaker", 3, "--out", tmp_path / "c", fails=True)
    assert "no trained model" in command(
        "sample.py", "--ckpt", tmp_path, "--text", "a", "--out", "x.mp4", fails=True)


def test_sample_folders(run, tmp_path):
    truth = tmp_path / "truth"
    sample = ["sample.py", "--ckpt", run]
    command("-m", "lab.export", "--out", truth, "--n", 2, "--split", "test")
    command(*sample, "--texts", truth / "texts.tsv", "--out", tmp_path / "made")
    command(*sample, "--roundtrip", truth, "--out", tmp_path / "round")
    names = {path.stem for path in truth.glob("*.mp4")}
    assert len(names) == 2
    for name in names:
        check_clip(tmp_path / "made" / f"{name}.mp4")
        seconds = len(np.load(truth / f"{name}.npy")) / 25
        check_clip(tmp_path / "round" / f"{name}.mp4", seconds)


def test_a_seed_decides_the_output_whatever_the_batch(run):
    import sample
    models = sample.Models(run)
    references = [models.speaker_reference(number) for number in (1, 2)]
    jobs = [sample.Job("bin blue at f two now", references[0], 5),
            sample.Job("set red", references[1], 6)]
    both, _ = models.generate(jobs)
    alone, _ = models.generate(jobs[1:])
    other, _ = models.generate([sample.Job("set red", references[1], 7)])
    heard, again, changed = (made["audio"] for made in (both[1], alone[0], other[0]))
    assert len(heard) == len(again) and np.abs(heard - again).max() < 1e-3
    assert len(changed) != len(again) or np.abs(changed - again).max() > 1e-3


def test_another_talker_on_the_same_latents(run, tmp_path):
    """Without its talker.pt a run takes other settings of the talker, and no others."""
    for part in ("config.json", "audio.pt", "motion.pt", "speaker.pt", "clips", "latents"):
        (tmp_path / part).symlink_to(run / part)
    again = ["train.py", "--config", "tiny", "--out_dir", tmp_path]
    assert "audio_steps was 3, is 4" in command(*again, "--audio_steps=4", fails=True)
    assert "Finished" in command(*again, "--layers=1", "--jitter=3", "--patch=5")
    assert "layers was 1, is 2" in command(*again, fails=True)
    wrong = command("train.py", "--config", "tiny", "--out_dir", tmp_path / "new",
                    "--autoencoders=paper", "--alignment_weight=0", fails=True)
    assert "take --sample_rate=24000" in wrong and not (tmp_path / "new").exists()


def test_a_run_starts_from_another_ones_frozen_parts(run, tmp_path):
    start = ["train.py", "--config", "tiny", "--from", run, "--out_dir", tmp_path / "new"]
    assert "does not go with --from" in command(*start, "--audio_width=64", fails=True)
    assert "Finished" in command(*start, "--seed=1", "--patch=2", "--layers=1")
    for part in ("audio.pt", "motion.pt", "speaker.pt", "latents/00000000-00000024.pt"):
        assert (tmp_path / "new" / part).read_bytes() == (run / part).read_bytes()
    assert not (tmp_path / "new" / "clips").exists()
    check_clip(tmp_path / "new" / "sample.mp4")


def test_a_killed_run_resumes_exactly(run, tmp_path, monkeypatch):
    """Stop the talker halfway, run the same command again: weights and optimizers are bit for bit
    those of a run that was never stopped."""
    configs = {}
    for name in ("whole", "killed"):
        arguments = ["--config", "tiny", "--out_dir", str(tmp_path / name)]
        configs[name] = train.parse_config(arguments)
        (tmp_path / name).mkdir()
        (tmp_path / name / "latents").symlink_to(run / "latents")
    # The fastest dtype is measured, so it may differ from run to run.
    monkeypatch.setattr(train, "prepare_machine", lambda *_: torch.float32)
    train.run_stages(("talker",), configs["whole"])

    class Killed(Exception):
        pass

    def dies_at_step_two(run, step):
        write_log(run, step)
        if step == 1:
            raise Killed

    write_log = train.TrainingRun.write_log
    configs["killed"].save_every = 1e-9
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train.TrainingRun, "write_log", dies_at_step_two)
        train.run_stages(("talker",), configs["killed"])
    assert load_checkpoint(tmp_path / "killed", "talker")["step"] == 2
    train.run_stages(("talker",), configs["killed"])
    whole, resumed = (load_checkpoint(tmp_path / name, "talker") for name in configs)
    assert any(moments["state"] for moments in whole["optimizers"])
    for part in ("model", "optimizers", "order"):
        torch.testing.assert_close(whole[part], resumed[part], rtol=0, atol=0)
