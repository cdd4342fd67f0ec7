"""What a configuration costs, before it is built:  python train.py --config paper --describe

Everything is made on torch's meta device, where tensors have shapes and no memory, so the table of a 1 B model takes seconds on a
laptop. Parameters and floating-point operations are counted, not estimated; a multiplication and an addition are two operations.
"""
import torch
from torch.utils.flop_counter import FlopCounterMode

import train
from autoencoders import FPS


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def operations(function) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def saved_bytes(function) -> int:
    """Bytes of activations that autograd keeps for the backward pass of function()."""
    kept = {}
    def keep(x):
        if not isinstance(x, torch.nn.Parameter):
            kept[id(x)] = x                       # the tensor itself is held, so that no second one gets its id
        return x
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        function()
    return sum(x.numel() * x.element_size() for x in kept.values())


def describe(config, seconds=10.0) -> str:
    """The table for a train.Config; seconds: of audio-video in the sample that the memory is for."""
    with torch.device("meta"):
        talker = train.build("talker", config).to(torch.bfloat16)
        others = {stage: train.build(stage, config) for stage in ("audio", "motion", "speaker")}
    P, D, N = config.patch, config.width, round(seconds * FPS / config.patch)
    per_second = FPS / P
    rows = [(f"backbone, {config.layers} layers", count(talker.backbone)), ("text embedding and task tags", count(talker.embedding) + count(talker.task))]
    rows += [(f"patch encoder, {name}", count(m)) for name, m in talker.encoders.items()]
    rows += [(f"flow-matching head, {name}", count(m)) for name, m in talker.heads.items()]
    rows += [("stop predictor, auxiliary regression, rest", count(talker.stop) + count(talker.regressors) + talker.no_video.numel())]
    total = sum(n for _, n in rows)
    assert total == count(talker)
    meta = lambda *shape: torch.zeros(*shape, device="meta", dtype=torch.bfloat16)
    rows += [("**Talker**", total)]
    for stage, m in others.items():
        rows += [(f"{stage}: {name}", count(part)) for name, part in m.named_children() if stage != "speaker" and count(part) > total / 1000]
        rows += [(f"**{stage} {'encoder' if stage == 'speaker' else 'autoencoder'}**", count(m))]
    lines = ["| part | parameters |", "|---|--:|"] + [f"| {name} | {n:,} |" for name, n in rows]

    cache = talker.backbone.new_cache(1, N + 1)
    for layer in cache:
        layer.length = N                          # a step at the end of the sample
    evaluations = config.steps - max(1, int(0.04 * (config.steps + 1)))
    rows_per_evaluation = 1 if config.guidance == 1 else 2
    sampling = {"backbone": operations(lambda: talker.backbone(meta(1, 1, D), None, cache))}
    for name, m in talker.modalities.items():
        head, context = talker.heads[name], meta(rows_per_evaluation, 1 + P, D)
        sampling[f"head, {name}"] = evaluations * operations(lambda: head.velocity(
            meta(rows_per_evaluation, P, m.latent), meta(rows_per_evaluation), meta(rows_per_evaluation, D), context))
        sampling[f"patch encoder, {name}"] = operations(lambda: talker.encoders[name](meta(1, 1, P, m.latent)))

    def step():
        B = 1
        mask = torch.ones(B, N, dtype=torch.bool, device="meta")
        hidden = talker.backbone(meta(B, N + 1, D))
        total = hidden.sum()
        for name, m in talker.modalities.items():
            rows = B * N * config.repeats
            total = total + talker.encoders[name](meta(B, N, P, m.latent)).sum()
            total = total + talker.heads[name].velocity(meta(rows, P, m.latent), meta(rows), meta(rows, D), meta(rows, 1 + P, D)).sum()
        return total, mask
    training = 3 * operations(step)               # the backward pass takes twice the forward pass
    activations = saved_bytes(step)
    one = sum(sampling.values()) * per_second
    keys = 2 * 2 * config.layers * config.kv_heads * config.head_dim * (N + 1)
    GB = 1e9
    lines += ["", f"Sampling takes {one / 1e9:,.1f} GFLOP per second of audio-video ({config.steps} steps, guidance {config.guidance:g}): "
              + ", ".join(f"{name} {n * per_second / 1e9:,.1f}" for name, n in sampling.items()) + ".",
              f"Training takes {training / seconds / 1e9:,.1f} GFLOP per second of audio-video ({config.repeats} draws per target).",
              f"Memory of the Talker for sampling, bf16: {(2 * total + keys) / GB:.2f} GB ({keys / GB:.3f} GB of it keys and values of {seconds:g} s).",
              f"For training: {16 * total / GB:.2f} GB (fp32 weights, gradients, AdamW) and {activations / GB:.2f} GB of activations per {seconds:g}-s sample"
              " in bf16, nothing recomputed."]
    return "\n".join(lines)
