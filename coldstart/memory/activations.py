"""What passes keep per token, image patch and layer: activations and logits; states are elsewhere.

What autograd saves is counted tensor by tensor from the layers of `transformers` 5.17 with SDPA,
after the method of Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
Models" (arXiv 2205.05198), whose own formula is for GPT layers. A test measures it with autograd's
hooks. What the allocator needs besides, while a layer is computed, is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

from coldstart.memory.shapes import Language, Shape, Vision

FP32, BF16 = 4, 2

HEAD_TOKENS, HEAD_COLUMNS = 4096, 32768
"""TRL 1.16 computes logits in a tile of at most so many tokens and always so many columns, however
small the vocabulary is (`trl.kernels.chunked_logprob`, `trl.trainer.utils`)."""


@dataclass(frozen=True)
class Widths:
    """Bytes of one number, by where it stands."""

    compute: int
    """In matrix products."""
    stream: int
    """Between the decoder's layers."""
    autocast: bool
    """Weights are fp32 and products bf16: each product keeps a bf16 copy of its input."""

    def rms_norm(self, stream: int, readers: int) -> int:
        """Bytes that a norm and the inputs of the matrices behind it keep for one number.

        Its input in fp32, the normalised input, and what the matrices read.
        """
        return FP32 + stream + self.compute * (readers if self.autocast else 1)

    def layer_norm(self) -> int:
        """The same for a layer norm, which autocast computes in fp32."""
        return (FP32 if self.autocast else self.compute) + self.compute


PLAIN_FP32 = Widths(FP32, FP32, autocast=False)
PLAIN_BF16 = Widths(BF16, BF16, autocast=False)
AUTOCAST = Widths(BF16, FP32, autocast=True)


@dataclass(frozen=True)
class Load:
    """What one forward pass of one process goes over."""

    tokens: int
    """Tokens of the decoder, of image and text."""
    image_tokens: int
    """Those that stand for pixels, of images that are encoded."""
    scored: int
    """Tokens whose log-probability is computed."""
    masked: int = 0
    """Numbers of the mask: the square of the length of each row that is padded."""
    seen: int = 0
    """In a packed row: the keys that its runs of tokens see, added up. 0 for rows of their own."""
    varlen: bool = False
    """Whether a packed row is computed by the variable-length kernel."""


def layer(model: Language, widths: Widths) -> int:
    """Bytes per token that one decoder layer keeps without checkpointing, its attention aside."""
    c, h = widths.compute, model.hidden
    norms = h * (widths.rms_norm(widths.stream, 3) + widths.rms_norm(widths.stream, 2))
    statistics = FP32 * (2 + model.heads)
    heads = 0
    if model.head_norms:
        heads = (FP32 + c) * (model.queries + model.keys) + FP32 * (model.heads + model.kv_heads)
    return norms + c * 4 * model.intermediate + statistics + heads


def attention(model: Language, load: Load) -> int:
    """Numbers that the attention of one layer keeps: queries, keys, values, output, mask.

    With a mask, SDPA gets keys and values repeated for each query head, and turns the mask into
    numbers; both are counted for all rows of their own. A packed row is computed as in
    `coldstart_trainer.shared.attention`: keys are gathered for each run of tokens, once for all
    heads that share them; without the variable-length kernel the pieces are joined after.
    """
    if not load.seen:
        return 4 * model.queries * load.tokens + load.masked
    if load.varlen:
        return 2 * model.queries * load.tokens + 2 * model.keys * load.seen
    return 4 * model.queries * load.tokens + 2 * model.keys * (load.tokens + load.seen)


def block(model: Vision, widths: Widths) -> int:
    """Bytes per patch that one block of the vision tower keeps without gradient checkpointing.

    The stream is of the width of products, autocast or not: the patches come from one.
    """
    c, h, f = widths.compute, model.hidden, model.intermediate
    if model.gated:
        norms = h * (widths.rms_norm(c, 1) + widths.rms_norm(c, 2))
        statistics = FP32 * (2 + model.heads)
    else:
        norms = h * 2 * widths.layer_norm()
        statistics = FP32 * (4 + model.heads)
    # Rotated queries and keys, the product of all three, the output in pieces and joined.
    heads = c * 7 * h
    inner = {"qwen2_vl": 3, "qwen2_5_vl": 4, "qwen3_vl": 2}[model.kind]
    return norms + heads + c * inner * f + statistics


