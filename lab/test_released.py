"""nanoTalker computes what the released Talker-T2AV computes: numbers recorded from it, to within 1e-5 of their scale.

The recordings are in ../shared/fixtures (see its README); the tests are skipped, with this reason, where that folder is absent. The last
tests need none: a folder of random weights in the released format goes through sample.py, and Qwen3 equals Hugging Face's.
"""
import json
import pickle
import struct
import sys
import zlib
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import data
import sample
import train
from autoencoders import pairs
from heads import FlowHead, SeparateHeads
from lab import released
from lab.describe import describe
from lab.paper_autoencoders import LIAX, WhisperXVAE
from model import Backbone, Modality, PatchEncoder, Talker, stop_labels
from test_shapes import error

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures"


def recorded(name):
    if not FIXTURES.exists():
        pytest.skip("../shared/fixtures (numbers recorded from the released model) is absent")
    found = torch.load(FIXTURES / f"{name}.pt", weights_only=True)
    return found["meta"], found.get("state"), found["in"], found["out"]


def test_oracle_backbone():
    m, state, given, out = recorded("qwen3")
    backbone = Backbone(m["hidden"], m["layers"], m["heads"], m["kv_heads"], m["head_dim"], m["intermediate"], m["rope_theta"])
    backbone.load_state_dict(released.rename(state, released.BACKBONE, "model.", backbone.state_dict()))
    valid = given["attention_mask"]
    assert error(backbone(given["inputs_embeds"], valid)[valid], out["last_hidden_state"][valid]) < 1e-5


