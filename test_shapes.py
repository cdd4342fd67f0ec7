"""Shapes, invariants, data and the command line, all at sizes of seconds:  python -m pytest

The released model's recorded numbers are compared in lab/test_released.py, which the same command runs.
"""
import json
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

import data
import train
from autoencoders import MotionAutoencoder, as_input, as_pictures
from heads import FlowHead, draw_rows
from lab.settings import parse_crop
from model import IGNORE, HeadInput, attention, initialise, stop_labels


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomise(module):
    """Random weights everywhere, also where training starts from zero (an identity would pass any test)."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.7 / max(1, p[0].numel() if p.ndim > 1 else 1) ** 0.5)
    return module.eval()


def tiny_talker(**changes):
    config = train.parse_config(["--config", "tiny"] + [f"--{k}={v}" for k, v in changes.items()])
    return randomise(train.build("talker", config)), config


def inputs(config, batch=3, patches=5, text=7):
    """A random batch: text with padding at the left, samples of different lengths."""
    ids = torch.randint(1, 20, (batch, text))
    ids[1, :3] = 0
    frames = torch.tensor([patches * config.patch, (patches - 2) * config.patch, patches * config.patch][:batch])
    present = (torch.arange(patches * config.patch)[None] < frames[:, None])[..., None]
    latents = {"audio": torch.randn(batch, patches * config.patch, config.audio_latent) * present,
               "motion": torch.randn(batch, patches * config.patch, config.motion_size) * present}
    conditions = {"audio": torch.randn(batch, config.voice_size), "motion": torch.randn(batch, config.motion_size)}
    return dict(text=ids, text_mask=ids > 0, latents=latents, frames={k: frames for k in latents}, conditions=conditions,
                paired=torch.ones(batch, dtype=torch.bool))


def error(ours, theirs):
    """Largest difference, relative to the scale of theirs."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


