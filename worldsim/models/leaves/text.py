"""Texts: tokens, a character each, with an autoregressive decoder. One dense slot holds a segment of the text.

Segments are encoded and decoded in parallel. Within a segment, each character is predicted from those before it; a
segment's decoder reads all slots, so that segments agree. So decoding takes as many steps as a segment has characters.

In short texts, every character is a categorical variable, which the dynamics predict directly.

Axes: N rows, L characters of the longest text, S slots, P characters of a segment, C tokens, H width of the decoder,
D and F widths of a slot.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Generator, Tensor, nn

from worldsim.models.config import LatentConfig
from worldsim.models.generator import uniform
from worldsim.models.layers import SlotLinear
from worldsim.models.leaves.base import LeafCodec
from worldsim.spaces import Leaf

SHORT = 16  # most characters of a text whose characters are categorical variables; least characters of a segment
MOST_SLOTS = 32  # most segments of a text: longer texts have longer segments
UNSEEN = 0.1  # pseudo-count of each token at each place
AT_ONCE = 256  # segments of a batch that are decoded in an update, at least one of every row


def is_short(leaf: Leaf) -> bool:
    """Whether a text has a slot for every character."""
    return leaf.shape[0] <= SHORT


def segment_of(leaf: Leaf) -> int:
    """P, characters of a segment."""
    return max(SHORT, -(-leaf.shape[0] // MOST_SLOTS))


class TextEncoder(nn.Module):
    """Encodes texts (N, L) of class indices to slots (N, S, D), every segment by itself.

    A segment is the sum of an embedding for each character at its place, standardised over the data, followed by one
    hidden layer. Without standardising, characters that are the same in all texts would dominate the sum.
    """

    def __init__(self, leaf: Leaf, width: int):
        super().__init__()
        self.segment, self.tokens = segment_of(leaf), int(leaf.nvec[0])
        self.slots = -(-leaf.shape[0] // self.segment)
        self.padding = self.slots * self.segment - leaf.shape[0]
        self.embedding = nn.Parameter(torch.randn(self.segment * self.tokens, width))
        self.offset: Tensor  # of the tokens of each place in the embedding
        self.register_buffer("offset", torch.arange(self.segment) * self.tokens, persistent=False)
        self.frequency: Tensor  # of every token at every place of each segment
        self.register_buffer("frequency", torch.zeros(self.slots, self.segment * self.tokens))
        self.deviation: Tensor  # of the sum over a segment, where the vectors of tokens have a variance of 1
        self.register_buffer("deviation", torch.full((self.slots, 1), self.segment**0.5))
        self.position = nn.Parameter(torch.randn(self.slots, width) * 0.1)
        self.out_proj = nn.Linear(width, width)

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets frequencies and deviations from texts (n, L), part by part."""
        counts = torch.stack([self.counts(part) for part in parts]).sum(0)
        self.frequency.copy_((counts / counts.sum(-1, keepdim=True)).flatten(1))
        varied = self.segment - self.frequency.square().sum(1, keepdim=True)  # of each place 1 - sum of squares
        self.deviation.copy_(varied.clamp_min(1e-3).sqrt())

    def counts(self, value: Tensor, where: Tensor | None = None) -> Tensor:
        """(S, P, C): how often each token stands at each place of texts (N, L), `where` (N, S, P) is true."""
        shape = self.slots, self.segment, self.tokens
        places = torch.arange(self.slots * self.segment, device=value.device).view(shape[:2]) * self.tokens
        index = self.segments(value) + places
        counted: Tensor = index.flatten() if where is None else index[where]
        return counted.bincount(minlength=math.prod(shape)).view(shape)

    def segments(self, value: Tensor) -> Tensor:
        """(N, L) to (N, S, P), padded with ends (0)."""
        return F.pad(value, (0, self.padding)).view(-1, self.slots, self.segment)

    def forward(self, value: Tensor) -> Tensor:
        index = (self.segments(value) + self.offset).flatten(0, 1)
        summed = F.embedding_bag(index, self.embedding, mode="sum").unflatten(0, (-1, self.slots))
        hidden = (summed - self.frequency.to(summed.dtype) @ self.embedding) / self.deviation + self.position
        embeds: Tensor = self.out_proj(F.silu(hidden))
        return embeds


