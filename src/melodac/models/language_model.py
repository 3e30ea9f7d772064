"""The language model over delayed codes, whole on one page: codes in, logits of the same cells out.

The shift by one step is inside and nowhere else in the project: logits at step s predict
`sequence[..., s]` and see only earlier steps, step 0 only BOS. Texts are encoded as bytes that read
each other in both directions: any language, no vocabulary, nothing to download.
"""

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn
from torch.nn import functional

from melodac.errors import ModelError
from melodac.models.block import Block
from melodac.models.cache import KeyValueCache
from melodac.models.code_tables import CodeGeometry, CodeHead, Tables, hash_vectors, make_tables
from melodac.models.condition import PADDING, Condition, Memory, no_texts
from melodac.models.config import BYTE_ROWS, LanguageModelConfig, TransformerConfig
from melodac.models.initialization import initialize
from melodac.models.layers import RMSNorm, build_rotary_table
from melodac.tokens.vocabulary import BOS, CODEBOOK_SIZE, VOCABULARY_SIZE


class TextEncoder(nn.Module):
    """Bidirectional transformer over the bytes of a text."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.byte_table = nn.Embedding(BYTE_ROWS, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.last_norm = RMSNorm(config.dim)
        self.null = nn.Parameter(torch.zeros(config.dim))

    def forward(self, text: Int[Tensor, "B Y"]) -> Memory:
        """Encode texts into the null vector and one slot per byte, and mark what each item sees."""
        is_byte = text != PADDING
        is_null = ~is_byte.any(dim=1, keepdim=True)
        rotary = build_rotary_table(
            text.shape[1],
            head_dim=self.config.head_dim,
            base=self.config.rope_base,
            device=text.device,
        )
        x = self.byte_table(text)
        # a row without bytes attends to its own padding: a softmax over nothing would be NaN; the
        # result is masked out below
        readable = is_byte | is_null
        for block in self.blocks:
            x = block(x, rotary, seen=readable)
        encoded = self.last_norm(x)
        null = self.null.type_as(encoded).expand(len(text), 1, -1)
        return Memory(torch.cat([null, encoded], dim=1), torch.cat([is_null, is_byte], dim=1))


class LanguageModel(nn.Module):
    """Decoder-only transformer: K code embeddings summed, blocks, K heads over codes only."""

    offsets: Tensor
    """First row of each codebook in the shared embedding table."""

    def __init__(
        self,
        config: LanguageModelConfig,
        vectors: Float32[Tensor, "K _ _"] | None = None,
        heard: Bool[Tensor, "K U"] | None = None,
    ) -> None:
        """Draw a fresh model from torch's global generator.

        Args:
            config: Shape of the model.
            vectors: Code vectors of the codec, one codebook for each of the model's, for a config
                whose embedding is codec; None leaves them to be filled from a checkpoint.
            heard: Codes that occur in the training music, given with the vectors; only these are
                sampled. None for all.
        """
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.num_codebooks * VOCABULARY_SIZE, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.text_encoder = TextEncoder(config.text_encoder()) if config.text_bytes else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head_norm = RMSNorm(config.dim)
        self.head = CodeHead(config)
        self.geometry = CodeGeometry(config, vectors, heard) if config.vector_dim else None
        self.vectors_sha256 = None if vectors is None else hash_vectors(vectors)
        """Hash of the code vectors; None without vectors or if a checkpoint is to bring them."""
        offsets = torch.arange(config.num_codebooks) * VOCABULARY_SIZE
        self.register_buffer("offsets", offsets, persistent=False)
        initialize(self, config)

    def forward(
        self, sequence: Int[Tensor, "B K S"], condition: Condition | None = None
    ) -> Float[Tensor, "B K S U"]:
        """Return the logits of every cell, each from earlier steps and the item's text only.

        In memory the logits lie step by step, so `logits.transpose(1, 2)` is contiguous.
        """
        tables = self.tables()
        return self.logits(self.hidden(sequence, condition, tables), tables)

    def tables(self) -> Tables:
        """Build the rows of all codes from the present weights; build once and pass them on."""
        return make_tables(self.embedding.weight, self.head, self.geometry, self.config)

    def hidden(
        self,
        sequence: Int[Tensor, "B K S"],
        condition: Condition | None = None,
        tables: Tables | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Return the hidden states before the heads, for a caller that needs no or few logits."""
        memory = self.read(condition, len(sequence))
        return self.trunk(self.embed(shift_right(sequence), tables), memory=memory)

    def read(self, condition: Condition | None, num_items: int) -> Memory | None:
        """Encode the texts of a batch for cross-attention; None if the model reads no text.

        Args:
            condition: The texts; None is the null condition of every item.
            num_items: Items of the batch.

        Raises:
            ModelError: If the model reads no text, or the texts do not fit model or batch.
        """
        if self.text_encoder is None:
            if condition is not None:
                raise ModelError(
                    "this model reads no text, a condition was given: pass None or train a model "
                    "with train.condition=tags"
                )
            return None
        if condition is None:
            condition = no_texts(num_items, self.embedding.weight.device)
        num_texts, width = condition.text.shape
        if num_texts != num_items or width > self.config.text_bytes:
            raise ModelError(
                f"the condition must hold {num_items} texts of at most {self.config.text_bytes} "
                f"bytes, one an item: got {num_texts} of {width}"
            )
        return self.text_encoder(condition.text)

    def embed(
        self, cells: Int[Tensor, "B K S"], tables: Tables | None = None
    ) -> Float[Tensor, "B S D"]:
        """Return the sum of the embeddings of a step's codes, as one look-up in one table."""
        table = (tables or self.tables()).embedding
        rows = (cells + self.offsets.unsqueeze(1)).transpose(1, 2)
        # one kernel that looks up and sums, without a tensor of every single embedding
        summed = functional.embedding_bag(rows.flatten(0, 1), table, mode="sum")
        return self.dropout(summed.view(*rows.shape[:2], -1))

    def trunk(
        self,
        x: Float[Tensor, "B S D"],
        cache: KeyValueCache | None = None,
        *,
        memory: Memory | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Run all blocks and the last norm.

        Args:
            x: Embedded cells.
            cache: Holds the steps before `x`, and the encoded texts.
            memory: Encoded texts, without a cache; None is the null condition.
        """
        if cache is None:
            memory = self.read(None, len(x)) if memory is None else memory
            rotary = build_rotary_table(
                x.shape[1],
                head_dim=self.config.head_dim,
                base=self.config.rope_base,
                device=x.device,
            )
        else:
            rotary = cache.claim(x.shape[1])
            if cache.memory is None:
                cache.memory = self.read(None, len(x))
            memory = cache.memory
        for index, block in enumerate(self.blocks):
            x = block(x, rotary, None if cache is None else cache.layers[index], memory=memory)
        return self.head_norm(x)

    def logits(
        self, hidden: Float[Tensor, "B S D"], tables: Tables | None = None
    ) -> Float[Tensor, "B K S U"]:
        """Return the logits of every codebook."""
        logits = self.head(hidden, tables or self.tables())
        return logits.view(*hidden.shape[:2], -1, CODEBOOK_SIZE).transpose(1, 2)

    def codebook_logits(
        self, hidden: Float[Tensor, "B S D"], codebook: int, tables: Tables | None = None
    ) -> Float[Tensor, "B S U"]:
        """Return the logits of one codebook, at a K-th of the cost of all."""
        start = codebook * CODEBOOK_SIZE
        return self.head(hidden, (tables or self.tables()).of_codes(start, start + CODEBOOK_SIZE))

    def prefill(self, sequence: Int[Tensor, "B K S"], cache: KeyValueCache) -> None:
        """Read known steps into an empty cache at once, as if `step` had taken each.

        Afterwards `step(sequence[..., -1], cache)` gives the logits of the step that follows.

        Raises:
            ModelError: If the cache is not empty.
        """
        if cache.position:
            raise ModelError(
                f"prefill needs an empty cache, this one holds {cache.position} steps: "
                "build a new one or use step"
            )
        self.trunk(self.embed(shift_right(sequence), self.tables_of(cache)), cache)

    def step(self, previous: Int[Tensor, "B K"], cache: KeyValueCache) -> Float[Tensor, "B K U"]:
        """Return the logits of the next step, equal to those of `forward` on the whole sequence.

        Args:
            previous: Cells of the step before; all BOS for step 0.
            cache: Holds the steps before that one, and this one afterwards.
        """
        return self.logits(self.step_hidden(previous, cache), self.tables_of(cache)).squeeze(2)

    def step_hidden(
        self, previous: Int[Tensor, "B K"], cache: KeyValueCache
    ) -> Float[Tensor, "B 1 D"]:
        """Return the hidden states of the next step."""
        return self.trunk(self.embed(previous.unsqueeze(-1), self.tables_of(cache)), cache)

    def tables_of(self, cache: KeyValueCache) -> Tables:
        """Return the rows of all codes for the steps of a cache, made at the first of them."""
        if cache.tables is None:
            cache.tables = self.tables()
            if self.geometry is not None:
                cache.tables = cache.tables.without(self.geometry.unheard)
        return cache.tables


def shift_right(sequence: Int[Tensor, "B K S"]) -> Int[Tensor, "B K S"]:
    """Shift the sequence by one step for teacher forcing; BOS takes the place of step 0.

    Example:
        >>> shift_right(torch.tensor([[[1, 2, 3], [4, 5, 6]]]))
        tensor([[[1024,    1,    2],
                 [1024,    4,    5]]])
    """
    return functional.pad(sequence[..., :-1], (1, 0), value=BOS)