# ------------------------------------------------------------------------------------------------------- language model
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [9, 1])
@pytest.mark.parametrize("padded", [False, True])
def test_both_attention_paths_agree(causal, queries, padded):
    q, k, v = torch.randn(2, 4, queries, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[1, :4] = False
    plain, fused = (attention(q, k, v, causal, valid if padded else None, fused=f) for f in (False, True))
    assert plain.shape == q.shape and error(plain, fused) < 1e-5
    if causal:                                    # the last query sees everything, so causal or not it is the same
        assert error(attention(q, k, v, False, valid if padded else None)[:, :, -1], plain[:, :, -1]) < 1e-5


@pytest.mark.parametrize("delay", [0, 1])
def test_talker_is_causal(delay):
    """A change in patch i moves no hidden state before position i + 1, and does move that one."""
    talker, config = tiny_talker(motion_delay=delay)
    batch = inputs(config)
    before, heads, ends = talker.teacher_forced(**batch)
    assert before.shape == (3, 5 + delay, config.width) and ends.tolist() == [5 + delay, 3 + delay, 5 + delay]
    assert heads["motion"].target.shape == (3, 5 + delay, config.patch, config.motion_size)
    for name, shift in (("audio", 0), ("motion", delay)):
        changed = {k: v.clone() for k, v in batch["latents"].items()}
        changed[name][0, 2 * config.patch:3 * config.patch] += 1                         # patch 2
        after = talker.teacher_forced(**(batch | {"latents": changed}))[0]
        moved = (after - before).abs().amax(-1)[0] > 1e-6
        assert moved.tolist() == [j > 2 + shift for j in range(5 + delay)]


def test_padding_changes_nothing():
    talker, config = tiny_talker()
    batch = inputs(config)
    hidden = talker.teacher_forced(**batch)[0]
    one = lambda x: {k: one(v) for k, v in x.items()} if isinstance(x, dict) else x[1:2]
    alone = one(batch)
    alone["text"], alone["text_mask"] = alone["text"][:, 3:], alone["text_mask"][:, 3:]
    alone["latents"] = {k: v[:, :3 * config.patch] for k, v in alone["latents"].items()}
    assert error(talker.teacher_forced(**alone)[0], hidden[1:2, :3]) < 1e-5


def test_speech_only_ignores_motion():
    talker, config = tiny_talker()
    batch = inputs(config) | {"paired": torch.tensor([True, False, True])}
    hidden, heads, _ = talker.teacher_forced(**batch)
    assert not heads["motion"].mask[1].any() and heads["audio"].mask[1].sum() == 3
    batch["latents"]["motion"][1] += 1
    assert torch.equal(talker.teacher_forced(**batch)[0][1], hidden[1])


@pytest.mark.parametrize("delay", [0, 1])
def test_cached_generation_equals_the_full_pass(delay):
    """Generate, then feed what came out through the training pass: the hidden states must lead to the same patches."""
    talker, config = tiny_talker(motion_delay=delay)
    batch = inputs(config)
    draws = []
    def noise(shape):
        draws.append(torch.randn(shape))
        return draws[-1]
    steps = [p for p, _ in talker.generate(batch["text"], batch["text_mask"], batch["conditions"], noise, 6, steps=3, stop_hits=99)]
    made = {n: torch.cat([p[n] for p in steps if n in p], 1) for n in talker.modalities}
    assert made["audio"].shape == (3, 6 * config.patch, config.audio_latent)
    assert made["motion"].shape == (3, (6 - delay) * config.patch, config.motion_size)
    if delay:                                     # before the delay is over generation adds no motion token; training encodes absence
        return
    full = batch | {"latents": made, "frames": {n: torch.full((3,), x.shape[1]) for n, x in made.items()}}
    _, heads, _ = talker.teacher_forced(**full)
    again = iter(draws)
    for i in range(6):
        for name, x in heads.items():
            row = HeadInput(x.hidden[:, i:i + 1], x.history[:, i:i + 1], x.condition)
            patch = talker.heads.sample({name: row}, lambda shape: next(again), steps=3)[name][:, 0]
            assert error(patch, x.target[:, i]) < 1e-4


def test_generation_stops_by_the_stop_head():
    talker, config = tiny_talker()
    batch = inputs(config)
    run = lambda **options: list(talker.generate(batch["text"], batch["text_mask"], batch["conditions"], torch.randn, 8, steps=2, **options))
    with torch.no_grad():
        talker.stop.out.weight.zero_()            # the logit is 0 everywhere: a probability of one half
    assert [f.all().item() for _, f in run()] == [True] * 8
    assert [f.any().item() for _, f in run(stop_hits=3)] == [False, False] + [True] * 6
    assert len(run(stop_hits=3, stop_keeps=False, shortest=1)) == 3
    assert not any(f.any() for _, f in run(threshold=0.6))
    assert set(run(paired=False)[0][0]) == {"audio"}


def test_stop_labels():
    labels, zeros = stop_labels(torch.tensor([1, 0, 2, 0]), torch.tensor([6, 2, 9, 0]), 8, patch=4)
    x = IGNORE
    assert labels.tolist() == [[x, 0, 0, 0, x, x, 1, x], [x, 1, x, x, x, x, x, x], [x, x, 0, 0, 0, 0, 0, 0], [x] * 8]
    assert zeros == 1.5                           # the mean of 3 and 0; samples without an end do not count


def test_a_batch_of_speech_alone_has_a_loss():
    talker, config = tiny_talker()
    loss, log = talker(**(inputs(config) | {"paired": torch.zeros(3, dtype=torch.bool)}))
    loss.backward()
    assert torch.isfinite(loss) and log["motion"] == 0


def test_talker_learns():
    """Loss, its parts, and the first steps of the real optimizers."""
    talker, config = tiny_talker()
    initialise(talker)
    batch, opts = inputs(config), train.optimizers(talker, config, torch.float32)
    losses = []
    for _ in range(30):
        loss, log = talker(**batch, generator=torch.Generator().manual_seed(1))
        loss.backward()
        for o in opts:
            o.step()
            o.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert {"audio", "motion", "stop", "audio_by_time", "motion_by_time", "audio_regression"} <= set(log)
    assert log["audio_by_time"].shape == (10,)


# ---------------------------------------------------------------------------------------------------------------- heads
def test_flow_matching_recovers_a_gaussian():
    """Loss and sampler together: a head trained on N(mean, 0.5^2) of its condition samples that distribution."""
    head = FlowHead(1, 1, 32, 32, 1, 2, drop_hidden=0, drop_history=0)
    initialise(head)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    def rows(n):
        mean = torch.randint(0, 2, (n, 1), generator=generator) * 4.0 - 2
        return torch.randn(n, 1, 1, generator=generator) * 0.5 + mean[..., None], torch.zeros(n, 32), torch.zeros(n, 1, 1), mean
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 600)
        loss, _ = head.loss(*rows(512), torch.ones(512), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, hidden, history, mean = rows(4000)
    with torch.no_grad():
        made = head.sample(torch.randn(4000, 1, 1), hidden, history, mean, steps=40, guidance=1, temperature=1, zero_star=False)
    for m in (-2.0, 2.0):
        got = made[mean[:, 0] == m]
        assert abs(got.mean() - m) < 0.1 and abs(got.std() - 0.5) < 0.1


@pytest.mark.parametrize("repeats, rows", [(2.0, 26), (1.0, 13), (0.5, 7)])
def test_rows_to_learn_from(repeats, rows):
    mask = (torch.arange(36) % 14 % 3 == 1).view(4, 9)                                   # 13 of 36
    at, counts = draw_rows(mask, repeats)
    assert len(at) == len(counts) == -(-rows // 16) * 16 and counts.sum() == rows
    used = at[counts > 0].bincount(minlength=36)
    assert not used[~mask.flatten()].any() and used.max() == max(1, repeats) and (repeats < 1 or (used[mask.flatten()] == repeats).all())


@pytest.mark.parametrize("zero_star", [False, True])
def test_guidance_one_equals_none(zero_star):
    """The path that never computes the unconditional branch equals the limit of the one that does."""
    head = randomise(FlowHead(6, 5, 32, 32, 2, 2))
    row = torch.randn(3, 4, 6), torch.randn(3, 32), torch.randn(3, 4, 6), torch.randn(3, 5)
    with torch.no_grad():
        none, almost, strong = (head.sample(*row, steps=5, guidance=g, zero_star=zero_star) for g in (1, 1 + 1e-7, 3))
    assert error(almost, none) < 1e-4 < error(strong, none)


# --------------------------------------------------------------------------------------------------------- autoencoders
def tiny(stage):
    return train.build(stage, train.parse_config(["--config", "tiny"])).eval()


@pytest.mark.parametrize("samples, frames", [(640, 1), (641, 2), (6400, 10), (12799, 20)])
def test_audio_lengths(samples, frames):
    model = tiny("audio")
    latents = model.encode(torch.randn(2, samples) * 0.1)
    assert latents.shape == (2, frames, 32) and model.decode(latents, torch.randn(2, 8)).shape == (2, frames * 640)


def test_audio_refuses_nothing():
    with pytest.raises(ValueError, match="n > 0"):
        tiny("audio").encode(torch.zeros(2, 0))


def test_audio_loss_and_padding():
    model = tiny("audio")
    wave, frames = torch.randn(2, 30 * 640) * 0.1, torch.tensor([30, 26])
    wave[1, 26 * 640:] = 0
    loss, log = model.loss(wave, frames, torch.tensor([[3, 4, 5], [0, 6, 7]]), torch.randn(2, 8))
    loss.backward()
    assert set(log) == {"spectral", "kl", "meaning", "ctc"} and torch.isfinite(loss)
    randomise(model)
    with torch.no_grad():
        padded, alone = model.semantics(wave, frames)[1, :50], model.semantics(wave[1:, :26 * 640])[0, :50]
    assert error(padded, alone) < 1e-3            # the last convolution of the stem looks one frame ahead: not the last two


def test_normal_is_learned_from_the_corpus():
    model = tiny("motion")
    pictures = torch.rand(50, 3, 64, 64) * 2 - 1
    before = model.pose(pictures)
    model.normal.fit(before)
    after = model.pose(pictures)
    assert after.mean().abs() < 1e-3 and abs(after.std(0) - 1).max() < 1e-2
    assert error(model.normal.inverse(after), before) < 1e-4


def test_motion_shapes_and_directions():
    model = randomise(tiny("motion"))
    source, target = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 3, 64, 64)
    motion = torch.stack([model.encode(clip) for clip in target])
    assert motion.shape == (2, 3, 6) and not motion[:, 0].any() and model.decode(source, motion).shape == target.shape
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
        model.fit(clips)
        motions = torch.cat([model.encode(clip) for clip in clips])
        assert motions.mean(0).abs().max() < 1e-3 and error(motions.std(0), torch.ones(6)) < 1e-3
        model.magnitudes[-1].bias.add_(torch.randn(6))
        assert error(model.encode(clips[0]), before) > 0.1 and error(model.decode(clips[0, :1], model.encode(clips[0])[None]), made) < 1e-4


def test_pictures_survive_conversion():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert np.array_equal(as_pictures(as_input(pictures)), pictures)


def test_speaker_vectors():
    model = tiny("speaker")
    wave = torch.randn(3, 30 * 640) * 0.1
    assert model(wave).shape == (3, 8) and error(model(wave).norm(dim=1), torch.ones(3)) < 1e-5
    loss, log = model.loss(wave, torch.tensor([30, 20, 25]))
    assert torch.isfinite(loss) and 0 <= log["found"] <= 1
    assert train.voice_of(torch.ones(1), torch.tensor([[1.0], [3.0]]), train.parse_config([])).tolist() == pytest.approx([1, 2, 2 ** 0.5])
    with pytest.raises(ValueError, match="at least 10 frames"):
        model.loss(wave, torch.tensor([30, 9, 25]))


# ------------------------------------------------------------------------------------------------------------------ data
def test_corpus_is_deterministic_and_split_by_sentence():
    a, b = data.SyntheticCorpus("test", 20)[7], data.SyntheticCorpus("test", 9)[7]
    assert (a.name, a.text) == (b.name, b.text) and np.array_equal(a.video, b.video) and np.array_equal(a.audio, b.audio)
    assert a.video.shape == (len(a.opening), 64, 64, 3) and a.audio.shape == (len(a.opening) * 640,)
    assert not np.array_equal(a.audio, data.SyntheticCorpus("test", 9, seed=1)[7].audio)
    texts = {split: {data.SyntheticCorpus(split, 300).text(i) for i in range(300)} for split in data.SPLITS}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["dev"] and not texts["dev"] & texts["test"]
    assert all(len(t.split()) == 6 for t in texts["train"])


def test_unseen_talkers_are_never_in_train():
    corpus = data.SyntheticCorpus("train", 600)
    assert not {corpus.talkers[i % len(corpus.talkers)] for i in range(600)} & set(corpus.UNSEEN)


def test_text():
    assert "".join(data.TEXT_VOCAB[i] for i in data.encode_text("  Bin  BLUE, zéro’s ")) == "bin blue, zero's"
    assert 0 not in data.encode_text("a→b")
    with pytest.raises(ValueError, match="nothing to say"):
        data.encode_text("...")


def test_cache_store_and_latents(tmp_path):
    corpus = data.SyntheticCorpus("train", 6)
    store = data.cache_clips(corpus, 6, tmp_path / "clips", label="test")
    assert len(store) == 6 and np.array_equal(store[4].video, corpus[4].video)
    assert np.abs(store[4].audio - corpus[4].audio).max() < 1e-4
    items = [dict(name=store[i].name, text=store[i].text, audio=np.full((store.frames[i], 3), i), motion=np.ones((store.frames[i], 2)),
                  speaker=np.arange(4)) for i in range(6)]
    data.LatentSet.write(tmp_path / "latents", items)
    latents = data.LatentSet(tmp_path / "latents")
    batch = data.collate([latents[i] for i in range(6)], 4)
    assert batch["patches"].tolist() == (store.frames // 4).tolist() and batch["audio"].shape == (6, store.frames.max() // 4 * 4, 3)
    assert batch["audio"][2, batch["patches"][2] * 4:].abs().sum() == 0 and (batch["audio"][2, :batch["patches"][2] * 4] == 2).all()
    assert (batch["text"][:, -1] > 0).all() and (batch["text_mask"] == (batch["text"] > 0)).all()
    other = data.LatentSet(tmp_path / "latents", lambda text: [0] * len(text.split()))               # a vocabulary that uses 0
    assert data.collate([other[0], other[1]], 4)["text_mask"].all()
    with pytest.raises(ValueError, match="finite"):
        data.LatentSet.write(tmp_path / "broken", [items[0] | {"audio": np.full((store.frames[0], 3), np.nan)}])


def test_order_resumes_exactly():
    order = data.BatchOrder(np.arange(50), 4, seed=3)
    first = [next(order) for _ in range(20)]
    state = order.state_dict()
    rest = [next(order) for _ in range(20)]
    again = data.BatchOrder(np.arange(50), 4, seed=3)
    again.load_state_dict(state)
    assert [next(again) for _ in range(20)] == rest and first != rest
    assert {i for batch in first[:12] for i in batch} <= set(range(50)) and len({i for batch in first[:12] for i in batch}) == 48


def test_variations_cut_every_stream_and_tell_the_voice_of_a_half():
    c = train.parse_config(["--config=tiny", "--jitter=3"])
    item = dict(text=torch.arange(5), audio=torch.randn(21, c.audio_latent), motion=torch.randn(21, 6), voice=torch.randn(c.voice_size), pose=torch.randn(6))
    for half, cut, rows, skip in ((0, 0, slice(0, 10), 0), (.999, .999, slice(11, 21), 3)):
        seen = train.vary(item, half, cut, c)
        assert all(torch.equal(seen[name], item[name][skip:]) for name in ("audio", "motion"))
        assert all(torch.equal(seen[name], item[name]) for name in ("text", "pose"))
        said = item["audio"][rows]
        assert torch.equal(seen["voice"], torch.cat((item["voice"][:c.speaker_size], said.mean(0), said.std(0))))


# --------------------------------------------------------------------------------------------------------- configuration
@pytest.mark.parametrize("arguments, message", [
    (["--learing_rate=1"], "did you mean --learning_rate"), (["--layers=two"], "--layers is int"), (["--config=huge"], "no preset 'huge'"),
    (["--layers=0"], "at least 1"), (["--seed"], "needs a value"), (["layers=2"], "not an option"), (["--heads=3"], "multiple of"),
    (["--size=50"], "multiple of 16"), (["--width=200"], "multiple of"), (["--speech_only=1"], "below 1"),
    (["--whisper=x.pt"], "goes with --autoencoders=paper"), (["--fsdp=1"], "needs --muon_rate=0"), (["--timbre=2"], "0 or 1"), (["--jitter=7"], "at most 10")])
def test_configuration_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        train.parse_config(arguments)


def test_a_run_of_another_version_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0, "flux": 1}')
    with pytest.raises(ValueError, match="another version.*flux"):
        train.run_config(tmp_path)


def test_crop():
    assert parse_crop("60,20,240") == (60, 20, 240) and parse_crop("") is None
    with pytest.raises(ValueError, match="--crop is x,y,size"):
        parse_crop("60,20")


def test_configuration():
    config = train.parse_config(["--config", "tiny", "--learning_rate=3e-4", "--data", "x"])
    assert (config.width, config.learning_rate, config.data, config.out_dir) == (32, 3e-4, "x", "out/tiny")


def test_a_checkpoint_never_executes_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "owned").touch, ())
    torch.save({"model": Evil()}, tmp_path / "audio.pt")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        train.load_checkpoint(tmp_path, "audio")
    assert not (tmp_path / "owned").exists()


