"""How fast, beside this machine's own peak and beside the released code:  python -m lab.bench [peak train sample autoencoders growth]

    peak          matrix products at 2048-cubed, fp32 and bf16, and the pace at which memory is read
    train         one step (forward, backward, optimizer): samples and arithmetic per second
    sample        time to the first patch, real-time factor and memory, at batch 1, 8 and 32, with and without guidance, beside the
                  least time that arithmetic and memory allow
    autoencoders  encode and decode, in seconds of clip per second
    growth        sampling against length, batch and width (with --plot growth.png, needs matplotlib)

--config=PRESET or any field of train.py as --name=value sets the sizes. --released PATH, a checkout of the released code (github.com/zhenye234/Talker-T2AV),
adds its training step and its generation at the same sizes and with the same weights, after checking that both compute the same
numbers; it needs transformers, safetensors and pydantic. What is compared takes turns within one process, and each figure is the
median of its turns. Weights are random: they cost as much as trained ones.
"""
import argparse
import copy
import json
import resource
import sys
import time
import types
from pathlib import Path

from lab.machine import PackedLinear, compile_heads, pack, pick_device, prepare_machine     # before torch
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import train
from data import FPS
from lab.joint import for_sampling

MEDIUM = dict(width=1024, layers=4, heads=16, kv_heads=8, head_dim=128, hidden=3072, patch_layers=1, patch_heads=8, head_width=1024,
              head_layers=2, head_heads=8, repeats=2.0, motion_size=40, speaker_size=256, timbre=0, introduce=0, regression=0.0, muon_rate=0.0, talker_batch=8)


