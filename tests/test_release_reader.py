"""Our reader of the published data beside the release's own, training/dataset.py of the released
code: the same text ids, the same motion, as many patches, cut at as many tokens.

The released code is not part of this repository. TALKER_T2AV=FOLDER says where it is; without it,
../shared/t2av_data or transformers this test skips, with a reason. Stand-ins take the place of two
packages that the release's reader imports for what is not compared, mel spectrograms and the
resampling of sound.
"""
import importlib.util
import os
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

import data
import train
from autoencoders import Standardize
from model import stop_labels
from paper.published import PublishedData
from paper.qwen import qwen_ids
from tests.helpers import HOME

MINIATURE = HOME.parent / "shared" / "t2av_data"
RELEASE = Path(os.environ.get("TALKER_T2AV", HOME.parent / "shared" / "Talker-T2AV"))

# A short chat template with what Qwen3's writes of one question and one answer.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}")


def write_tokenizer(folder) -> None:
    """A tokenizer as Qwen3's is: bytes, and special tokens; but it merges nothing."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    tokenizer.add_special_tokens(special)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=TEMPLATE, pad_token="<|im_end|>"
    ).save_pretrained(folder)


def load_sound(path):
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(wave.T), rate


def resampler(before, after):
    """As long as the resampled sound, and silent."""
    return lambda wave: wave.new_zeros(len(wave), -(-wave.shape[1] * after // before))


def release_reader(monkeypatch):
    """The module training/dataset.py of the released code."""
    path = RELEASE / "training" / "dataset.py"
    if not path.exists():
        pytest.skip("the released code is not there: TALKER_T2AV=FOLDER says where it is")
    # Before the stand-ins are there, which transformers would take for the packages.
    pytest.importorskip("transformers.trainer_pt_utils", reason="transformers is not installed")
    audio, whisper = ModuleType("torchaudio"), ModuleType("whisper")
    audio.load = load_sound
    audio.transforms = SimpleNamespace(Resample=resampler)
    whisper.pad_or_trim = lambda wave: wave
    whisper.log_mel_spectrogram = lambda wave, n_mels: torch.zeros(1)
    monkeypatch.setitem(sys.modules, "torchaudio", audio)
    monkeypatch.setitem(sys.modules, "whisper", whisper)
    spec = importlib.util.spec_from_file_location("release_reader", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "release_reader", module)
    spec.loader.exec_module(module)
    return module


def extract(root) -> Path:
    """The miniature with its shards unpacked, and a row of 31.2 s. -> the table of its clips."""
    for shard in sorted(MINIATURE.glob("shards/*.tar")):
        with tarfile.open(shard) as files:
            files.extractall(root, filter="data")
    table = root / "metadata" / "train.csv"
    table.parent.mkdir()
    rows = (MINIATURE / "metadata" / "train.csv").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if "000009" not in row]          # whose files do not exist
    motion = torch.randn(780, 40, generator=torch.Generator().manual_seed(0))
    torch.save(motion.half(), root / "motion" / "long.pt")
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 780 * 960)
    soundfile.write(root / "audio" / "long.wav", noise, 24000)
    rows.append("motion/long.pt,audio/long.wav,Long enough to be cut.,31.20,made")
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table


@pytest.mark.skipif(not MINIATURE.exists(), reason="../shared/t2av_data is not there")
@pytest.mark.parametrize("limit", [1000, 150])
def test_clips_are_read_as_the_release_reads_them(tmp_path, monkeypatch, limit):
    reader = release_reader(monkeypatch)
    write_tokenizer(tmp_path / "tokenizer")
    table = extract(tmp_path / "data")
    monkeypatch.setattr(reader, "TRAIN_CSV", str(table))
    monkeypatch.setattr(reader, "DATA_ROOT", str(tmp_path / "data"))
    from transformers import AutoTokenizer
    theirs = reader.SpeechDataset(
        "train", AutoTokenizer.from_pretrained(tmp_path / "tokenizer"),
        SimpleNamespace(patch_size=4, delay=0, model_max_length=limit), inference=True)

    config = train.parse_config(["--config=release", f"--max_tokens={limit}"])
    ours = PublishedData(tmp_path / "data", "all")
    numbers = {ours.column(i, "motion_pt_path"): i for i in range(len(ours))}
    standardize = Standardize(40)
    standardize.mean = torch.from_numpy(np.load(MINIATURE / "motion_mean.npy"))
    standardize.deviation = torch.from_numpy(np.load(MINIATURE / "motion_std.npy"))
    cut = 0
    for i, row in enumerate(theirs.data_list):
        item = theirs._load_item(i)
        ids = item["input_ids"].tolist()
        start, end = item["speech_span"].tolist()

        # What our training makes of the same row.
        clip = ours[numbers[row["motion_pt_path"]]]
        motion = standardize(torch.from_numpy(clip.poses))                    # (T, 40)
        latents = dict(
            text=torch.tensor(qwen_ids(clip.text, tmp_path / "tokenizer")),
            audio=torch.zeros(len(motion), 32), audio_condition=torch.zeros(256),
            motion=motion, motion_condition=motion[0])
        batch = data.collate([train.vary(latents, 0.0, 0.0, config)], 4, ("audio",))
        patches = -(-int(batch["frames"]) // 4)

        assert batch["text"][0].tolist() == ids[:start]
        assert set(ids[start:end]) == {theirs.tokenizer.convert_tokens_to_ids("<SPEECH_FRAME>")}
        assert patches == end - start
        if limit == 1000:
            assert patches == -(-item["mel_len"] // 4)
            assert batch["whole"].tolist() == [item["motion_len"]]
        cut += len(ids) == limit

        # Their motion is that of the whole clip; of a long one they take the first 30 s here, and
        # we a window.
        expected = item["motion"][:int(batch["whole"])]
        if row["motion_pt_path"] == "motion/long.pt":
            whole = standardize(torch.from_numpy(ours.motion(numbers["motion/long.pt"])))
            at = (whole == motion[0]).all(1).nonzero().item()
            assert at + 750 <= 780 and torch.equal(motion, whole[at:at + 750])
            assert expected.shape == batch["motion"][0].shape
            # Neither has an end.
            labels, _ = stop_labels(torch.tensor([0]), torch.tensor([188]), 188, 4)
            assert limit == 150 or (patches == 188 and labels.max() == 0)
        else:
            assert (batch["motion"][0] - expected).abs().max() < 1e-6
    assert len(numbers) == len(theirs.data_list) == 6
    assert (cut > 1) == (limit == 150)
