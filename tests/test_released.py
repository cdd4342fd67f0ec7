"""nanoTalker computes what the released Talker-T2AV computes: numbers recorded from it, to within
1e-5 of their scale.

tests/recordings holds those of the talker's side at width 16. A second, larger source and the
autoencoders' recordings are in ../shared/fixtures; the tests of it skip, with this reason, where
that folder is absent. tests/test_release_files.py reads files in the released format.
"""
import zlib

import pytest
import torch
import torch.nn.functional as F

from autoencoders import average_pairs
from heads import FlowHead
from model import Backbone, PatchEncoder, stop_labels
from paper import weights
from tests.helpers import HOME, error

SOURCES = {"recordings": HOME / "tests" / "recordings",
           "fixtures": HOME.parent / "shared" / "fixtures"}
both_sources = pytest.mark.parametrize("source", SOURCES)


def recorded(name, source="fixtures"):
    if not SOURCES[source].exists():
        pytest.skip("../shared/fixtures (numbers recorded from the released model) is absent")
    found = torch.load(SOURCES[source] / f"{name}.pt", weights_only=True)
    return found["meta"], found.get("state"), found["in"], found["out"]


# --------------------------------------------------------------------------------------- modules
@both_sources
def test_backbone(source):
    m, state, given, out = recorded("qwen3", source)
    backbone = Backbone(m["hidden"], m["layers"], m["heads"], m["kv_heads"], m["head_dim"],
                        m["intermediate"], m["rope_theta"])
    backbone.load_state_dict(
        weights.rename(state, weights.BACKBONE, "model.", backbone.state_dict()))
    valid = given["attention_mask"]
    hidden = backbone(given["inputs_embeds"], valid)
    assert error(hidden[valid], out["last_hidden_state"][valid]) < 1e-5


@both_sources
def test_patch_encoder(source):
    m, state, given, out = recorded("patch_encoder", source)
    encoder = PatchEncoder(1, m["hidden"], m["layers"], m["heads"])
    names = {k: v for k, v in encoder.state_dict().items() if not k.startswith("project.")}
    head_dim = m["hidden"] // m["heads"]
    found = weights.rename(state, weights.PATCH_ENCODER, "", names, head_dim)
    encoder.load_state_dict(found, strict=False)
    assert error(encoder.pool(given["x"]), out["y"]) < 1e-5


