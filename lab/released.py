"""Released Talker-T2AV weights -> nanoTalker's names. The tables below say what goes where; tested on ../shared/fixtures.

Two things are more than a rename: nanoTalker keeps query, key and value (and gate and up) in one matrix, so theirs are
stacked; and the release rotates neighbouring channels (2 i, 2 i + 1) in its patch encoders and heads, where nanoTalker
rotates (i, i + half) everywhere, so the rows of those queries and keys are reordered. Both leave the function as it is.
"""
import functools
import json
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

import train
from heads import FlowHead, SeparateHeads
from lab.joint import for_sampling
from lab.machine import pick_device, prepare_machine
from lab.paper_autoencoders import LIAX, WhisperXVAE, resample
from model import Backbone, Modality, Talker

# ours (with {} for a layer number) <- theirs; several of theirs are stacked in the order given
BACKBONE = {
    "blocks.{}.norm1.weight": "layers.{}.input_layernorm.weight",
    "blocks.{}.attention.qkv.weight": ("layers.{}.self_attn.q_proj.weight", "layers.{}.self_attn.k_proj.weight",
                                       "layers.{}.self_attn.v_proj.weight"),
    "blocks.{}.attention.q_norm.weight": "layers.{}.self_attn.q_norm.weight",
    "blocks.{}.attention.k_norm.weight": "layers.{}.self_attn.k_norm.weight",
    "blocks.{}.attention.out.weight": "layers.{}.self_attn.o_proj.weight",
    "blocks.{}.norm2.weight": "layers.{}.post_attention_layernorm.weight",
    "blocks.{}.mlp.gate_up.weight": ("layers.{}.mlp.gate_proj.weight", "layers.{}.mlp.up_proj.weight"),
    "blocks.{}.mlp.down.weight": "layers.{}.mlp.down_proj.weight",
    "norm.weight": "norm.weight",
}
LOCAL_BLOCKS = {
    "blocks.{}.norm1.weight": "blocks.{}.norm1.scale",
    "blocks.{}.attention.qkv.weight": "blocks.{}.attn.qkv.weight",       # and reordered, see `half_rotary`
    "blocks.{}.attention.out.weight": "blocks.{}.attn.proj.weight",
    "blocks.{}.norm2.weight": "blocks.{}.norm2.scale",
    "blocks.{}.mlp.gate_up.weight": ("blocks.{}.mlp.fc1.weight", "blocks.{}.mlp.fc2.weight"),
    "blocks.{}.mlp.down.weight": "blocks.{}.mlp.proj.weight",
    "norm.weight": "norm.scale",
}
PATCH_ENCODER = LOCAL_BLOCKS | {"cls": "cls_token", "input.weight": "input_proj.weight", "input.bias": "input_proj.bias"}
PROJECTOR = {"project.weight": "linear1.weight", "project.bias": "linear1.bias"}
HEAD = {ours: f"decoder.{theirs}" if isinstance(theirs, str) else tuple(f"decoder.{t}" for t in theirs)
        for ours, theirs in LOCAL_BLOCKS.items()} | {
    f"{ours}.{p}": f"{theirs}.{p}" for p in ("weight", "bias") for ours, theirs in (
        ("noisy_in", "in_proj"), ("history_in", "cond_proj"), ("condition_in", "global_cond_proj"), ("out", "out_proj"),
        ("time.0", "time_mlp.linear_1"), ("time.2", "time_mlp.linear_2"), ("input", "decoder.input_proj"),
        ("step.0", "delta_time_mlp.linear_1"), ("step.2", "delta_time_mlp.linear_2"))}


def half_rotary(qkv: Tensor, head_dim: int) -> Tensor:
    """Rows of a stacked (3 D, D) qkv matrix: channels (0 1 2 3 ...) of each query and key head become (0 2 .. 1 3 ..)."""
    q, k, v = qkv.chunk(3)
    order = torch.cat((torch.arange(0, head_dim, 2), torch.arange(1, head_dim, 2)))
    q, k = (x.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1) for x in (q, k))
    return torch.cat((q, k, v))


def their_names(table: dict, ours: str) -> list[str]:
    """The released names that a parameter of ours is made of, in the order of stacking."""
    layer = next((part for part in ours.split(".") if part.isdigit() and "blocks" in ours), None)
    theirs = table[ours.replace(f"blocks.{layer}.", "blocks.{}.", 1) if layer else ours]
    return [t.format(layer) for t in ((theirs,) if isinstance(theirs, str) else theirs)]