# ---------------------------------------------------------------------------------------------------------- command line
def command(*arguments, fails=False):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def check_clip(path, seconds=None):
    """Two streams, equally long, not silent, not black."""
    video, audio = imageio.imread(path, plugin="FFMPEG"), data.read_audio(path, 16000)
    assert abs(len(video) / 25 - len(audio) / 16000) < 0.1 and min(video.shape[1:3]) >= 256
    assert seconds is None or abs(len(video) / 25 - seconds) < 1e-6
    assert video.std() > 10 and audio.std() > 1e-4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert "Finished" in command("train.py", "--config", "tiny", "--out_dir", out)
    return out


def test_train_everything(run):
    check_clip(run / "sample.mp4")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in log} == {"audio", "speaker", "motion", "talker"}
    assert len(log[-1]["audio_by_time"]) == 10 and all(np.isfinite(line["loss"]) for line in log)


def test_sample_a_sentence(run, tmp_path):
    sample = ["sample.py", "--ckpt", run, "--text", "bin blue at f two now"]
    words = command(*sample, "--talker", 3, "--out", tmp_path / "a.mp4")
    check_clip(tmp_path / "a.mp4", float(words.split("a.mp4: ")[1].split(" s of")[0]))
    command(*sample, "--ref", tmp_path / "a.mp4", "--out", tmp_path / "b.mp4", "--seed", 1)
    check_clip(tmp_path / "b.mp4")
    assert "who speaks?" in command(*sample, "--out", tmp_path / "c.mp4", fails=True)
    assert "must end in .mp4" in command(*sample, "--talker", 3, "--out", tmp_path / "c", fails=True)
    assert "no trained model" in command("sample.py", "--ckpt", tmp_path, "--text", "a", "--out", "x.mp4", fails=True)


