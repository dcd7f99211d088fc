"""Attention in two parts against attention with a mask over the whole row."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from coldstart_trainer.shared import attention
from coldstart_trainer.shared.attention import attend, gathered
from coldstart_trainer.shared.layout import Group, Layout, Span

LAYOUTS = {
    "one group": (Group(5, (3, 1, 4)),),
    "several": (Group(2, (3, 3)), Group(7, (1,)), Group(1, (2, 5, 1))),
    "no prefix": (Group(0, (4, 2)), Group(3, (1, 1))),
    "sequences": (Group(6), Group(1), Group(9)),
    "an image that nothing looks at": (Group(4, (2, 3)), Group(3)),
}


def whole_row(query, key, value, layout):
    """The same by a mask, written down token by token."""
    visible = torch.zeros((layout.length, layout.length), dtype=torch.bool)
    start = 0
    for group in layout.groups:
        end = start + group.prefix
        visible[start:end, start:end] = torch.ones((group.prefix, group.prefix)).tril().bool()
        own = end
        for length in group.segments:
            visible[own : own + length, start:end] = True
            visible[own : own + length, own : own + length] = torch.ones(length, length).tril() > 0
            own += length
        start = own
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=0.3)


def by_spans(query, key, value, layout):
    """The same as the variable-length kernel is asked for it: runs of queries, gathered keys."""
    seen, queries, keys = gathered(layout, "cpu")
    assert queries.dtype == keys.dtype == torch.int32
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, dim=1)[:, :, seen] for x in (key, value))
    made = []
    for run in range(len(layout.spans)):
        q = query[:, :, queries[run] : queries[run + 1]]
        k, v = (x[:, :, keys[run] : keys[run + 1]] for x in (key, value))
        # Causal as flash attention has it: aligned with the last key.
        mask = torch.ones(q.shape[2], k.shape[2]).tril(k.shape[2] - q.shape[2]).bool()
        made.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3))
    return torch.cat(made, dim=2)


@pytest.mark.parametrize("groups", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("block", [2, attention.BLOCK])
def test_both_ways_see_what_the_mask_shows(groups, key_heads, block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    torch.manual_seed(0)
    layout = Layout(groups)
    shapes = [(1, 4, layout.length, 8)] + [(1, key_heads, layout.length, 8)] * 2
    parts = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    expected = whole_row(*parts, layout)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), parts)
    for found in (attend(*parts, layout, 0.3), by_spans(*parts, layout)):
        assert torch.allclose(found, expected, atol=1e-12)
        made = torch.autograd.grad((found * weights).sum(), parts)
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(made, wanted, strict=True))


def test_spans_tile_the_row():
    layout = Layout((Group(2, (3,)), Group(0, (1, 2)), Group(4)))
    assert layout.spans == (
        Span(0, 2, 0, 0),
        Span(2, 3, 0, 2),
        Span(5, 1, 5, 0),
        Span(6, 2, 5, 0),
        Span(8, 4, 8, 0),
    )
    assert layout.sizes == [2, 3, 1, 2, 4]
    assert layout.length == 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("head_size", [64, 128])
def test_the_variable_length_kernel_on_a_gpu(head_size):
    layout = Layout((Group(700, (300, 20, 451)), Group(64, (33,)), Group(129)))
    torch.manual_seed(0)
    shapes = [(1, 8, layout.length, head_size)] + [(1, 2, layout.length, head_size)] * 2
    exact = [torch.randn(shape, device="cuda", dtype=torch.float32) for shape in shapes]
    rounded = [x.bfloat16().requires_grad_() for x in exact]
    exact = [x.detach().float().requires_grad_() for x in rounded]
    expected, found = (attend(*parts, layout, head_size**-0.5) for parts in (exact, rounded))
    assert torch.allclose(found.float(), expected, atol=0.02)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), exact)
    made = torch.autograd.grad((found * weights.bfloat16()).sum(), rounded)
    for one, other in zip(made, wanted, strict=True):
        assert (one.float() - other).norm() <= 0.02 * other.norm()
