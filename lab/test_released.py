"""nanoTalker computes what the released Talker-T2AV computes: numbers recorded from it, to within 1e-5 of their scale.

The recordings are in ../shared/fixtures (see its README); the tests are skipped, with this reason, where that folder is absent.
"""
import zlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from autoencoders import pairs
from heads import FlowHead, SeparateHeads
from lab import released
from lab.paper_autoencoders import LIAX, WhisperXVAE
from model import Backbone, Modality, PatchEncoder, Talker, stop_labels
from test_shapes import error

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures"


def recorded(name):
    if not FIXTURES.exists():
        pytest.skip("../shared/fixtures (numbers recorded from the released model) is absent")
    found = torch.load(FIXTURES / f"{name}.pt", weights_only=True)
    return found["meta"], found.get("state"), found["in"], found["out"]


def layers_of(state, prefix):
    return len({k[len(prefix):].split(".")[0] for k in state if k.startswith(prefix)})


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
    assert error(head.velocity(given["x"].mT, given["t"], given["mu"], context).mT, out["velocity"]) < 1e-5


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


def released_talker(state, delay, dit_heads=4, patch_heads=4, patch=4):
    """Sizes are read off the recorded weights, but for the numbers of heads."""
    shape = lambda name: state[name].shape
    vocabulary, width = shape("llm.model.embed_tokens.weight")
    layer = "llm.model.layers.0.self_attn."
    head_dim = shape(layer + "q_norm.weight")[0]
    backbone = Backbone(width, layers_of(state, "llm.model.layers."), shape(layer + "q_proj.weight")[0] // head_dim,
                        shape(layer + "k_proj.weight")[0] // head_dim, head_dim, shape("llm.model.layers.0.mlp.up_proj.weight")[0])
    modalities, heads = {}, {}
    for name, theirs in (("audio", "speech"), ("motion", "motion")):
        latent, condition = (shape(f"{theirs}_cfm.estimator.{p}.weight")[1] for p in ("in_proj", "global_cond_proj"))
        modalities[name] = Modality(latent, condition, delay=delay if name == "motion" else 0)
        depth = layers_of(state, f"{theirs}_cfm.estimator.decoder.blocks.")
        heads[name] = FlowHead(latent, condition, width, width, depth, dit_heads)
    talker = Talker(modalities, SeparateHeads(heads), backbone, vocabulary, patch, layers_of(state, "speech_patch_encoder.blocks."), patch_heads)
    released.load_talker(talker, state)
    return talker.eval()


@pytest.mark.parametrize("delay", [0, 1])
def test_oracle_talker(delay):
    m, state, given, out = recorded(f"talker_delay{delay}")
    talker = released_talker(state, delay, m["dit_heads"], m["patch_heads"], m["patch_size"])
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
    talker, draws = released_talker(state, m["delay"]), iter(m["noise"])
    steps = list(talker.generate(given["text_ids"], torch.ones_like(given["text_ids"], dtype=torch.bool),
                                 {"audio": given["speaker"], "motion": given["first_motion"][None]}, lambda shape: next(draws).mT,
                                 m["patches"], steps=m["steps"], guidance=m["cfg"], temperature=m["temperature"], stop_hits=m["patches"] + 1))
    for name, theirs in (("audio", "audio_latents"), ("motion", "motion")):
        assert error(torch.cat([p[name] for p, _ in steps if name in p], 1), out[theirs]) < 1e-5


@pytest.mark.parametrize("strides", ["even", "odd"])
def test_oracle_audio_autoencoder(strides):
    m, state, given, out = recorded(f"whisperx_vae_{strides}")
    w = m["whisper"]
    vae = WhisperXVAE(m["sample_rate"], m["encoder_base_channels"], tuple(m["strides"]), m["hidden"], m["decoder_channels"], m["latent"],
                      w["n_mels"], 2 * w["ctx"] / 100, w["heads"], w["layers"]).eval()
    released.load_audio(vae, state)
    wave = given["wave"][:, 0]
    semantic = vae.semantic(given["mel"][:, 0])
    assert error(semantic, out["whisper_50hz"]) < 1e-5
    assert error(vae.acoustic(wave).mT, out["acoustic"]) < 1e-5
    latents = vae.bottleneck(wave, pairs(semantic[:, :2 * out["acoustic"].shape[2]]))[0]
    assert error(latents, out["latents"]) < 1e-5
    assert error(vae.decode(latents), out["wave"][:, 0]) < 1e-5


def test_oracle_motion_autoencoder():
    m, names, given, out = recorded("lia_x")
    lia = LIAX(m["style"], tuple(m["channels"]), m["motion"], m["size"]).eval()
    def made(name, shape):                        # the fixture keeps names and shapes; its weights follow a rule
        x = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        return x * 0.1 if name.endswith(("gamma", "bias")) else x
    released.load_motion(lia, {name: made(name, shape) for name, shape in names.items()})
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
