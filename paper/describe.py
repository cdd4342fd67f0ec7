"""What a configuration costs, before it is built:

    python -m paper.describe --config paper [--field=value ...]

Everything is made on torch's meta device, where tensors have shapes and no memory, so the table of
a 1 B model takes seconds on a laptop. Parameters and floating-point operations are counted, not
estimated; a multiplication and an addition are two operations.
"""
import sys

from engine.processes import plainly
import torch
from torch.utils.flop_counter import FlopCounterMode

import train
from model import FPS


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def operations(function) -> float:
    """Floating-point operations of function()."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def saved_bytes(function, parameters: set[int]) -> int:
    """Bytes of activations that autograd keeps for the backward pass of function(): each storage
    once, and no parameter's."""
    kept = {}

    def keep(x):
        storage = x.untyped_storage()
        kept[storage._cdata] = storage            # held, so that no second one gets its address
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        function()
    return sum(storage.nbytes() for at, storage in kept.items() if at not in parameters)


def meta(*shape) -> torch.Tensor:
    return torch.zeros(*shape, device="meta", dtype=torch.bfloat16)


def parameter_rows(talker, config, others: dict) -> list[tuple[str, int]]:
    """(part, parameters) of the Talker, which add up to the row that says so, and of the rest."""
    names = {"backbone": f"backbone, {config.layers} layers", "embedding": "text embedding",
             "task": "task tags", "condition_in": "speaker embedding to the backbone",
             "absent": "tokens of absent streams", "stop": "stop predictor",
             "regressors": "auxiliary regression"}
    rows = []
    for name, module in talker.named_children():
        parts = module.items() if isinstance(module, torch.nn.ModuleDict) else [("", module)]
        if name == "regressors":
            parts = [("", module)]
        for stream, part in parts:
            title = {"encoders": f"patch encoder, {stream}",
                     "heads": f"flow-matching head, {stream}" if stream else "joint heads"}
            rows.append((title.get(name, names.get(name, name)), count(part)))
    rows = [(name, n) for name, n in rows if n]
    rows.append(("**Talker**", sum(n for _, n in rows)))
    total = rows[-1][1]
    for stage, module in others.items():
        if stage != "speaker":
            rows += [(f"{stage}: {name}", count(part)) for name, part in module.named_children()
                     if count(part) > total / 1000]
        kind = "encoder" if stage == "speaker" else "autoencoder"
        rows.append((f"**{stage} {kind}**", count(module)))
    return rows


def sampling_operations(talker, config, positions: int) -> dict[str, float]:
    """Operations of one patch at the end of a sample, by part."""
    P, D = config.patch, config.width
    cache = talker.backbone.new_cache(1, positions + 1)
    for layer in cache:
        layer.length = positions
    found = {"backbone": operations(lambda: talker.backbone(meta(1, 1, D), None, cache))}
    # One velocity per Euler step that moves, two where guidance needs both.
    evaluations = config.steps - max(1, int(0.04 * (config.steps + 1)))
    rows = 1 if config.guidance == 1 else 2
    for name, m in talker.modalities.items():
        x, hidden, condition = meta(rows, P, m.latent), meta(rows, D), meta(rows, m.condition)
        if isinstance(talker.heads, torch.nn.ModuleDict):
            velocity = talker.heads[name].velocity
            found[f"head, {name}"] = evaluations * operations(
                lambda: velocity(x, meta(rows), hidden, x, condition))
        found[f"patch encoder, {name}"] = operations(
            lambda: talker.encoders[name](meta(1, 1, P, m.latent)))
    return found


def training_pass(talker, config, positions: int):
    """The forward pass of one sample, as a function."""
    P, D = config.patch, config.width

    def forward():
        loss = talker.backbone(meta(1, positions + 1, D)).sum()
        n = round(positions * config.flow_repeats)
        for name, m in talker.modalities.items():
            loss = loss + talker.encoders[name](meta(1, positions, P, m.latent)).sum()
            if isinstance(talker.heads, torch.nn.ModuleDict):
                x = meta(n, P, m.latent)
                loss = loss + talker.heads[name].velocity(
                    x, meta(n), meta(n, D), x, meta(n, m.condition)).sum()
        return loss

    return forward


def describe(config, seconds=10.0) -> str:
    """The table for a train.Config. seconds: of audio-video in the sample that the memory is
    for."""
    with torch.device("meta"):
        talker = train.build("talker", config).to(torch.bfloat16)
        others = {stage: train.build(stage, config) for stage in ("audio", "motion", "speaker")}
    rows = parameter_rows(talker, config, others)
    lines = ["| part | parameters |", "|---|--:|"]
    lines += [f"| {name} | {n:,} |" for name, n in rows]

    # Operations of sampling, decoding and training.
    positions = round(seconds * FPS / config.patch)
    per_second = FPS / config.patch
    sampling = sampling_operations(talker, config, positions)
    with torch.device("meta"):
        latents = torch.zeros(1, FPS, config.audio_latent)
        speaker = torch.zeros(1, config.speaker_size)
        picture = torch.zeros(1, 3, config.size, config.size)
        motion = torch.zeros(1, 1, config.motion_size)
        decoding = {
            "audio decoder": operations(lambda: others["audio"].decode(latents, speaker)),
            "motion decoder": FPS * operations(lambda: others["motion"].decode(picture, motion))}
    forward = training_pass(talker, config, positions)
    training = 3 * operations(forward)            # the backward pass takes twice the forward pass

    # Memory. Weights and KV cache in bf16 for sampling; fp32 weights, gradients and two moments
    # for training.
    own = {p.untyped_storage()._cdata for p in talker.parameters()}
    activations = saved_bytes(forward, own)
    total = count(talker)
    cache = 2 * 2 * config.layers * config.kv_heads * config.head_dim * (positions + 1)
    gflop = sum(sampling.values()) * per_second / 1e9
    parts = ", ".join(f"{name} {n * per_second / 1e9:,.1f}" for name, n in sampling.items())
    decoded = ", ".join(f"{name} {n / 1e9:,.1f} GFLOP" for name, n in decoding.items())
    lines += [
        "",
        f"Sampling takes {gflop:,.1f} GFLOP per second of audio-video ({config.steps} steps, "
        f"guidance {config.guidance:g}): {parts}.",
        f"Decoding takes, per second of audio-video, {decoded}.",
        f"Training takes {training / seconds / 1e9:,.1f} GFLOP per second of audio-video "
        f"({config.flow_repeats:g} draws per target).",
        f"Memory of the Talker for sampling, bf16: {(2 * total + cache) / 1e9:.2f} GB "
        f"({cache / 1e9:.3f} GB of it the KV cache of {seconds:g} s).",
        f"For training: {16 * total / 1e9:.2f} GB (fp32 weights, gradients, AdamW) and "
        f"{activations / 1e9:.2f} GB of activations per {seconds:g}-s sample in bf16, nothing "
        f"recomputed."]
    return "\n".join(lines)


def main() -> None:
    print(describe(train.parse_config(sys.argv[1:])))


if __name__ == "__main__":
    plainly(main)