def rename(state: dict[str, Tensor], table: dict, prefix: str, shapes: dict[str, Tensor], head_dim: int | None = None,
           used: set | None = None) -> dict[str, Tensor]:
    """Released `state` -> what a module with the state_dict `shapes` loads. Missing and misshapen keys are listed by name.

    prefix: of their names. head_dim: given where the release rotates neighbouring channels. used: gets the names that were found.
    """
    found, problems = {}, []
    for ours in shapes:
        names = [prefix + name for name in their_names(table, ours)]
        missing = [n for n in names if n not in state]
        if missing:
            problems += [f"missing: {n}" for n in missing]
            continue
        if used is not None:
            used.update(names)
        x = torch.cat([state[n] for n in names])
        if head_dim and ours.endswith("qkv.weight"):
            x = half_rotary(x, head_dim)
        if [n for n in x.shape if n > 1] != [n for n in shapes[ours].shape if n > 1]:    # theirs has axes of length 1 here and there
            problems.append(f"misshapen: {' + '.join(names)} is {tuple(x.shape)}, {ours} needs {tuple(shapes[ours].shape)}")
            continue
        found[ours] = x.reshape(shapes[ours].shape)
    if problems:
        raise ValueError(f"these are not the weights of this model ({len(problems)} problems):\n  " + "\n  ".join(problems[:40]))
    return found


def load_talker(talker, state: dict[str, Tensor], names=(("audio", "speech"), ("motion", "motion"))) -> None:
    """Fill a model.Talker (two modalities, separate heads) with a released speech_llm state dict."""
    used = set()
    def fill(module, table, prefix, local=True, more=None):
        found = rename(state, table, prefix, {n: x for n, x in module.state_dict().items() if not n.startswith("project.")},
                       module.blocks[0].attention.head_dim if local else None, used)
        module.load_state_dict(found | (more or {}))
    fill(talker.backbone, BACKBONE, "llm.model.", local=False)
    for ours, theirs in names:
        fill(talker.heads[ours], HEAD, f"{theirs}_cfm.estimator.")
        encoder = talker.encoders[ours]
        fill(encoder, PATCH_ENCODER, f"{theirs}_patch_encoder.", more=rename(
            state, PROJECTOR, f"projector_{theirs}.", {f"project.{n}": x for n, x in encoder.project.state_dict().items()}, used=used))
    whole = {"llm.model.embed_tokens.weight": talker.embedding.weight, "task_embedding.weight": talker.task.weight,
             "motion_pad_emb": talker.no_video, "head_stop.proj.weight": talker.stop.project.weight,
             "head_stop.proj.bias": talker.stop.project.bias, "head_stop.head.weight": talker.stop.out.weight}
    found = rename(state, {name: name for name in whole}, "", whole, used=used)
    with torch.no_grad():
        for name, ours in whole.items():
            ours.copy_(found[name])
    no_surplus(state, used, ("llm.lm_head.", "pretrained_speech_encoder.", "spk."), "rope.w")        # tied; other models; a table of angles


def no_surplus(state: dict[str, Tensor], used: set[str], others: tuple[str, ...], constant: str) -> None:
    """ValueError with the weights that were not used, but for names that begin like others or end like a constant."""
    surplus = [n for n in state if n not in used and not n.startswith(others) and not n.endswith(constant)]
    if surplus:
        raise ValueError(f"{len(surplus)} weights that this model has no place for:\n  " + "\n  ".join(f"surplus: {n}" for n in surplus[:40]))


# ------------------------------------------------------------------------------------------------------- the autoencoders
# A layer with weight normalisation keeps its gain and its direction apart: theirs weight_g, weight_v.
WHISPER = {f"{ours}.{p}": f"{theirs}.{p}" for p in ("weight", "bias") for ours, theirs in (
    ("conv1", "conv1"), ("conv2", "conv2"), ("norm", "ln_post"), ("blocks.{}.norm1", "blocks.{}.attn_ln"), ("blocks.{}.norm2", "blocks.{}.mlp_ln"),
    ("blocks.{}.query", "blocks.{}.attn.query"), ("blocks.{}.key", "blocks.{}.attn.key"), ("blocks.{}.value", "blocks.{}.attn.value"),
    ("blocks.{}.out", "blocks.{}.attn.out"), ("blocks.{}.up", "blocks.{}.mlp.0"), ("blocks.{}.down", "blocks.{}.mlp.2"))}


