"""The reference implementation (`transformers`), run with everything worth comparing kept."""

from __future__ import annotations

import math
import re
from pathlib import Path

import corpus
import torch
from text import DEEPSEEK_SPECIALS
from weights import rng_for

DECODE_STEPS = 32


def load_reference(directory: Path, dtype: torch.dtype):
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval()


class Recorder:
    """Forward hooks that keep every intermediate worth comparing."""

    def __init__(self, model):
        self.model, self.handles, self.data = model, [], {}

    def __enter__(self):
        core = self.model.model
        self._hook(core.embed_tokens, "hidden.0")
        for i, layer in enumerate(core.layers):
            self._hook(layer, f"hidden.{i + 1}")
            self._hook(layer.self_attn, f"attn.{i}")
            self._hook(layer.mlp, f"mlp.{i}")
            self._hook(layer.self_attn.kv_a_layernorm, f"mla.{i}.c_kv")
            self._pre_hook(layer.self_attn.o_proj, f"mla.{i}.heads_out")
            if hasattr(layer.mlp, "gate"):
                self._hook(layer.mlp.gate, f"router.{i}")
        self._hook(core.norm, "hidden.final")
        return self

    def __exit__(self, *exc):
        for handle in self.handles:
            handle.remove()

    def _hook(self, module, key):
        def hook(_, __, output):
            self.data[key] = output if key.startswith("router.") else (output[0] if isinstance(output, tuple) else output)

        self.handles.append(module.register_forward_hook(hook))

    def _pre_hook(self, module, key):
        self.handles.append(module.register_forward_pre_hook(lambda _, args: self.data.__setitem__(key, args[0])))


