"""How the model knows its codes: a row a code for reading, a row a code for predicting.

    embedding   row of code u of codebook k   vectors[k, u] @ P[k]  +  leash[k] * learned[k, u]
    head        row of code u of codebook k   vectors[k, u] @ Q[k]  +  leash[k] * learned[k, u]

`vectors` are the codec's own (`Codec.code_vectors`), standardised: codes that sound alike begin
alike, so what is learned of one code is learned of its neighbours. `train.embedding: learned` has
nothing but two learned tables, and a model of codes whose codec is unknown has one that serves
both ends.
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
"""Root mean square of a number of the standardised vectors.

Adam moves every weight of a projection by about the learning rate, so a row of the table moves by
that times this size: it is how much faster what all codes share is learned than any row by itself.
4 and 8 are alike, 1 and 25 cost a tenth of a nat after 300 updates of nano.
"""

LEARNED_START = 0.1
"""Size of a learned row beside what is made of its vector, at the start."""

LEASH = 1.0
"""How strongly a learned row of the codebook with the largest vectors acts; rows of the others act
as much less as their vectors are smaller. What the fine codebooks hold is close to noise, and a row
of its own for each of their codes learns it by heart."""

TIED_HEAD = 0.1
"""Size of a row of the head beside that of the embedding, where one table serves both: a first loss
of a uniform guess needs a small head, a stream of unit size a large embedding."""

FIXED_TENSORS = frozenset({"geometry.vectors", "geometry.leash", "geometry.unheard"})
"""Tensors of a checkpoint that no update changes."""


class Tables(NamedTuple):
    """Rows of all codes as they stand, made once for a forward pass or for a whole generation."""

    embedding: Float[Tensor, "_ D"]
    """Codes, then special tokens, of one codebook after another."""
    head: Float[Tensor, "_ D"]
    """Codes of one codebook after another."""
    bias: Float[Tensor, " _"] | None

    def without(self, unheard: Bool[Tensor, " _"]) -> "Tables":
        """The same, so that some codes are never sampled."""
        bias = unheard.new_zeros(len(unheard), dtype=self.head.dtype)
        bias = bias.masked_fill(unheard, -torch.inf)
        return self._replace(bias=bias if self.bias is None else bias + self.bias)

    def of_codes(self, start: int, stop: int) -> "Tables":
        """The same with some rows of the head alone."""
        bias = None if self.bias is None else self.bias[start:stop]
        return Tables(self.embedding, self.head[start:stop], bias)


class CodeHead(nn.Module):
    """The end of a model that predicts: a row and perhaps an offset for each code."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        num_rows = config.num_codebooks * CODEBOOK_SIZE
        is_own = config.embedding == "learned"
        # a linear layer draws numbers that are drawn anew, and so keeps what one seed has given
        drawn = nn.Linear(config.dim, num_rows, bias=False).weight if is_own else None
        self.weight = None if drawn is None else nn.Parameter(drawn.detach())
        self.bias = None if is_own else nn.Parameter(torch.empty(num_rows))

    def forward(self, hidden: Float[Tensor, "B S D"], tables: Tables) -> Float[Tensor, "B S _"]:
        """Logits of every code of every codebook."""
        return functional.linear(hidden, tables.head, tables.bias)


class CodeGeometry(nn.Module):
    """The codec's vectors and the matrices that bring them into the width of a model."""

    vectors: Tensor
    """Standardised; saved with the weights, so that a checkpoint needs no codec."""
    leash: Tensor
    """How strongly the learned rows of each codebook act."""
    unheard: Tensor
    """Codes that the training music lacks. A learned row would know that by itself; a row made of a
    vector is as likely as its neighbours, and one such code leads a free run to others."""

    def __init__(
        self,
        config: LanguageModelConfig,
        vectors: Float32[Tensor, "K _ Z"] | None,
        heard: Bool[Tensor, "K U"] | None = None,
    ) -> None:
        """Take the vectors in.

        Args:
            config: Shape of the model.
            vectors: The codec's, a codebook for each of the model's; None leaves room for those of
                a checkpoint, and until then every number that comes out is NaN.
            heard: Codes that the training music has; None for all.

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
    """Rows of all codes.

    Args:
        embedding: Learned rows, of special tokens too.
        head: With learned rows of its own, or none.
        geometry: The codec's vectors, if there are any.
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
    """Sha256 of the codec's vectors, by which a run knows whether it goes on with the same ones."""
    return hashlib.sha256(vectors.contiguous().numpy().tobytes()).hexdigest()


def standardise(
    vectors: Float32[Tensor, "K _ Z"],
) -> tuple[Float32[Tensor, "K U _"], Float32[Tensor, " K"]]:
    """Centre the vectors of each codebook, turn them to principal directions, and scale them.

    One scale serves all directions of a codebook, so that near codes stay near. Rows that a smaller
    codebook lacks are zeros, as those of a code that is like the mean.

    Args:
        vectors: Of a codec.

    Returns:
        The vectors, and the size that those of each codebook had.

    Raises:
        ModelError: If all codes of a codebook are alike.
    """
    # float64, so that the directions are the same to the last digits wherever they are computed
    centred = vectors.double() - vectors.double().mean(dim=1, keepdim=True)
    directions = cast("Tensor", torch.linalg.eigh(centred.mT @ centred)[1])  # pyright: ignore[reportUnknownMemberType]  torch
    # the largest come last; each points to where its largest number is positive
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
