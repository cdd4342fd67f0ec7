"""Settings: types, bounds, the frozen parts of another run, the folder (engine/settings.py)."""
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import engine.machine  # noqa: F401       before torch
import numpy as np
import torch

import data
from engine import settings
from engine.checkpoints import save_checkpoint
from model import Modality
from train import PRESETS, Config, parse_config


def test_types():
    config = parse_config(["--config", "tiny", "--fsdp=True", "--muon_rate=0", "--stop_keeps", "0",
                           "--learning_rate=3e-4", "--data", "x"])
    assert config.fsdp is True
    assert config.stop_keeps is False
    assert (config.width, config.learning_rate, config.out_dir) == (32, 3e-4, "out/tiny")


def test_a_field_of_a_fork_needs_no_change():
    @dataclasses.dataclass
    class Fork(Config):
        gesture_delay: int = 0
        gesture_layers: int = 2

    for option, lowest in (("--gesture_delay=-1", 0), ("--gesture_layers=0", 1)):
        config = settings.read_settings([option], Fork, PRESETS, "")
        with pytest.raises(ValueError, match=f"at least {lowest}"):
            settings.check_settings(config)


TABLE = {"audio": Modality(latent=3, condition=5)}
WIDTHS = {"audio": 3, "audio_condition": 5, "spoken": 1}


def finished_run(out: Path, *options: str) -> Path:
    """A folder with what `--from` takes of a run."""
    config = parse_config(["--config=tiny", f"--out_dir={out}", *options])
    settings.open_run(config, "key", {})
    for stage in settings.FROZEN_STAGES:
        save_checkpoint(out, stage, dict(model={"x": torch.ones(2)}, done=True))
    item = {"name": "a", "text": "b"}
    for name, width in WIDTHS.items():
        item[name] = np.zeros(width if name.endswith("condition") else (9, width))
    data.LatentSet.write(out / "latents", [item])
    return out


def test_from_takes_frozen_parts_and_their_settings(tmp_path):
    run = finished_run(tmp_path / "run", "--motion_size=7", "--layers=3")
    out = tmp_path / "out"
    again = ["--config=small", f"--from={run}", f"--out_dir={out}"]
    config = parse_config(again)
    assert (config.motion_size, config.audio_width, config.layers, config.width) == (7, 32, 4, 192)
    assert parse_config([*again, "--motion_size=7"]) == config
    with pytest.raises(ValueError, match="--motion_size=8 does not go with.*--motion_size=7"):
        parse_config([*again, "--motion_size=8"])
    with pytest.raises(ValueError, match="needs another --out_dir"):
        parse_config([*again, f"--out_dir={tmp_path / 'x' / '..' / 'run'}"])

    settings.open_run(config, "key", {})
    settings.copy_frozen(config)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == [
        "audio.pt", "config.json", "latents", "latents/00000000-00000001.pt", "latents/meta.json",
        "motion.pt", "speaker.pt"]
    # What is there already stays. RUN is not needed for it any more, nor for its settings.
    shutil.rmtree(run)
    settings.check_frozen(config, TABLE)
    settings.copy_frozen(config)
    assert parse_config(again) == config
    assert parse_config([*again, f"--from={run}/../run/"]) == config
    # Without a talker its fields are free, those of the frozen parts are not.
    settings.open_run(dataclasses.replace(config, layers=2, from_run=""), "key", {})
    with pytest.raises(ValueError, match="from_run was '', is "):
        settings.open_run(config, "key", {})
    with pytest.raises(ValueError, match="motion_size was 7, is 8"):
        settings.open_run(dataclasses.replace(config, from_run="", motion_size=8), "key", {})


@pytest.mark.parametrize("missing, message", [
    ("latents/meta.json", "no finished latents"), ("audio.pt", "no finished audio.pt")])
def test_from_an_unfinished_run(tmp_path, missing, message):
    run = finished_run(tmp_path / "run")
    (run / missing).unlink()
    config = parse_config(["--config=tiny", f"--from={run}", f"--out_dir={tmp_path / 'out'}"])
    with pytest.raises(ValueError, match=message):
        settings.check_frozen(config, TABLE)
    assert not (tmp_path / "out").exists()


def test_latents_of_other_modalities(tmp_path):
    run = finished_run(tmp_path / "run")
    config = parse_config(["--config=tiny", f"--from={run}", f"--out_dir={tmp_path / 'out'}"])
    settings.check_frozen(config, TABLE)
    for table in (TABLE | {"gesture": Modality(12, 12)}, {"audio": Modality(3, 6)}, {}):
        with pytest.raises(ValueError, match="latents of other modalities"):
            settings.check_frozen(config, table)


def test_the_config_of_an_older_run(tmp_path):
    """A setting that it lacks has its default value; one that is unknown now is an error."""
    settings.open_run(Config(out_dir=str(tmp_path)), "key", {})
    found = json.loads((tmp_path / "config.json").read_text())
    found.pop("drop_history")
    found["fsdp"] = 0
    (tmp_path / "config.json").write_text(json.dumps(found))
    assert settings.read_run_config(tmp_path, Config) == Config(out_dir=str(tmp_path))
    settings.open_run(Config(out_dir=str(tmp_path)), "key", {})
    with pytest.raises(ValueError, match="width was 192, is 96"):
        settings.open_run(Config(out_dir=str(tmp_path), width=96), "key", {})
    (tmp_path / "config.json").write_text('{"seed": 0, "flux": 1}')
    with pytest.raises(ValueError, match="another version.*flux"):
        settings.read_run_config(tmp_path, Config)


def test_the_log_is_cut_back_to_the_checkpoints(tmp_path):
    config = Config(out_dir=str(tmp_path))
    lines = [json.dumps(dict(stage="talker", step=step)) for step in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"stage": "tal']))
    settings.open_run(config, "key", dict(talker=2))
    assert (tmp_path / "log.jsonl").read_text() == "".join(line + "\n" for line in lines[:2])


def test_crop():
    assert settings.parse_crop("60,20,240") == (60, 20, 240)
    assert settings.parse_crop("") is None
    with pytest.raises(ValueError, match="--crop is x,y,size"):
        settings.parse_crop("60,20")
