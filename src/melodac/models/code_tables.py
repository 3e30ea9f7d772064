"""Embedding and output rows of every code: learned, tied, or made from the codec's code vectors.

    embedding   row of code u of codebook k   vectors[k, u] @ P[k]  +  leash[k] * learned[k, u]
    head        row of code u of codebook k   vectors[k, u] @ Q[k]  +  leash[k] * learned[k, u]

`vectors` are the codec's own (`Codec.code_vectors`), standardised: codes that sound alike start
with similar rows, so an update for one code also moves its neighbours. `train.embedding: learned`
uses two learned tables and no vectors; a model of codes whose codec is unknown uses one learned
table for both ends.
"""

import hashlib
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from melodac.errors import ModelError
from melodac.models.config import LanguageModelConfig, vector_dim
from melodac.tokens.vocabulary import CODEBOOK_SIZE, VOCABULARY_SIZE

VECTOR_SIZE = 4.0
"""Root mean square of the entries of the standardised vectors.

Adam moves every weight of a projection by about the learning rate, so a row of the table moves by
that times this size: it sets how much faster the shared projection learns than any single row.
Measured on nano after 300 updates: 4 and 8 are alike, 1 and 25 cost a tenth of a nat.
"""

LEARNED_START = 0.1
"""Initial size of a learned row, relative to the part that is projected from its vector."""

LEASH = 1.0
"""Factor of the learned rows in the codebook with the largest vectors; the factors of the others
shrink with the size of their vectors. Fine codebooks hold close to noise, and a free row for each
of their codes memorises it."""

TIED_HEAD = 0.1
"""Size of a row of the head relative to its row of the embedding, where one table serves both: a
first loss at the uniform guess needs a small head, a unit-size residual stream a large
embedding."""

FIXED_TENSORS = frozenset({"geometry.vectors", "geometry.leash", "geometry.unheard"})
"""Tensors of a checkpoint that no update changes."""


class Tables(NamedTuple):
    """Embedding and output rows of all codes, made once per forward pass or per generation."""

    embedding: Float[Tensor, "_ D"]
    """Codes, then special tokens, codebook after codebook."""
    head: Float[Tensor, "_ D"]
    """Codes only, codebook after codebook."""
    bias: Float[Tensor, " _"] | None

    def without(self, unheard: Bool[Tensor, " _"]) -> "Tables":
        """Return tables whose bias rules out some codes: their logits are minus infinity."""
        bias = unheard.new_zeros(len(unheard), dtype=self.head.dtype)
        bias = bias.masked_fill(unheard, -torch.inf)
        return self._replace(bias=bias if self.bias is None else bias + self.bias)

    def of_codes(self, start: int, stop: int) -> "Tables":
        """Return tables with only the rows `start` to `stop` of the head."""
        bias = None if self.bias is None else self.bias[start:stop]
        return Tables(self.embedding, self.head[start:stop], bias)


class CodeHead(nn.Module):
    """Output layer: one row, and for some embeddings one bias, for each code."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        num_rows = config.num_codebooks * CODEBOOK_SIZE
        is_own = config.embedding == "learned"
        # nn.Linear draws here although `initialize` draws anew: without this draw the same seed
        # would give other weights to all later parameters
        drawn = nn.Linear(config.dim, num_rows, bias=False).weight if is_own else None
        self.weight = None if drawn is None else nn.Parameter(drawn.detach())
        self.bias = None if is_own else nn.Parameter(torch.empty(num_rows))

    def forward(self, hidden: Float[Tensor, "B S D"], tables: Tables) -> Float[Tensor, "B S _"]:
        """Return the logits of every code of every codebook."""
        return functional.linear(hidden, tables.head, tables.bias)


class CodeGeometry(nn.Module):
    """Code vectors of the codec and the matrices that project them to the model's width."""

    vectors: Tensor
    """Standardised vectors, saved with the weights so that a checkpoint needs no codec."""
    leash: Tensor
    """Factor of the learned rows of each codebook; see `LEASH`."""
    unheard: Tensor
    """Codes that the training music lacks. A learned row finds that out; a row projected from its
    vector is as likely as its neighbours, and one such code leads a free run to more of them."""

    def __init__(
        self,
        config: LanguageModelConfig,
        vectors: Float32[Tensor, "K _ Z"] | None,
        heard: Bool[Tensor, "K U"] | None = None,
    ) -> None:
        """Standardise the codec's vectors, or leave room for those of a checkpoint.

        Args:
            config: Shape of the model.
            vectors: The codec's, one codebook for each of the model's; None waits for those of a
                checkpoint, and until they are loaded every output is NaN.
            heard: Codes that occur in the training music; None for all.

        Raises:
            ModelError: If the vectors do not fit the config.
        """
        super().__init__()
        K, Z, D = config.num_codebooks, config.vector_dim, config.dim
        self.embedding = nn.Parameter(torch.empty(K, Z, D))
        self.head = nn.Parameter(torch.empty(K, Z, D))
        found, leash = torch.full((K, CODEBOOK_SIZE, Z), torch.nan), torch.full((K,), torch.nan)
        if vectors is not None:
            found, sizes = standardise(vectors)
            leash = LEASH * sizes / sizes.max()
        if found.shape != (K, CODEBOOK_SIZE, Z):
            raise ModelError(
                f"code vectors of {len(found)} codebooks and {found.shape[-1]} dimensions for a "
                f"model of {K} and {Z}: build its config for these vectors"
            )
        self.register_buffer("vectors", found)
        self.register_buffer("leash", leash.view(K, 1, 1))
        unheard = torch.zeros(K, CODEBOOK_SIZE, dtype=torch.bool) if heard is None else ~heard
        self.register_buffer("unheard", unheard.flatten())


