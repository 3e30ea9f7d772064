"""Rows of codes are made of the codec's vectors as the formulas say, and always of today's weights."""

import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from melodac.errors import ModelError
from melodac.models.cache import KeyValueCache
from melodac.models.code_tables import VECTOR_SIZE, standardise
from melodac.models.config import MAX_VECTOR_DIM, SIZES, build_config, count_parameters, vector_dim
from melodac.models.initialization import initial_constant, initial_std
from melodac.models.language_model import LanguageModel
from melodac.sampling.generate import generate
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.delay import build_pattern
from melodac.tokens.vocabulary import BOS, PAD
from tests.reference import code_tables as reference
from tests.reference import generate as plainly


def draw_vectors(num_codebooks=3, width=8, num_codes=1024):
    """Vectors as a residual quantizer has them: smaller from codebook to codebook."""
    generator = torch.Generator().manual_seed(7)
    sizes = torch.tensor([0.7**k for k in range(num_codebooks)]).view(-1, 1, 1)
    return sizes * torch.randn(num_codebooks, num_codes, width, generator=generator) + 0.3


def build(config, embedding="codec", vectors=None):
    vectors = draw_vectors() if vectors is None else vectors
    changes = {"embedding": embedding, "vector_dim": 0}
    if embedding == "codec":
        changes["vector_dim"] = vector_dim(vectors.shape[-1])
    torch.manual_seed(0)
    model = LanguageModel(
        config.model_copy(update=changes), vectors if embedding == "codec" else None
    )
    return model.eval()


@pytest.fixture(params=["codec", "tied"])
def model(request, tiny_config):
    return build(tiny_config, request.param)


@pytest.fixture
def codec_model(tiny_config):
    model = build(tiny_config)
    with torch.no_grad():
        model.head.bias.normal_()
    return model


def test_what_is_read_is_what_the_formula_says(codec_model):
    cells = torch.tensor([[[5, BOS], [1023, 0], [PAD, 17]]])
    embedded = codec_model.embed(cells)
    for step in range(2):
        assert_close(embedded[0, step], reference.embed(codec_model, cells[0, :, step]))


def test_logits_are_what_the_formula_says(codec_model):
    hidden = torch.randn(1, 2, 32)
    logits = codec_model.logits(hidden)
    for codebook, code in [(0, 0), (0, 1023), (1, 512), (2, 7)]:
        expected = reference.logit(codec_model, hidden[0, 1], codebook, code)
        assert_close(logits[0, codebook, 1, code], expected)


def test_one_table_serves_both_ends_where_the_codec_is_unknown(tiny_config):
    model = build(tiny_config, "tied")
    tables = model.tables()
    assert tables.embedding is model.embedding.weight
    codes = tables.embedding.view(3, 1026, 32)[:, :1024].flatten(0, 1)
    assert_close(tables.head / codes, torch.full_like(codes, 0.1), rtol=1e-4, atol=0)


def test_learned_tables_are_the_weights_themselves(tiny_model):
    tables = tiny_model.tables()
    assert tables.embedding is tiny_model.embedding.weight
    assert tables.head is tiny_model.head.weight
    assert tables.bias is None
    assert tiny_model.geometry is None


def test_every_part_receives_gradient(model):
    sequence = torch.randint(0, 1026, (4, 3, 32))
    model(sequence).square().mean().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.count_nonzero(), name


def test_near_codes_get_near_gradients(codec_model):
    """What is learned of one code reaches its neighbours, and them most."""
    before = codec_model.tables().head.detach().clone()
    loss = -codec_model.logits(torch.randn(1, 1, 32))[0, 0, 0].log_softmax(-1)[3]
    loss.backward()
    with torch.no_grad():
        codec_model.geometry.head -= 1e-3 * codec_model.geometry.head.grad
    moved = (codec_model.tables().head - before).view(3, 1024, 32)[0]
    alike = functional.cosine_similarity(moved, moved[3:4])
    vectors = codec_model.geometry.vectors[0]
    nearest = (vectors - vectors[3]).square().sum(dim=1).argsort()
    assert alike[nearest[:20]].mean() > 0.5 > 0.1 > alike[nearest[20:]].mean()