class SegmentDecoder(nn.Module):
    """A gated recurrent unit over the characters of a segment (Cho et al. 2014), with the slots as an input to each."""

    def __init__(self, slots: int, segment: int, tokens: int, features: int, width: int):
        super().__init__()
        self.segment, self.tokens = segment, tokens
        self.own_slot = SlotLinear(slots, features, width)
        self.all_slots = nn.Linear(slots * features, width)
        self.in_proj = nn.Linear(width, 3 * width)
        self.position = nn.Parameter(torch.randn(segment, 3 * width) * 0.1)
        self.embedding = nn.Parameter(torch.randn(tokens + 1, 3 * width) * 0.3)  # the last one is the start token
        self.hidden_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, tokens)
        for parameter in self.out_proj.parameters():  # initially predicts the frequencies of the data
            nn.init.zeros_(parameter)

    def context(self, slots: Tensor, numbers: Tensor | None = None) -> Tensor:
        """(N, S, F) to the inputs of the decoder, (N, S, 3 H). numbers: (N, M), only these segments of each row."""
        own = self.own_slot(slots) if numbers is None else _chosen(self.own_slot(slots), numbers)
        context: Tensor = self.in_proj(F.silu(own + self.all_slots(slots.flatten(-2)).unsqueeze(-2)))
        return context

    def initial(self, context: Tensor) -> Tensor:
        """The state (N, H), in fp32, before the first character, of context (N, 3 H)."""
        return torch.zeros(len(context), context.shape[-1] // 3, device=context.device)

    def step(self, context: Tensor, last: Tensor, place: int, hidden: Tensor) -> Tensor:
        """The state (N, H) for the character at `place`, after `last` (N,)."""
        reset, keep, new = (context + self.position[place] + F.embedding(last, self.embedding)).chunk(3, -1)
        reset_h, keep_h, new_h = self.hidden_proj(hidden).chunk(3, -1)
        candidate = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h).to(hidden.dtype)
        return torch.lerp(candidate, hidden, torch.sigmoid(keep + keep_h).to(hidden.dtype))

    def forward(self, context: Tensor, segments: Tensor) -> Tensor:
        """Scores (N, P, C) of every character of segments (N, P), each after those before it (teacher forcing)."""
        hidden, states = self.initial(context), []
        last = torch.full_like(segments[:, 0], self.tokens)
        for place, following in enumerate(segments.unbind(1)):
            hidden = self.step(context, last, place, hidden)
            states.append(hidden)
            last = following
        scores: Tensor = self.out_proj(torch.stack(states, 1))
        return scores.float()

    def decode(self, context: Tensor, bias: Tensor) -> Tensor:
        """The most probable characters (N, P), one after another. bias: (N, P, C), added to the scores."""
        hidden, tokens = self.initial(context), []
        last = torch.full((len(context),), self.tokens, device=context.device)
        for place, usual in enumerate(bias.unbind(1)):
            hidden = self.step(context, last, place, hidden)
            last = (self.out_proj(hidden).float() + usual).argmax(-1)
            tokens.append(last)
        return torch.stack(tokens, 1)