def merger(model: Vision, widths: Widths) -> int:
    """Bytes per patch that the mergers keep: norm, and what goes into both matrices and between."""
    norm = widths.rms_norm(widths.compute, 1) if model.gated else widths.layer_norm()
    return (1 + model.deepstack) * model.hidden * (norm + 2 * widths.compute)


def kept(
    shape: Shape, load: Load, widths: Widths, *, checkpointing: bool, frozen: frozenset[str]
) -> int:
    """Bytes that a forward pass keeps for the backward pass, the logits' part excluded.

    With gradient checkpointing each layer keeps its input only; one layer at a time is computed
    again, so the largest one counts in full. A tower that is frozen keeps nothing.
    """
    model, vision = shape.language, shape.vision
    one = layer(model, widths) * load.tokens + widths.compute * attention(model, load)
    bottom = widths.stream * model.hidden * load.tokens
    stored = model.layers * (bottom if checkpointing else one)
    again = one if checkpointing else 0
    if vision and load.image_tokens and not {"vision", "aligner"} <= frozen:
        patches = load.image_tokens * vision.patches
        stored += merger(vision, widths) * patches
        if "vision" not in frozen:
            own = block(vision, widths) * patches
            entry = widths.compute * vision.hidden * patches
            stored += vision.depth * (entry if checkpointing else own)
            stored += widths.compute * vision.pixel_values * patches
            again = max(again, own if checkpointing else 0)
    # The last norm, and the rotary angles.
    final = model.hidden * (FP32 + widths.stream) + 2 * widths.stream * model.head
    return stored + again + final * load.tokens


def working(shape: Shape, load: Load, widths: Widths) -> int:
    """Bytes that come and go in the backward pass of one layer: gradients of what it computes.

    An estimate: three of the MLP's width, the queries' gradients, and the stream's twice.
    """
    model, vision = shape.language, shape.vision
    decoder = widths.compute * (3 * model.intermediate + 2 * model.queries)
    decoder = (decoder + 2 * widths.stream * model.hidden) * load.tokens
    if not vision:
        return decoder
    tower = widths.compute * (3 * vision.intermediate + 5 * vision.hidden)
    return max(decoder, tower * vision.patches * load.image_tokens)


def forward_only(shape: Shape, load: Load, widths: Widths) -> int:
    """Bytes that come and go in a pass without gradients, as in the prefill of sampling.

    An estimate: a layer's norm, attention and MLP at their widest.
    """
    model, vision = shape.language, shape.vision
    c = widths.compute
    decoder = c * (3 * model.intermediate + 2 * model.queries) + (FP32 + widths.stream) * (
        model.hidden
    )
    decoder *= load.tokens
    if not vision:
        return decoder
    tower = c * (3 * vision.intermediate + 6 * vision.hidden) + FP32 * vision.hidden
    return max(decoder, tower * vision.patches * load.image_tokens)


def logits(model: Language, load: Load, widths: Widths, *, trained: bool) -> int:
    """Bytes of TRL's fused head in the backward pass.

    A tile of logits, the hidden states that are scored, their gradient in fp32, and the fp32
    gradient of the head's weight, which is held until it is added up (`ChunkedLogProbFunction`).
    """
    tile = min(load.scored, HEAD_TOKENS) * HEAD_COLUMNS * widths.compute
    hidden = load.scored * model.hidden * (widths.stream + FP32)
    chunk = min(model.vocabulary, HEAD_COLUMNS) * model.hidden * FP32
    weight = model.embedding * FP32 + chunk if trained else 0
    return tile + hidden + weight


def cache(model: Language, widths: Widths) -> int:
    """Bytes per token of the key-value cache.

    It is as wide as the stream: the rotary angles are, and under autocast the keys become fp32 by
    them; transformers' cache then takes the values to the same type.
    """
    return 2 * widths.stream * model.layers * model.keys
