"""A DeepSeek-V3-shaped decoder in plain torch, small enough to train on a CPU.

The formulas are those of the released models: latent attention, interleaved rotary pairs, sigmoid routing with
groups and a selection bias, one shared expert, and one multi-token-prediction layer behind the trunk.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Config:
    vocab: int = 2048
    hidden: int = 192
    layers: int = 5
    dense_layers: int = 1
    heads: int = 4
    q_rank: int = 96
    kv_rank: int = 64
    nope: int = 32
    rope: int = 16
    value: int = 32
    dense_width: int = 512
    expert_width: int = 64
    experts: int = 16
    groups: int = 4
    kept_groups: int = 2
    chosen: int = 4
    scale: float = 1.5
    context: int = 512
    rope_base: float = 10000.0
    eps: float = 1e-6


def matrix(rows: int, cols: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, cols) * cols**-0.5)


class Norm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


def rotary_table(config: Config, length: int):
    inverse = config.rope_base ** (-torch.arange(0, config.rope, 2).double() / config.rope)
    angle = torch.arange(length).double()[:, None] * inverse[None]
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """Rotate neighbouring channel pairs; x is [batch, time, heads, rope]."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    cos, sin = cos[None, :, None], sin[None, :, None]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.q_a, self.q_norm = matrix(c.q_rank, c.hidden), Norm(c.q_rank, 1e-6)
        self.q_b = matrix(c.heads * (c.nope + c.rope), c.q_rank)
        self.kv_a, self.kv_norm = matrix(c.kv_rank + c.rope, c.hidden), Norm(c.kv_rank, 1e-6)
        self.kv_b = matrix(c.heads * (c.nope + c.value), c.kv_rank)
        self.o = matrix(c.hidden, c.heads * c.value)

    def forward(self, x, table, mask):
        c, (b, t, _) = self.c, x.shape
        q = F.linear(self.q_norm(F.linear(x, self.q_a)), self.q_b).view(b, t, c.heads, c.nope + c.rope)
        latent, shared = F.linear(x, self.kv_a).split((c.kv_rank, c.rope), -1)
        kv = F.linear(self.kv_norm(latent), self.kv_b).view(b, t, c.heads, c.nope + c.value)
        key, value = kv.split((c.nope, c.value), -1)
        q_rope = rotate(q[..., c.nope :], *table)
        k_rope = rotate(shared.view(b, t, 1, c.rope), *table).expand(b, t, c.heads, c.rope)
        q = torch.cat((q[..., : c.nope], q_rope.to(q.dtype)), -1).transpose(1, 2)
        k = torch.cat((key, k_rope.to(key.dtype)), -1).transpose(1, 2)
        score = (q @ k.transpose(-1, -2)).float() * (c.nope + c.rope) ** -0.5 + mask
        weight = score.softmax(-1).to(value.dtype)
        mixed = (weight @ value.transpose(1, 2)).transpose(1, 2).reshape(b, t, -1)
        return F.linear(mixed, self.o)


class Mlp(nn.Module):
    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.gate, self.up, self.down = matrix(width, hidden), matrix(width, hidden), matrix(hidden, width)

    def forward(self, x):
        return F.linear(F.silu(F.linear(x, self.gate)) * F.linear(x, self.up), self.down)