def test_sample_folders(run, tmp_path):
    command("data.py", "--export", tmp_path / "truth", "--n", 2, "--split", "test")
    command("sample.py", "--ckpt", run, "--texts", tmp_path / "truth" / "texts.tsv", "--out", tmp_path / "made")
    command("sample.py", "--ckpt", run, "--roundtrip", tmp_path / "truth", "--out", tmp_path / "round")
    names = {p.stem for p in (tmp_path / "truth").glob("*.mp4")}
    assert len(names) == 2
    for name in names:
        check_clip(tmp_path / "made" / f"{name}.mp4")
        check_clip(tmp_path / "round" / f"{name}.mp4", len(np.load(tmp_path / "truth" / f"{name}.npy")) / 25)


def test_a_seed_decides_the_output_whatever_the_batch(run):
    import sample
    models = sample.Models(run)
    references = [models.talker_reference(t) for t in (1, 2)]
    jobs = [sample.Job("bin blue at f two now", references[0], 5), sample.Job("set red", references[1], 6)]
    both, _ = models.generate(jobs)
    alone, _ = models.generate(jobs[1:])
    other, _ = models.generate([sample.Job("set red", references[1], 7)])
    assert len(both[1][1]) == len(alone[0][1]) and np.abs(both[1][1] - alone[0][1]).max() < 1e-3
    assert len(other[0][1]) != len(alone[0][1]) or np.abs(other[0][1] - alone[0][1]).max() > 1e-3