def test_logits_of_a_step_see_earlier_codes_only(model):
    torch.manual_seed(0)
    sequence = torch.randint(0, 1024, (2, 3, 12))
    before = model(sequence)
    for step in range(12):
        changed = sequence.clone()
        changed[:, 1, step] = (changed[:, 1, step] + 1) % 1024
        moved = (model(changed) != before).flatten(3).any(-1)
        assert not moved[:, :, : step + 1].any()
        assert moved[:, :, step + 1 :].all()


def step_through(model, sequence, cache, start=0):
    B, K, S = sequence.shape
    before = torch.full((B, K), BOS)
    logits = [
        model.step(sequence[..., step - 1] if step else before, cache) for step in range(start, S)
    ]
    return torch.stack(logits, dim=2)


@pytest.mark.parametrize("known", [0, 7])
@torch.inference_mode()
def test_steps_equal_the_full_forward_pass(model, known):
    sequence = torch.randint(0, 1026, (2, 3, 20))
    cache = KeyValueCache(model.config, batch_size=2, capacity=20)
    if known:
        model.prefill(sequence[..., :known], cache)
    stepped = step_through(model, sequence, cache, known)
    assert_close(stepped, model(sequence)[:, :, known:], rtol=1e-5, atol=2e-6)


@torch.inference_mode()
def test_rows_are_made_once_for_a_generation_and_anew_for_the_next(codec_model, monkeypatch):
    made = []
    tables = LanguageModel.tables
    monkeypatch.setattr(LanguageModel, "tables", lambda model: (made.append(1), tables(model))[1])
    sequence = torch.randint(0, 1024, (1, 3, 6))
    first = step_through(
        codec_model, sequence, KeyValueCache(codec_model.config, batch_size=1, capacity=6)
    )
    assert len(made) == 1
    for name in ("embedding", "head"):
        getattr(codec_model.geometry, name).mul_(2)
    second = step_through(
        codec_model, sequence, KeyValueCache(codec_model.config, batch_size=1, capacity=6)
    )
    assert len(made) == 2
    assert_close(second, codec_model(sequence), rtol=1e-5, atol=5e-6)
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("delay", ["musicgen", "parallel", "flat"])
def test_a_generation_is_that_of_plain_forward_passes(model, delay):
    pattern = build_pattern(delay, 3)
    settings = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0)
    prefix = torch.randint(0, 1024, (2, 3, 2))
    request = {"num_frames": 6, "seeds": [0, 1], "settings": settings, "prefix": prefix}
    with torch.no_grad():
        expected = plainly.generate(model, pattern, ends=False, **request)
    assert torch.equal(generate(model, pattern, **request), expected)