class Experts(nn.Module):
    """Routed experts plus the shared one. Tokens are sorted by expert and padded to the busiest expert."""

    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.router = nn.Parameter(torch.randn(c.experts, c.hidden) * c.hidden**-0.5)
        self.register_buffer("bias", torch.zeros(c.experts))
        shape = (c.experts, c.expert_width, c.hidden)
        self.gate = nn.Parameter(torch.randn(shape) * c.hidden**-0.5)
        self.up = nn.Parameter(torch.randn(shape) * c.hidden**-0.5)
        self.down = nn.Parameter(torch.randn(c.experts, c.hidden, c.expert_width) * c.expert_width**-0.5)
        self.shared = Mlp(c.hidden, c.expert_width)
        self.load = None
        self.balance = 0.0

    def route(self, x):
        c = self.c
        with torch.autocast("cpu", enabled=False):
            score = F.linear(x.float(), self.router).sigmoid()
        biased = (score + self.bias).detach()
        group = biased.view(-1, c.groups, c.experts // c.groups).topk(2, -1).values.sum(-1)
        kept = torch.zeros_like(group).scatter_(1, group.topk(c.kept_groups, -1).indices, 1.0)
        allowed = kept.repeat_interleave(c.experts // c.groups, -1) > 0
        index = biased.masked_fill(~allowed, float("-inf")).topk(c.chosen, -1).indices
        weight = score.gather(1, index)
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20) * c.scale
        if self.training:
            load = torch.bincount(index.flatten(), minlength=c.experts).float()
            self.load = load
            share = (score / score.sum(-1, keepdim=True)).mean(0)
            self.balance = (share * load / load.mean()).sum()
        return index, weight

    def forward(self, x):
        c, shape = self.c, x.shape
        x = x.reshape(-1, c.hidden)
        index, weight = self.route(x)
        flat, order = index.flatten().sort(stable=True)
        count = torch.bincount(flat, minlength=c.experts)
        capacity = int(count.max())
        start = count.cumsum(0) - count
        slot = flat * capacity + torch.arange(len(flat)) - start[flat]
        source = torch.zeros(c.experts * capacity, dtype=torch.long)
        source[slot] = order // c.chosen
        place = torch.empty_like(order)
        place[order] = slot
        packed = x.index_select(0, source).view(c.experts, capacity, c.hidden)
        inner = F.silu(packed @ self.gate.transpose(1, 2)) * (packed @ self.up.transpose(1, 2))
        out = (inner @ self.down.transpose(1, 2)).view(-1, c.hidden)
        out = out.index_select(0, place).view(-1, c.chosen, c.hidden)
        routed = (out.float() * weight[..., None]).sum(1)
        return (routed + self.shared(x)).view(shape)


class Layer(nn.Module):
    def __init__(self, c: Config, dense: bool):
        super().__init__()
        self.norm1, self.norm2 = Norm(c.hidden, c.eps), Norm(c.hidden, c.eps)
        self.attention = Attention(c)
        self.ffn = Mlp(c.hidden, c.dense_width) if dense else Experts(c)

    def forward(self, x, table, mask):
        x = x + self.attention(self.norm1(x), table, mask)
        return x + self.ffn(self.norm2(x))


class Draft(nn.Module):
    """The multi-token-prediction layer: from the hidden state at i and token i+1 it predicts token i+2."""

    def __init__(self, c: Config):
        super().__init__()
        self.enorm, self.hnorm, self.out_norm = (Norm(c.hidden, c.eps) for _ in range(3))
        self.join = matrix(c.hidden, 2 * c.hidden)
        self.layer = Layer(c, dense=False)

    def forward(self, embedded, hidden, table, mask):
        joined = torch.cat((self.enorm(embedded), self.hnorm(hidden)), -1)
        return self.out_norm(self.layer(F.linear(joined, self.join), table, mask))


class Model(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.embed = nn.Parameter(torch.randn(c.vocab, c.hidden))
        self.head = nn.Parameter(torch.randn(c.vocab, c.hidden) * 0.5 * c.hidden**-0.5)
        self.layers = nn.ModuleList(Layer(c, i < c.dense_layers) for i in range(c.layers))
        self.norm = Norm(c.hidden, c.eps)
        self.draft = Draft(c)
        cos, sin = rotary_table(c, c.context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def mask(self, tokens, document=None):
        t = tokens.shape[1]
        allowed = torch.ones(t, t, dtype=torch.bool).tril()[None]
        if document is not None:
            allowed = allowed & (document[:, :, None] == document[:, None, :])
        return torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))[:, None]

    def trunk(self, tokens, document=None):
        t = tokens.shape[1]
        x, mask = F.embedding(tokens, self.embed), self.mask(tokens, document)
        table = (self.cos[:t], self.sin[:t])
        for layer in self.layers:
            x = layer(x, table, mask)
        return self.norm(x)

    def drafted(self, tokens, hidden, document=None):
        """Hidden states of the draft layer for rows 0 .. t-2; row i predicts token i+2."""
        t = tokens.shape[1] - 1
        mask = self.mask(tokens, document)[:, :, :t, :t]
        embedded = F.embedding(tokens[:, 1:], self.embed)
        return self.draft(embedded, hidden[:, :-1], (self.cos[:t], self.sin[:t]), mask)

    def logits(self, hidden):
        return F.linear(hidden, self.head).float()

    def experts(self):
        blocks = [layer.ffn for layer in self.layers] + [self.draft.layer.ffn]
        return [block for block in blocks if isinstance(block, Experts)]
