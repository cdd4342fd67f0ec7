"""The synthetic corpus, text, stores of clips and latents, and the order of batches."""
import numpy as np
import pytest
import torch

import data
import train


def test_corpus_is_deterministic_and_split_by_sentence():
    a, b = data.SyntheticCorpus("test", 20)[7], data.SyntheticCorpus("test", 9)[7]
    assert (a.name, a.text) == (b.name, b.text)
    assert np.array_equal(a.video, b.video) and np.array_equal(a.audio, b.audio)
    assert a.video.shape == (len(a.opening), 64, 64, 3)
    assert a.audio.shape == (len(a.opening) * 640,)
    assert not np.array_equal(a.audio, data.SyntheticCorpus("test", 9, seed=1)[7].audio)
    texts = {split: {data.SyntheticCorpus(split, 300, sentences="grid").text(i)
                     for i in range(300)} for split in data.SPLITS}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["dev"]
    assert not texts["dev"] & texts["test"]
    assert all(len(text.split()) == 6 for text in texts["train"])


def test_sentences_of_any_text():
    corpus = data.SyntheticCorpus("train", 3)
    clip = corpus.say("Hello world, this is nano talker.", 300)
    assert clip.text == "Hello world, this is nano talker." and clip.speaker == 300
    assert 25 < len(clip.video) < 100 and {"tongue", "teeth"} <= set(clip.tracks)
    asked = corpus.say("Hello world, this is nano talker?", 300)
    assert not np.array_equal(clip.audio, asked.audio)
    assert len(corpus.say("a", 3).video) >= 15
    with pytest.raises(ValueError, match="nothing to say"):
        corpus.say("...", 3)
    with pytest.raises(ValueError, match="open, grid"):
        data.SyntheticCorpus("train", 3, sentences="free")


def test_unseen_speakers_are_never_in_train():
    corpus = data.SyntheticCorpus("train", 600)
    used = {corpus.speakers[i % len(corpus.speakers)] for i in range(600)}
    assert not used & set(corpus.UNSEEN)


def test_text():
    ids = data.encode_characters("  Bin  BLUE, zéro’s ")
    assert "".join(data.CHARACTERS[i] for i in ids) == "bin blue, zero's"
    assert 0 not in data.encode_characters("a→b")
    with pytest.raises(ValueError, match="nothing to say"):
        data.encode_characters("...")


def test_cache_store_and_latents(tmp_path):
    corpus = data.SyntheticCorpus("train", 6)
    store = data.cache_clips(corpus, 6, tmp_path / "clips", label="test")
    assert len(store) == 6 and np.array_equal(store[4].video, corpus[4].video)
    assert np.abs(store[4].audio - corpus[4].audio).max() < 1e-4
    assert np.allclose(store[4].tracks["jaw"], corpus[4].tracks["jaw"])
    items = [dict(name=store[i].name, text=store[i].text, audio_condition=np.arange(4),
                  audio=np.full((store.frames[i], 3), i), motion=np.ones((store.frames[i], 2)))
             for i in range(6)]
    data.LatentSet.write(tmp_path / "latents", items)
    latents = data.LatentSet(tmp_path / "latents")
    batch = data.collate([latents[i] for i in range(6)], 4)
    patches = store.frames // 4
    assert batch["whole"].tolist() == (4 * patches).tolist()
    assert batch["audio"].shape == (6, patches.max() * 4, 3)
    assert (batch["audio"][2, :patches[2] * 4] == 2).all()
    assert batch["audio"][2, patches[2] * 4:].abs().sum() == 0
    assert (batch["text"][:, -1] > 0).all()
    assert (batch["text_mask"] == (batch["text"] > 0)).all()
    # One sequence keeps what follows upon its last whole patch.
    longer = data.collate([latents[i] for i in range(6)], 4, ("audio",))
    assert longer["frames"].tolist() == store.frames.tolist()
    assert longer["audio"].shape[1] == -(-store.frames.max() // 4) * 4
    kept = (longer["audio"][2] == 2).all(-1).sum()
    assert kept == store.frames[2] and longer["audio"][2].abs().sum() == 2 * 3 * kept
    T = batch["motion"].shape[1]
    assert torch.equal(longer["motion"][:, :T], batch["motion"]) and (store.frames % 4).any()
    assert longer["motion"].shape[1] == longer["audio"].shape[1]
    assert longer["motion"][:, T:].abs().sum() == 0
    # A vocabulary that uses 0.
    other = data.LatentSet(tmp_path / "latents", lambda text: [0] * 3)
    assert data.collate([other[0], other[1]], 4)["text_mask"].all()
    broken = items[0] | {"audio": np.full((store.frames[0], 3), np.nan)}
    with pytest.raises(ValueError, match="finite"):
        data.LatentSet.write(tmp_path / "broken", [broken])


def test_short_clips_come_first():
    lengths = np.random.default_rng(0).permutation(100)
    order = data.BatchOrder(lengths, 4, seed=3, short_first=10)
    batches = [lengths[next(order)] for _ in range(60)]
    assert max(batch.max() for batch in batches[:10]) < 60
    assert max(batch.max() for batch in batches[:2]) < 35
    assert max(batch.max() for batch in batches[10:]) == 99
    assert [len(next(data.BatchOrder([5, 6], 4, short_first=3)))] == [4]


@pytest.mark.parametrize("short_first", [0, 30])
def test_order_resumes_exactly(short_first):
    order = data.BatchOrder(np.arange(50), 4, 3, short_first)
    first = [next(order) for _ in range(20)]
    state = order.state_dict()
    rest = [next(order) for _ in range(20)]
    again = data.BatchOrder(np.arange(50), 4, 3, short_first)
    again.load_state_dict(state)
    assert [next(again) for _ in range(20)] == rest and first != rest
    if not short_first:
        seen = {i for batch in first[:12] for i in batch}
        assert seen <= set(range(50)) and len(seen) == 48


def test_a_training_step_cuts_every_stream_and_takes_the_voice_of_a_half():
    c = train.parse_config(["--config=tiny", "--jitter=3"])
    item = dict(text=torch.arange(5), audio=torch.randn(21, c.audio_latent),
                audio_condition=torch.randn(c.voice_size), motion=torch.randn(21, 6),
                motion_condition=torch.randn(6), spoken=torch.randn(21, 1))
    embedding = item["audio_condition"][:c.speaker_size]
    for half, cut, rows, skip in ((0, 0, slice(0, 10), 0), (.999, .999, slice(11, 21), 3)):
        seen = train.vary(item, half, cut, c)
        for name in ("audio", "motion", "spoken"):
            assert torch.equal(seen[name], item[name][skip:])
        for name in ("text", "motion_condition"):
            assert torch.equal(seen[name], item[name])
        said = item["audio"][rows]
        expected = torch.cat((embedding, said.mean(0), said.std(0)))
        assert torch.equal(seen["audio_condition"], expected)