def strided(strides: int, decoder: bool) -> dict[str, str]:
    """The table of DAC's encoder or decoder: our flat list of layers <- their blocks, `strides` of them."""
    def layer(ours, theirs):                      # a convolution, an activation
        return {f"layers.{ours}.bias": f"{theirs}.bias", f"layers.{ours}.alpha": f"{theirs}.alpha"} | {
            f"layers.{ours}.parametrizations.weight.original{i}": f"{theirs}.weight_{v}" for i, v in enumerate("gv")}
    table, at = layer(0, "0"), 1
    for block in range(1, strides + 1):
        for part in range(5):                     # three residual units, then activation and convolution; the decoder has these first
            residual = part > 1 if decoder else part < 3
            for inner in range(4) if residual else [None]:
                table |= layer(at if inner is None else f"{at}.layers.{inner}", f"{block}.block.{part}" + ("" if inner is None else f".block.{inner}"))
            at += 1
    return table | layer(at, strides + 1) | layer(at + 1, strides + 2)


def load_audio(vae, state: dict[str, Tensor]) -> None:
    """Fill a WhisperXVAE with the state dict of the released WhisperX-VAE."""
    used = {f"vae.{name}.{part}" for name in ("in_proj", "out_proj") for part in ("weight_g", "weight_v", "bias")}
    require(state, tuple(sorted(used)))
    linear = lambda name: torch._weight_norm(state[f"vae.{name}.weight_v"], state[f"vae.{name}.weight_g"], 0)[..., 0]
    for module, table, prefix in ((vae.acoustic, strided(len(vae.strides), False), "CodecEnc.block."),
                                  (vae.decoder, strided(len(vae.strides), True), "CodecDec.model."),
                                  (vae.semantic, WHISPER, "semantic_model.encoder.")):
        module.load_state_dict(rename(state, table, prefix, module.state_dict(), used=used))
    no_surplus({n: x for n, x in state.items() if n.startswith(("CodecEnc.", "CodecDec.", "vae.", "semantic_model.encoder."))}, used, (),
               "positional_embedding")            # computed here; the rest of the file is the decoder of Whisper, discriminators and so on
    with torch.no_grad():
        for ours, theirs in ((vae.to_latent, "in_proj"), (vae.from_latent, "out_proj")):
            ours.weight.copy_(linear(theirs))
            ours.bias.copy_(state[f"vae.{theirs}.bias"])


def motion_table(levels: int) -> dict[str, str]:
    """The table of LIA-X with so many sizes from 8 x 8 on."""
    table = {"first.weight": "enc.enc_2r.block1.0.weight", "first.bias": "enc.enc_2r.block1.1.bias", "code.weight": "enc.enc_2r.block8.weight",
             "magnitudes.weight": "enc.enc_r2t.0.weight", "magnitudes.bias": "enc.enc_r2t.0.bias",
             "directions": "dec.direction.weight", "start": "dec.input.input"}
    def modulated(ours, theirs):
        return {f"{ours}.weight": f"{theirs}.conv.weight", f"{ours}.bias": f"{theirs}.activate.bias",
                f"{ours}.scale.weight": f"{theirs}.conv.modulation.weight", f"{ours}.scale.bias": f"{theirs}.conv.modulation.bias"}
    table |= modulated("start_conv", "dec.conv1")
    for i in range(levels):
        block = "enc.enc_2r.block_512" if i == levels - 1 else f"enc.enc_2r.block{i + 2}.0"
        table |= {f"down.{i}.conv1.weight": f"{block}.conv1.0.weight", f"down.{i}.conv1.bias": f"{block}.conv1.1.bias",
                  f"down.{i}.conv2.weight": f"{block}.conv2.1.weight", f"down.{i}.conv2.bias": f"{block}.conv2.2.bias",
                  f"down.{i}.skip.weight": f"{block}.skip.1.weight"}
        n = i + 1 if i else "_512"                # dec.conv2_1 and so on, but dec.conv_512_1 for the level that 512 pixels need
        table |= modulated(f"levels.{i}.up", f"dec.conv{n}_1") | modulated(f"levels.{i}.flow", f"dec.flow{n}")
        table |= {f"levels.{i}.flow.bias": f"dec.flow{n}.bias", f"levels.{i}.tint": f"dec.rgb{n}.bias",
                  f"levels.{i}.picture.weight": f"dec.rgb{n}.conv.0.weight", f"levels.{i}.picture.bias": f"dec.rgb{n}.conv.1.bias",
                  f"levels.{i}.grow.weight": f"dec.conv{n}_2_up.1.weight", f"levels.{i}.grow.bias": f"dec.conv{n}_2_up.2.bias"}
        for j in range(4):
            plan, refine = f"dec.conv{n}_2.{j}", f"dec.conv{n}_2_rgb.{j}"
            table |= {f"levels.{i}.plan.{j}.gamma": f"{plan}.gamma", f"levels.{i}.plan.{j}.norm.weight": f"{plan}.norm.weight",
                      f"levels.{i}.plan.{j}.norm.bias": f"{plan}.norm.bias"}
            for k in (1, 2):
                table |= modulated(f"levels.{i}.plan.{j}.conv{k}", f"{plan}.conv{k}")
                table |= {f"levels.{i}.refine.{j}.conv{k}.weight": f"{refine}.conv{k}.0.weight",
                          f"levels.{i}.refine.{j}.conv{k}.bias": f"{refine}.conv{k}.1.bias"}
    return table


