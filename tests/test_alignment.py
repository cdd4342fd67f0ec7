"""Forced alignment by a CTC loss's scores (engine/alignment.py), and what the Talker does with it
(model.Alignment)."""
import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

import data
import train
from engine.alignment import best_path, spoken_symbols
from engine.checkpoints import save_checkpoint
from model import Backbone, Modality, Talker, rotary_tables, rotate, turn_by_place
from tests.helpers import error, generate, random_batch, record_places, tiny_talker


def collapse(path: tuple) -> list[int]:
    """What CTC reads in a path: repetitions and blanks removed."""
    return [label for label, _ in itertools.groupby(path) if label]


@pytest.mark.parametrize("ids", [[1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 2]])
def test_best_path_is_the_best_of_all(ids):
    steps = 6
    scores = np.log(np.random.default_rng(len(ids)).dirichlet(np.ones(3), steps))
    # Every path of blank and two symbols that reads as the text.
    paths = [path for path in itertools.product(range(3), repeat=steps) if collapse(path) == ids]
    best = max(paths, key=lambda path: sum(scores[step, label] for step, label in enumerate(path)))

    states = best_path(scores, ids)
    labels = [ids[state // 2] if state % 2 else 0 for state in states]
    assert tuple(labels) == best


def test_spoken_symbols_rise_from_nothing_to_all():
    # Two symbols, read in steps 2 and 3 and in step 8 of 12, which are 6 frames.
    scores = np.full((12, 3), -9.0)
    scores[:, 0] = 0
    scores[2:4] = [-9, 0, -9]
    scores[8] = [-9, -9, 0]
    # Half of the first symbol is spoken after 3 steps, half of the second after 8.5.
    expected = np.interp([2, 4, 6, 8, 10, 12], [0, 3, 8.5, 12], [0, 0.5, 1.5, 2])
    np.testing.assert_allclose(spoken_symbols(scores, [1, 2]), expected, rtol=1e-6)


@pytest.mark.parametrize("ids", [[], [1, 2, 1, 2, 1], [1, 1, 1]])
def test_text_that_does_not_fit_is_named(ids):
    with pytest.raises(ValueError, match="can't be spoken in 4 steps"):
        best_path(np.zeros((4, 3)), ids)


def test_long_texts():
    """More states than fit into small integers."""
    ids = np.tile([1, 2, 3], 120).tolist()
    scores = np.zeros((800, 4))
    spoken = spoken_symbols(scores, ids)
    assert spoken[-1] == len(ids) and (np.diff(spoken) >= 0).all()


# ------------------------------------------------------------------------------------ the Talker
def test_the_alignment_is_learned():
    """How many symbols a patch speaks is learned through the Talker's own loss."""
    torch.manual_seed(0)
    talker, config = tiny_talker()
    batch = random_batch(config)
    talker.train()
    optimizer = torch.optim.Adam(talker.parameters(), 3e-3)
    losses = []
    for step in range(60):
        loss, log = talker(**batch, generator=torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(log["alignment"].item())
    # The noise of the place that it starts from stays: .2 squared.
    assert np.mean(losses[-10:]) < 0.3 < 1 < np.mean(losses[:3])


@pytest.mark.parametrize("advance", [2.0, -1.0])
def test_places_add_up_and_stay_within_the_text(advance):
    torch.manual_seed(0)
    talker, config = tiny_talker()
    batch = random_batch(config)
    seen = record_places(talker)
    talker.alignment.out.weight.data.zero_()
    talker.alignment.out.bias.data.fill_(advance)
    generate(talker, batch, patches=5)
    symbols = batch["text_mask"].sum(1, keepdim=True)                         # 7, 4, 7
    expected = (advance * torch.arange(1, 6)).clamp(min=0).minimum(symbols)
    # The first call has the tag and the text, of which the second sample has padding.
    assert seen[0].tolist() == [[0, *range(7)], [0, 0, 0, 0, *range(4)], [0, *range(7)]]
    assert torch.equal(torch.cat(seen[1:], 1), expected)


def test_a_wrong_place_changes_what_is_said():
    torch.manual_seed(0)
    talker, config = tiny_talker()
    batch = random_batch(config)
    truth, _, _ = talker.teacher_forced(**batch)
    moved, _, _ = talker.teacher_forced(**batch | {"spoken": batch["spoken"] + 1})
    # The first patch is predicted before there is a place.
    assert torch.equal(truth[:, 0], moved[:, 0])
    assert (truth[:, 1:] - moved[:, 1:]).abs().amax((0, 2)).min() > 1e-3


def test_attention_depends_on_how_many_symbols_lie_between():
    """Rotated by places, queries and keys have the same products wherever in the text they are."""
    torch.manual_seed(0)
    tables = rotary_tables(8, 16, 1e4)
    places = torch.tensor([[0.0, 1, 2, 3, 3, 0.5, 1.5, 2.2]])
    q, k = torch.randn(2, 1, 1, 8, 16)
    products = []
    for offset in (0, 40):
        turned = turn_by_place(tables, places + offset)
        products.append(rotate(q, turned) @ rotate(k, turned).mT)
    assert error(products[1], products[0]) < 1e-5
    # Half of the channel pairs still turn by position.
    assert torch.equal(turned[0][0, 0, :, :4], tables[0][:, :4])
    assert error(rotate(q, turned) @ rotate(k, turned).mT, rotate(q, tables) @ k.mT) > 1e-2


def test_places_after_the_end():
    """Where only a delayed stream goes on, and in the padding of a batch, all is spoken."""
    talker, config = tiny_talker(motion_delay=2)
    spoken = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 5, 0, 0, 0, 0]])
    found = talker.patch_ends(spoken, torch.tensor([8, 4]), 4)
    assert found.tolist() == [[4, 8, 8, 8], [5, 5, 5, 5]]