def sort_routing(weights: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Descending weight, then ascending index: a canonical order for comparing."""
    by_index = indices.argsort(dim=-1)
    weights, indices = weights.gather(-1, by_index), indices.gather(-1, by_index)
    order = weights.argsort(dim=-1, descending=True, stable=True)
    return weights.gather(-1, order), indices.gather(-1, order)


def selection_margin(logits: torch.Tensor, cfg: dict, bias: torch.Tensor) -> torch.Tensor:
    """How far each token is from choosing a different set of experts (in score units)."""
    scores = logits.sigmoid() + bias
    groups = cfg.get("n_group") or 1
    margin = torch.full(logits.shape[:1], math.inf)
    if groups > 1:
        per_group = scores.view(len(scores), groups, -1)
        group_score = per_group.topk(2, -1).values.sum(-1)
        keep = cfg["topk_group"]
        if keep < groups:
            ranked = group_score.sort(-1, descending=True).values
            margin = torch.minimum(margin, ranked[:, keep - 1] - ranked[:, keep])
        chosen = group_score.topk(keep, -1).indices
        mask = torch.zeros_like(group_score, dtype=torch.bool).scatter_(1, chosen, True)
        scores = per_group.masked_fill(~mask[..., None], -math.inf).flatten(1)
    ranked = scores.sort(-1, descending=True).values
    k = cfg["num_experts_per_tok"]
    return torch.minimum(margin, ranked[:, k - 1] - ranked[:, k])


def top2_margin(logits: torch.Tensor) -> torch.Tensor:
    top = logits.float().topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def greedy(model, input_ids: list[int], steps: int) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Prefill once, then decode one token at a time with the cache.

    Returns (tokens, logits that chose each token [steps, V], prefill logits [T, V]).
    """
    out = model(input_ids=torch.tensor([input_ids]), use_cache=True)
    prefill, cache = out.logits[0], out.past_key_values
    tokens, rows, row = [], [], prefill[-1]
    for step in range(steps):
        rows.append(row)
        tokens.append(int(row.argmax()))
        if step + 1 < steps:
            out = model(input_ids=torch.tensor([[tokens[-1]]]), past_key_values=cache, use_cache=True)
            cache, row = out.past_key_values, out.logits[0, -1]
    return tokens, torch.stack(rows), prefill


def candidate_prompts(tok, length: int, count: int, seed: int):
    """Prompts of exactly `length` ids (BOS included) cut from the corpus, that re-encode to themselves."""
    bos = tok.token_to_id(DEEPSEEK_SPECIALS[0])
    text = " ".join(corpus.PROSE.split())
    starts = [m.start() for m in re.finditer(r"(?<=[.;:,] )\w", text)]
    order = rng_for(seed, f"prompts.{length}").permutation(len(starts))
    doubled, found = text + " " + text, 0
    for j in order:
        piece = doubled[starts[j] : starts[j] + 40 * length]
        ids = tok.encode(piece, add_special_tokens=False).ids[: length - 1]
        cut = tok.decode(ids)
        if len(ids) == length - 1 and tok.encode(cut, add_special_tokens=False).ids == ids:
            yield [bos, *ids], cut
            found += 1
            if found == count:
                return


def kl_divergence(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def difference(reference: torch.Tensor, other: torch.Tensor) -> dict:
    reference, other = reference.float(), other.float()
    delta = (reference - other).abs()
    kl = kl_divergence(reference, other)
    return {
        "max_abs": float(delta.max()),
        "rms": float(delta.pow(2).mean().sqrt()),
        "kl_mean": float(kl.mean()),
        "kl_max": float(kl.max()),
        "argmax_agreement": float((reference.argmax(-1) == other.argmax(-1)).float().mean()),
    }


def sequence_margins(model, cfg: dict, sequence: list[int]) -> tuple[torch.Tensor, dict]:
    """Per position, the smallest expert-selection margin over all layers; and the chosen experts."""
    with Recorder(model) as rec:
        model(input_ids=torch.tensor([sequence]))
    routers = {k: v for k, v in rec.data.items() if k.startswith("router.")}
    margins = [selection_margin(v[0].float(), cfg, gate_bias(model, k)) for k, v in routers.items()]
    return torch.stack(margins).amin(0), {k: v[2].sort(-1).values for k, v in routers.items()}


def choose_prompt(case: dict, tok, model, model_low, special_ids: set[int]) -> tuple[list[int], str, dict]:
    """The prompt whose 32-token greedy continuation is the least ambiguous one.

    Requirements: no special token and no id without a tokenizer entry in the
    continuation, no near-tie between experts anywhere.  Among the candidates
    that pass, prefer those without a near-tie between tokens, then the one
    where the bfloat16 reference agrees longest, then the one where it changes
    experts least often, then the largest smallest top-2 margin.
    """
    cfg, length = case["config"], case["prompt_len"]
    best = None
    tried = 0
    for ids, text in candidate_prompts(tok, length, case.get("candidates", 40), case["seed"]):
        tried += 1
        tokens, rows, _ = greedy(model, ids, DECODE_STEPS)
        if any(t in special_ids or t >= tok.get_vocab_size() for t in tokens):
            continue
        margins, experts = sequence_margins(model, cfg, ids + tokens)
        if float(margins.min()) < 1e-4:
            continue
        margin = float(top2_margin(rows).min())
        agree, flips = DECODE_STEPS, 0
        if model_low is not None:
            low, _, _ = greedy(model_low, ids, DECODE_STEPS)
            agree = next((i for i, (a, b) in enumerate(zip(tokens, low)) if a != b), DECODE_STEPS)
            _, low_experts = sequence_margins(model_low, cfg, ids + tokens)
            flips = sum(int((experts[k] != low_experts[k]).any(-1).sum()) for k in experts)
        key = (margin >= 0.01, agree, -flips, min(len(set(tokens)), 10), margin)
        if best is None or key > best[0]:
            best = (key, ids, text, {"rows_with_other_experts_in_bf16": flips})
    if best is None:
        raise RuntimeError(f"{case['name']}: none of {tried} candidate prompts qualifies; change the seed")
    return best[1], best[2], best[3] | {"candidates_tried": tried}


def gate_bias(model, key: str) -> torch.Tensor:
    layer = int(key.split(".")[1])
    return model.model.layers[layer].mlp.gate.e_score_correction_bias


def interleave_rope(x: torch.Tensor) -> torch.Tensor:
    """V3 reference keeps rotated pairs as two halves; put them back next to each other."""
    half = x.shape[-1] // 2
    return torch.stack([x[..., :half], x[..., half:]], dim=-1).flatten(-2)


def run_mtp(model, directory: Path, cfg: dict, sequence: list[int]) -> dict[str, torch.Tensor]:
    """Draft logits of the multi-token-prediction layer for every position of `sequence`.

    Row i combines the main model's final hidden state at position i (after
    `model.norm`) with the embedding of token i+1 and predicts token i+2.
    """
    from transformers.cache_utils import MtpCache
    from transformers.modeling_layers import MtpModel

    # The reference only looks for the released models' own layer number; widen it.
    saved = model._keys_to_ignore_on_load_unexpected
    model._keys_to_ignore_on_load_unexpected = {rf"model\.layers\.{cfg['num_hidden_layers']}\..*"}
    try:
        mtp = MtpModel.from_pretrained(model)
    finally:
        model._keys_to_ignore_on_load_unexpected = saved
    mtp.config._attn_implementation = "eager"
    mtp.config._experts_implementation = "eager"
    mtp.eval()
    captured = {}
    handle = model.model.norm.register_forward_hook(lambda _, args, out: captured.update(pre=args[0], post=out))
    model(input_ids=torch.tensor([sequence]))
    handle.remove()
    result = {}
    for key, hidden in (("mtp.hidden", captured["post"]), ("mtp.alt", captured["pre"])):
        out = mtp.forward_layer(
            0,
            hidden[:, :-1],
            torch.arange(1, len(sequence)).unsqueeze(0),
            MtpCache(config=model.config.get_mtp_config()),
            input_ids=torch.tensor([sequence[1:]]),
        )
        result[key] = out[0]
    result["mtp.logits"] = mtp._project_to_logits(result["mtp.hidden"])
    alternative = mtp._project_to_logits(result.pop("mtp.alt"))
    result["mtp.draft_tokens"] = result["mtp.logits"].argmax(-1)
    result["mtp.draft_tokens_prenorm"] = alternative.argmax(-1)
    result["_prenorm_difference"] = difference(result["mtp.logits"], alternative)
    return result
