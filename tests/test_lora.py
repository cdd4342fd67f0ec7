"""Fine-tuning by LoRA (engine/lora.py)."""
import pytest

import engine.machine  # noqa: F401       before torch
import torch

import train
from engine.checkpoints import load_checkpoint
from engine.lora import add_changes, changed_layers, merge
from paper.weights import start_from
from tests.helpers import command, error, random_batch, tiny_talker


def losses(talker, batch) -> torch.Tensor:
    return talker(**batch, generator=torch.Generator().manual_seed(0))[0]


def test_changes_begin_at_nothing_and_are_merged():
    talker, config = tiny_talker()
    batch = random_batch(config)
    before = losses(talker, batch)
    weights = {name: x.clone() for name, x in talker.state_dict().items()}
    layers = changed_layers(talker)
    add_changes(talker, 2)
    assert torch.equal(losses(talker, batch), before)
    trained = [p for p in talker.parameters() if p.requires_grad]
    assert len(trained) == 2 * len(layers) and {min(p.shape) for p in trained} == {2}

    losses(talker, batch).backward()
    with torch.no_grad():
        for p in trained:
            p -= 0.1 * p.grad
    changed = losses(talker, batch)
    assert changed != before
    merge(talker)
    assert talker.state_dict().keys() == weights.keys()
    assert error(losses(talker, batch), changed) < 1e-5
    ranks = {torch.linalg.matrix_rank(x - weights[name], rtol=1e-3).item()
             for name, x in talker.state_dict().items() if not torch.equal(x, weights[name])}
    assert ranks == {2}


def test_a_run_that_fine_tunes_by_changes(tiny_run, tmp_path):
    """It starts from a run, and its result is sampled as any other."""
    tuned = tmp_path / "tuned"
    command("train.py", "--config=tiny", "--from", tiny_run, "--start", tiny_run, "--lora=3",
            "--talker_steps=2", "--save_every=0", "--out_dir", tuned)
    first, second = (load_checkpoint(out, "talker")["model"] for out in (tiny_run, tuned))
    assert first.keys() == second.keys()
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed and all("blocks" in name for name in changed)
    talker = train.load_model(tuned, "talker")
    assert len(changed) == len(changed_layers(talker))
    command("sample.py", "--ckpt", tuned, "--text", "bin blue", "--speaker", "1", "--out",
            tmp_path / "a.mp4")
    # Before its end it can be listened to as well, but starts no other.
    state = load_checkpoint(tuned, "talker")
    talker, config = train.build("talker", train.run_config(tuned)), train.run_config(tuned)
    talker.load_state_dict(state["model"])
    add_changes(talker, config.lora)
    torch.save(state | {"done": False, "model": talker.state_dict()}, tuned / "talker.pt")
    again = train.load_model(tuned, "talker").state_dict()
    assert all(torch.equal(x, state["model"][name]) for name, x in again.items())
    with pytest.raises(ValueError, match="has other sizes, is not finished"):
        start_from(train.build("talker", config), str(tuned))
    with pytest.raises(ValueError, match="say with --start which"):
        train.parse_config(["--config=tiny", "--lora=3"])
