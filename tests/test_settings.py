"""Settings on the command line and in a run's folder, and checkpoints that hold no code."""
from pathlib import Path

import pytest
import torch

import train
from engine.checkpoints import load_checkpoint
from engine.settings import parse_crop, same_setting
from heads import SeparateHeads
from model import Talker


@pytest.mark.parametrize("argument, message", [
    ("--learing_rate=1", "did you mean --learning_rate"), ("--layers=two", "--layers is int"),
    ("--config=huge", "no preset 'huge'"), ("--layers=0", "at least 1"),
    ("--euler_steps=1", "at least 2"),
    ("--seed", "needs a value"), ("layers=2", "not an option"),
    ("--attention_heads=3", "multiple of"), ("--size=50", "multiple of 16"),
    ("--width=200", "multiple of"), ("--speech_only=1", "below 1"),
    ("--whisper=x.pt", "goes with --autoencoders=paper"), ("--fsdp=1", "needs --muon_rate=0"),
    ("--voice_statistics=2", "0 or 1"), ("--jitter=7", "at most 10"),
    ("--drop_history=1.5", "between 0 and 1")])
def test_configuration_errors(argument, message):
    with pytest.raises(ValueError, match=message):
        train.parse_config([argument])


def test_heads_and_talkers_are_named():
    for name in ("SeparateHeads", "heads:SeparateHeads"):
        assert train.named_class("heads", name, SeparateHeads) is SeparateHeads
    for name in ("Separated", "nowhere:Heads", "FlowHead", "TIME_BINS", "heads:euler_times"):
        with pytest.raises(ValueError, match="--heads=.*module:Class"):
            train.named_class("heads", name, SeparateHeads)
    with pytest.raises(ValueError, match="--talker=Backbone.*class of model.py"):
        train.named_class("talker", "Backbone", Talker)


def test_runs_of_other_versions(tmp_path):
    """An unknown setting is named; one that did not exist yet has its default."""
    (tmp_path / "config.json").write_text('{"seed": 0, "flux": 1}')
    with pytest.raises(ValueError, match="another version.*flux"):
        train.run_config(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": 7}')
    assert train.run_config(tmp_path) == train.Config(seed=7)


def test_crop():
    assert parse_crop("60,20,240") == (60, 20, 240) and parse_crop("") is None
    assert parse_crop("60,20,240,720x576") == (60, 20, 240, "720x576")
    assert same_setting("crop", "60,20,240", "60,20,240,720x576")
    assert not same_setting("crop", "60,20,241", "60,20,240,720x576")
    assert not same_setting("crop", "60,20,240,360x288", "60,20,240,720x576")
    with pytest.raises(ValueError, match="--crop is x,y,size"):
        parse_crop("60,20")


def test_configuration():
    config = train.parse_config(["--config", "tiny", "--learning_rate=3e-4", "--data", "x"])
    assert (config.width, config.learning_rate, config.data) == (32, 3e-4, "x")
    assert config.out_dir == "out/tiny"


def test_a_checkpoint_never_executes_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path(tmp_path / "owned").touch, ()

    torch.save({"model": Evil()}, tmp_path / "audio.pt")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        load_checkpoint(tmp_path, "audio")
    assert not (tmp_path / "owned").exists()