def load_motion(lia, state: dict[str, Tensor]) -> None:
    """Fill a LIAX with the released lia-x.pt. The release scales its weights at run time; here that is done once."""
    shapes = {name: x for name, x in lia.state_dict().items() if not name.startswith("normal.")}
    used = set()
    found = rename(state, motion_table(len(lia.levels)), "", shapes, used=used)
    no_surplus(state, used, (), "kernel")         # the smoothing kernels are always the same
    for name, x in found.items():
        if name.endswith(".weight") and x.ndim > 1:
            found[name] = x * x[0].numel() ** -0.5
    lia.load_state_dict(found, strict=False)


# ------------------------------------------------------------------------------------------------------------- whole models
def layers_of(state: dict[str, Tensor], prefix: str) -> int:
    return len({k[len(prefix):].split(".")[0] for k in state if k.startswith(prefix)})


def build_talker(state: dict[str, Tensor], delay=0, dit_heads=8, patch_heads=8, patch=4) -> Talker:
    """The released speech_llm, loaded. Sizes are read off the weights, but for the numbers of heads."""
    require(state, ("llm.model.embed_tokens.weight", "llm.model.layers.0.self_attn.q_norm.weight", "speech_cfm.estimator.in_proj.weight"))
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
        inner = shape(f"{theirs}_cfm.estimator.decoder.input_proj.weight")[0]
        depth = layers_of(state, f"{theirs}_cfm.estimator.decoder.blocks.")
        heads[name] = FlowHead(latent, condition, width, inner, depth, dit_heads)
    talker = Talker(modalities, SeparateHeads(heads), backbone, vocabulary, patch, layers_of(state, "speech_patch_encoder.blocks."), patch_heads)
    load_talker(talker, state)
    return talker.eval()


def start_from(talker: Talker, source: str) -> None:
    """Give a talker its first weights: the backbone and embedding of Qwen3 (a folder of safetensors, or a name on Hugging Face), or
    everything of an earlier run of the same sizes (its folder)."""
    if (Path(source) / "talker.pt").exists():
        talker.load_state_dict(torch.load(Path(source) / "talker.pt", map_location="cpu", weights_only=True)["model"])
        return
    if Path(source).is_dir():
        state = read_weights(Path(source), "*.safetensors")
    else:
        try:
            from transformers import AutoModelForCausalLM
        except ImportError:
            raise RuntimeError(f"'{source}' is no folder; to fetch it from Hugging Face: pip install transformers") from None
        state = AutoModelForCausalLM.from_pretrained(source).float().state_dict()
    talker.backbone.load_state_dict(rename(state, BACKBONE, "model.", talker.backbone.state_dict()))
    talker.embedding.load_state_dict(rename(state, {"weight": "embed_tokens.weight"}, "model.", talker.embedding.state_dict()))