def test_codebook_logits_are_a_slice_of_all(model):
    hidden = torch.randn(2, 6, 32)
    for codebook in range(3):
        alone = model.codebook_logits(hidden, codebook)
        assert_close(alone, model.logits(hidden)[:, codebook], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_one_type_runs_through_the_model(model, dtype):
    logits = model.to(dtype)(torch.randint(0, 1024, (2, 3, 5)))
    logits.sum().backward()
    assert {logits.dtype} == {weight.grad.dtype for weight in model.parameters()} == {dtype}


def test_a_checkpoint_brings_its_vectors(codec_model):
    blank = LanguageModel(codec_model.config).eval()
    sequence = torch.randint(0, 1024, (1, 3, 5))
    assert blank(sequence).isnan().all()
    blank.load_state_dict(codec_model.state_dict())
    assert torch.equal(blank(sequence), codec_model(sequence))


# ---- standardised vectors


def test_near_codes_stay_near():
    vectors = draw_vectors(width=5)
    found, sizes = standardise(vectors)
    for k in range(3):
        before, after = torch.pdist(vectors[k, :50]), torch.pdist(found[k, :50])
        assert_close(after / before, torch.full_like(before, VECTOR_SIZE / float(sizes[k])))
    assert_close(found.mean(dim=1), torch.zeros(3, 5), rtol=0, atol=1e-4)
    assert_close(found.square().mean(dim=(1, 2)).sqrt(), torch.full((3,), VECTOR_SIZE))


def test_wide_vectors_keep_their_principal_directions():
    narrow = draw_vectors(width=6)
    basis, _ = torch.linalg.qr(torch.randn(200, 6, generator=torch.Generator().manual_seed(0)))
    found, _ = standardise(narrow @ basis.T + 1e-6 * torch.randn(3, 1024, 200))
    assert found.shape == (3, 1024, MAX_VECTOR_DIM)
    expected, _ = standardise(narrow)
    size = found.square().mean().sqrt() / expected.square().mean().sqrt()
    scale = math.sqrt(MAX_VECTOR_DIM / 6)
    assert_close(size, torch.tensor(1.0))
    distances = [torch.pdist(one[0, :50]) for one in (expected, found)]
    assert_close(distances[1], distances[0] * scale, rtol=1e-3, atol=0)


def test_a_turned_codec_gives_the_same_vectors():
    vectors = draw_vectors(width=6)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    first, second = (torch.pdist(standardise(v)[0][1, :50]) for v in (vectors, vectors @ turn))
    assert_close(first, second)


def test_codes_that_a_small_codebook_lacks_are_like_its_mean():
    found, _ = standardise(draw_vectors(num_codes=100))
    assert not found[:, 100:].any()
    assert found[:, :100].any(dim=2).all()


def test_the_leash_is_tighter_where_vectors_are_smaller(codec_model):
    leash = codec_model.geometry.leash.flatten()
    assert_close(leash / leash[0], torch.tensor([1.0, 0.7, 0.49]), rtol=0.05, atol=0)


def test_vectors_that_do_not_fit_are_refused(tiny_config):
    with pytest.raises(
        ModelError, match=r"vectors of 2 codebooks and 8 dimensions for a model of 3 and 8"
    ):
        build(tiny_config, vectors=draw_vectors(num_codebooks=2))
    flat = draw_vectors()
    flat[1] = 2.0
    with pytest.raises(ModelError, match="all codes of codebook 1 have the same vector"):
        build(tiny_config, vectors=flat)


# ---- the start


@pytest.fixture(scope="module", params=["codec", "tied"])
def nano(request):
    config = build_config("nano", num_codebooks=9, dropout=0.0)
    return build(config, request.param, draw_vectors(9))


def test_every_parameter_has_the_deviation_of_the_table(nano):
    for name, weight in nano.named_parameters():
        expected = initial_std(name, nano.config)
        if expected:
            assert float(weight.detach().std()) == pytest.approx(
                expected, rel=5 / math.sqrt(2 * weight.numel())
            ), name
        else:
            assert torch.equal(weight, torch.full_like(weight, initial_constant(name))), name


def test_rows_are_as_large_as_learned_ones(nano):
    with torch.no_grad():
        rows = nano.tables()
    assert float(rows.embedding.detach().std()) == pytest.approx(1 / math.sqrt(192), rel=0.1)
    assert float(rows.head.detach().std()) == pytest.approx(0.1 / math.sqrt(192), rel=0.3)


def test_the_first_loss_is_that_of_a_uniform_guess(nano):
    torch.manual_seed(1)
    sequence = torch.randint(0, 1024, (2, 9, 64))
    with torch.no_grad():
        loss = functional.cross_entropy(nano(sequence).flatten(0, 2), sequence.flatten())
    assert float(loss) == pytest.approx(math.log(1024), rel=0.02)


@pytest.mark.parametrize(("embedding", "width"), [("tied", 0), ("codec", 8), ("codec", 32)])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_counts_its_parameters_exactly(size, embedding, width):
    config = build_config(size, num_codebooks=9, dropout=0.0, embedding=embedding, vector_dim=width)
    with torch.device("meta"):
        model = LanguageModel(config)
    assert count_parameters(config).total == sum(weight.numel() for weight in model.parameters())


def test_codes_that_the_music_lacks_are_never_sampled_and_score_as_before(tiny_config):
    vectors = draw_vectors()
    heard = torch.rand(3, 1024, generator=torch.Generator().manual_seed(1)) < 0.02
    config = tiny_config.model_copy(
        update={"embedding": "codec", "vector_dim": vector_dim(vectors.shape[-1])}
    )
    torch.manual_seed(0)
    model = LanguageModel(config, vectors, heard).eval()
    torch.manual_seed(0)
    plain = LanguageModel(config, vectors).eval()
    pattern = build_pattern("musicgen", 3)
    settings = SamplingSettings(temperature=2.0, top_k=0, top_p=1.0)
    (codes,) = generate(model, pattern, num_frames=60, seeds=(0,), settings=settings)
    (others,) = generate(plain, pattern, num_frames=60, seeds=(0,), settings=settings)
    assert all(bool(row[played].all()) for row, played in zip(heard, codes, strict=True))
    assert not all(bool(row[played].all()) for row, played in zip(heard, others, strict=True))
    cells = codes[None]
    assert torch.equal(model(cells), plain(cells))