def test_oracle_patch_encoder():
    m, state, given, out = recorded("patch_encoder")
    encoder = PatchEncoder(1, m["hidden"], m["layers"], m["heads"])
    names = {k: v for k, v in encoder.state_dict().items() if not k.startswith("project.")}
    encoder.load_state_dict(released.rename(state, released.PATCH_ENCODER, "", names, m["hidden"] // m["heads"]), strict=False)
    assert error(encoder.pool(given["x"]), out["y"]) < 1e-5


def released_head(m, state, latent, condition):
    head = FlowHead(latent, condition, m["hidden"], m["hidden"], m["layers"], m["heads"])
    head.load_state_dict(released.rename(state, released.HEAD, "", head.state_dict(), m["hidden"] // m["heads"]))
    return head


def test_oracle_velocity():
    m, state, given, out = recorded("local_dit")
    head = released_head(m, state, given["x"].shape[1], given["global_cond"].shape[1])
    context = head.context(given["cond"].mT, given["global_cond"])
    assert error(head.velocity(given["x"].mT, head.input(given["mu"] + head.clock(given["t"])), context).mT, out["velocity"]) < 1e-5


def test_oracle_sampler():
    m, state, given, out = recorded("flow_sampler")
    head = released_head(m, state, given["noise"].shape[1], given["global_cond"].shape[1])
    for setting, theirs in out.items():           # "steps10_cfg2.0_zerostar1"
        steps, guidance, zero_star = (float(part.lstrip("abcdefghijklmnopqrstuvwxyz")) for part in setting.split("_"))
        ours = head.sample(given["noise"].mT, given["mu"], given["cond"].mT, given["global_cond"], int(steps), guidance, 1.0, m["sway"],
                           bool(zero_star))
        assert error(ours.mT, theirs) < 1e-5, setting


def test_oracle_stop_labels():
    m, _, given, out = recorded("stop_labels")
    labels, zeros = stop_labels(given["start"], given["length"], m["T"], m["patch_size"], m["fps"])
    assert torch.equal(labels, out["labels"]) and zeros == out["pos_weight"]


@pytest.mark.parametrize("delay", [0, 1])
def test_oracle_talker(delay):
    m, state, given, out = recorded(f"talker_delay{delay}")
    talker = released.build_talker(state, delay, m["dit_heads"], m["patch_heads"], m["patch_size"])
    start = given["patch_span"][:, 0]
    longest = int(start.max())
    text = torch.stack([F.pad(ids[:s], (longest - s, 0), value=-1) for ids, s in zip(given["input_ids"], start.tolist())])
    frames = {"audio": given["audio_len"], "motion": given["motion_len"]}
    length = (max(int(f.max()) for f in frames.values()) // m["patch_size"] + 2) * m["patch_size"]      # a patch of nothing at the end
    def cut(x, n):                                # nothing beyond a sample's own frames
        return F.pad(x, (0, 0, 0, length - x.shape[1])) * (torch.arange(length)[None] < n[:, None])[..., None]
    latents = {"audio": cut(given["audio_latents"], frames["audio"]), "motion": cut(given["motion"], frames["motion"])}
    conditions = {"audio": given["speaker"], "motion": given["motion"][:, 0]}
    hidden, heads, ends = talker.teacher_forced(text.clamp(min=0), text >= 0, latents, frames, conditions,
                                                torch.full((len(text),), bool(m["task_tag"])))
    assert torch.equal(ends, given["patch_span"][:, 1] - start)
    for i, (s, n) in enumerate(zip(start.tolist(), (ends + 1).tolist())):
        assert error(hidden[i, :n], out["hidden"][i, s:s + n]) < 1e-5
        assert error(talker.stop(hidden[i, :n]), out["stop_logits"][i, s:s + n]) < 1e-5
    for name, x in heads.items():
        condition = x.condition[:, None].expand(-1, x.mask.shape[1], -1)[x.mask]
        for ours, theirs in ((x.target[x.mask].mT, "target"), (x.hidden[x.mask], "mu"), (x.history[x.mask].mT, "history"), (condition, "global")):
            assert error(ours, out[f"{name}_{theirs}"]) < 1e-5, (name, theirs)


@pytest.mark.parametrize("delay", [0, 1])
def test_oracle_generation(delay):
    m, state, given, out = recorded(f"generate_delay{delay}")
    talker, draws = released.build_talker(state, m["delay"], 4, 4), iter(m["noise"])
    steps = list(talker.generate(given["text_ids"], torch.ones_like(given["text_ids"], dtype=torch.bool),
                                 {"audio": given["speaker"], "motion": given["first_motion"][None]}, lambda shape: next(draws).mT,
                                 m["patches"], steps=m["steps"], guidance=m["cfg"], temperature=m["temperature"], stop_hits=m["patches"] + 1))
    for name, theirs in (("audio", "audio_latents"), ("motion", "motion")):
        assert error(torch.cat([p[name] for p, _ in steps if name in p], 1), out[theirs]) < 1e-5


@pytest.mark.parametrize("strides", ["even", "odd"])
def test_oracle_audio_autoencoder(strides):
    m, state, given, out = recorded(f"whisperx_vae_{strides}")
    vae = released.build_audio(state, m["whisper"]["heads"])
    assert (vae.sample_rate, vae.strides) == (m["sample_rate"], tuple(m["strides"]))
    wave = given["wave"][:, 0]
    semantic = vae.semantic(given["mel"][:, 0])
    assert error(semantic, out["whisper_50hz"]) < 1e-5
    assert error(vae.acoustic(wave).mT, out["acoustic"]) < 1e-5
    latents = vae.bottleneck(wave, pairs(semantic[:, :2 * out["acoustic"].shape[2]]))[0]
    assert error(latents, out["latents"]) < 1e-5
    assert error(vae.decode(latents), out["wave"][:, 0]) < 1e-5


def test_oracle_motion_autoencoder():
    m, names, given, out = recorded("lia_x")
    def made(name, shape):                        # the fixture keeps names and shapes; its weights follow a rule
        x = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        return x * 0.1 if name.endswith(("gamma", "bias")) else x
    lia = released.build_motion({name: made(name, shape) for name, shape in names.items()})
    assert lia.size == m["size"]
    source, driving, motion = (given[k].float() for k in ("source", "driving", "motion"))
    with torch.inference_mode():
        features, code = lia.look(source)
        assert error(code, out["code"]) < 1e-5
        alpha = lia.encode(driving)
        assert error(alpha, out["alpha"]) < 1e-5
        assert error(motion @ torch.linalg.qr(lia.directions + 1e-8)[0].T, out["direction"]) < 1e-5
        # Seven levels of warps by random weights amplify rounding: the second recording is itself 1.7e-5 from what float64 gives.
        for ours, theirs, limit in ((alpha, "rgb_by_4", 1e-5), (motion[:1], "rgb_from_motion_by_4", 5e-5)):
            picture = lia.render(source, features, code, ours[:, None])[:, 0]
            assert error(F.avg_pool2d(picture, 4), out[theirs]) < limit, theirs


# ------------------------------------------------------------------------------------------ a folder in the released format
def in_their_names(module, table, prefix, kv=0):
    """Random weights for a module under the released names: `rename` backwards. kv: rows of the stacked keys, and of the values."""
    found = {}
    for ours, x in module.state_dict().items():
        names = released.their_names(table, ours)
        rows = {1: [len(x)] if x.ndim else [], 2: [len(x) // 2] * 2, 3: [len(x) - 2 * kv, kv, kv]}[len(names)]
        for name, part in zip(names, x.split(rows) if rows else [x]):
            found[prefix + name] = torch.randn(part.shape) * part[:1].numel() ** -0.5
    return found


def write_safetensors(path, state):
    header, start = {}, 0
    for name, x in state.items():
        header[name] = dict(dtype="F32", shape=list(x.shape), data_offsets=[start, start + 4 * x.numel()])
        start += 4 * x.numel()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(x.contiguous().numpy().tobytes() for x in state.values()))


def write_released(folder, latent=6, motion=5, speaker=7, width=32):
    """Everything that `sample.py --released` wants, of random weights, at reduced sizes."""
    torch.manual_seed(0)
    backbone = Backbone(width, 2, 4, 2, 16, 48)
    modalities = {"audio": Modality(latent, speaker), "motion": Modality(motion, motion)}
    heads = {name: FlowHead(m.latent, m.condition, width, 24, 2, 4) for name, m in modalities.items()}
    talker = Talker(modalities, SeparateHeads(heads), backbone, 300, 4, 1, 4)
    state = in_their_names(backbone, released.BACKBONE, "llm.model.", kv=32)
    for ours, theirs in (("audio", "speech"), ("motion", "motion")):
        state |= in_their_names(talker.heads[ours], released.HEAD, f"{theirs}_cfm.estimator.")
        encoder = talker.encoders[ours]
        state |= {f"projector_{theirs}.linear1.{p}": torch.randn(x.shape) for p, x in encoder.project.state_dict().items()}
        encoder.project = torch.nn.Identity()
        state |= in_their_names(encoder, released.PATCH_ENCODER, f"{theirs}_patch_encoder.")
    state |= {"llm.model.embed_tokens.weight": torch.randn(300, width), "task_embedding.weight": torch.randn(2, width),
              "motion_pad_emb": torch.randn(width), "head_stop.proj.weight": torch.zeros(width, width),
              "head_stop.proj.bias": torch.ones(width), "head_stop.head.weight": torch.ones(1, width)}       # always says stop
    (folder / "talker-t2av").mkdir()
    cut = len(state) // 2                         # sharded
    for i, names in enumerate((list(state)[:cut], list(state)[cut:])):
        write_safetensors(folder / "talker-t2av" / f"model-0000{i + 1}-of-00002.safetensors", {n: state[n] for n in names})
    (folder / "talker-t2av" / "config.json").write_text(json.dumps(dict(patch_size=4, delay=0, patch_encoder_n_head=4, dit_n_head=4, whisper_n_head=2)))
    vae = WhisperXVAE(24000, 4, (2, 4, 10, 12), width, 64, latent, 16, 30.0, 2, 2)
    audio = in_their_names(vae.acoustic, released.strided(4, False), "CodecEnc.block.") | in_their_names(
        vae.decoder, released.strided(4, True), "CodecDec.model.") | in_their_names(vae.semantic, released.WHISPER, "semantic_model.encoder.")
    for name, outputs, inputs in (("in_proj", 2 * latent, width), ("out_proj", width, latent)):
        audio |= {f"vae.{name}.weight_g": torch.ones(outputs, 1, 1), f"vae.{name}.weight_v": torch.randn(outputs, inputs, 1),
                  f"vae.{name}.bias": torch.zeros(outputs)}
    audio["semantic_model.encoder.positional_embedding"] = torch.zeros(1500, width)
    torch.save({"state_dict": audio}, folder / "model.ckpt")
    lia = LIAX(width, (32,) * 4, motion, size=64)
    del lia.normal
    torch.save(in_their_names(lia, released.motion_table(4), ""), folder / "lia-x.pt")
    np.save(folder / "motion_mean.npy", np.zeros(motion, np.float32))
    np.save(folder / "motion_std.npy", np.ones(motion, np.float32))
    np.save(folder / "voice.npy", np.ones(speaker, np.float32))


def test_released_folder_makes_a_clip(tmp_path, monkeypatch):
    write_released(tmp_path)
    clip = data.SyntheticCorpus("test", 1)[0]
    data.write_clip(tmp_path / "ref.mp4", clip.video, clip.audio, 16000)
    monkeypatch.setattr(released, "qwen_ids", lambda text, folder: [ord(c) % 300 for c in text])             # transformers may be absent
    out = tmp_path / "out.mp4"
    monkeypatch.setattr(sys, "argv", ["sample.py", "--released", str(tmp_path), "--text", "hello", "--ref", str(tmp_path / "ref.mp4"),
                                      "--speaker", str(tmp_path / "voice.npy"), "--out", str(out), "--steps", "3"])
    sample.main()
    made = data.read_clip(out, 64, 24000)
    assert len(made.video) == 9 * 4               # patches 7, 8 and 9 say stop (the release's rule), and the last of them is dropped
    assert np.abs(made.audio).max() > 0.01 and made.video.std() > 1


def test_wrong_weights_are_named(tmp_path):
    write_released(tmp_path)
    state = released.read_weights(tmp_path, "*.safetensors")
    state["llm.model.norm.weight"] = torch.ones(3)
    del state["speech_patch_encoder.cls_token"]
    with pytest.raises(ValueError, match="misshapen: llm.model.norm.weight"):
        released.build_talker(state, 0, 4, 4)
    state["llm.model.norm.weight"] = torch.ones(32)
    with pytest.raises(ValueError, match="missing: speech_patch_encoder.cls_token"):
        released.build_talker(state, 0, 4, 4)
    state["speech_patch_encoder.cls_token"], state["llm.model.layers.0.extra"] = torch.ones(32), torch.ones(1)
    with pytest.raises(ValueError, match="surplus: llm.model.layers.0.extra"):
        released.build_talker(state, 0, 4, 4)
    torch.save({"state_dict": {}, "hyper_parameters": Path("x")}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="convert it once"):
        released.read_weights(tmp_path, "*.ckpt")


def attack(path):
    path.touch()


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return attack, (self.path,)


def test_converting_runs_no_code_of_a_file(tmp_path):
    weights = {"a": torch.randn(3), "b": torch.randn(2, 2)}
    settings = {"path": Path("x"), "space": SimpleNamespace(a=1, b=[2]), "count": defaultdict(list, {"k": [1]}), "bad": Malicious(tmp_path / "ran")}
    torch.save({"state_dict": weights, "hyper_parameters": settings}, tmp_path / "model.ckpt")
    released.convert(tmp_path / "model.ckpt")
    found = released.read_weights(tmp_path, "*.ckpt")
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(settings["bad"]))       # what it would have done
    assert (tmp_path / "ran").exists()


def test_start_from_qwen3_and_from_a_run(tmp_path):
    config = train.parse_config(["--config", "tiny", f"--out_dir={tmp_path}"])
    talker, other = train.build("talker", config), train.build("talker", config)
    state = in_their_names(talker.backbone, released.BACKBONE, "model.", kv=16) | {"model.embed_tokens.weight": torch.randn(47, 32)}
    write_safetensors(tmp_path / "model.safetensors", state)
    released.start_from(talker, str(tmp_path))
    assert torch.equal(talker.embedding.weight, state["model.embed_tokens.weight"])
    assert torch.equal(talker.backbone.blocks[1].mlp.down.weight, state["model.layers.1.mlp.down_proj.weight"])
    torch.save({"model": talker.state_dict()}, tmp_path / "talker.pt")
    released.start_from(other, str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(talker.state_dict().values(), other.state_dict().values()))


def test_whisper_is_loaded_and_stays_as_it_is(tmp_path):
    config = train.parse_config(["--config", "tiny", "--autoencoders=paper", "--sample_rate=24000", "--audio_heads=2", "--audio_fast=8"])
    vae = train.build("audio", config)
    state = in_their_names(vae.semantic, released.WHISPER, "encoder.")
    torch.save({"dims": {"n_mels": 80}, "model_state_dict": state | {"encoder.positional_embedding": torch.zeros(3), "decoder.ln.bias": torch.zeros(3)}},
               tmp_path / "tiny.pt")
    released.load_whisper(vae.semantic, tmp_path / "tiny.pt")
    assert torch.equal(vae.semantic.conv1.weight, state["encoder.conv1.weight"])
    assert torch.equal(vae.semantic.blocks[1].up.bias, state["encoder.blocks.1.mlp.0.bias"])
    assert not any(p.requires_grad for p in vae.semantic.parameters())
    torch.save({"model_state_dict": state | {"encoder.blocks.7.mlp.0.bias": torch.zeros(3)}}, tmp_path / "deep.pt")
    with pytest.raises(ValueError, match="surplus: encoder.blocks.7.mlp.0.bias"):
        released.load_whisper(vae.semantic, tmp_path / "deep.pt")
    with pytest.raises(FileNotFoundError, match="large-v3"):
        released.load_whisper(vae.semantic, tmp_path / "nowhere.pt")


def test_adversary_and_autoencoder_train_in_one_pass():
    torch.manual_seed(0)
    vae = WhisperXVAE(24000, 4, (2, 4, 10, 12), 32, 32, 6, 16, 2.0, 2, 1, crop=10, adversary=2)
    wave = 0.1 * torch.randn(2, 20 * 960)
    def moved(name):
        vae.zero_grad()
        vae.loss(wave, torch.tensor([20, 15]), None, torch.Generator().manual_seed(0))[1][name].backward()
        return {part for part, p in vae.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    for name in ("fool", "match"):
        assert not any(p.startswith("discriminators") for p in moved(name)) and any(p.startswith("acoustic") for p in moved(name))
    assert all(p.startswith("discriminators") for p in moved("judge"))
    assert not any(p.startswith("semantic") for p in moved("meaning"))                   # Whisper is frozen
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-3)
    def step():
        optimizer.zero_grad()
        total, log = vae.loss(wave, torch.tensor([20, 20]), None, torch.Generator().manual_seed(0))
        total.backward()
        optimizer.step()
        return log["mel"].item()
    first = step()
    assert min(step() for _ in range(12)) < 0.9 * first


def test_paper_sizes():
    """Qwen3-0.6B has 596 million parameters, and the release's heads and encoders the sizes that PAPER.md gives."""
    with torch.device("meta"):
        talker = train.build("talker", train.parse_config(["--config", "paper"]))
    count = lambda module: sum(p.numel() for p in module.parameters())
    assert len(talker.backbone.blocks) == 28 and count(talker.backbone) + count(talker.embedding) == 596_049_920
    assert [len(m.blocks) for m in (*talker.heads.values(), *talker.encoders.values())] == [8, 8, 4, 4]
    table = describe(train.parse_config(["--config", "paper"]))
    assert "28 layers" in table and "440,467,456" in table and "GFLOP" in table


def test_backbone_equals_hugging_face():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.Qwen3Config(vocab_size=50, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                                      num_key_value_heads=2, head_dim=16, rope_theta=1e6, tie_word_embeddings=True)
    torch.manual_seed(0)
    theirs = transformers.Qwen3Model(config).eval()
    ours = Backbone(48, 3, 4, 2, 16, 96)
    ours.load_state_dict(released.rename({f"model.{k}": v for k, v in theirs.state_dict().items()}, released.BACKBONE, "model.", ours.state_dict()))
    x, valid = torch.randn(2, 11, 48), torch.ones(2, 11, dtype=torch.bool)
    valid[1, :4] = False
    with torch.inference_mode():
        expected = theirs(inputs_embeds=x, attention_mask=valid.long(), position_ids=torch.arange(11)[None].expand(2, -1)).last_hidden_state
        assert error(ours(x, valid)[valid], expected[valid]) < 1e-5


def test_qwen_ids_end_where_the_speech_begins(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers
    words = {w: i for i, w in enumerate(("[user]", "[assistant]", "hello", "there", "<SPEECH_FRAME>", "?"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", chat_template=template).save_pretrained(tmp_path)
    assert released.qwen_ids("hello there", tmp_path) == [0, 2, 3, 1]