def load_whisper(encoder, path: Path) -> None:
    """Fill a WhisperEncoder with OpenAI's weights, such as large-v3.pt (their file holds the decoder too; it is left out)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Whisper's weights are those that `whisper.load_model('large-v3')` keeps in ~/.cache/whisper")
    state, used = read_weights(path.parent, path.name), set()
    encoder.load_state_dict(rename(state, WHISPER, "encoder.", encoder.state_dict(), used=used))
    no_surplus({n: x for n, x in state.items() if n.startswith("encoder.")}, used, (), "positional_embedding")       # computed here


def build_audio(state: dict[str, Tensor], heads: int | None = None) -> WhisperXVAE:
    """The released WhisperX-VAE, loaded. heads: of Whisper (64 channels each, if not given)."""
    require(state, ("CodecEnc.block.0.weight_v", "vae.out_proj.weight_v", "semantic_model.encoder.positional_embedding"))
    shape = lambda name: state[name].shape
    depth = layers_of(state, "CodecEnc.block.") - 3
    strides = tuple(shape(f"CodecEnc.block.{i + 1}.block.4.weight_v")[2] // 2 for i in range(depth))
    context, width = shape("semantic_model.encoder.positional_embedding")
    samples = int(np.prod(strides))
    vae = WhisperXVAE(25 * samples, shape("CodecEnc.block.0.weight_v")[0], strides, width, shape("CodecDec.model.0.weight_v")[0],
                      shape("vae.out_proj.weight_v")[1], shape("semantic_model.encoder.conv1.weight")[1], context / 50,
                      heads or width // 64, layers_of(state, "semantic_model.encoder.blocks."))
    load_audio(vae, state)
    return vae.eval()


def build_motion(state: dict[str, Tensor]) -> LIAX:
    """The released LIA-X, loaded."""
    require(state, ("dec.direction.weight", "dec.input.input", "dec.conv_512_1.conv.weight"))
    levels = 1 + sum(f"dec.conv{n}_1.conv.weight" in state for n in range(2, 20))
    style, directions = state["dec.direction.weight"].shape
    at = lambda n: state[f"dec.conv{n}_1.conv.weight"].shape[1] if n <= levels else state["dec.input.input"].shape[1]
    lia = LIAX(style, tuple(at(n) for n in (4, 5, 6, 7)), directions, 4 << levels)
    load_motion(lia, state)
    return lia.eval()


def require(state: dict[str, Tensor], names: tuple[str, ...]) -> None:
    """ValueError unless the weights look like what they should be."""
    missing = [n for n in names if n not in state]
    if missing:
        raise ValueError(f"these are not the weights of this model: missing {', '.join(missing)}; there are {', '.join(sorted(state)[:5])} ...")


# -------------------------------------------------------------------------------------------------------------------- files
def read_safetensors(path: Path) -> dict[str, Tensor]:
    """A .safetensors file: eight bytes of length, a JSON header, the numbers."""
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
             "U8": torch.uint8, "BOOL": torch.bool}
    raw = np.memmap(path, np.uint8, "r")
    length = int(raw[:8].view("<u8")[0])
    if length > len(raw):
        raise ValueError(f"{path} is not a safetensors file, or only part of one")
    found = {}
    for name, about in json.loads(raw[8:8 + length].tobytes()).items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + at for at in about["data_offsets"])
        found[name] = torch.frombuffer(bytearray(raw[start:end]), dtype=kinds[about["dtype"]]).reshape(about["shape"])
    return found


def read_weights(folder: Path, pattern: str) -> dict[str, Tensor]:
    """All weights of the files in folder (or below) that match: .safetensors (sharded or not), .ckpt, .pt. Nothing is unpickled."""
    paths = [p for p in sorted(Path(folder).rglob(pattern)) if not p.with_suffix(".weights" + p.suffix).exists()]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no {pattern}")
    found = {}
    for path in paths:
        if path.suffix == ".safetensors":
            found |= read_safetensors(path)
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise ValueError(f"{path} holds more than tensors, and nanoTalker runs no code from a file. To take out the tensors alone, convert it once:\n"
                             f"  python -c \"from lab.released import convert; convert({str(path)!r})\"") from None
        found |= tensors(state)
    return {name: x.float() for name, x in found.items()}


def tensors(state: dict) -> dict[str, Tensor]:
    """The weights of a checkpoint, which may lie one level down."""
    state = state.get("state_dict", state.get("model_state_dict", state))
    return {name: x for name, x in state.items() if isinstance(x, Tensor)}


def convert(path: str) -> None:
    """Write the tensors of a checkpoint that holds more (settings, say) beside it. No code of it runs: other objects become empty dictionaries."""
    path = Path(path)
    empty = type("Empty", (), {"__new__": lambda cls, *_, **__: OrderedDict()})
    with safe_globals([(empty, name) for name in get_unsafe_globals_in_checkpoint(path)]):
        state = torch.load(path, map_location="cpu", weights_only=True)
    out = path.with_suffix(".weights" + path.suffix)
    torch.save(tensors(state), out)
    print(f"{out}: the tensors of {path}, which is read no more. Next: the command that named it")


def read_vector(path: Path, size: int) -> Tensor:
    """A speaker embedding from a .npy or .pt file -> (size,)."""
    try:
        x = torch.from_numpy(np.load(path)) if path.suffix == ".npy" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        x = None
    if not isinstance(x, Tensor) or x.numel() != size:
        raise ValueError(f"{path}: the speaker embedding must be one tensor of {size} numbers; here is {x if x is None else type(x).__name__}")
    return x.float().flatten()


def wavlm_speaker(wave: Tensor, checkpoint: str) -> Tensor:
    """(B, n) at 16 kHz -> (B, 256), by the WavLM speaker model of the release: its `speaker_verification` folder must be importable."""
    try:
        from speaker_verification.verification import init_model
    except ImportError as error:
        raise RuntimeError(f"--wavlm needs the folder speaker_verification of the released code on PYTHONPATH, and what that imports "
                           f"({error}); or give the voice as --speaker FILE (.npy or .pt)") from None
    model = init_model("wavlm_large")             # it fetches WavLM's code with torch.hub; the weights are loaded here, without pickle
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["model"], strict=False)
    return model.eval()(wave.cpu()).float()


def qwen_ids(text: str, folder) -> list[int]:
    """Text -> the token ids before the first patch: Qwen3's chat template, cut where the answer (the speech) begins."""
    tokenizer = qwen_tokenizer(str(folder))
    chat = [{"role": "user", "content": text}, {"role": "assistant", "content": "<SPEECH_FRAME>"}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, enable_thinking=False).partition("<SPEECH_FRAME>")[0]
    return tokenizer(prompt, add_special_tokens=False)["input_ids"]