def released_head(m, state, latent, condition):
    head = FlowHead(latent, condition, m["hidden"], m["hidden"], m["layers"], m["heads"])
    head.load_state_dict(weights.rename(
        state, weights.HEAD, "", head.state_dict(), m["hidden"] // m["heads"]))
    return head


@both_sources
def test_velocity(source):
    m, state, given, out = recorded("local_dit", source)
    head = released_head(m, state, given["x"].shape[1], given["global_cond"].shape[1])
    velocity = head.velocity(given["x"].mT, given["t"], given["mu"], given["cond"].mT,
                             given["global_cond"])
    assert error(velocity.mT, out["velocity"]) < 1e-5


@both_sources
def test_sampler(source):
    m, state, given, out = recorded("flow_sampler", source)
    head = released_head(m, state, given["noise"].shape[1], given["global_cond"].shape[1])
    for setting, theirs in out.items():           # "steps10_cfg2.0_zerostar1"
        steps, guidance, zero_star = (float(part.lstrip("abcdefghijklmnopqrstuvwxyz"))
                                      for part in setting.split("_"))
        ours = head.sample(
            given["noise"].mT, given["mu"], given["cond"].mT, given["global_cond"], int(steps),
            guidance, 1.0, m["sway"], bool(zero_star))
        assert error(ours.mT, theirs) < 1e-5, setting


@both_sources
def test_stop_labels(source):
    m, _, given, out = recorded("stop_labels", source)
    labels, zeros = stop_labels(
        given["start"], given["length"], m["T"], m["patch_size"], m["fps"])
    assert torch.equal(labels, out["labels"]) and zeros == out["pos_weight"]


# --------------------------------------------------------------------------------- whole talker
@both_sources
@pytest.mark.parametrize("delay", [0, 1])
def test_teacher_forced_talker(delay, source):
    m, state, given, out = recorded(f"talker_delay{delay}", source)
    talker = weights.build_talker(state, delay, m["dit_heads"], m["patch_heads"], m["patch_size"])
    # Their text stands at the left, ours at the right of its columns.
    start = given["patch_span"][:, 0]
    longest = int(start.max())
    text = torch.stack([F.pad(ids[:s], (longest - s, 0), value=-1)
                        for ids, s in zip(given["input_ids"], start.tolist())])
    frames = {"audio": given["audio_len"], "motion": given["motion_len"]}
    # An empty patch at the end, and nothing beyond a sample's own frames.
    P = m["patch_size"]
    length = (max(int(f.max()) for f in frames.values()) // P + 2) * P

    def cut(x, n):
        own = torch.arange(length)[None] < n[:, None]
        return F.pad(x, (0, 0, 0, length - x.shape[1])) * own[..., None]

    latents = {"audio": cut(given["audio_latents"], frames["audio"]),
               "motion": cut(given["motion"], frames["motion"])}
    conditions = {"audio": given["speaker"], "motion": given["motion"][:, 0]}
    present = {"motion": torch.full((len(text),), bool(m["task_tag"]))}
    hidden, inputs, positions = talker.teacher_forced(
        text.clamp(min=0), text >= 0, latents, frames, conditions, present)
    assert torch.equal(positions, given["patch_span"][:, 1] - start)
    for i, (s, n) in enumerate(zip(start.tolist(), (positions + 1).tolist())):
        assert error(hidden[i, :n], out["hidden"][i, s:s + n]) < 1e-5
        assert error(talker.stop(hidden[i, :n]), out["stop_logits"][i, s:s + n]) < 1e-5
    for name, x in inputs.items():
        condition = x.condition[:, None].expand(-1, x.mask.shape[1], -1)[x.mask]
        ours = {"target": x.target[x.mask].mT, "mu": x.hidden[x.mask],
                "history": x.history[x.mask].mT, "global": condition}
        for what, value in ours.items():
            assert error(value, out[f"{name}_{what}"]) < 1e-5, (name, what)


@both_sources
@pytest.mark.parametrize("delay", [0, 1])
def test_generation(delay, source):
    m, state, given, out = recorded(f"generate_delay{delay}", source)
    sizes = recorded(f"talker_delay{delay}", source)[0]   # of the same model
    talker = weights.build_talker(state, m["delay"], sizes["dit_heads"], sizes["patch_heads"])
    assert not talker.encode_absence              # the release adds no token before the delay ends
    draws = iter(m["noise"])
    mask = torch.ones_like(given["text_ids"], dtype=torch.bool)
    conditions = {"audio": given["speaker"], "motion": given["first_motion"][None]}
    steps = list(talker.generate(
        given["text_ids"], mask, conditions, lambda shape: next(draws).mT, m["patches"],
        steps=m["steps"], guidance=m["cfg"], temperature=m["temperature"],
        stop_hits=m["patches"] + 1))
    for name, theirs in (("audio", "audio_latents"), ("motion", "motion")):
        made = torch.cat([patch[name] for patch, _ in steps if name in patch], 1)
        assert error(made, out[theirs]) < 1e-5


# --------------------------------------------------------------------------------- autoencoders
@pytest.mark.parametrize("strides", ["even", "odd"])
def test_audio_autoencoder(strides):
    m, state, given, out = recorded(f"whisperx_vae_{strides}")
    vae = weights.build_audio(state, m["whisper"]["heads"])
    assert (vae.sample_rate, vae.strides) == (m["sample_rate"], tuple(m["strides"]))
    wave = given["wave"][:, 0]
    semantic = vae.semantic(given["mel"][:, 0])
    assert error(semantic, out["whisper_50hz"]) < 1e-5
    assert error(vae.acoustic(wave).mT, out["acoustic"]) < 1e-5
    halves = average_pairs(semantic[:, :2 * out["acoustic"].shape[2]])
    latents, _ = vae.bottleneck(wave, halves)
    assert error(latents, out["latents"]) < 1e-5
    assert error(vae.decode(latents), out["wave"][:, 0]) < 1e-5


def test_motion_autoencoder():
    m, names, given, out = recorded("lia_x")

    def made(name, shape):                        # the recording keeps names and shapes alone
        x = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        return x * 0.1 if name.endswith(("gamma", "bias")) else x

    lia = weights.build_motion({name: made(name, shape) for name, shape in names.items()})
    assert lia.size == m["size"]
    source, driving, motion = (given[k].float() for k in ("source", "driving", "motion"))
    with torch.inference_mode():
        features, code = lia.encode_source(source)
        assert error(code, out["code"]) < 1e-5
        alpha = lia.encode(driving)
        assert error(alpha, out["alpha"]) < 1e-5
        basis = torch.linalg.qr(lia.directions + 1e-8)[0]
        assert error(motion @ basis.T, out["direction"]) < 1e-5
        # Seven levels of warps by random weights amplify rounding: the second recording is itself
        # 1.7e-5 from what float64 gives.
        for ours, theirs, limit in ((alpha, "rgb_by_4", 1e-5),
                                    (motion[:1], "rgb_from_motion_by_4", 5e-5)):
            picture = lia.render(source, features, code, ours[:, None])[:, 0]
            assert error(F.avg_pool2d(picture, 4), out[theirs]) < limit, theirs