def test_the_alignment_hears_what_is_given():
    """In a continuation, and where a face is made for a speech."""
    torch.manual_seed(0)
    talker, config = tiny_talker()
    batch = random_batch(config)
    heard = []
    talker.alignment.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[1]))
    speech = batch["latents"]["audio"]
    generate(talker, batch, patches=5, given={"audio": speech})
    assert torch.equal(torch.cat(heard, 1).flatten(1, 2), speech)


def test_impossible_alignments_are_refused():
    with pytest.raises(ValueError, match="which can't be delayed"):
        Talker({"audio": Modality(4, 4, delay=1)}, torch.nn.Identity(),
               Backbone(32, 1, 2, 1, 16, 64), 20, 4, 1, 2, alignment_weight=1.0)
    talker, config = tiny_talker()
    batch = random_batch(config)
    batch.pop("spoken")
    with pytest.raises(ValueError, match="learns from clips with `spoken`"):
        talker(**batch)
    with pytest.raises(ValueError, match="--alignment_weight=0 goes with --tokens=qwen"):
        train.parse_config(["--config=tiny", "--tokens=qwen"])


def test_clips_are_aligned_and_misfits_left_out(tmp_path):
    """encode_clip: the alignment is as long as the latents; a text too long for its sound names
    the clip."""
    config = train.parse_config(["--config=tiny", f"--out_dir={tmp_path}"])
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    source = train.corpus(config)
    data.cache_clips(source, 2, tmp_path / "clips", 1)
    for stage in ("audio", "motion", "speaker"):
        save_checkpoint(tmp_path, stage, dict(model=train.build(stage, config).state_dict()))
    item = train.encode_clip(tmp_path, source, 1)
    symbols = len(config.alphabet.encode(item["text"]))
    assert item["spoken"].shape == (len(item["audio"]), 1)
    assert item["spoken"][-1] == symbols and (np.diff(item["spoken"][:, 0]) > 0).all()

    class Misfit:
        """A clip of the corpus, with another text."""

        def __getattr__(self, name):
            return getattr(source, name)

        def __getitem__(self, index):
            return dataclasses.replace(source[index], text="much too long " * 30)

    found = train.encode_clip(tmp_path, Misfit(), 5)
    assert isinstance(found, data.BrokenClip) and "do not match" in found.reason


def test_a_talker_without_alignment_needs_none():
    torch.manual_seed(0)
    talker, config = tiny_talker(alignment_weight=0)
    batch = random_batch(config)
    assert talker.alignment is None
    moved = batch | {"spoken": batch["spoken"] + 1}
    assert torch.equal(talker.teacher_forced(**batch)[0], talker.teacher_forced(**moved)[0])