def make_tables(
    embedding: Float[Tensor, "_ D"],
    head: CodeHead,
    geometry: CodeGeometry | None,
    config: LanguageModelConfig,
) -> Tables:
    """Build the rows of all codes from the present weights.

    Args:
        embedding: Learned rows, special tokens included.
        head: Output layer, with learned rows of its own or without.
        geometry: The codec's vectors; None for a model without them.
        config: Shape of the model.
    """
    if head.weight is not None:
        return Tables(embedding, head.weight, head.bias)
    learned = embedding.view(config.num_codebooks, VOCABULARY_SIZE, config.dim)
    codes, specials = learned[:, :CODEBOOK_SIZE], learned[:, CODEBOOK_SIZE:]
    if geometry is None:
        return Tables(embedding, (TIED_HEAD * codes).flatten(0, 1), head.bias)
    own = geometry.leash * codes
    read = torch.cat([geometry.vectors @ geometry.embedding + own, specials], dim=1)
    predicted = geometry.vectors @ geometry.head + own
    return Tables(read.flatten(0, 1), predicted.flatten(0, 1), head.bias)


def hash_vectors(vectors: Float32[Tensor, "K _ _"]) -> str:
    """Return the sha256 of the codec's vectors; a resumed run must have the same."""
    return hashlib.sha256(vectors.contiguous().numpy().tobytes()).hexdigest()


def standardise(
    vectors: Float32[Tensor, "K _ Z"],
) -> tuple[Float32[Tensor, "K U _"], Float32[Tensor, " K"]]:
    """Centre the vectors of each codebook, rotate them to principal directions and scale them.

    One scale for all directions of a codebook keeps near codes near. Codes that a smaller codebook
    lacks get zero rows, which is the mean of the centred vectors.

    Args:
        vectors: Code vectors of a codec.

    Returns:
        The standardised vectors, and the root mean square of each codebook before scaling.

    Raises:
        ModelError: If all codes of a codebook are alike.
    """
    # float64, so that the directions agree to the last digits on any machine
    centred = vectors.double() - vectors.double().mean(dim=1, keepdim=True)
    directions = cast("Tensor", torch.linalg.eigh(centred.mT @ centred)[1])  # pyright: ignore[reportUnknownMemberType]  torch
    # eigh sorts ascending, so the largest come last; its signs are arbitrary, so each direction is
    # turned to where its largest entry is positive
    directions = directions.flip(2)[..., : vector_dim(vectors.shape[-1])]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    turned = centred @ (directions * largest.sign())
    sizes = turned.square().mean(dim=(1, 2)).sqrt()
    if not bool((sizes > 0).all()):
        raise ModelError(
            f"all codes of codebook {int(sizes.argmin())} have the same vector: train with "
            "train.embedding=learned"
        )
    scaled = turned * (VECTOR_SIZE / sizes.view(-1, 1, 1))
    num_missing = CODEBOOK_SIZE - vectors.shape[1]
    return functional.pad(scaled, (0, 0, 0, num_missing)).float(), sizes.float()
