"""A structured start: the first layers begin as previous-token and induction heads.

Small models need millions of tokens before copying from the prompt emerges. Here layer 0 already looks one token back
(by position alone), and layers 1 and 2 compare the current token with what was seen before each earlier token.
Everything is trained afterwards like any other weight.
"""
import torch

TOKEN = slice(1, 128)  # residual channels of the token itself; channel 0 is constant, 128.. hold the previous token


def orthonormal(rows: int, cols: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(cols, max(rows, 1)))[0].T[:rows]


def previous_token(attention, project):
    c, e = attention.c, torch.arange(attention.c.rope // 2)
    frequency = c.rope_base ** (-2 * e / c.rope)
    attention.q_a[:, 0] = 0
    attention.q_a[0] = 0
    attention.q_a[0, 0] = 2.0
    attention.kv_a[: c.kv_rank] = 0
    attention.kv_a[: c.kv_rank, TOKEN] = project
    attention.kv_a[c.kv_rank :] = 0
    attention.kv_a[c.kv_rank + 2 * e, 0] = 1.4
    for head in range(2):
        query = attention.q_b.view(c.heads, c.nope + c.rope, c.q_rank)[head]
        query[:] = 0
        query[c.nope + 2 * e, 0] = 1.4 * frequency.cos()
        query[c.nope + 2 * e + 1, 0] = -1.4 * frequency.sin()
        value = attention.kv_b.view(c.heads, c.nope + c.value, c.kv_rank)[head, c.nope :]
        value[:] = 0
        value[torch.arange(c.value), head * c.value + torch.arange(c.value)] = 1.0
        columns = torch.arange(c.value) + head * c.value
        attention.o[:, columns] = 0
        attention.o[128 + columns, columns] = 1.0


def induction(attention, half: int, project, turn):
    """Match the current token against the tokens before each position; copy the token found there."""
    c, n = attention.c, torch.arange(32)
    match, carry = project[32 * half : 32 * half + 32], orthonormal(32, 127)
    attention.q_a[1:33] = 0
    attention.q_a[1:33, TOKEN] = match
    attention.kv_a[: c.kv_rank] = 0
    attention.kv_a[n, 128 + 32 * half + n] = 1.0
    attention.kv_a[32:64, TOKEN] = carry
    query = attention.q_b.view(c.heads, c.nope + c.rope, c.q_rank)[0]
    query[:] = 0
    query[n, 1 + n] = 1.6
    pair = attention.kv_b.view(c.heads, c.nope + c.value, c.kv_rank)[0]
    pair[:] = 0
    pair[n, n] = 1.6
    pair[c.nope + n, 32 + n] = 1.0
    attention.o[:, :32] = 3.0 * turn[:, TOKEN] @ carry.T


@torch.no_grad()
def structure(model):
    for name, p in model.named_parameters():
        if name.endswith((".o", ".down")):
            p.mul_(0.3)
    model.embed[:, 0] = 4.0
    model.embed[:, 128:] = 0.0
    project, turn = orthonormal(64, 127), orthonormal(192, 192)
    previous_token(model.layers[0].attention, project)
    induction(model.layers[1].attention, 0, project, turn)
    induction(model.layers[2].attention, 1, project, turn)
    model.head[:] = 0.05 * model.embed[:, TOKEN] @ turn[:, TOKEN].T