def find_tokenizer(folder) -> Path | None:
    """The folder at or below this one that holds a tokenizer."""
    found = next(Path(folder).rglob("tokenizer_config.json"), None) if folder and Path(folder).is_dir() else None
    return found and found.parent


@functools.lru_cache
def qwen_tokenizer(folder: str):
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise RuntimeError("the paper's model reads Qwen3's tokens: pip install transformers") from None
    try:
        return AutoTokenizer.from_pretrained(folder)
    except OSError as error:
        raise FileNotFoundError(f"{folder}: no tokenizer of Qwen3 here ({str(error).splitlines()[0][:120]})") from None


def load_models(Models, folder: Path, voice=None, wavlm: str | None = None, device=None):
    """The released Talker-T2AV, from a folder of its files (README), as a sample.Models. voice: a file with the speaker's 256 numbers;
    or wavlm: the checkpoint of the speaker model, which then listens to the clip whose voice is wanted."""
    self = Models.__new__(Models)
    self.folder, self.device = folder, torch.device(device or pick_device())
    dtype = prepare_machine(self.device)
    weights = next(iter(sorted(folder.rglob("*.safetensors"))), folder / "model.safetensors")
    about = weights.parent / "config.json"
    about = json.loads(about.read_text()) if about.exists() else {}
    self.talker = build_talker(read_weights(weights.parent, "*.safetensors"), about.get("delay", 0), about.get("dit_n_head", 8),
                               about.get("patch_encoder_n_head", 8), about.get("patch_size", 4)).to(self.device)
    for_sampling(self.talker, dtype)
    self.audio = build_audio(read_weights(folder, "*.ckpt"), about.get("whisper_n_head")).to(self.device)
    self.motion = build_motion(read_weights(folder, "lia-x*.pt")).to(self.device)
    for name, statistic in (("motion_mean.npy", self.motion.normal.mean), ("motion_std.npy", self.motion.normal.deviation)):
        path = next(folder.rglob(name), None)
        if path is None:
            raise FileNotFoundError(f"{folder} holds no {name}; it is in the folder lia_x of the released code")
        statistic.copy_(torch.from_numpy(np.load(path)).clamp(min=1e-6 if "std" in name else -1e9))
    self.config = train.Config(**train.PRESETS["release"] | dict(
        config="release", data=str(folder), size=self.motion.size, sample_rate=self.audio.sample_rate, patch=self.talker.patch,
        motion_delay=self.talker.modalities["motion"].delay))
    if voice:
        vector = read_vector(Path(voice), self.talker.modalities["audio"].condition).to(self.device)
        self.speaker = lambda wave: vector[None]
    else:
        self.speaker = lambda wave: wavlm_speaker(resample(wave, self.config.sample_rate, 16000), wavlm).to(self.device)
    self.ids = functools.partial(qwen_ids, folder=find_tokenizer(folder) or weights.parent)
    return self