def take_turns(functions: dict, turns=5, warm=1) -> dict[str, float]:
    """name -> function without arguments; name -> median seconds of a call. They alternate, so that a slow moment hits them alike."""
    found = {name: [] for name in functions}
    for turn in tqdm(range(warm + turns), desc=" / ".join(functions)[:40], leave=False, disable=None):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm:
                found[name].append(time.perf_counter() - start)
    return {name: sorted(seconds)[len(seconds) // 2] for name, seconds in found.items()}


def peak(device, side=2048) -> dict[str, float]:
    """dtype -> GFLOP/s of a square matrix product."""
    def product(dtype):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        return lambda: [a @ b for _ in range(4)]
    seconds = take_turns({str(d).removeprefix("torch."): product(d) for d in (torch.float32, torch.bfloat16)})
    return {name: 4 * 2 * side ** 3 / s / 1e9 for name, s in seconds.items()}


def batch_of(config, device, batch: int, patches=16, text=26):
    """Random text and latents of ragged lengths, as Talker.forward takes them."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(patches * 3 // 4, patches + 1, (batch,), generator=generator)
    lengths[0] = patches
    frames = lengths * config.patch
    letters = torch.randint(text * 3 // 4, text + 1, (batch,), generator=generator)
    letters[0] = text
    ids = torch.randint(1, config.vocabulary, (batch, text), generator=generator)
    mask = torch.arange(text)[None] >= text - letters[:, None]
    present = (torch.arange(patches * config.patch)[None] < frames[:, None])[..., None]
    latents = {n: torch.randn(batch, patches * config.patch, d, generator=generator) * present
               for n, d in (("audio", config.audio_latent), ("motion", config.motion_size))}
    conditions = {"audio": torch.randn(batch, config.voice_size, generator=generator), "motion": latents["motion"][:, 0]}
    to = lambda x: {k: v.to(device) for k, v in x.items()} if isinstance(x, dict) else x.to(device)
    return dict(text=to(ids), text_mask=to(mask), latents=to(latents), frames={n: to(frames) for n in latents}, conditions=to(conditions))


def training_step(talker, batch: dict, optimizers: list, device, dtype):
    """A function that takes one step: forward, backward, clipping, optimizers."""
    parameters = [p for p in talker.parameters() if p.requires_grad]
    def step():
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss, _ = talker(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
    return step


def bench_train(config, device, dtype, limit: float) -> dict:
    """limit: GFLOP/s of the machine's own matrix product in the dtype in use."""
    talker = train.build("talker", config).to(device).train()
    batch = batch_of(config, device, config.talker_batch)
    step = training_step(talker, batch, train.optimizers(talker, config, dtype), device, dtype)
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = take_turns({"train": step}, 9, 2)["train"]
    rate = counter.get_total_flops() / seconds / 1e9
    return {"samples/s": config.talker_batch / seconds, "GFLOP/s": rate, "of peak %": 100 * rate / limit}


def generate(talker, config, device, batch: int, patches: int, guidance: float):
    """A function that samples that many patches and returns the seconds until the first one."""
    x = batch_of(config, device, batch)
    def run():
        start, first = time.perf_counter(), None
        for patch, finished in talker.generate(x["text"], x["text_mask"], x["conditions"], lambda shape: torch.randn(shape, device=device), patches,
                                               stop_hits=patches + 1, steps=config.steps, guidance=guidance, temperature=config.temperature):
            first = first or time.perf_counter() - start
        return first
    return run


def bandwidth(device, side=8192) -> float:
    """GB/s at which numbers that fit into no cache are read, to add them up."""
    weight = torch.randn(side, side, device=device)
    return 4 * side ** 2 / take_turns({"bandwidth": lambda: weight.sum()})["bandwidth"] / 1e9


def least_ms(talker, run, patches: int, limits: dict) -> float:
    """Milliseconds that a patch takes at the least: each Linear that run() calls reads its weights (nothing stays in a cache) and multiplies its rows by them."""
    seconds = []
    def count(layer, inputs, output):
        rows, weights = inputs[0].numel() // layer.in_features, layer.in_features * layer.out_features
        dtype = layer.dtype if isinstance(layer, PackedLinear) else layer.weight.dtype
        seconds.append(max(dtype.itemsize * weights / limits["bandwidth"], 2 * weights * rows / limits[str(dtype).removeprefix("torch.")]) / 1e9)
    hooks = [m.register_forward_hook(count) for m in talker.modules() if isinstance(m, (torch.nn.Linear, PackedLinear))]
    run()
    for hook in hooks:
        hook.remove()
    return 1000 * sum(seconds) / patches


def bench_sample(config, device, limits: dict, dtype, compiled: bool) -> list[dict]:
    """One row per batch size and guidance; decoding is not in it (see bench_autoencoders). limits: of this machine, GFLOP/s and GB/s.
    Where sample.py would use dtype for wide weights, rows in float32 stand before these."""
    rows = []
    for kind in dict.fromkeys((torch.float32, dtype)):
        talker = train.build("talker", config).to(device).eval()
        wide = pack(talker, kind)
        if not wide and kind != torch.float32:
            continue
        patches = {b: 4 if wide and b > 1 else 16 for b in (1, 8, 32)}                      # 32 wide clips take seconds a patch
        functions = {(b, g): generate(talker, config, device, b, n, g) for b, n in patches.items() for g in (1.0, 2.0)}
        bounds = {(b, g): least_ms(talker, function, patches[b], limits) for (b, g), function in functions.items()}
        for_sampling(talker, kind)
        if compiled:
            compile_heads(talker)
        seconds = take_turns({str(key): f for key, f in functions.items()})
        for (b, g), function in functions.items():
            first = sorted(function() for _ in range(5))[2]
            cache = 2 * config.layers * b * config.kv_heads * (27 + patches[b]) * config.head_dim * 4
            each, least = 1000 * seconds[str((b, g))] / patches[b], bounds[b, g]
            rows.append({"weights": str(kind).removeprefix("torch."), "batch": b, "guidance": g, "first patch ms": 1000 * first,
                         "real-time factor": each / (1000 * b * config.patch / FPS), "ms a patch": each, "least ms": least,
                         "times the least": each / least, "cache MB": cache / 1e6})
    return rows


def bench_autoencoders(config, device) -> dict:
    """Seconds of clip per second, one clip of 3 s at a time."""
    audio, motion = (train.build(stage, config).to(device).eval() for stage in ("audio", "motion"))
    frames = 75
    wave, pictures = torch.randn(1, frames * config.sample_rate // FPS, device=device) * 0.1, torch.rand(frames, 3, config.size, config.size, device=device)
    with torch.inference_mode():
        latents, moved = audio.encode(wave), motion.encode(pictures)[None]
        seconds = take_turns({"audio encode": lambda: audio.encode(wave), "audio decode": lambda: audio.decode(latents, torch.zeros(1, config.speaker_size, device=device)),
                              "motion encode": lambda: motion.encode(pictures), "motion decode": lambda: motion.decode(pictures[:1], moved)})
    return {name: frames / FPS / s for name, s in seconds.items()}


def bench_growth(config, device, dtype) -> dict[str, list]:
    """Milliseconds per patch of sampling, guidance 2, against seconds of clip, batch and width; the talker as sample.py has it."""
    def per_patch(c, batch: int, patches: int) -> float:
        talker = train.build("talker", c).to(device).eval()
        for_sampling(talker, dtype)
        return 1000 * take_turns({"run": generate(talker, c, device, batch, patches, 2.0)}, 3)["run"] / patches
    changed = lambda **fields: train.dataclasses.replace(config, **fields)
    return {"seconds": [(s, per_patch(config, 1, round(s * FPS / config.patch))) for s in (2, 5, 10, 20, 40, 60)],
            "batch": [(b, per_patch(config, b, 12)) for b in (1, 2, 4, 8, 16, 32)],
            "width": [(w, per_patch(changed(width=w, head_width=w, hidden=3 * w, patch_heads=config.patch_heads * w // config.width,
                                            head_heads=4, head_dim=w // config.heads), 1, 12)) for w in (config.width, 2 * config.width, 4 * config.width)]}


# ------------------------------------------------------------------------------------------------------ the released code
def released_talker(path: Path, config):
    """The released SpeechLLM at the sizes of config, with random weights: (their model, our Talker with the same weights).

    What it imports for other purposes (Liger kernels, WavLM, the audio autoencoder) is replaced by nothing: latents and speaker
    vectors are handed in ready, which spares it that work.
    """
    import transformers
    sys.path.insert(0, str(path))
    sys.modules |= {"liger_kernel": types.ModuleType("liger_kernel"), "liger_kernel.transformers": types.ModuleType("liger_kernel.transformers"),
                    "speaker_verification": types.ModuleType("speaker_verification")}
    sys.modules["liger_kernel.transformers"].AutoLigerKernelForCausalLM = None
    class Given(torch.nn.Module):                 # hands out what was put into it
        def encode(self, audio, feat, return_layout):
            return self.value
        def decode(self, latents, latent_layout):
            return torch.zeros(1, 1, 1)
        def forward(self, wave):
            return self.value
    sys.modules["speaker_verification"].init_model = lambda *names: Given()
    import llama4nar
    import speech_llm
    Sizes, c = llama4nar.DecoderConfig, config
    llama4nar.DecoderConfig = lambda **fields: Sizes(n_layer=c.head_layers, n_head=c.head_heads, feat_dim=c.width, hidden_size=c.width)
    about = lambda attention: transformers.Qwen3Config(
        vocab_size=c.vocabulary, hidden_size=c.width, intermediate_size=c.hidden, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads, head_dim=c.head_dim, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True, attn_implementation=attention)
    arguments = speech_llm.ModelArguments(speech_embedding_dim=c.audio_latent, motion_embedding_dim=c.motion_size, patch_size=c.patch,
                                          delay=c.motion_delay, motion_cfm_weight=c.motion_weight, patch_encoder_n_layer=c.patch_layers,
                                          patch_encoder_n_head=c.patch_heads, cfm_k_repeat=int(c.repeats))
    torch.manual_seed(0)
    theirs = speech_llm.SpeechLLM(transformers.Qwen3ForCausalLM(about("sdpa")), Given(), speech_llm.ProjectorConv1d(arguments, c.audio_latent, c.width),
                                  speech_llm.ProjectorConv1d(arguments, c.motion_size, c.width), about("eager"), arguments)
    from lab.released import build_talker
    ours = build_talker({n: x.detach() for n, x in theirs.state_dict().items()}, c.motion_delay, c.head_heads, c.patch_heads, c.patch)
    ours.heads.repeats = c.repeats
    return theirs, ours


def their_batch(theirs, config, batch: dict) -> dict:
    """Our batch as SpeechLLM.forward takes it: text, then a placeholder per patch, padded on the right."""
    theirs.pretrained_speech_encoder.value, theirs.spk.value = batch["latents"]["audio"], batch["conditions"]["audio"]
    letters, frames = batch["text_mask"].sum(1), batch["frames"]["audio"]
    patches = frames // config.patch
    total = int((letters + patches).max())
    ids, mask = torch.zeros(len(letters), total, dtype=torch.long), torch.zeros(len(letters), total, dtype=torch.long)
    for i, (n, p) in enumerate(zip(letters.tolist(), patches.tolist())):
        ids[i, :n], mask[i, :n + p] = batch["text"][i, -n:], 1
    one = torch.zeros(len(letters), 1, 8)
    return dict(input_ids=ids, attention_mask=mask, feat=one, mel_len=frames, audio=one, audio16k=one, motion_len=frames,
                speech_span=torch.stack((letters, letters + patches), 1), motion=batch["latents"]["motion"], task_tag=torch.ones_like(letters))


def bench_released(path: Path, config, device, dtype) -> list[dict]:
    """Training step and generation of both, same sizes and weights. ValueError if they don't compute the same."""
    theirs, ours = released_talker(path, config)
    batch = batch_of(config, device, config.talker_batch)
    given, seen = their_batch(theirs, config, batch), []
    hook = theirs.head_stop.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    theirs.eval()
    with torch.no_grad():
        theirs(**given)
        hidden = ours.teacher_forced(**batch, paired=torch.ones(config.talker_batch, dtype=torch.bool))[0]
    hook.remove()
    start, n = int(given["speech_span"][0, 0]), int(batch["frames"]["audio"][0]) // config.patch
    difference = ((hidden[0, :n] - seen[0][0, start:start + n]).abs().max() / hidden.abs().max()).item()

    patches, draws = 16, []
    frames = torch.tensor([max(0, patches - 15) * config.patch])
    generated = dict(input_ids=batch["text"][:1], feat=torch.zeros(1), mel_len=frames, audio=torch.zeros(1, 1, 8), audio16k=torch.zeros(1, 1, 8),
                     speech_span=torch.tensor([[batch["text"].shape[1], 0]]), first_motion=batch["conditions"]["motion"][0], prefix_seconds=0.0,
                     cfm_steps=config.steps, cfm_temperature=config.temperature, cfm_cfg=2.0, amp_bf16=False)
    theirs.pretrained_speech_encoder.value = theirs.pretrained_speech_encoder.value[:1]
    theirs.spk.value = theirs.spk.value[:1]
    def run_theirs(kind=torch.float32):
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):             # which it does by itself on a GPU alone
            return theirs.generate_speech_motion(**generated)[3]
    x = {n: v[:1] for n, v in batch["conditions"].items()}
    kinds = {kind: copy.deepcopy(ours) for kind in dict.fromkeys((torch.float32, dtype))}
    wide = [for_sampling(talker, kind) for kind, talker in kinds.items()][0]
    def run_ours(kind=torch.float32):
        noise = lambda shape: torch.randn(shape[0], shape[2], shape[1]).mT
        return torch.cat([p["motion"] for p, _ in kinds[kind].generate(batch["text"][:1], torch.ones_like(batch["text"][:1], dtype=torch.bool), x, noise, patches,
                                                                stop_hits=99, steps=config.steps, guidance=2.0, temperature=config.temperature)], 1)
    for run in (run_theirs, run_ours):
        torch.manual_seed(1)
        draws.append(run())
    difference = max(difference, ((draws[0] - draws[1]).abs().max() / draws[0].abs().max()).item())
    if difference > 1e-3:
        raise ValueError(f"the released code and this one differ by {difference:.1e} of the scale: nothing to compare")

    theirs.train()
    ours.train()
    adam = lambda m: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], 1e-4, betas=(0.9, 0.95), weight_decay=0.01)
    optimizer, their_parameters = adam(theirs), [p for p in theirs.parameters() if p.requires_grad]
    def step_theirs():
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = theirs(**given).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(their_parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    given = their_batch(theirs, config, batch)
    training = take_turns({"ours": training_step(ours, batch, [adam(ours)], device, dtype), "released": step_theirs}, 5, 1)
    theirs.eval()
    theirs.pretrained_speech_encoder.value, theirs.spk.value = batch["latents"]["audio"][:1], batch["conditions"]["audio"][:1]
    what = {f"training step, batch {config.talker_batch}, {dtype}": training}
    for kind in kinds if wide else (torch.float32,):
        what[f"sampling {patches} patches, batch 1, {kind}"] = take_turns({"ours": lambda: run_ours(kind), "released": lambda: run_theirs(kind)}, 5, 1)
    print(f"in float32 hidden states and samples of both differ by {difference:.0e} of their scale")
    return [{"what": name, "ours s": s["ours"], "released s": s["released"], "times": s["released"] / s["ours"]} for name, s in what.items()]


# ----------------------------------------------------------------------------------------------------------------- output
def table(rows: list[dict]) -> str:
    show = lambda x: x if isinstance(x, str) else f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "--:|" * len(rows[0])]
    return "\n".join(lines + ["| " + " | ".join(show(x) for x in row.values()) + " |" for row in rows])


def plot(growth: dict[str, list], path: Path) -> None:
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, len(growth), figsize=(10, 3), layout="constrained")
    for axis, (name, points) in zip(axes, growth.items()):
        axis.plot(*zip(*points), "o-")
        axis.set(xlabel={"seconds": "length of the clip, s"}.get(name, name), ylabel="ms per patch", ylim=(0, None))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["peak", "train", "sample", "autoencoders", "growth"], help="which of the above; none with "
                        "--released alone: `python -m lab.bench none --released PATH`")
    parser.add_argument("--released", type=Path, help="a checkout of the released code")
    parser.add_argument("--medium", action="store_true", help="the widths of `paper` with fewer layers, instead of `small`")
    parser.add_argument("--compile", action="store_true", help="part `sample` as sample.py --compile does, on a GPU")
    parser.add_argument("--plot", type=Path, help="draw the growth here")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    a, fields = parser.parse_known_args()
    config = train.parse_config([f"--{k}={v}" for k, v in (MEDIUM if a.medium else {}).items()] + fields)
    device = pick_device()
    dtype, found = prepare_machine(device), {}
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {dtype}; preset {config.config}" + (", widths of paper" if a.medium else ""))
    if a.released and device.type != "cpu":
        parser.error("--released compares on the CPU: run it with CUDA_VISIBLE_DEVICES= before the command")
    if a.compile and device.type == "cpu":
        parser.error("--compile is for a GPU: a CPU gains nothing by it")
    for part in a.parts:
        if part not in ("peak", "train", "sample", "autoencoders", "growth", "none"):
            parser.error(f"there is no part '{part}' (fields are given as --name=value)")
    if {"peak", "train", "sample"} & set(a.parts):
        found["peak"] = peak(device) | {"bandwidth": bandwidth(device)}
        print(f"\npeak, GFLOP/s, and GB/s of memory read\n{table([found['peak']])}")
    if "train" in a.parts:
        found["train"] = bench_train(config, device, dtype, found["peak"][str(dtype).removeprefix("torch.")])
        print(f"\ntraining, batch {config.talker_batch}\n{table([found['train']])}")
    if "sample" in a.parts:
        found["sample"] = bench_sample(config, device, found["peak"], dtype, a.compile)
        print(f"\nsampling, {config.steps} steps\n{table(found['sample'])}")
    if "autoencoders" in a.parts:
        found["autoencoders"] = bench_autoencoders(config, device)
        print(f"\nautoencoders, seconds of clip per second\n{table([found['autoencoders']])}")
    if "growth" in a.parts:
        found["growth"] = bench_growth(config, device, dtype)
        for what, points in found["growth"].items():
            print(f"\nms per patch against {what}: " + ", ".join(f"{x}: {y:.1f}" for x, y in points))
        if a.plot:
            plot(found["growth"], a.plot)
    if a.released:
        found["released"] = bench_released(a.released, train.dataclasses.replace(config, head_width=config.width, speaker_size=256, timbre=0, introduce=0, regression=0.0,
                                                                              repeats=max(1.0, config.repeats)),
                                           device, dtype)
        print(f"\nbeside the released code (heads as wide as the backbone, the only way it has)\n{table(found['released'])}")
    print(f"\nlargest memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    if a.json:
        a.json.write_text(json.dumps(found, indent=1, default=str) + "\n")
        print(f"{a.json}: the numbers")


if __name__ == "__main__":
    train.plainly(main)