def test_another_talker_on_the_same_latents(run, tmp_path):
    """Without its talker.pt a run takes other settings of the talker, and no others."""
    for part in ("config.json", "audio.pt", "motion.pt", "speaker.pt", "clips", "latents"):
        (tmp_path / part).symlink_to(run / part)
    again = ["train.py", "--config", "tiny", "--out_dir", tmp_path]
    assert "audio_steps was 3, is 4" in command(*again, "--audio_steps=4", fails=True)
    assert "Finished" in command(*again, "--layers=1", "--jitter=3", "--patch=5")
    assert "layers was 1, is 2" in command(*again, fails=True)
    assert "take --sample_rate=24000" in command(*again[:-1], tmp_path / "new", "--autoencoders=paper", fails=True) and not (tmp_path / "new").exists()


def test_a_killed_run_resumes_exactly(run, tmp_path):
    """Stop the talker halfway, run the same command again: the weights are those of a run that was never stopped."""
    configs = [train.parse_config(["--config", "tiny", "--out_dir", str(tmp_path / name)]) for name in ("whole", "killed")]
    for config in configs:
        Path(config.out_dir).mkdir()
        (Path(config.out_dir) / "latents").symlink_to(run / "latents")
    class DiesAtStepTwo(train.tqdm):
        def __iter__(self):
            for step in super().__iter__():
                if step == 2 and not self.initial:
                    raise KeyboardInterrupt
                yield step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "prepare_machine", lambda *_: torch.float32)                # found by time: may differ
        train.run_stages(("talker",), configs[0])
        configs[1].save_every = 1e-9
        with pytest.raises(KeyboardInterrupt):
            patch.setattr(train, "tqdm", DiesAtStepTwo)
            train.run_stages(("talker",), configs[1])
        assert train.load_checkpoint(tmp_path / "killed", "talker")["step"] == 2
        train.run_stages(("talker",), configs[1])
    whole, resumed = (train.load_checkpoint(c.out_dir, "talker")["model"] for c in configs)
    assert all(torch.allclose(whole[k], resumed[k], atol=1e-6) for k in whole)