class TextCodec(LeafCodec):
    """A text in segments, a dense slot each. Token 0 ends it; everything after the end is ignored."""

    def __init__(self, leaf: Leaf, config: LatentConfig, features: int):
        super().__init__()
        assert isinstance(leaf.space, spaces.Text)
        self.length, tokens = leaf.shape[0], int(leaf.nvec[0])
        self.encoder = TextEncoder(leaf, config.embed)
        self.slots = self.encoder.slots
        self.decoder = SegmentDecoder(self.slots, self.encoder.segment, tokens, features, config.embed)
        self.too_short: Tensor  # (S, P, C): True for the end where it would make the text shorter than min_length
        self.usual: Tensor  # (S, P, C): log-probability of each token at each place in the data
        places = torch.arange(self.slots * self.encoder.segment) < leaf.space.min_length
        too_short = F.pad(places.view(self.slots, -1, 1), (0, tokens - 1))
        self.register_buffer("too_short", too_short, persistent=False)
        self.register_buffer("usual", torch.full(too_short.shape, -math.log(tokens)))

    @staticmethod
    def slots_of(leaf: Leaf, config: LatentConfig) -> int:
        return -(-leaf.shape[0] // segment_of(leaf))

    def measure(self, parts: Iterable[Tensor]) -> None:
        """Sets how often each character stands at each place."""
        self.encoder.measure(parts)
        counts = UNSEEN + torch.stack([self.encoder.counts(part, self.up_to_end(part)) for part in parts]).sum(0)
        self.usual.copy_((counts / counts.sum(-1, keepdim=True)).log())

    def encode(self, value: Tensor) -> Tensor:
        embeds: Tensor = self.encoder(value)
        return embeds

    def up_to_end(self, value: Tensor) -> Tensor:
        """(N, S, P) bool: the characters of texts (N, L), and the end."""
        following = F.pad((value != 0).cumprod(-1).bool(), (1, self.encoder.padding), value=True)[:, :-1]
        inside = torch.arange(following.shape[1], device=value.device) < self.length
        return (following & inside).view(-1, self.slots, self.encoder.segment)

    def bias(self) -> Tensor:
        """(S, P, C) in fp32, added to scores: log-frequencies of the data, and -1e9 for tokens that are not allowed."""
        return self.usual.masked_fill(self.too_short, -1e9)

    def decode(self, slots: Tensor) -> Tensor:
        """(N, S, F) to class indices (N, L), zeros after the end: greedy, all segments in parallel."""
        context = self.decoder.context(slots)
        bias = self.bias().expand(len(slots), -1, -1, -1)
        tokens = self.decoder.decode(context.flatten(0, 1), bias.flatten(0, 1))
        text: Tensor = tokens.unflatten(0, (-1, self.slots)).flatten(1)[:, : self.length]
        return text * (text != 0).cumprod(-1)

    def loss(self, slots: Tensor, value: Tensor, generator: Generator | None = None) -> Tensor:
        """Negative log-likelihood (N,) in nats of the characters and of the end, each after those before it.

        generator: draws which segments are decoded where a batch has more than AT_ONCE, and the loss is then estimated
        from these, without bias; None decodes all of them.
        """
        segments = self.encoder.segments(value)
        counted, weight = self.up_to_end(value), torch.ones(len(value), device=value.device)
        numbers = torch.arange(self.slots, device=value.device).expand(len(value), -1)
        drawn = max(1, AT_ONCE // len(value))
        if generator is not None and drawn < self.slots:
            begun = counted[..., 0]  # segments after the end have no loss
            numbers = (uniform(begun.shape, generator, begun.device) + begun).topk(drawn, -1).indices
            weight = begun.sum(-1) / begun.sum(-1).clamp_max(drawn)
            context = self.decoder.context(slots, numbers)
            segments, counted = _chosen(segments, numbers), _chosen(counted, numbers)
        else:
            context = self.decoder.context(slots)
        scores = self.decoder(context.flatten(0, 1), segments.flatten(0, 1)).unflatten(0, numbers.shape)
        log_probs = F.log_softmax(scores + self.bias()[numbers], -1)
        nats: Tensor = -log_probs.gather(-1, segments.unsqueeze(-1)).squeeze(-1)
        return (nats * counted).sum((1, 2)) * weight


def _chosen(values: Tensor, numbers: Tensor) -> Tensor:
    """Those of (N, S, X) that each row's numbers (N, M) name: (N, M, X)."""
    return values.gather(1, numbers.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
